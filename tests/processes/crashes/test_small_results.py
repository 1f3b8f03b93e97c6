"""Small results that travel through shared memory, and calls that do harm to it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from dragonfly_executor.errors import RunnerLostError
from dragonfly_executor.runner.result_ring import MAX_RESULT
from dragonfly_executor.util.descriptors import HIGH_NUMBER
from tests.processes.conftest import Make
from tests.support import payloads
from tests.support.helpers import PATIENCE, error_of

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the ring needs an eventfd")


def close_all_and_open(folder: str) -> list[int]:
    """Close the descriptors of the slot, and open files, which get some of their numbers."""
    os.closerange(3, HIGH_NUMBER)
    return [os.open(f"{folder}/{number}", os.O_RDWR | os.O_CREAT) for number in range(40)]


def doorbells() -> list[int]:
    """The descriptors of the slot with which it announces results."""
    found: list[int] = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            is_event = "eventfd" in str(link.readlink())
        except OSError:
            continue  # the descriptor with which the folder was read
        if is_event:
            found.append(int(link.name))
    return found


def announce(size: int) -> None:
    (doorbell,) = doorbells()
    os.eventfd_write(doorbell, size)


def echo(data: bytes) -> bytes:
    return data


def test_a_call_that_takes_the_slots_descriptors_finds_nothing_in_its_files(make: Make, tmp_path: Path) -> None:
    """Its result is there, its slot ends, and the next call has another."""
    ex = make(1)
    before = ex.submit(payloads.pid).result(PATIENCE)
    assert ex.submit(close_all_and_open, str(tmp_path)).result(PATIENCE)
    assert ex.submit(payloads.pid).result(PATIENCE) != before
    assert {file.read_bytes() for file in tmp_path.iterdir()} == {b""}


def test_a_slot_has_one_doorbell_and_its_number_is_high(make: Make) -> None:
    ex = make(2)
    for _ in range(4):
        found = ex.submit(doorbells).result(PATIENCE)
        assert len(found) == 1
        assert found[0] >= HIGH_NUMBER


@pytest.mark.parametrize("size", [1, 1 << 40])
def test_a_slot_whose_ring_has_other_bytes_is_killed_and_the_call_fails(size: int, make: Make) -> None:
    """It does not hang, and no other call is harmed."""
    ex = make(1)
    victim = ex.submit(announce, size)
    others = [ex.submit(abs, -number) for number in range(100)]
    error = error_of(victim)
    assert isinstance(error, RunnerLostError)
    assert "SIGKILL" in str(error)
    assert [future.result(PATIENCE) for future in others] == list(range(100))


@pytest.mark.parametrize("size", [MAX_RESULT - 100, MAX_RESULT, 4 * MAX_RESULT])
def test_results_on_either_way_come_back_as_they_were(size: int, make: Make) -> None:
    """Many in a row, so that the ring wraps, and one way follows the other."""
    ex = make(2)
    pieces = [bytes([number % 251]) * (size if number % 3 else number) for number in range(600)]
    futures = [ex.submit(echo, piece) for piece in pieces]
    assert [future.result(PATIENCE) for future in futures] == pieces


def test_a_result_is_not_lost_with_the_slot_that_dies_in_the_next_call(make: Make) -> None:
    ex = make(1)
    ex.submit(payloads.pid).result(PATIENCE)
    for _ in range(20):
        first = [ex.submit(abs, -number) for number in range(5)]
        victim = ex.submit(payloads.die_by, signal.SIGKILL)
        last = [ex.submit(abs, -number) for number in range(5)]
        assert [future.result(PATIENCE) for future in first] == list(range(5))
        assert isinstance(error_of(victim), RunnerLostError)
        assert [future.result(PATIENCE) for future in last] == list(range(5))
