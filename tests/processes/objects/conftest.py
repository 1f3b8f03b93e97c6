"""For tests of multiprocessing's objects."""

from __future__ import annotations

import multiprocessing.sharedctypes

KEPT = multiprocessing.sharedctypes.RawValue("i")
"""Keeps the block of memory that multiprocessing takes for the first value, and that the census would find."""
