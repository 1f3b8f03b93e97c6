"""Runners in Docker containers."""
