"""Calls submit calls to the pool that runs them, and wait for them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import LocalBackend, Parent
from tests.processes.conftest import Make
from tests.processes.nested import programs
from tests.support.dialback import DialingBackend
from tests.support.helpers import PATIENCE, values
from tests.support.payloads import echo

PLACES = pytest.mark.parametrize("backend", [LocalBackend, DialingBackend], ids=["here", "dial-back"])


@PLACES
def test_a_recursive_function_ends_on_one_slot(make: Make, backend: Callable[[], Any]) -> None:
    executor = make(1, backend=backend(), max_concurrency=1)
    assert executor.submit(programs.fib, 7).result(PATIENCE) == 13


@PLACES
def test_the_executor_does_what_executors_do(make: Make, backend: Callable[[], Any]) -> None:
    executor = make(1, backend=backend(), max_concurrency=1)
    used = executor.submit(programs.use_executor).result(PATIENCE)
    assert used == (6, [11, 22, 33], 2, [0, 1, 2, 3], True, True, True)


def test_a_deep_chain_of_calls_ends_on_one_slot(make: Make) -> None:
    assert make(1).submit(programs.depth, 20).result(PATIENCE) == 20


def test_many_trees_at_once_end(make: Make) -> None:
    executor = make(2)
    assert values(executor.submit(programs.fib, 5) for _ in range(8)) == [5] * 8


def test_max_workers_counts_the_calls_that_run(make: Make, log: Path) -> None:
    """Two runners with a slot each, and one call at a time."""
    executor = make(1, max=2, max_concurrency=1)
    assert executor.submit(programs.spread, str(log), 12).result(PATIENCE) == 12
    assert programs.most_at_once(log) == 1


def test_as_many_calls_run_as_there_are_slots(make: Make, log: Path) -> None:
    """Those that wait do not count, and the slots in their places do no more than they did."""
    executor = make(2)
    assert values(executor.submit(programs.spread, str(log), 10) for _ in range(4)) == [10] * 4
    assert programs.most_at_once(log) <= 2


def test_while_a_call_waits_as_many_child_calls_run_as_there_are_slots(make: Make, tmp_path: Path) -> None:
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    os.mkfifo(here)
    os.mkfifo(there)
    assert make(2).submit(programs.meet_in_children, here, there).result(PATIENCE) == [1, 2]


def test_after_the_calls_that_have_waited_the_slots_have_their_numbers_again(make: Make) -> None:
    executor = make(2)
    assert max(executor.submit(programs.numbers_of, 20).result(PATIENCE)) <= 2
    executor.submit(programs.depth, 6).result(PATIENCE)
    assert set(executor.map(programs.slot_number, range(40))) <= {0, 1}


def test_tasks_wait_for_child_calls(make: Make) -> None:
    executor = make(1)
    assert executor.submit(programs.use_asyncio).result(PATIENCE) == [1, [2, 3], 4, 5]
    assert executor.submit(programs.add_in_tasks, [1, 2, 3]).result(PATIENCE) == 6


def test_errors_come_back_with_their_traceback(make: Make) -> None:
    assert make(1).submit(programs.child_error, "lost").result(PATIENCE) == "'lost'"


def test_bad_calls_and_options_are_refused(make: Make) -> None:
    found = make(1).submit(programs.errors_at_submit).result(PATIENCE)
    assert found == [
        "CallSerializationError",
        *["TypeError"] * 2,
        "TypeError",
        "ValueError",
        *["TypeError"] * 3,
        "cannot schedule new futures after shutdown",
    ]


@PLACES
@pytest.mark.parametrize("size", [50_000, 3_000_000])
def test_large_values_travel(make: Make, backend: Callable[[], Any], size: int) -> None:
    executor = make(1, backend=backend(), max_concurrency=1)
    assert executor.submit(programs.large, size).result(PATIENCE)[0] == size


def test_an_executor_travels_to_other_calls(make: Make) -> None:
    assert make(1).submit(programs.pass_the_pool).result(PATIENCE) == 5


def test_a_callback_may_wait_for_a_child_call(make: Make) -> None:
    assert make(2).submit(programs.callback_that_waits).result(PATIENCE) == 2


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("thread", "RuntimeError: the first Parent.pool()"),
        ("later thread", "1"),
        ("fork", "RuntimeError: this process was started by a call"),
    ],
)
def test_where_the_pool_can_be_had(make: Make, how: str, expected: str) -> None:
    assert make(1).submit(programs.submit_elsewhere, how).result(PATIENCE).startswith(expected)


def test_outside_a_call_there_is_no_such_pool() -> None:
    with pytest.raises(RuntimeError, match="inside calls"):
        Parent.pool()
    described = Parent.new("named", 1, "local")
    assert described.pool == "named"


def test_an_executor_cannot_come_back_to_the_parent(make: Make) -> None:
    executor = make(1)
    with pytest.raises(Exception, match="inside calls"):
        executor.submit(programs.Parent.pool).result(PATIENCE)
    assert executor.submit(echo, 1).result(PATIENCE) == 1


GUARDED = """
    from dragonfly_executor import DragonflyExecutor, Parent

    SCALE = 10

    class Box:
        def __init__(self, value):
            self.value = value

    def leaf(box):
        return Box(box.value * SCALE)

    def tree(n):
        pool = Parent.pool()
        if n:
            return pool.call(tree, n - 1) + pool.call(lambda: n * SCALE)
        return pool.call(leaf, Box(1)).value

    if __name__ == "__main__":
        with DragonflyExecutor(max_workers=1) as executor:
            print(executor.submit(tree, 3).result(60))
"""


@pytest.mark.parametrize("guarded", [True, False])
def test_functions_of_the_script_travel_from_slot_to_slot(tmp_path: Path, guarded: bool) -> None:
    source = textwrap.dedent(GUARDED)
    if not guarded:
        source = source.replace('if __name__ == "__main__":\n    with', "with")
        source = source.replace("\n        print", "\n    print")
    script = tmp_path / "script.py"
    script.write_text(source)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.strip(), done.returncode) == ("70", 0), done.stderr
