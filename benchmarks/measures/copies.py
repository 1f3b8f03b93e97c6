"""Limits that are no executors: copies in memory, and `Future` objects."""

from __future__ import annotations

import gc
from collections.abc import Callable
from concurrent.futures import Future

from benchmarks.measures.calls import LARGE, MIB, resident
from benchmarks.measures.curves import SIZES, sizes_within
from benchmarks.measures.effort import Effort, Figures


def two_copies(name: str, effort: Effort) -> Figures:
    """Measure an echo that is a copy of the argument and one of the result, into memory that is mapped already."""
    if name == "curve_sizes":
        return {name: [[size, 1 / effort.rate(copier(size))] for size in sizes_within(SIZES, effort)]}
    size = MIB if name == "echo_1m" else LARGE
    return {name: effort.rate(copier(size)) * size}


def copier(size: int) -> Callable[[], int]:
    """Return a function that copies this number of bytes twice."""
    source, target = memoryview(bytearray(size)), memoryview(bytearray(size))

    def copy() -> int:
        target[:] = source
        source[:] = target
        return 1

    copy()
    return copy


def futures(name: str, effort: Effort) -> Figures:
    """Measure the bytes of a `Future` and its place in a list."""
    calls = effort.count(20_000)
    kept: list[object] = [None] * calls
    gc.collect()
    before = resident()
    for number in range(calls):
        kept[number] = Future()
    gc.collect()
    return {name: max(resident() - before, 0) / calls}
