"""A runner that cannot start a single slot: its calls go back, and where none ever can, a boot fails and says why."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from pathlib import Path

import pytest

from dragonfly_executor import BootError, LocalBackend
from dragonfly_executor.core.slot_state import REVIEW_AFTER
from dragonfly_executor.runner import capacity_check
from tests.processes.conftest import Make
from tests.support import payloads
from tests.support.helpers import PATIENCE, Gate, Mailbox, error_of, values

PATCHED = """
import errno, os
left = {left}
def few_of(start):
    def few(*arguments):
        global left
        left -= 1
        if left < 0:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return start(*arguments)
    return few
os.fork, os.posix_spawn = few_of(os.fork), few_of(os.posix_spawn)
"""
"""Stands for ``RLIMIT_NPROC`` and for ``pids.max``, which no test may set for itself everywhere."""
TRIAL = 1
"""Processes that an agent starts before it says hello."""


class FewProcesses(LocalBackend):
    """Its agents can start so many processes, one number for each boot, and any number from then on.

    Args:
        forks: how many; a boot's trial is one of them.
    """

    def __init__(self, *forks: int) -> None:
        super().__init__()
        self._forks = [*forks]

    def _command(self, inherited: list[int]) -> list[str]:
        *options, code = super()._command(inherited)
        left = self._forks.pop(0) if self._forks else sys.maxsize
        return [*options, PATCHED.format(left=left) + code]


class FewDescriptors(LocalBackend):
    """Its agents can have so many descriptors."""

    def __init__(self, folder: Path, most: int) -> None:
        python = folder / f"python-{most}"
        python.write_text(f'#!/bin/sh\nulimit -n {most}\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
        super().__init__(python=str(python))


def numbers(log: Path) -> list[int]:
    """The calls that ran, as often as they did."""
    return sorted(int(line.split()[0]) for line in log.read_text().splitlines())


def test_a_boot_whose_runner_can_fork_no_slot_fails_and_says_why(make: Make) -> None:
    ex = make(2, backend=FewProcesses(*[0] * 3), boot_wait=lambda state: 0.0)
    errors = [error_of(future) for future in [ex.submit(payloads.echo, n) for n in range(60)]]
    for error in errors:
        assert type(error) is BootError
        assert "cannot start a single slot" in str(error)
        assert os.strerror(11) in str(error)
        assert error.attempts == 3
    assert values(ex.submit(payloads.echo, n) for n in range(60)) == list(range(60))


def test_calls_on_a_runner_that_can_fork_no_slot_go_back(make: Make, log: Path) -> None:
    """It could when it was booted, and cannot by now. Not one of them fails, and each runs once."""
    ex = make(2, backend=FewProcesses(TRIAL))
    values(ex.submit(payloads.log_run, str(log), n) for n in range(60))
    assert numbers(log) == list(range(60))
    assert ex.pool.stats().boots_attempted == 2
    assert ex.pool.stats().boots_failed == 0


def test_calls_on_a_runner_whose_only_slot_died_go_back(
    make: Make, log: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ex = make(1, backend=FewProcesses(TRIAL + 1))
    slot = ex.submit(payloads.pid).result(PATIENCE)
    error_of(ex.submit(payloads.die_by, signal.SIGKILL))
    futures = [ex.submit(payloads.log_run, str(log), n) for n in range(60)]
    values(futures)
    assert numbers(log) == list(range(60))
    assert ex.submit(payloads.pid).result(PATIENCE) != slot
    assert ex.pool.stats().calls_failed == 1
    assert capfd.readouterr().err.count("cannot start a single slot, so this runner exits") == 1


def test_if_only_some_of_several_slots_can_be_forked_these_run_the_calls(
    make: Make, mailbox: Mailbox, gate: Gate, capfd: pytest.CaptureFixture[str]
) -> None:
    some = 4
    ex = make(12, backend=FewProcesses(TRIAL + some))
    # Calls that take longer than a fork have several slots forked at once.
    ex.submit(time.sleep, 2 * REVIEW_AFTER).result(PATIENCE)
    futures = [ex.submit(payloads.hold, mailbox.path, gate.path, n) for n in range(12)]
    slots = set(mailbox.numbers(some))
    assert len(slots) == some
    gate.open(12)
    assert values(futures) == list(range(12))
    assert set(mailbox.numbers(12 - some)) <= slots
    assert capfd.readouterr().err.count("no room for another slot, only for 4") == 1


def test_an_idle_check_on_a_runner_without_slots_keeps_nobody(make: Make) -> None:
    ex = make(1, backend=FewProcesses(TRIAL + 1), idle_shutdown_after=(0.1, payloads.nothing), max_tasks_per_child=1)
    assert ex.submit(payloads.echo, 1).result(PATIENCE) == 1
    assert ex.submit(payloads.echo, 2).result(PATIENCE) == 2


@pytest.mark.parametrize("most", [*range(8, 30, 2)])
def test_a_runner_with_few_descriptors_is_none_or_runs_calls(make: Make, tmp_path: Path, most: int) -> None:
    ex = make(1, backend=FewDescriptors(tmp_path, most), max_boot_failures=1)
    future = ex.submit(payloads.echo, 1)
    error = future.exception(PATIENCE)
    assert error is None or type(error) is BootError


def test_a_trial_that_fails_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """The census around each test looks after the descriptors."""

    def refuse(*_arguments: object) -> int:
        raise BlockingIOError("no room")

    monkeypatch.setattr(os, "posix_spawn", refuse)
    with pytest.raises(BlockingIOError):
        capacity_check.try_process()
    monkeypatch.undo()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 3, most[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            capacity_check.try_process()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, most)
