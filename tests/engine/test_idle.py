"""When idle runners go. On fake runners, by a clock that the test moves."""

from __future__ import annotations

from queue import SimpleQueue

from dragonfly_executor import Pool
from dragonfly_executor.testing import FakeBackend, VirtualClock
from tests.engine.conftest import MakePool
from tests.support.helpers import PATIENCE, Events, Gate, Mailbox, values
from tests.support.payloads import echo, hold


def busy_then_idle(pool: Pool, mailbox: Mailbox, gate: Gate, count: int) -> None:
    """Make a pool of one-slot runners have so many of them, all idle."""
    futures = [pool.submit(hold, mailbox.path, gate.path) for _ in range(count)]
    mailbox.numbers(count)
    gate.open(count)
    values(futures)
    assert pool.stats().runners_idle == count


def test_runners_above_min_go_first_and_those_within_it_later(
    make_pool: MakePool, mailbox: Mailbox, gate: Gate
) -> None:
    """Design §4: idle_shutdown_after, min_idle_shutdown_after."""
    clock = VirtualClock()
    pool = make_pool(
        min=1,
        max=3,
        max_concurrency=1,
        idle_shutdown_after=30,
        min_idle_shutdown_after=100,
        backend=FakeBackend(clock=clock),
    )
    busy_then_idle(pool, mailbox, gate, 3)
    clock.advance(29)
    assert pool.stats().runners_up == 3
    clock.advance(1)
    assert pool.stats().runners_up == 1
    clock.advance(69)
    assert pool.stats().runners_up == 1
    clock.advance(1)
    stats = pool.stats()
    assert (stats.runners_up, stats.runners_booting) == (0, 0)


def test_a_min_runner_that_went_for_being_idle_comes_back_with_the_next_call(make_pool: MakePool) -> None:
    """Design §4: min_idle_shutdown_after, for pools that nobody uses at night."""
    clock, events = VirtualClock(), Events()
    pool = make_pool(min=2, max=2, min_idle_shutdown_after=60, backend=FakeBackend(clock=clock), on_event=events)
    for _ in range(2):
        events.wait("up")
    clock.advance(61)
    assert pool.stats().runners_up == 0
    clock.advance(3600)
    assert pool.stats().boots_attempted == 2
    assert pool.call(echo, 1) == 1
    for _ in range(2):
        events.wait("up")
    assert pool.stats().runners_up == 2


def test_spare_runners_are_kept_while_there_are_calls(make_pool: MakePool, mailbox: Mailbox, gate: Gate) -> None:
    clock = VirtualClock()
    options = {"max": 4, "spare": 2, "max_concurrency": 1, "idle_shutdown_after": 30}
    pool = make_pool(**options, backend=FakeBackend(clock=clock))
    future = pool.submit(hold, mailbox.path, gate.path)
    mailbox.read()
    pool.wait_for(runners=3, timeout=PATIENCE)
    clock.advance(1000)
    assert (pool.stats().runners_up, pool.stats().boots_attempted) == (3, 3)
    gate.open()
    future.result(PATIENCE)
    clock.advance(29)
    assert pool.stats().runners_up == 3
    clock.advance(1)
    assert pool.stats().runners_up == 0


def test_none_means_never(make_pool: MakePool) -> None:
    clock = VirtualClock()
    pool = make_pool(idle_shutdown_after=None, backend=FakeBackend(clock=clock))
    pool.call(echo, 1)
    clock.advance(10**6)
    assert pool.stats().runners_up == 1


def test_a_call_starts_the_time_anew(make_pool: MakePool) -> None:
    clock = VirtualClock()
    pool = make_pool(idle_shutdown_after=30, backend=FakeBackend(clock=clock))
    for _ in range(5):
        assert pool.call(echo, 1) == 1
        clock.advance(29)
    assert pool.stats().boots_attempted == 1


answers: SimpleQueue[bool] = SimpleQueue()
asked: SimpleQueue[bool] = SimpleQueue()


def may_go() -> bool:
    """Runs in this process, on a fake runner, and answers what it was told."""
    answer = answers.get()
    asked.put(answer)
    return answer


def test_a_runner_goes_when_its_check_says_so_and_not_before(make_pool: MakePool) -> None:
    """Design §4: (seconds, check)."""
    clock, events = VirtualClock(), Events()
    pool = make_pool(idle_shutdown_after=(30, may_go), backend=FakeBackend(clock=clock), on_event=events)
    pool.call(echo, 1)
    for _ in range(3):
        clock.advance(29)
        answers.put(False)
        assert asked.empty()
        clock.advance(1)
        assert asked.get(timeout=PATIENCE) is False
        # A call goes there behind the question, and comes back behind the answer.
        assert pool.call(echo, 1) == 1
    assert pool.stats().boots_attempted == 1
    answers.put(True)
    clock.advance(30)
    assert events.wait("down")["text"] == "runner 1 is down: idle"
    assert asked.get(timeout=PATIENCE) is True


def test_a_runner_that_gets_a_call_while_it_is_asked_stays(make_pool: MakePool) -> None:
    """Checklist 60: the call was first."""
    clock = VirtualClock()
    pool = make_pool(idle_shutdown_after=(30, may_go), backend=FakeBackend(clock=clock))
    pool.call(echo, 1)
    clock.advance(30)
    # The runner does not answer yet; the call waits behind the question.
    future = pool.submit(echo, 2)
    clock.advance(0)
    answers.put(True)
    assert future.result(PATIENCE) == 2
    assert asked.get(timeout=PATIENCE) is True
    assert pool.call(echo, 3) == 3
    assert pool.stats().boots_attempted == 1
