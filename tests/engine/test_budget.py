"""`budget=`: what runners use is counted, and bounded. On fake runners, by a clock that the test moves."""

from __future__ import annotations

import asyncio
import pickle
import threading
from concurrent.futures import as_completed
from datetime import timedelta
from typing import Any

import pytest

from dragonfly_executor import Budget, BudgetExceeded, DragonflyExecutor, LocalBackend, Pool
from dragonfly_executor.backends.base import BootRequest, Node
from dragonfly_executor.testing import FakeBackend, FakeRunner, VirtualClock
from tests.engine.conftest import MakeExecutor, MakePool
from tests.support.helpers import PATIENCE, Events, Gate, Mailbox, Settled, error_of
from tests.support.payloads import echo, hold


class PricedBackend(FakeBackend):
    """Its runners cost a quarter of a dollar a second, as far as is known before they are up."""

    def __init__(self, *script: Any, node_price: float | None = None, **options: Any) -> None:
        super().__init__(*script, **options)
        self._node_price = node_price
        self.asked = threading.Event()
        """Set when a boot has begun."""

    def price(self) -> float:
        return 0.25

    def prices_as_of(self) -> str:
        return "last week"

    def boot(self, request: BootRequest) -> Node:
        self.asked.set()
        node = super().boot(request)
        node.price = self._node_price
        return node


def test_what_runners_use_is_counted_without_a_budget_too(make_pool: MakePool) -> None:
    clock = VirtualClock()
    pool = make_pool(max=1, backend=PricedBackend(clock=clock), idle_shutdown_after=None)
    assert (pool.stats().machine_seconds, pool.stats().cost) == (0.0, 0.0)
    pool.call(echo, 1)
    clock.advance(8)
    stats = pool.stats()
    assert (stats.machine_seconds, stats.cost) == (pytest.approx(8), pytest.approx(2))
    assert stats.prices_as_of == "last week"
    (runner,) = stats.runners
    assert (runner.machine_seconds, runner.cost) == (pytest.approx(8), pytest.approx(2))


def test_a_node_knows_its_price_better(make_pool: MakePool) -> None:
    clock = VirtualClock()
    pool = make_pool(max=1, backend=PricedBackend(clock=clock, node_price=1.0), idle_shutdown_after=None)
    pool.call(echo, 1)
    clock.advance(8)
    assert pool.stats().cost == pytest.approx(8)


def test_the_user_knows_best(make_pool: MakePool) -> None:
    clock = VirtualClock()
    backend = PricedBackend(clock=clock, node_price=1.0)
    pool = make_pool(max=1, backend=backend, idle_shutdown_after=None, budget=Budget(cost=100, price=2.0))
    pool.call(echo, 1)
    clock.advance(8)
    assert pool.stats().cost == pytest.approx(16)
    assert pool.stats().prices_as_of == ""


@pytest.mark.parametrize("budget", [Budget(cost=5), Budget(machine_time=timedelta(seconds=20))])
def test_calls_that_run_go_on_and_others_fail(
    make_pool: MakePool, mailbox: Mailbox, gate: Gate, budget: Budget
) -> None:
    """The cap refuses what would use more."""
    clock, events = VirtualClock(), Events()
    pool = make_pool(max=1, max_concurrency=1, backend=PricedBackend(clock=clock), budget=budget, on_event=events)
    running = pool.submit(hold, mailbox.path, gate.path)
    mailbox.numbers(1)
    waiting = pool.submit(echo, 3)
    clock.advance(19)
    assert not waiting.done()
    clock.advance(1.5)
    error = waiting.exception(PATIENCE)
    assert isinstance(error, BudgetExceeded)
    assert error.machine_seconds == pytest.approx(20.5)
    assert error.cost == pytest.approx(5.125)
    assert "is used up" in str(error)
    assert "(estimated at 5.125 USD, by prices as of last week)" in str(error)
    assert "make a new pool with a larger budget=" in str(error)
    assert isinstance(error_of(pool.submit(echo, 4)), BudgetExceeded)
    assert not running.done()
    gate.open(1)
    running.result(PATIENCE)
    assert events.wait("down")["text"] == "runner 1 is down: budget"
    assert pool.stats().limits_that_bind == ("budget",)
    assert pool.stats().boots_attempted == 1


def test_an_idle_runner_is_given_back_and_min_is_not_kept(make_pool: MakePool) -> None:
    """Nothing may run over the cap for ever."""
    clock, events = VirtualClock(), Events()
    pool = make_pool(min=1, max=1, backend=PricedBackend(clock=clock), budget=Budget(machine_time=10), on_event=events)
    events.wait("up")
    clock.advance(11)
    events.wait("down")
    pool.shutdown()
    assert pool.stats().boots_attempted == 1


def test_a_runner_counts_while_it_starts_and_until_it_is_given_back(make_pool: MakePool) -> None:
    """Also one that nobody wants any more: it costs what it costs."""
    clock, starts, goes = VirtualClock(), threading.Event(), threading.Event()
    backend = PricedBackend(FakeRunner(hold=starts, hold_stop=goes), clock=clock)
    pool = make_pool(max=1, backend=backend, budget=Budget(machine_time=10))
    waiting = pool.submit(echo, 1)
    # One that still waits for a thread of the boot workers would be over at once.
    assert backend.asked.wait(PATIENCE)
    clock.advance(11)
    assert isinstance(error_of(waiting), BudgetExceeded)
    clock.advance(4)
    (runner,) = pool.stats().runners
    assert (runner.state, runner.machine_seconds) == ("stopping", pytest.approx(15))
    starts.set()
    pool.shutdown(wait=False)
    clock.advance(5)
    assert pool.stats().machine_seconds == pytest.approx(20)
    goes.set()
    pool.join()
    clock.advance(5)
    stats = pool.stats()
    assert (stats.machine_seconds, stats.cost) == (pytest.approx(20), pytest.approx(5))
    assert stats.boots_attempted == 1


@pytest.mark.parametrize("cancelled", [False, True])
def test_every_way_to_wait_comes_to_its_end_when_the_cap_strikes(
    make: MakeExecutor, mailbox: Mailbox, gate: Gate, cancelled: bool
) -> None:
    """Each future settles once, and each kind of waiting is told."""
    clock, settled = VirtualClock(), Settled()
    backend = PricedBackend(clock=clock)
    executor = make(None, max=1, max_concurrency=1, backend=backend, budget=Budget(cost=5))
    running = executor.submit(hold, mailbox.path, gate.path, "done")
    mailbox.numbers(1)
    results = executor.map(echo, range(100))
    futures = [running, *(executor.submit(echo, number) for number in range(100))]
    for future in futures:
        future.add_done_callback(settled)

    async def ask() -> list[BaseException | int]:
        loop = asyncio.get_running_loop()
        asked = [loop.run_in_executor(executor, echo, number) for number in range(20)]
        await loop.run_in_executor(None, clock.advance, 21)
        return await asyncio.gather(*asked, return_exceptions=True)

    if cancelled:
        assert futures[1].cancel()
    assert {type(each) for each in asyncio.run(ask())} == {BudgetExceeded}
    with pytest.raises(BudgetExceeded):
        next(results)
    ended = [future for future in as_completed(futures[1:], PATIENCE) if not future.cancelled()]
    assert len(ended) == 100 - cancelled
    assert {type(future.exception()) for future in ended} == {BudgetExceeded}
    assert not running.done()
    executor.shutdown(wait=False)
    gate.open(1)
    assert running.result(PATIENCE) == "done"
    executor.shutdown()
    assert settled.wait(101)
    assert settled.count == 101
    assert backend.running == []


def test_two_pools_with_one_budget_have_one_each(make_pool: MakePool) -> None:
    clock, budget, events = VirtualClock(), Budget(machine_time=10), Events()
    first = make_pool(max=1, backend=PricedBackend(clock=clock), budget=budget, on_event=events)
    second = make_pool(max=1, backend=PricedBackend(clock=clock), budget=budget)
    first.call(echo, 1)
    clock.advance(11)
    events.wait("down")
    assert isinstance(error_of(first.submit(echo, 1)), BudgetExceeded)
    assert second.call(echo, 2) == 2


def test_it_says_the_same_after_a_journey() -> None:
    """A call may have a pool of its own."""
    error = pickle.loads(pickle.dumps(BudgetExceeded("used up", 1.5, 0.25)))
    assert (str(error), error.machine_seconds, error.cost) == ("used up", 1.5, 0.25)


def test_whoever_waits_for_no_call_reads_of_it_in_the_log(
    make_pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    """`cast` has no future that could say it. Once is enough."""
    clock, events = VirtualClock(), Events()
    pool = make_pool(max=1, backend=PricedBackend(clock=clock), budget=Budget(machine_time=10), on_event=events)
    pool.cast(echo, 1)
    events.wait("up")
    clock.advance(11)
    events.wait("down")
    for _ in range(3):
        pool.cast(echo, 2)
    pool.shutdown()
    told = [record for record in caplog.records if "budget" in record.getMessage()]
    assert [record.levelname for record in told] == ["WARNING"]
    assert "the pool's budget of 10 machine-seconds is used up" in told[0].getMessage()


def test_a_cost_that_nobody_can_tell_is_refused_at_construction() -> None:
    with pytest.raises(ValueError, match="the local backend does not know what a runner costs"):
        Pool("costs", min=0, max=1, backend=LocalBackend(), budget=Budget(cost=1))
    with DragonflyExecutor(backend=LocalBackend(), budget=Budget(cost=1, price=0.1)) as executor:
        assert executor.pool.stats().cost == 0.0


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, ValueError),
        ({"price": 1.0}, ValueError),
        ({"cost": 0}, ValueError),
        ({"cost": -1.0}, ValueError),
        ({"cost": float("nan")}, ValueError),
        ({"cost": "5"}, TypeError),
        ({"cost": True}, TypeError),
        ({"machine_time": 0}, ValueError),
        ({"machine_time": "1h"}, TypeError),
        ({"machine_time": float("nan")}, ValueError),
        ({"machine_time": float("inf")}, ValueError),
        ({"machine_time": True}, TypeError),
        ({"cost": 1.0, "machine_time": float("inf")}, ValueError),
        ({"cost": float("inf")}, ValueError),
        ({"cost": 10**400}, ValueError),
        ({"cost": 1, "price": float("inf")}, ValueError),
        ({"cost": 1, "price": 0.0}, ValueError),
    ],
)
def test_a_budget_that_is_none_is_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Budget(**options)


class MisleadingBackend(PricedBackend):
    """Anybody may write a backend."""

    def __init__(self, price: Any, **options: Any) -> None:
        super().__init__(**options)
        self._price = price

    def price(self) -> Any:
        return self._price


@pytest.mark.parametrize("price", [float("nan"), -1.0, float("inf"), "0.1", True])
def test_a_backend_with_a_price_that_is_none_is_refused(price: Any) -> None:
    """By what is no number a cap would never be reached."""
    with pytest.raises((TypeError, ValueError), match=r"price\(\) of the fake backend must be"):
        Pool("costs", min=0, max=1, backend=MisleadingBackend(price), budget=Budget(cost=1))
    Pool("costs", min=0, max=1, backend=MisleadingBackend(price), budget=Budget(cost=1, price=0.1)).shutdown()


@pytest.mark.parametrize("price", [float("nan"), -1.0, float("inf"), "0.1", True])
def test_a_node_with_a_price_that_is_none_counts_as_the_others_do(
    make_pool: MakePool, caplog: pytest.LogCaptureFixture, price: Any
) -> None:
    clock, events = VirtualClock(), Events()
    backend = PricedBackend(clock=clock, node_price=price)
    pool = make_pool(max=1, backend=backend, budget=Budget(cost=5), on_event=events)
    assert pool.call(echo, 1) == 1
    clock.advance(8)
    assert pool.stats().cost == pytest.approx(2)
    clock.advance(13)
    events.wait("down")
    assert isinstance(error_of(pool.submit(echo, 2)), BudgetExceeded)
    pool.shutdown()
    assert "the price of runner 1 must be" in caplog.text


def test_a_number_is_no_budget() -> None:
    with pytest.raises(TypeError, match=r"such as Budget\(cost=5.0\)"):
        DragonflyExecutor(budget=5.0)
