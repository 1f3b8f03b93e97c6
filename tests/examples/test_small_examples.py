"""The examples that are one short program each."""

from __future__ import annotations

import pytest

from tests.examples.conftest import Run

pytestmark = pytest.mark.slow


def test_swap_process_pool(run_example: Run) -> None:
    ran = run_example("swap_process_pool.py")
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = ran.stdout.splitlines()
    assert "  8 words that count: the dragonfly has four wings and moves each of them alone" in lines
    assert "a lambda travels: [0, 3, 6, 9, 12]" in lines
    assert "calls that survive a crash beside them, ProcessPoolExecutor: 0 of 5" in lines
    assert "calls that survive a crash beside them, DragonflyExecutor:   5 of 5" in lines


def test_swap_multiprocessing_pool(run_example: Run) -> None:
    ran = run_example("swap_multiprocessing_pool.py")
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = ran.stdout.splitlines()
    assert "  8 words that count: the dragonfly has four wings and moves each of them alone" in lines
    assert lines[-4:] == [
        "a lambda travels: [0, 3, 6, 9, 12]",
        "endless items: [0, 1, 4, 9, 16]",
        "a crash fails its own call, by signal 9",
        "and the pool goes on: 1024",
    ]


def test_asyncio_timeout_cancel(run_example: Run) -> None:
    ran = run_example("asyncio_timeout_cancel.py")
    assert (ran.returncode, ran.stderr) == (0, "")
    results, *lines, after = ran.stdout.splitlines()
    first, timed_out, gone, second, cancelled, also_gone = lines
    assert timed_out.startswith("timed out: ")
    assert gone == first.replace("started", "gone")
    assert cancelled == "cancelled"
    assert also_gone == second.replace("started", "gone")
    assert after == "after that: " + results.split()[1]
