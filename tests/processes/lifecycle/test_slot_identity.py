"""A slot says which one it is: to the user's code, to multiprocessing, and in log records."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import DragonflyExecutor, Parent
from dragonfly_executor.errors import RunnerLostError
from tests.processes.conftest import Make
from tests.support import payloads
from tests.support.helpers import PATIENCE, Gate, Mailbox, error_of, values


def who_is_this() -> tuple[str, Any, Any, bool]:
    import multiprocessing

    parent = multiprocessing.parent_process()
    assert parent is not None
    return multiprocessing.current_process().name, parent.name, parent.pid, parent.is_alive()


def whose_child() -> tuple[Any, bool]:
    """Of a child that multiprocessing forks here: its parent is the slot."""
    import multiprocessing

    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe()
    child = context.Process(target=lambda: writer.send((multiprocessing.parent_process().pid, os.getpid())))
    child.start()
    parent, pid = reader.recv()
    child.join()
    return parent == os.getpid(), pid == child.pid


def record_name(importing: bool) -> Any:
    import logging

    if importing:
        import multiprocessing  # noqa: F401
    made = logging.LogRecord("x", 20, "f", 1, "m", None, None)
    seen: list[Any] = []
    handler = logging.Handler()
    handler.emit = seen.append  # type: ignore[method-assign]
    logger = logging.getLogger("tests.slot")
    logger.addHandler(handler)
    logger.error("text")
    logger.removeHandler(handler)
    return seen[0].processName, type(made) is type(seen[0])


@pytest.fixture
def ex(make: Make) -> DragonflyExecutor:
    return make(1)


def test_multiprocessing_sees_a_worker_whose_parent_is_the_agent(ex: DragonflyExecutor) -> None:
    agent = ex.submit(payloads.agent_pid).result(PATIENCE)
    assert ex.submit(who_is_this).result(PATIENCE) == ("DragonflySlot-1-0", "DragonflyAgent-1", agent, True)
    assert ex.submit(whose_child).result(PATIENCE) == (True, True)


@pytest.mark.parametrize("importing", [False, True])
def test_log_records_name_the_slot(importing: bool, ex: DragonflyExecutor) -> None:
    assert ex.submit(record_name, importing).result(PATIENCE) == ("DragonflySlot-1-0", True)


def number() -> int | None:
    parent = Parent.get()
    assert parent is not None
    return parent.slot


def numbers_of_a_child() -> tuple[int | None, int | None]:
    """Of this slot, and as a program sees it that the slot starts."""
    asks = "from dragonfly_executor import Parent; print(Parent.get().slot)"
    told = subprocess.run([sys.executable, "-c", asks], check=True, capture_output=True, text=True)
    return number(), int(told.stdout)


def held_number(mailbox: str, gate: str) -> tuple[int | None, str]:
    """The slot's number and name, once the test opens the gate."""
    payloads.hold(mailbox, gate)
    return number(), who_is_this()[0]


def hold_and_say_number(mailbox: str, gate: str) -> None:
    payloads.tell(mailbox, number(), os.getpid(), who_is_this()[0])
    payloads.wait_at(gate)


def alone(folder: str) -> int | None:
    """Return the slot's number. Fail if another call of this number runs."""
    mine = number()
    path = Path(folder) / str(mine)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    time.sleep(0.002)  # so that a call of another slot can meet this one
    path.unlink()
    return mine


def test_slots_are_numbered_from_zero_and_named_by_their_number(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    ex = make(3)
    held = [ex.submit(held_number, mailbox.path, gate.path) for _ in range(3)]
    for _ in held:
        mailbox.read()
    gate.open(3)
    assert sorted(values(held)) == [(n, f"DragonflySlot-1-{n}") for n in range(3)]


@pytest.mark.parametrize("killed", [0, 1])
def test_a_slot_that_replaces_another_has_its_number_and_its_name(
    killed: int, make: Make, mailbox: Mailbox, gate: Gate
) -> None:
    ex = make(2)
    held = {}
    for _ in range(2):
        future = ex.submit(hold_and_say_number, mailbox.path, gate.path)
        slot, pid, _ = mailbox.read().split()
        held[int(slot)] = (int(pid), future)
    pid, future = held.pop(killed)
    os.kill(pid, signal.SIGKILL)
    assert isinstance(error_of(future), RunnerLostError)
    replacement = ex.submit(hold_and_say_number, mailbox.path, gate.path)
    slot, other, name = mailbox.read().split()
    assert (int(slot), name) == (killed, f"DragonflySlot-1-{killed}")
    assert int(other) != pid
    gate.open(2)
    values([replacement, *(future for _, future in held.values())])


def test_no_two_calls_of_one_number_run_at_once(make: Make, tmp_path: Path) -> None:
    """Slots are replaced after each call, and some die."""
    ex = make(3, max_tasks_per_child=1)
    futures = []
    for n in range(60):
        futures.append(ex.submit(alone, str(tmp_path)))
        if n % 10 == 0:
            ex.submit(payloads.leave, 1)
    assert set(values(futures)) <= {0, 1, 2}


def test_a_program_that_a_call_starts_knows_the_number(ex: DragonflyExecutor) -> None:
    assert ex.submit(numbers_of_a_child).result(PATIENCE) == (0, 0)


def test_a_slot_of_a_runner_in_a_slot_has_its_own_number(make: Make) -> None:
    """The number of the slot in which the inner parent runs is not passed on."""
    ex = make(2)
    inner = values(ex.submit(payloads.in_runner_of_its_own, number) for _ in range(4))
    assert inner == [0] * 4
    assert Parent.new("media", 1, "local").slot is None
