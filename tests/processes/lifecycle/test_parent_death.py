"""Nobody is left behind when the parent dies, whatever it was doing and whoever inherited what."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.processes.lifecycle.conftest import Start
from tests.support.census import Census
from tests.support.helpers import Gate, Mailbox, ProcessHandle, all_ended, killing, watching

GONE_WITHIN = 2.0
"""Seconds that the design allows."""


@contextmanager
def everything_of(parent: int, mailbox: Mailbox, census: Census, calls: int = 4) -> Iterator[list[ProcessHandle]]:
    """Watches on all that a program with so many calls has started: agents, slots, and what the calls started."""
    reported = {int(pid) for _ in range(calls) for pid in mailbox.read().split()}
    assert len(reported) == 2 * calls
    found = {process.pid for process in census.processes()} - {parent}
    assert len(found) > 2 * calls, "a census from outside finds the agents as well"
    # A sleeper whose environment is empty and whose parent is gone is known from its report alone.
    with killing(*(found | reported)) as watches:
        yield watches


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGHUP])
@pytest.mark.parametrize("runners", [1, 2])
def test_all_that_four_busy_calls_have_started_goes_with_the_parent(
    start: Start, mailbox: Mailbox, census: Census, number: int, runners: int
) -> None:
    """Checklist 3, 34."""
    parent = start("four_calls", mailbox.path, runners)
    with everything_of(parent.pid, mailbox, census) as watches:
        parent.send_signal(number)
        assert all_ended(watches, GONE_WITHIN)
    assert parent.wait() == -number


@pytest.mark.parametrize("how", ["python", "C"])
def test_a_fork_of_the_parent_that_keeps_its_descriptors_keeps_nobody_alive(
    start: Start, mailbox: Mailbox, census: Census, how: str
) -> None:
    """Checklist 3, with the link's other end held open by somebody else."""
    parent = start("four_calls_and_a_fork", mailbox.path, how)
    with everything_of(parent.pid, mailbox, census) as watches:
        parent.send_signal(signal.SIGUSR1)
        fork = int(mailbox.read())
        try:
            parent.kill()
            assert all_ended(watches, GONE_WITHIN)
        finally:
            os.kill(fork, signal.SIGKILL)


def test_a_runner_of_a_runner_goes_with_the_parent(start: Start, mailbox: Mailbox, census: Census) -> None:
    """Checklist 3, two runners deep."""
    parent = start("runner_in_runner", mailbox.path)
    with everything_of(parent.pid, mailbox, census, calls=1) as watches:
        assert len(watches) >= 5
        parent.kill()
        assert all_ended(watches, GONE_WITHIN)


def test_a_runner_that_boots_when_the_parent_dies_does_not_come_up(
    start: Start, mailbox: Mailbox, gate: Gate, slow_python: str
) -> None:
    """Checklist 3, before the hello."""
    parent = start("boots_slowly", slow_python)
    with watching(int(mailbox.read())) as watches:
        parent.kill()
        parent.wait()
        os.write(gate._fd, b"\n")
        assert all_ended(watches)
