"""Measures executors beside each other: ``python -m benchmarks``."""
