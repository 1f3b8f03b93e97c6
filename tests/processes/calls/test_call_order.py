"""Calls with a priority run first, and calls with a key find what earlier calls left in their slot."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Hashable, Iterator
from pathlib import Path

import pytest

from dragonfly_executor import DragonflyExecutor, Pool
from tests.processes.conftest import Make
from tests.support import payloads
from tests.support.helpers import PATIENCE, SOON, Gate, Mailbox, values


@contextlib.contextmanager
def engine_held(executor: DragonflyExecutor) -> Iterator[None]:
    """Let the engine see all that happens in the block at once, after it."""
    is_held, may_go = threading.Event(), threading.Event()
    executor.pool._engine.on_thread(lambda _components: (is_held.set(), may_go.wait(PATIENCE)))
    assert is_held.wait(PATIENCE)
    try:
        yield
    finally:
        may_go.set()


def test_waiting_calls_run_by_priority(make: Make, mailbox: Mailbox, gate: Gate, log: Path) -> None:
    ex = make(1)
    held = ex.submit(payloads.hold, mailbox.path, gate.path)
    mailbox.read()
    # These two may be on the runner already when the others are submitted.
    ahead = [ex.submit(payloads.log, str(log), "ahead") for _ in range(2)]
    futures = []
    with engine_held(ex):
        # Otherwise some of these might be on the runner before the last one is submitted.
        for name, priority in [("low", -1), ("normal", 0), ("high", 1.5), ("normal", 0), ("high", 1.5), ("highest", 2)]:
            futures.append(ex.options(priority=priority).submit(payloads.log, str(log), name))
    gate.open()
    values([held, *ahead, *futures])
    names = [line.split()[0] for line in log.read_text().splitlines()]
    assert [name for name in names if name != "ahead"] == ["highest", "high", "high", "normal", "normal", "low"]


def test_the_priority_of_a_map(make: Make, mailbox: Mailbox, gate: Gate, log: Path) -> None:
    ex = make(1)
    held = ex.submit(payloads.hold, mailbox.path, gate.path)
    mailbox.read()
    late = ex.options(priority=-1).map(payloads.log, [str(log)] * 3, ["late"] * 3)
    early = ex.map(payloads.log, [str(log)] * 3, ["early"] * 3)
    gate.open()
    held.result(PATIENCE)
    assert list(early) == list(late) == [None] * 3
    names = [line.split()[0] for line in log.read_text().splitlines()]
    assert names[-2:] == ["late", "late"]


def slot_of(executor: DragonflyExecutor, key: Hashable = None) -> int:
    """Return the process id of the slot that runs a call with this key."""
    return executor.options(key=key).submit(payloads.pid).result(PATIENCE)


@pytest.mark.parametrize("keys", [["a", "b", "c"], [1, ("a", 2), frozenset({3})], [0, -1, 2**64]])
def test_calls_with_a_key_run_in_one_slot_if_it_is_free(
    keys: list[Hashable], make: Make, mailbox: Mailbox, gate: Gate
) -> None:
    ex = make(3)
    first = []
    for key in keys:  # all at once, so that each gets a slot of its own
        first.append(ex.options(key=key).submit(hold_and_return_pid, mailbox.path, gate.path))
        mailbox.read()
    gate.open(3)
    homes = values(first)
    assert len(set(homes)) == 3
    for order in [(0, 1, 2), (2, 1, 0), (1, 1, 0)]:
        assert [slot_of(ex, keys[i]) for i in order] == [homes[i] for i in order]


def hold_and_return_pid(mailbox: str, gate: str) -> int:
    payloads.hold(mailbox, gate)
    return os.getpid()


def meet_in_all(executor: DragonflyExecutor, slots: int) -> None:
    """Get all slots of an executor up: each runs a call at the same time."""
    values(executor.submit(payloads.nap, 0.05) for _ in range(slots))


def test_a_call_whose_slot_is_busy_runs_in_another(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    ex = make(2)
    meet_in_all(ex, 2)
    held = ex.options(key="a").submit(payloads.hold, mailbox.path, gate.path)
    mailbox.read()
    assert ex.options(key="a").submit(payloads.echo, 5).result(SOON) == 5
    gate.open()
    held.result(PATIENCE)


def test_calls_with_a_key_go_to_one_runner_of_several(mailbox: Mailbox, gate: Gate) -> None:
    with Pool("order", min=3, max=3, max_concurrency=1) as pool, DragonflyExecutor(pool=pool) as ex:
        first = []
        for key in range(3):  # all at once, so that each gets a runner of its own
            first.append(ex.options(key=key).submit(hold_and_return_pid, mailbox.path, gate.path))
            mailbox.read()
        gate.open(3)
        homes = values(first)
        assert len(set(homes)) == 3
        for key in [2, 0, 1, 1, 0, 2, 0, 0]:
            assert slot_of(ex, key) == homes[key]


def test_a_key_whose_slot_was_killed_gets_another(make: Make) -> None:
    ex = make(2)
    meet_in_all(ex, 2)
    first = slot_of(ex, "a")
    assert ex.options(key="a").submit(payloads.die_by, 9).exception(PATIENCE) is not None
    second = slot_of(ex, "a")
    assert second != first
    assert slot_of(ex, "a") == second


def test_large_calls_with_a_key_and_limits(make: Make) -> None:
    ex = make(2)
    data = bytes(300_000)
    view = ex.options(key="a", timeout=PATIENCE, run_timeout=PATIENCE)
    assert values(view.submit(payloads.digest, data) for _ in range(3)) == [payloads.digest(data)] * 3
