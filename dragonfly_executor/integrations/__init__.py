"""Executors behind the interfaces of other libraries."""
