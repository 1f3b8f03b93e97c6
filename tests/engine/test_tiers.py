"""Several backends in one pool: what the list may be, what each backend limits, and which of them boots."""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Sequence
from typing import Any

import pytest

import dragonfly_executor
from dragonfly_executor import (
    Backend,
    BootError,
    BootRequest,
    Budget,
    BudgetExceeded,
    DragonflyExecutor,
    LocalBackend,
    Node,
    Pool,
    RequirementsError,
    SSHBackend,
    configure,
)
from dragonfly_executor.core.capacity import Capacity
from dragonfly_executor.testing import FakeBackend, FakeRunner, VirtualClock
from tests.engine.conftest import MakeExecutor, MakePool
from tests.support.helpers import PATIENCE, Events, Gate, Mailbox, error_of, values
from tests.support.payloads import echo, hold, tell

BOOT = 10.0
"""Seconds that a boot of the second backend is expected to take."""


class Second(FakeBackend):
    """A backend for what the first one does not take in time."""

    name = "second"
    default_boot_timeout = 70.0
    expected_boot_time = BOOT


class Sized(FakeBackend):
    """A backend whose runners have a capacity, which is known before they boot unless it is empty."""

    def __init__(self, name: str, *sizes: Capacity, **options: Any) -> None:
        super().__init__(**options)
        self.name = name
        self._sizes = sizes

    def capacities(self) -> Sequence[Capacity]:
        return self._sizes

    def boot(self, request: BootRequest) -> Node:
        node = super().boot(request)
        node.capacity = self._sizes[0] if self._sizes else None
        return node


class Unsized(FakeBackend):
    """A backend that does not know how many runners it may have."""

    name = "endless"
    default_max = None


class Priced(FakeBackend):
    """A backend whose runners cost a dollar a second."""

    name = "priced"

    def price(self) -> float:
        return 1.0


# -- the argument ------------------------------------------------------------------------------------------------------


def test_a_list_of_backends_has_backends_each_once() -> None:
    first = FakeBackend()
    for wrong, error, text in (
        ([], ValueError, "not an empty list"),
        ((), ValueError, "not an empty list"),
        ([first, "fly"], TypeError, r"backend\[1\] must be a Backend, such as LocalBackend\(\), not 'fly'"),
        ([first, LocalBackend], TypeError, r"backend\[1\] must be a Backend"),
        ([first, LocalBackend(), first], ValueError, r"backend\[2\] is in the list twice"),
        ({first}, TypeError, "or a list of several, not"),
        (iter([first]), TypeError, "or a list of several, not"),
    ):
        for make in (lambda: DragonflyExecutor(backend=wrong), lambda: configure(backend=wrong)):  # noqa: B023
            with pytest.raises(error, match=text):
                make()


def test_a_list_of_one_is_the_same_as_this_backend(make: MakeExecutor) -> None:
    executor = make(1, backend=[FakeBackend()])
    assert executor.submit(echo, 1).result(PATIENCE) == 1
    assert executor.pool.stats().tiers == ()
    assert " on fake:" in repr(executor)


def test_the_names_of_all_backends_are_shown(make: MakeExecutor) -> None:
    executor = make(backend=(FakeBackend(), Second(), FakeBackend()))
    assert " on fake+second+fake:" in repr(executor)
    assert "fake+second+fake" in executor._repr_html_()
    assert [tier.name for tier in executor.pool.stats().tiers] == ["fake", "second", "fake-2"]


# -- limits ------------------------------------------------------------------------------------------------------------


def test_each_backend_takes_limits_by_keyword() -> None:
    budget = Budget(machine_time=60)
    for backend in (
        LocalBackend(max=3, idle_shutdown_after=5, budget=budget),
        SSHBackend(["gpu1"], max=3, idle_shutdown_after=5, budget=budget),
        FakeBackend(max=3, idle_shutdown_after=5, budget=budget),
    ):
        assert (backend.max, backend.idle_shutdown_after, backend.budget) == (3, 5.0, budget)
    plain = LocalBackend(max=None)
    assert (plain.max, plain.idle_shutdown_after, plain.budget, plain.slots) == (None, None, None, None)


@pytest.mark.parametrize("name", sorted(each for each in dragonfly_executor.__all__ if each.endswith("Backend")))
def test_no_backend_is_without_these_keywords(name: str) -> None:
    if name != "Backend":
        tier = inspect.signature(getattr(dragonfly_executor, name)).parameters["tier"]
        assert (tier.kind, tier.annotation) == (tier.VAR_KEYWORD, "Unpack[TierKeywords]")


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"max": 0}, ValueError, "max must be at least 1, not 0"),
        ({"max": "3"}, TypeError, "max must be a whole number, not str"),
        ({"idle_shutdown_after": -1}, ValueError, "idle_shutdown_after must be at least 0"),
        ({"budget": 5.0}, TypeError, r"budget must be a Budget, such as Budget\(cost=5.0\), not float"),
        ({"slots": 0}, ValueError, "slots must be at least 1, not 0"),
        ({"colour": "red"}, TypeError, r"LocalBackend\(\) got an unexpected keyword argument 'colour'"),
    ],
)
def test_limits_that_make_no_sense_are_refused(given: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        LocalBackend(**given)


@pytest.mark.parametrize(
    ("backends", "given", "most"),
    [
        ([LocalBackend()], None, 1),
        ([LocalBackend(max=3)], None, 3),
        ([LocalBackend(max=3)], 2, 2),
        ([LocalBackend(max=3)], 20, 3),
        ([LocalBackend(), Unsized(max=20)], None, 21),
        ([LocalBackend(), Unsized(max=20)], 7, 7),
        ([LocalBackend(), Unsized(max=20)], 100, 21),
        ([LocalBackend(), Unsized()], 100, 100),
    ],
)
def test_the_smaller_of_the_pools_max_and_the_sum_of_its_backends_holds(
    make: MakeExecutor, backends: list[Backend], given: int | None, most: int
) -> None:
    executor = make(backend=backends, max=given)
    assert executor.pool.stats().max == most


def test_a_backend_without_a_max_is_named(make: MakeExecutor) -> None:
    with pytest.raises(ValueError, match="max is required with the endless backend"):
        make(backend=[LocalBackend(), Unsized()])


def test_a_pool_cannot_be_resized_beyond_its_backends(make_pool: MakePool) -> None:
    pool = make_pool(max=2, backend=[FakeBackend(), Second(max=3)])
    pool.resize(max=100)
    assert pool.stats().max == 4
    pool.resize(max=3)
    assert pool.stats().max == 3
    with pytest.raises(ValueError, match="min must be at most max, and 5 is more than 4"):
        pool.resize(min=5, max=5)


def test_a_limit_of_another_package_that_makes_no_sense_is_named(make: MakeExecutor) -> None:
    second = Second()
    for name, value in (("max", "many"), ("idle_shutdown_after", "soon"), ("expected_boot_time", 0)):
        broken = Second()
        setattr(broken, name, value)
        with pytest.raises((TypeError, ValueError), match=f"{name} of the second backend"):
            make(backend=[FakeBackend(), broken])
    assert make(backend=[FakeBackend(), second]).pool.stats().max == 2


def test_slots_of_a_local_backend_hold_unless_the_pool_says_otherwise(make_pool: MakePool, make: MakeExecutor) -> None:
    assert make_pool(backend=LocalBackend(slots=2)).max_calls == 2
    assert make_pool(backend=LocalBackend(slots=2), max_concurrency=3).max_calls == 3
    assert make(8, backend=LocalBackend(slots=2))._max_workers == 2
    assert make(None, backend=[LocalBackend(slots=2), LocalBackend(slots=3, max=2)])._max_workers == 8
    assert make_pool(max=2, backend=[LocalBackend(slots=2), LocalBackend(slots=3, max=2)]).max_calls == 5


def test_idle_runners_of_each_backend_stop_in_their_own_time(make_pool: MakePool, mailbox: Mailbox, gate: Gate) -> None:
    clock = VirtualClock()
    first = FakeBackend(clock=clock, idle_shutdown_after=float("inf"))
    pool = make_pool(max=2, max_concurrency=1, backend=[first, Second()], idle_shutdown_after=20)
    futures = [pool.submit(hold, mailbox.path, gate.path) for _ in range(2)]
    mailbox.numbers(1)
    clock.advance(BOOT)
    mailbox.numbers(1)
    gate.open(2)
    values(futures)
    clock.advance(19)
    assert [tier.runners_up for tier in pool.stats().tiers] == [1, 1]
    clock.advance(1)
    assert [tier.runners_up for tier in pool.stats().tiers] == [1, 0]
    clock.advance(10**6)
    assert [tier.runners_up for tier in pool.stats().tiers] == [1, 0]


@pytest.mark.parametrize(("given", "left"), [({}, 0), ({"idle_shutdown_after": 100}, 1)])
def test_a_single_backends_idle_time_gives_way_to_the_pools(make_pool: MakePool, given: Any, left: int) -> None:
    clock = VirtualClock()
    pool = make_pool(backend=FakeBackend(clock=clock, idle_shutdown_after=5), **given)
    assert pool.call(echo, 1) == 1
    clock.advance(6)
    assert pool.stats().runners_up == left


def test_each_backend_has_its_own_boot_timeout(make_pool: MakePool) -> None:
    clock = VirtualClock()
    for given, timeouts in (({}, (30.0, 70.0)), ({"boot_timeout": 9}, (9.0, 9.0))):
        first, second = FakeBackend(FakeRunner(error=BootError("no", final=True)), clock=clock), Second()
        pool = make_pool(max=2, backend=[first, second], **given)
        assert pool.call(echo, 1) == 1
        assert (first.requests[0].timeout, second.requests[0].timeout) == timeouts


# -- which of them boots -----------------------------------------------------------------------------------------------


def test_a_later_backend_boots_for_a_call_that_has_waited_for_its_boot_time(
    make_pool: MakePool, mailbox: Mailbox, gate: Gate
) -> None:
    clock, events = VirtualClock(), Events()
    first, second = FakeBackend(clock=clock), Second()
    pool = make_pool(max=2, max_concurrency=1, backend=[first, second], on_event=events)
    held = pool.submit(hold, mailbox.path, gate.path, "first")
    mailbox.numbers(1)
    assert events.wait("up")["backend"] == "fake"
    waiting = pool.submit(echo, "second")
    clock.advance(BOOT - 1)
    assert not second.requests
    clock.advance(1)
    assert waiting.result(PATIENCE) == "second"
    up = events.wait("up")
    assert (up["backend"], up["text"].split(" is up")[0]) == ("second", "runner 2 (second)")
    (request,) = second.requests
    assert request.parent.backend == "second"
    assert [runner.tier for runner in pool.stats().runners] == [0, 1]
    gate.open()
    assert held.result(PATIENCE) == "first"


def test_a_backend_that_cannot_boot_is_passed_over_with_a_warning(
    make_pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    broken = FakeBackend(then=FakeRunner(error=BootError("no such image", final=True)))
    pool = make_pool(max=2, backend=[broken, Second()])
    with caplog.at_level(logging.WARNING, "dragonfly_executor"):
        assert values(pool.submit(echo, number) for number in range(5)) == list(range(5))
        first, second = pool.stats().tiers
        assert "no such image" in str(first.passed_over)
        assert (first.runners_up, second.runners_up, second.passed_over) == (0, 1, None)
        explained = pool.stats().explain
        assert "1 of at most 2 runners up (fake 0 of 1, second 1 of 1)" in explained
        assert "fake is passed over: no such image" in explained
        assert pool.described()["of each backend"] == "fake 0 of 1, second 1 of 1"
        pool.shutdown()
    assert [record for record in caplog.records if "the fake backend could not boot" in record.getMessage()]


def test_calls_fail_when_no_backend_can_boot(make_pool: MakePool) -> None:
    broken = FakeRunner(error=BootError("nothing here", final=True))
    pool = make_pool(max=2, backend=[FakeBackend(then=broken), Second(then=broken)])
    assert "nothing here" in str(error_of(pool.submit(echo, 1)))


def test_a_backend_that_hangs_takes_no_threads_of_another(make_pool: MakePool, mailbox: Mailbox, gate: Gate) -> None:
    """A boot that hangs and was given up holds one of its backend's threads, which the other backend does not share."""
    clock, go_on, events = VirtualClock(), threading.Event(), Events()
    first, second = FakeBackend(then=FakeRunner(hold=go_on), clock=clock), Second()
    first.max_concurrent_boots = second.max_concurrent_boots = 1
    pool = make_pool(max=2, backend=[first, second], boot_timeout=5, max_boot_failures=1, on_event=events)
    call = pool.submit(echo, 1)
    events.wait("boot")
    try:
        clock.advance(5)
        assert call.result(PATIENCE) == 1
    finally:
        go_on.set()


def test_a_shutdown_does_not_wait_for_a_later_backends_boot(make_pool: MakePool, mailbox: Mailbox, gate: Gate) -> None:
    clock, events = VirtualClock(), Events()
    second = Second(then=FakeRunner(hangs=True))
    pool = make_pool(max=2, max_concurrency=1, backend=[FakeBackend(clock=clock), second], on_event=events)
    held = pool.submit(hold, mailbox.path, gate.path, "held")
    waiting = pool.submit(tell, mailbox.path, "ran")
    mailbox.numbers(1)
    clock.advance(BOOT)
    while events.wait("boot")["backend"] != "second":
        continue
    pool.shutdown(wait=False)
    gate.open()
    assert held.result(PATIENCE) == "held"
    assert mailbox.read() == "ran"
    waiting.result(PATIENCE)
    pool.join()
    assert second.nodes == []


# -- requirements ------------------------------------------------------------------------------------------------------


def test_requirements_pick_the_backend(make_pool: MakePool) -> None:
    gpu = Sized("gpu", Capacity(4, 1, 2**40, frozenset({"eu"})))
    pool = make_pool(max=2, timeout=PATIENCE, backend=[Sized("plain", Capacity(4, 0, 2**40)), gpu])
    view = DragonflyExecutor(pool=pool)
    assert view.options(requires={"gpus": 1}).submit(echo, 1).result(PATIENCE) == 1
    assert [tier.runners_up for tier in pool.stats().tiers] == [0, 1]
    assert view.options(requires={"label": "eu"}).submit(echo, 2).result(PATIENCE) == 2
    assert pool.stats().boots_attempted == 1


def test_what_no_backend_has_is_refused_with_the_nearest_of_all(make_pool: MakePool) -> None:
    small, large = Sized("small", Capacity(2)), Sized("large", Capacity(8))
    view = DragonflyExecutor(pool=make_pool(max=2, backend=[small, large]))
    with pytest.raises(RequirementsError, match=r"no runner of the small\+large backend can .* nearest has 8 CPUs"):
        view.options(requires={"cpus": 9}).submit(echo, 1)


def test_what_a_backend_does_not_know_is_not_refused(make_pool: MakePool) -> None:
    pool = make_pool(max=2, timeout=PATIENCE, backend=[Sized("small", Capacity(2)), Sized("unknown")])
    view = DragonflyExecutor(pool=pool)
    assert view.options(requires={"cpus": 9}).submit(echo, 1).result(PATIENCE) == 1
    assert [tier.runners_up for tier in pool.stats().tiers] == [0, 1]


# -- budgets -----------------------------------------------------------------------------------------------------------


def test_a_backend_whose_budget_is_used_up_leaves_the_calls_to_the_next(make_pool: MakePool) -> None:
    clock = VirtualClock()
    first = FakeBackend(clock=clock, budget=Budget(machine_time=100))
    pool = make_pool(max=2, backend=[first, Second()], idle_shutdown_after=None)
    assert pool.call(echo, 1) == 1
    assert [tier.runners_up for tier in pool.stats().tiers] == [1, 0]
    clock.advance(101)
    assert pool.call(echo, 2) == 2
    stats = pool.stats()
    assert [tier.runners_up for tier in stats.tiers] == [0, 1]
    assert "budget" in str(stats.tiers[0].passed_over)
    assert stats.tiers[0].machine_seconds == pytest.approx(101, abs=1.5)


def test_the_pools_budget_holds_for_all_backends_together(make_pool: MakePool) -> None:
    clock = VirtualClock()
    backends = [Priced(slots=1, clock=clock), Second(budget=Budget(machine_time=10**6, price=3.0))]
    pool = make_pool(max=2, backend=backends, idle_shutdown_after=None, budget=Budget(cost=100))
    assert pool.call(echo, 1) == 1
    clock.advance(50)
    assert pool.stats().cost == pytest.approx(50)
    clock.advance(51)
    assert isinstance(error_of(pool.submit(echo, 2)), BudgetExceeded)


def test_a_cost_needs_the_price_of_each_backend(make: MakeExecutor) -> None:
    with pytest.raises(ValueError, match="the second backend does not know what a runner costs"):
        make(backend=[Priced(), Second()], budget=Budget(cost=5))
    with pytest.raises(ValueError, match="the second backend does not know what a runner costs"):
        make(backend=[Priced(), Second(budget=Budget(cost=5))])
    assert make(backend=[Priced(), Second()], budget=Budget(cost=5, price=1)).pool.stats().cost == 0.0


@pytest.mark.parametrize(
    ("pools", "backends", "seconds"),
    [(None, 50, 50), (Budget(machine_time=80), 50, 50), (Budget(machine_time=30), 50, 30)],
)
def test_the_smaller_of_the_pools_budget_and_its_only_backends_holds(
    make_pool: MakePool, pools: Budget | None, backends: float, seconds: float
) -> None:
    clock = VirtualClock()
    pool: Pool = make_pool(
        backend=FakeBackend(clock=clock, budget=Budget(machine_time=backends)), budget=pools, idle_shutdown_after=None
    )
    assert pool.call(echo, 1) == 1
    clock.advance(seconds - 1)
    assert pool.call(echo, 2) == 2
    clock.advance(2)
    assert isinstance(error_of(pool.submit(echo, 3)), BudgetExceeded)
