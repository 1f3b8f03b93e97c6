"""Machines that pools have booted, seen from outside: the commands ``dragonfly list``, ``sweep`` and ``destroy``."""
