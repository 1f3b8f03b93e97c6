"""Calls with large arguments and results, for the tests of shared memory."""

from __future__ import annotations

import gc
import os
import signal
import time
from pathlib import Path
from typing import Any

kept: list[Any] = []
"""What calls keep in their slot."""


def echo(value: Any) -> Any:
    return value


def fill(array: Any, number: int) -> Any:
    """Write into the argument, and return it."""
    array[:] = number
    return array


def keep(array: Any) -> int:
    kept.append(array)
    return os.getpid()


def sums_of_kept() -> list[int]:
    return [int(array.sum()) for array in kept]


def drop_kept() -> None:
    kept.clear()


def is_writable(array: Any) -> bool:
    return bool(array.flags.writeable)


def write_and_die_once(array: Any, mark: str) -> int:
    """Overwrite the argument and die. The second time, return the sum of the argument."""
    if Path(mark).exists():
        return int(array.sum())
    Path(mark).touch()
    array[:] = 0
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def dies_of_its_pickle(size: int) -> Any:
    """Return an object that kills the slot when it is pickled, behind a large array."""
    import numpy as np

    return np.ones(size, "u1"), Deadly()


class Deadly:
    def __reduce__(self) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def sum_in_forked_child(array: Any, go_on: str, result: str) -> None:
    """Fork. The child reads the argument once the FIFO `go_on` is written to, and writes its sum to another FIFO.

    That is long after the call has ended.
    """
    if os.fork() == 0:
        try:
            os.setsid()
            Path(go_on).read_bytes()
            Path(result).write_text(str(int(array.sum())))
        finally:
            os._exit(0)


def echo_late(array: Any) -> Any:
    """Return the argument after a long time."""
    time.sleep(300)
    return array


def forbid_descriptors() -> int:
    """Let the slot open no more descriptors. Returns the slot's process id."""
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (0, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    return os.getpid()


def segments_of(pid: int | str = "self") -> int:
    """Return how many segments a process has mapped."""
    return Path(f"/proc/{pid}/maps").read_text().count("memfd:dragonfly-data")


def arrays_in(value: Any) -> list[Any]:
    """Return the arrays in lists, tuples and dicts, at any depth."""
    if isinstance(value, dict):
        value = list(value.values())
    return [array for part in value for array in arrays_in(part)] if isinstance(value, (list, tuple)) else [value]


def writable_arrays(value: Any) -> list[bool]:
    """Return of each array whether the call may write into it."""
    return [is_writable(array) for array in arrays_in(value)]


def sums(value: Any) -> list[int]:
    """Return the sum of each array."""
    return [int(array.sum()) for array in arrays_in(value)]


def fill_and_keep(array: Any, number: int) -> int:
    """Write into the argument, and keep it."""
    array[:] = number
    return keep(array)


def fill_and_die(array: Any) -> None:
    array[:] = 0
    os.kill(os.getpid(), signal.SIGKILL)


def item(array: Any, place: int) -> int:
    return int(array[place])


def echo_two(one: Any, other: Any) -> Any:
    return one, other


def are_aligned(arrays: Any) -> bool:
    """Return whether each array of at least 4 KiB begins at a multiple of 64 bytes."""
    return all(array.__array_interface__["data"][0] % 64 == 0 for array in arrays if array.nbytes >= 4096)


def forbid_new_mappings() -> int:
    """Let the slot forget its segments, and open no more descriptors. Returns the slot's process id."""
    for thing in gc.get_objects():
        if type(thing).__name__ == "SlotMemory":
            thing.trim()
    return forbid_descriptors()
