"""A parent that does not run for a while, as when a laptop sleeps."""

from __future__ import annotations

import signal

import pytest

from tests.processes.lifecycle.conftest import Start
from tests.processes.lifecycle.test_exit import outcome
from tests.support.census import Census
from tests.support.helpers import Gate, Mailbox, all_ended, watching


def test_runners_go_when_their_lease_ends_and_the_parent_boots_new_ones(
    start: Start, mailbox: Mailbox, gate: Gate, census: Census
) -> None:
    """Checklist 52: the parent is stopped until its runners have gone, which they do after one lease."""
    parent = start("sleeps", mailbox.path, gate.path, 1.0, 30.0)
    slots = mailbox.numbers(2)
    runners = [process.pid for process in census.processes() if process.pid != parent.pid]
    assert set(slots) < set(runners)
    with watching(*runners) as watches:
        parent.send_signal(signal.SIGSTOP)
        assert all_ended(watches)
    parent.send_signal(signal.SIGCONT)
    assert outcome(parent) == (0, "RunnerLostError\nRunnerLostError\n1024 2\n", "")


@pytest.mark.parametrize(("lease", "dead_after"), [(60.0, 0.3), (4.0, 30.0), (4.0, 0.3)])
def test_a_nap_costs_no_runner(start: Start, mailbox: Mailbox, gate: Gate, lease: float, dead_after: float) -> None:
    """Checklist 52: longer than a runner may be silent, and shorter than its lease."""
    parent = start("sleeps", mailbox.path, gate.path, lease, dead_after)
    with watching(*mailbox.numbers(2)) as watches:
        parent.send_signal(signal.SIGSTOP)
        assert not watches[0].ended(1.0)
        parent.send_signal(signal.SIGCONT)
        assert not watches[0].ended(1.0)
        gate.open(2)
        assert outcome(parent) == (0, "held\nheld\n1024 1\n", "")
