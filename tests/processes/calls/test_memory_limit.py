"""A call that requires memory gets as much and no more, and its slot and its neighbours go on."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from tests.processes.conftest import Make
from tests.support import payloads
from tests.support.helpers import PATIENCE, values

MIB = 2**20
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the address space")


def fill(size: int) -> int:
    return len(bytearray(size))


def keep(size: int) -> bytes:
    return bytes(size)


def limit() -> tuple[int, int]:
    return resource.getrlimit(resource.RLIMIT_AS)


def limit_of_child() -> str:
    return subprocess.run(["sh", "-c", "ulimit -v"], check=True, capture_output=True, text=True).stdout.strip()


@linux_only
def test_a_call_that_uses_more_memory_than_it_requires_fails_and_says_so(make: Make) -> None:
    ex = make(1)
    before, slot = ex.submit(limit).result(PATIENCE), ex.submit(payloads.pid).result(PATIENCE)
    small = ex.options(requires={"memory": "200MiB"})
    error = small.submit(fill, 400 * MIB).exception(PATIENCE)
    assert isinstance(error, MemoryError)
    assert any(f"requires {200 * MIB} bytes of memory, and got no more" in note for note in error.__notes__)
    assert ex.submit(payloads.pid).result(PATIENCE) == slot, "its slot goes on"
    assert ex.submit(limit).result(PATIENCE) == before, "and has no limit afterwards"
    assert ex.submit(fill, 400 * MIB).result(PATIENCE) == 400 * MIB


@linux_only
def test_a_call_gets_the_memory_that_it_requires(make: Make) -> None:
    ex = make(1)
    enough = ex.options(requires={"memory": "200MiB"})
    assert values(enough.submit(fill, 150 * MIB) for _ in range(3)) == [150 * MIB] * 3
    assert len(enough.submit(keep, 90 * MIB).result(PATIENCE)) == 90 * MIB


@linux_only
def test_processes_that_the_call_starts_have_the_limit_too(make: Make) -> None:
    ex = make(1)
    (soft, _), kib = ex.submit(limit).result(PATIENCE), 1024
    limited = int(ex.options(requires={"memory": "300MiB"}).submit(limit_of_child).result(PATIENCE)) * kib
    assert 300 * MIB < limited < 4000 * MIB
    assert soft == resource.RLIM_INFINITY or limited < soft


@linux_only
def test_calls_of_one_slot_do_not_share_a_limit(make: Make) -> None:
    """What the slot has kept of earlier calls does not count."""
    ex = make(1)
    view = ex.options(requires={"memory": "200MiB"})
    assert values(view.submit(remember, 100 * MIB) for _ in range(4)) == [1, 2, 3, 4]


_kept: list[bytearray] = []


def remember(size: int) -> int:
    _kept.append(bytearray(size))
    return len(_kept)


@linux_only
def test_an_error_of_another_kind_has_no_note(make: Make) -> None:
    error = make(1).options(requires={"memory": "200MiB"}).submit(int, "x").exception(PATIENCE)
    assert isinstance(error, ValueError)
    assert not any("bytes of memory" in note for note in getattr(error, "__notes__", []))


@linux_only
def test_a_large_call_with_a_limit(make: Make) -> None:
    data = bytes(3 * MIB)
    view = make(1).options(requires={"memory": "200MiB"}, timeout=PATIENCE)
    assert view.submit(payloads.digest, data).result(PATIENCE) == payloads.digest(data)
