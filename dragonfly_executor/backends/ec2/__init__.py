"""Runners on instances of Amazon EC2."""
