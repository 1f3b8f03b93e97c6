"""The history of a pool, which its page shows as a timeline. On fake runners, which report the start of every call."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from dragonfly_executor import Pool
from dragonfly_executor.engine.observing import failed_calls, pool_history, pool_status
from dragonfly_executor.testing import FakeBackend, VirtualClock
from tests.engine.conftest import MakePool
from tests.support.helpers import PATIENCE, Gate, becomes_true, error_of, values
from tests.support.payloads import echo, fail, wait_at


def ask(pool: Pool, **request: Any) -> Any:
    """The answer to a request, as JSON."""
    status = pool._engine._components.status
    return json.loads(json.dumps(pool._engine.ask(lambda _: status().answer(request))))


def named(history: Any) -> list[str]:
    """The functions of the calls that have bars."""
    return [history["names"][row[1]] for row in history["calls"]]


def test_a_history_is_kept_while_it_is_asked_for(make_pool: MakePool) -> None:
    clock = VirtualClock()
    pool = make_pool(backend=FakeBackend(clock=clock), heartbeat=1e6, dead_after=1e6, idle_shutdown_after=None)
    pool.call(echo, 1)
    assert pool._engine._components.call_notes == []
    first = ask(pool, ask="history")
    assert (first["calls"], first["next_call"], first["missed"]) == ([], 0, 0)
    (notes,) = pool._engine._components.call_notes
    pool.call(echo, 1)
    clock.advance(pool_status.UNSEEN - 1)
    after = ask(pool, ask="history")
    assert named(after) == ["echo"]
    clock.advance(pool_status.UNSEEN - 1)
    assert pool._engine._components.call_notes == [notes]
    clock.advance(2)
    assert becomes_true(pool, lambda: pool._engine._components.call_notes == [])
    assert pool._engine._components.notifications.on_runner is None
    assert ask(pool, ask="history")["next_call"] == 0


def test_calls_are_told_once_with_runner_slot_and_times(make_pool: MakePool, gate: Gate) -> None:
    pool = make_pool(backend=FakeBackend(), max_concurrency=2)
    held = pool.submit(wait_at, gate.path)
    assert becomes_true(pool, lambda: pool.stats().calls_running == 1)
    # It has begun before the history.
    first = ask(pool, ask="history")
    ((number, name, runner, _, begin),) = first["running"]
    assert (number, first["names"][name], runner) == (held.call.id if held.call else 0, "wait_at", 1)
    assert begin <= first["now"]
    pool.call(echo, 1)
    second = ask(pool, ask="history", calls_after=first["next_call"], tick_after=first["next_tick"])
    assert named(second) == ["echo"]
    gate.open()
    held.result(PATIENCE)
    third = ask(pool, ask="history", calls_after=second["next_call"], tick_after=second["next_tick"])
    ((number, _, runner, _, begin, end, outcome),) = third["calls"]
    assert (third["running"], runner, outcome) == ([], 1, "done")
    assert first["since"] - 60 < begin <= end <= third["now"]
    assert {row["function"]: row["done"] for row in third["functions"]} == {"wait_at": 1, "echo": 1}
    assert ask(pool, ask="call", call=number)["state"] == "done"


@pytest.mark.parametrize("ending", ["runner", "error"])
def test_an_attempt_that_is_lost_ends_before_its_call_is_tried_again(
    make_pool: MakePool, gate: Gate, ending: str
) -> None:
    backend = FakeBackend()
    pool = make_pool(backend=backend, retries=1, retry_on=(KeyError,), retry_wait=lambda state: 3600.0)
    pool.start()
    ask(pool, ask="history")
    if ending == "error":
        call = pool.submit(fail, KeyError("no"))
    else:
        call = pool.submit(wait_at, gate.path)
        assert becomes_true(pool, lambda: len(ask(pool, ask="history")["running"]) == 1)
        backend.lose_runner()
    assert becomes_true(pool, lambda: pool.stats().calls_retried == 1)
    history = ask(pool, ask="history")
    assert history["running"] == []
    ((_, _, runner, _, begin, end, outcome),) = history["calls"]
    assert (runner, outcome, begin <= end) == (1, "failed", True)
    assert not call.done()
    gate.open()
    pool.kill()


def test_failures_have_their_traceback_and_no_code_of_the_user_runs(make_pool: MakePool) -> None:
    pool = make_pool(backend=FakeBackend(), output="capture")
    pool.start()
    ask(pool, ask="history")
    bad = pool.submit(partial(fail, _Odd("\x1b[2J no")))
    assert isinstance(error_of(bad), _Odd)
    (failure,) = ask(pool, ask="history")["failures"]
    assert (failure["function"], failure["kind"], failure["error_type"]) == ("fail", "raised", "_Odd")
    assert failure["runner"] == 1
    assert "traceback" not in failure
    call = ask(pool, ask="call", call=failure["call"])
    assert "in fail\n" in call["traceback"]
    assert "\\x1b[2J no" in call["traceback"]
    assert (call["state"], call["output"]) == ("failed", "")
    assert "has ended, or the number is wrong" in ask(pool, ask="call", call=10**6)["error"]
    failing = FakeBackend()
    failing.fail_next_boot()
    broken = make_pool(backend=failing, max_boot_failures=1)
    broken.start()
    ask(broken, ask="history")
    error_of(broken.submit(echo, 1))
    (failure,) = ask(broken, ask="history")["failures"]
    assert (failure["kind"], failure["error_type"], failure["runner"]) == ("boot", "BootError", None)
    assert ask(broken, ask="call", call=failure["call"])["traceback"].startswith("BootError: ")
    (runner,) = ask(broken, ask="history")["runners"]
    assert runner["failed"]
    assert runner["boot"] <= runner["down"]


class _Odd(Exception):
    """Its text may be asked for once, by the slot: on the engine's thread it must not run."""

    def __str__(self) -> str:
        import threading

        assert not threading.current_thread().name.endswith("-engine")
        return super().__str__()


def test_a_flood_is_bounded_and_says_what_is_missing(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_history, "MOST_SENT", 10)
    monkeypatch.setattr(pool_history, "MOST_FUNCTIONS", 1)
    monkeypatch.setattr(failed_calls, "MOST_READ", 5)
    pool = make_pool(backend=FakeBackend())
    pool.start()
    first = ask(pool, ask="history")
    pool.call(echo, 1)
    values(pool.submit(echo, number) for number in range(29))
    for error in [pool.submit(partial(fail, KeyError(number))) for number in range(60)]:
        error_of(error)
    history = ask(pool, ask="history", calls_after=first["next_call"] + 1)
    assert (len(history["calls"]), history["missed"]) == (10, 79)
    assert [row["function"] for row in history["functions"]] == ["echo", pool_history.OTHERS]
    assert len(history["failures"]) == failed_calls.MOST_FAILED
    texts = [ask(pool, ask="call", call=each["call"])["traceback"] for each in history["failures"]]
    assert failed_calls.TOO_MANY in texts


def test_calls_that_are_too_short_for_a_bar_are_counted_by_runner(make_pool: MakePool) -> None:
    """A runner does not report the start of a short call."""
    from dragonfly_executor.core import actions, events
    from dragonfly_executor.core.calls import Call, CallLimits
    from dragonfly_executor.engine.outcome import Outcome

    pool = make_pool(backend=FakeBackend())
    pool.start()
    machine = pool._engine._machine
    now = 100.0
    history = pool_history.PoolHistory(machine, lambda: now, captures=False)
    for number, cost in ((1, 0.001), (2, 0.002), (3, 0.5)):
        call = Call(number, b"", None, CallLimits())
        call.runner = 1
        outcome = Outcome(pool._engine.codec, b"", is_error=False)
        event = events.ResultsArrived(1, [(number, 1, cost, outcome, False)])
        history.note(event, [actions.Settle([(call, outcome)])], now)
    report = history.report(0, 0)
    ((begin, runner, count, busy),) = report["short"]
    assert (runner, count, busy) == (1, 2, pytest.approx(0.003))
    assert begin <= report["now"] <= begin + pool_history.TICK
    assert [row[0] for row in report["calls"]] == [3]
    # The last span is sent again, because it may have grown; earlier ones are not.
    assert len(history.report(3, report["next_tick"])["short"]) == 1
    now += 10
    history.note(event, [actions.Settle([(call, outcome)])], now)
    call.name = "later"
    assert history.report(3, report["next_tick"] + 1)["short"] == []


def test_a_pool_is_resized_with_the_checks_of_its_method(make_pool: MakePool) -> None:
    pool = make_pool(backend=FakeBackend(), max=2)
    pool.start()
    assert ask(pool, ask="resize", min=1, max=3) == {"min": 1, "max": 3}
    assert becomes_true(pool, lambda: pool.stats().runners_up == 1)
    assert (pool.stats().min, pool.stats().max) == (1, 3)
    assert ask(pool, ask="resize", max=5) == {"min": 1, "max": 5}
    for bad in ({"min": 9}, {"max": 0}, {"max": "2"}, {"min": True}):
        with pytest.raises((ValueError, TypeError)):
            ask(pool, ask="resize", **bad)
    pool.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        ask(pool, ask="resize", max=2)
