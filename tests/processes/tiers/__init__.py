"""Pools whose runners are real processes of several backends."""
