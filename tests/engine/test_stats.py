"""`stats()` answers "why did it not scale?". On fake runners, by a clock that the test moves."""

from __future__ import annotations

import threading

from dragonfly_executor.testing import FakeBackend, FakeRunner, VirtualClock
from tests.engine.conftest import MakePool
from tests.support.helpers import PATIENCE, Events, Gate, Mailbox, becomes_true, error_of, values
from tests.support.payloads import echo, hold, leave


def test_max_binds(make_pool: MakePool, mailbox: Mailbox, gate: Gate) -> None:
    """All slots that there may be are busy."""
    pool = make_pool(max=2, max_concurrency=1, backend=FakeBackend())
    futures = [pool.submit(hold, mailbox.path, gate.path) for _ in range(5)]
    mailbox.numbers(2)
    stats = pool.stats()
    assert (stats.runners_up, stats.slots_busy, stats.slots_free) == (2, 2, 0)
    assert stats.limits_that_bind == ("max",)
    assert stats.calls_queued + stats.calls_sent == 5
    assert "2 of at most 2 runners up; 2 of 2 slots busy; held by max" in stats.explain
    gate.open(5)
    values(futures)
    stats = pool.stats()
    assert (stats.calls_done, stats.calls_queued, stats.calls_sent, stats.limits_that_bind) == (5, 0, 0, ())


def test_max_workers_binds(make_pool: MakePool, mailbox: Mailbox, gate: Gate) -> None:
    """There could be more runners, and they would be of no use."""
    pool = make_pool(max=9, max_concurrency=2, max_workers=2, backend=FakeBackend())
    futures = [pool.submit(hold, mailbox.path, gate.path) for _ in range(3)]
    mailbox.numbers(2)
    stats = pool.stats()
    assert (stats.runners_up, stats.limits_that_bind) == (1, ("max_workers",))
    assert "held by max_workers" in stats.explain
    gate.open(3)
    values(futures)


def test_boots_that_fail_bind(make_pool: MakePool) -> None:
    """The last boot error, and until when nothing boots."""
    clock, events = VirtualClock(), Events()
    backend = FakeBackend(FakeRunner(error=OSError("no capacity")), clock=clock)
    pool = make_pool(max=9, backend=backend, boot_wait=lambda state: 60.0, on_event=events)
    future = pool.submit(echo, 1)
    events.wait("boot failed")
    stats = pool.stats()
    assert (stats.boots_attempted, stats.boots_failed, stats.runners_up, stats.runners_booting) == (1, 1, 0, 0)
    assert stats.back_off_until == clock.time() + 60
    assert stats.limits_that_bind == ("back-off",)
    assert "no capacity" in (stats.last_boot_error or "")
    assert "1 calls wait" in stats.explain
    assert "held by back-off; last boot error: " in stats.explain
    clock.advance(59)
    assert not future.done()
    clock.advance(2)
    assert future.result(PATIENCE) == 1
    assert pool.stats().back_off_until is None


def test_a_boot_that_takes_its_time_shows(make_pool: MakePool) -> None:
    """Boots under way."""
    hold_boot = threading.Event()
    pool = make_pool(max=9, max_concurrency=1, backend=FakeBackend(*[FakeRunner(hold=hold_boot)] * 9))
    futures = [pool.submit(echo, number) for number in range(3)]
    stats = pool.stats()
    assert (stats.runners_booting, stats.calls_queued, stats.limits_that_bind) == (3, 3, ())
    assert "0 of at most 9 runners up, 3 booting" in stats.explain
    assert [runner.state for runner in stats.runners] == ["booting"] * 3
    hold_boot.set()
    values(futures)


def test_what_became_of_calls_is_counted(make_pool: MakePool, mailbox: Mailbox, gate: Gate) -> None:
    """Done, failed, cancelled, timed out, retried."""
    pool = make_pool(max_concurrency=2)
    pool.call(echo, 1)
    error_of(pool.submit(leave, 3))
    running = pool.submit(hold, mailbox.path, gate.path)
    mailbox.numbers(1)
    assert becomes_true(pool, lambda: pool.stats().calls_running == 1)
    assert running.cancel()
    options = pool.call_options.change({"timeout": 0.05})
    error_of(pool.submit_with(options, hold, (mailbox.path, gate.path), {}))
    options = pool.call_options.change({"retries": 1, "retry_wait": lambda state: 0.0})
    error_of(pool.submit_with(options, leave, (3,), {}))
    stats = pool.stats()
    assert (stats.calls_done, stats.calls_failed, stats.calls_cancelled, stats.calls_timed_out) == (1, 2, 1, 1)
    assert stats.calls_retried == 1
    assert stats.runners[0].calls_done == 1


def test_a_pool_that_ended_says_so(make_pool: MakePool) -> None:
    pool = make_pool(backend=FakeBackend())
    pool.call(echo, 1)
    pool.shutdown()
    assert pool.stats().limits_that_bind == ("shutdown",)
    assert "held by shutdown" in repr(pool)


def test_a_pool_that_never_ran_has_stats(make_pool: MakePool) -> None:
    stats = make_pool(max=4, backend=FakeBackend()).stats()
    assert (stats.min, stats.max, stats.runners, stats.boots_attempted) == (0, 4, (), 0)
    assert stats.explain == "0 calls wait; 0 of at most 4 runners up; 0 of 0 slots busy"
