"""A runner from which nothing comes any more: it is given up after `dead_after`, and then nothing waits for it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dragonfly_executor import DragonflyExecutor, RunnerLostError
from dragonfly_executor.backends import local
from dragonfly_executor.testing import FakeBackend, VirtualClock
from tests.engine.conftest import MakeExecutor
from tests.support.helpers import PATIENCE, SOON, Events, Gate, Mailbox, error_of, watching
from tests.support.payloads import agent_pid, echo, hold, pid

DEAD_AFTER = 10.0


@contextmanager
def frozen(*pids: int) -> Iterator[None]:
    """These processes stand still."""
    for number in pids:
        os.kill(number, signal.SIGSTOP)
    try:
        yield
    finally:
        for number in pids:
            try:
                os.kill(number, signal.SIGCONT)
            except ProcessLookupError:
                continue


def one_runner(clock: VirtualClock) -> tuple[DragonflyExecutor, FakeBackend, Events]:
    backend, events = FakeBackend(clock=clock), Events()
    executor = DragonflyExecutor(1, backend=backend, heartbeat=1, dead_after=DEAD_AFTER, on_event=events)
    executor.submit(echo, 1).result(PATIENCE)
    return executor, backend, events


def pass_time(clock: VirtualClock) -> None:
    """Time passes beat by beat: an engine that overslept puts the silence down to itself."""
    for _ in range(int(DEAD_AFTER) + 2):
        clock.advance(1)


def test_a_node_is_told_that_its_runner_was_given_up_for_its_silence() -> None:
    clock = VirtualClock()
    executor, backend, events = one_runner(clock)
    backend.nodes[0].freeze()
    pass_time(clock)
    events.wait("down")
    assert executor.submit(echo, 2).result(PATIENCE) == 2
    executor.shutdown()
    assert [node.is_silent for node in backend.nodes] == [True, False]


def test_a_shutdown_gives_a_silent_runner_up_long_before_its_grace_ends() -> None:
    """It was told to go, and is watched until it says that it does."""
    clock = VirtualClock()
    executor, backend, events = one_runner(clock)
    backend.nodes[0].freeze()
    executor.shutdown(wait=False)
    events.wait("down")
    pass_time(clock)
    executor.pool.join(PATIENCE)
    assert not backend.running
    assert backend.nodes[0].is_silent


def test_a_frozen_agent_of_this_machine_keeps_its_place_for_no_moment_longer(
    make: MakeExecutor, mailbox: Mailbox, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "STOP_TIMEOUT", 3 * SOON)
    executor = make(1, heartbeat=0.1, dead_after=1.0)
    agent = executor.submit(agent_pid).result(PATIENCE)
    slot = executor.submit(pid).result(PATIENCE)
    lost = executor.submit(hold, mailbox.path, gate.path, 1)
    mailbox.read()
    with watching(agent, slot) as watches, frozen(agent, slot):
        waiting = executor.submit(agent_pid)
        error = error_of(lost)
        given_up = time.monotonic()
        assert isinstance(error, RunnerLostError)
        assert "no data for" in str(error)
        assert waiting.result(PATIENCE) != agent
        assert time.monotonic() - given_up < SOON
        assert all(watch.ended(SOON) for watch in watches)


@pytest.mark.parametrize("busy", [True, False], ids=["busy", "idle"])
def test_a_pool_whose_runner_is_frozen_shuts_down_when_it_is_given_up(
    make: MakeExecutor, mailbox: Mailbox, gate: Gate, monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    monkeypatch.setattr(local, "STOP_TIMEOUT", 3 * SOON)
    executor = make(1, heartbeat=0.1, dead_after=1.0, shutdown_timeout=60.0)
    agent = executor.submit(agent_pid).result(PATIENCE)
    if busy:
        executor.submit(hold, mailbox.path, gate.path, 1)
        mailbox.read()
    with frozen(agent):
        began = time.monotonic()
        executor.shutdown()
        assert time.monotonic() - began < SOON
