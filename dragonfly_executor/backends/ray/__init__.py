"""Runners as actors of a Ray cluster."""
