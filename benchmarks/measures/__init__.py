"""The measurements by name."""

from benchmarks.measures import alone, calls, copies, curves, processor
from benchmarks.measures.effort import Figures
from benchmarks.subjects import EMPTY_PROGRAM, FUTURE, MEMCPY

STARTED = {**calls.MEASURES, "processor": processor.processor}
"""Measurements of a pool whose processes have started."""
ALONE = {**alone.MEASURES, **curves.MEASURES}
"""Measurements that start what they measure. They get the subject's name."""
LIMITS = {
    MEMCPY: dict.fromkeys(("echo_1m", "echo_64m_bytes", "echo_64m_numpy", "curve_sizes"), copies.two_copies),
    FUTURE: {"memory": copies.futures},
    EMPTY_PROGRAM: {"cold": alone.empty_program},
}
"""Measurements of limits that are no executors."""

__all__ = ["ALONE", "LIMITS", "STARTED", "Figures"]
