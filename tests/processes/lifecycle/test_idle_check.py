"""The user's idle check on real runners: one that hangs holds no call up, and its slot is killed in the end."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import Parent
from dragonfly_executor.core import slot_idle_check
from tests.processes.conftest import Make
from tests.support import payloads
from tests.support.helpers import PATIENCE, SOON, Gate, Mailbox, all_ended, values, watching

SHORT = 0.02
"""Seconds after which a runner counts as idle."""


class Holds:
    """A check that says where it runs, and stays there."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._path = mailbox.path

    def __call__(self) -> bool:
        payloads.tell(self._path, os.getpid())
        while True:
            signal.pause()


class Tells:
    """A check that says where it runs, and does something then."""

    def __init__(self, mailbox: Mailbox, then: Any) -> None:
        self._path = mailbox.path
        self._then = then

    def __call__(self) -> Any:
        payloads.tell(self._path, os.getpid())
        return self._then()


def fail() -> None:
    raise LookupError("no such session")


def fork_and_return() -> bool:
    """Both processes come back from here."""
    return os.fork() == 0


def no() -> bool:
    return False


def pid_and_slot() -> tuple[int, int | None]:
    parent = Parent.get()
    assert parent is not None
    return os.getpid(), parent.slot


def test_no_call_waits_behind_a_check_that_hangs(make: Make, mailbox: Mailbox) -> None:
    """It runs in another slot of the only runner, which has room for one call; so do all that follow."""
    ex = make(max=1, max_workers=None, max_concurrency=1, idle_shutdown_after=(SHORT, Holds(mailbox)))
    first = ex.submit(payloads.pid).result(PATIENCE)
    assert mailbox.numbers(1) == [first]
    others = set(values([ex.submit(payloads.pid) for _ in range(20)], SOON))
    assert first not in others
    assert ex.pool.stats().boots_attempted == 1


def test_no_more_calls_run_at_once_than_may_once_a_check_has_ended(
    make: Make, mailbox: Mailbox, gate: Gate, tmp_path: Path
) -> None:
    """The extra slot, which ran calls in the meantime, goes."""
    check = Tells(mailbox, _Waits(gate))
    ex = make(max=1, max_workers=None, max_concurrency=1, idle_shutdown_after=(SHORT, check))
    slot = ex.submit(payloads.pid).result(PATIENCE)
    mailbox.read()
    extra, number = ex.submit(pid_and_slot).result(PATIENCE)
    assert extra != slot
    assert number == 1
    with watching(extra) as watches:
        gate.open(1000)  # for the checks that follow soon, too
        assert all_ended(watches)
    # During a further check, calls run in a slot in place of the slot with the check. So slots are not compared.
    log = tmp_path / "log"
    values([ex.submit(payloads.log_begin_and_end, str(log)) for _ in range(10)])
    assert log.read_text().split() == ["begin", "end"] * 10


class _Waits:
    def __init__(self, gate: Gate) -> None:
        self._path = gate.path

    def __call__(self) -> bool:
        payloads.wait_at(self._path)
        return False


@pytest.mark.parametrize("how", [fail, fork_and_return, no])
def test_a_check_that_fails_or_says_no_keeps_its_runner(how: Any, make: Make, mailbox: Mailbox) -> None:
    """And is asked again after the next idle time."""
    ex = make(1, idle_shutdown_after=(SHORT, Tells(mailbox, how)))
    slot = ex.submit(payloads.pid).result(PATIENCE)
    assert mailbox.numbers(3) == [slot] * 3
    # In another slot, if it comes while the check runs.
    ex.submit(payloads.pid).result(PATIENCE)
    assert ex.pool.stats().boots_attempted == 1


def test_a_check_that_kills_its_slot_keeps_its_runner(make: Make, mailbox: Mailbox) -> None:
    ex = make(1, idle_shutdown_after=(SHORT, Tells(mailbox, lambda: os._exit(3))))
    ex.submit(payloads.pid).result(PATIENCE)
    assert len(set(mailbox.numbers(3))) == 3
    assert ex.submit(payloads.echo, 1).result(PATIENCE) == 1
    assert ex.pool.stats().boots_attempted == 1


def test_a_check_is_no_task_of_its_slot(make: Make, mailbox: Mailbox) -> None:
    """Else the second check would have been the slot's last."""
    ex = make(1, max_tasks_per_child=3, idle_shutdown_after=(SHORT, Tells(mailbox, no)))
    slot = ex.submit(payloads.pid).result(PATIENCE)
    assert mailbox.numbers(5) == [slot] * 5


def test_a_shutdown_does_not_wait_for_a_check_that_hangs(make: Make, mailbox: Mailbox) -> None:
    ex = make(1, idle_shutdown_after=(SHORT, Holds(mailbox)))
    ex.submit(payloads.pid).result(PATIENCE)
    with watching(int(mailbox.read())) as watches:
        ex.shutdown()
        assert all_ended(watches)


@pytest.mark.slow
def test_the_slot_of_a_check_that_hangs_is_killed_with_a_warning(
    make: Make, mailbox: Mailbox, caplog: pytest.LogCaptureFixture
) -> None:
    """Its runner stays."""
    ex = make(1, idle_shutdown_after=(SHORT, Holds(mailbox)))
    ex.submit(payloads.pid).result(PATIENCE)
    with watching(int(mailbox.read())) as watches:
        assert all_ended(watches, slot_idle_check.LIMIT + SOON)
    assert ex.submit(payloads.echo, 1).result(PATIENCE) == 1
    assert ex.pool.stats().boots_attempted == 1
    ex.shutdown()
    assert "runner 1: the idle check did not end within 10 s" in caplog.text
