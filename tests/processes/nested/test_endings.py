"""Calls that wait for child calls end in every way, and so do their child calls, their slots, runners and pools."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import CallTimeoutError, LocalBackend, RunnerLostError
from tests.engine.conftest import MakePool
from tests.processes.conftest import Make
from tests.processes.nested import programs
from tests.support.dialback import DialingBackend
from tests.support.helpers import PATIENCE, Gate, Mailbox, becomes_true, error_of, watching
from tests.support.payloads import agent_pid, echo


@pytest.fixture
def started(gate: Gate) -> Iterator[Gate]:
    """A second gate."""
    made = Gate(Path(gate.path + ".started"))
    yield made
    made.close()


@pytest.mark.parametrize("backend", [LocalBackend, DialingBackend])
@pytest.mark.parametrize("how", ["cancelled", "killed", "timed out"])
def test_a_call_that_is_stopped_takes_its_child_calls_along(
    make: Make, mailbox: Mailbox, gate: Gate, how: str, backend: Callable[[], Any]
) -> None:
    executor = make(1, backend=backend())
    view = executor.options(run_timeout=1.0) if how == "timed out" else executor
    future = view.submit(programs.wait_for_holder, mailbox.path, gate.path)
    outer, child = mailbox.numbers(2)
    assert outer != child
    with watching(outer, child) as slots:
        if how == "cancelled":
            assert future.cancel()
        elif how == "killed":
            os.kill(outer, signal.SIGKILL)
            assert isinstance(error_of(future), RunnerLostError)
        else:
            assert isinstance(error_of(future), CallTimeoutError)
        assert all(slot.ended() for slot in slots)
    assert executor.submit(echo, 1).result(PATIENCE) == 1


def test_a_child_call_that_is_left_behind_goes_on(make: Make, mailbox: Mailbox, gate: Gate, log: Path) -> None:
    executor = make(1, max_tasks_per_child=1)
    outer = executor.submit(programs.leave_behind, mailbox.path, gate.path, str(log)).result(PATIENCE)
    (child,) = mailbox.numbers(1)
    with watching(outer, may_be_gone=True) as slots:
        assert all(slot.ended() for slot in slots)
    with watching(child) as slots:
        gate.open()
        assert slots[0].ended()
    assert log.read_text() == "done\n"


def test_slots_of_one_call_each_are_no_obstacle(make: Make) -> None:
    executor = make(1, max_tasks_per_child=1)
    assert executor.submit(programs.fib, 4).result(PATIENCE) == 3


def test_a_child_call_can_be_cancelled(make: Make, mailbox: Mailbox, gate: Gate, started: Gate) -> None:
    executor = make(2)
    future = executor.submit(programs.cancel_child, mailbox.path, gate.path)
    (child,) = mailbox.numbers(1)
    with watching(child) as slots:
        started.open()
        assert future.result(PATIENCE) == (True, True, True, ["dragonfly-child-callbacks"])
        assert slots[0].ended()


def test_the_next_attempt_of_a_call_submits_anew(
    make: Make, mailbox: Mailbox, gate: Gate, started: Gate, tmp_path: Path
) -> None:
    executor = make(1).options(retries=1)
    future = executor.submit(programs.fail_first, str(tmp_path / "tried"), mailbox.path, gate.path)
    (child,) = mailbox.numbers(1)
    with watching(child) as slots:
        started.open()
        assert slots[0].ended()
    assert future.result(PATIENCE) == "second attempt"


def test_child_calls_have_limits(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    found = make(1).submit(programs.time_out, mailbox.path, gate.path).result(PATIENCE)
    assert found == ["CallTimeoutError", "CallTimeoutError", "TimeoutError"]


def test_a_shutdown_lets_calls_submit_what_they_need(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    executor = make(1)
    future = executor.submit(programs.wait_and_say, mailbox.path, gate.path)
    mailbox.numbers(1)
    executor.shutdown(wait=False)
    gate.open()
    assert future.result(PATIENCE) == "3"


def test_a_shutdown_that_cancels_what_waits_refuses_child_calls(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    executor = make(1)
    future = executor.submit(programs.wait_and_say, mailbox.path, gate.path)
    mailbox.numbers(1)
    executor.shutdown(wait=False, cancel_futures=True)
    gate.open()
    assert future.result(PATIENCE) == "RuntimeError"


def test_a_shutdown_that_cancels_what_waits_cancels_child_calls_that_wait(
    make: Make, mailbox: Mailbox, gate: Gate
) -> None:
    """The call that waits for them is told."""
    executor = make(1)
    future = executor.submit(programs.say_what_ends, mailbox.path, gate.path)
    mailbox.numbers(2)
    executor.shutdown(wait=False, cancel_futures=True)
    assert becomes_true(executor.pool, lambda: executor.pool.stats().calls_cancelled == 1)
    gate.open()
    assert future.result(PATIENCE) == ["None", "CancelledError"]


def test_a_runner_that_drains_keeps_a_call_that_waits(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    """Its child calls run elsewhere."""
    executor = make(2, max=2, max_concurrency=1)
    agent = executor.submit(agent_pid).result(PATIENCE)
    future = executor.submit(programs.wait_and_say, mailbox.path, gate.path)
    mailbox.numbers(1)
    os.kill(agent, signal.SIGTERM)
    gate.open()
    assert future.result(PATIENCE) == "3"


def test_a_runner_with_a_call_that_waits_is_not_the_one_that_goes(
    make_pool: MakePool, mailbox: Mailbox, gate: Gate
) -> None:
    pool = make_pool(min=2, max=2, max_concurrency=1)
    pool.wait_for(runners=2, timeout=PATIENCE)
    future = pool.submit(programs.wait_for_holder, mailbox.path, gate.path)
    mailbox.numbers(2)
    pool.resize(min=1, max=1)
    gate.open()
    assert future.result(PATIENCE) is None
    assert pool.call(programs.fib, 4) == 3


@pytest.mark.parametrize("backend", [LocalBackend, DialingBackend])
def test_a_runner_that_is_lost_takes_the_child_calls_of_its_calls_along(
    make: Make, mailbox: Mailbox, gate: Gate, backend: Callable[[], Any]
) -> None:
    executor = make(2, max=2, max_concurrency=1, backend=backend())
    future = executor.submit(programs.wait_for_holder, mailbox.path, gate.path)
    outer, child = mailbox.numbers(2)
    agents = [int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in (outer, child)]
    with watching(child) as slots:
        os.kill(agents[0], signal.SIGKILL)
        assert isinstance(error_of(future), RunnerLostError)
        assert slots[0].ended()
