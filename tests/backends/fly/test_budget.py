"""`budget=` on Fly: what is beyond a cap is only what runs, and then there is no machine."""

from __future__ import annotations

import pytest

from dragonfly_executor import Budget, BudgetExceeded, FlyBackend
from dragonfly_executor.backends.fly.prices import PRICES
from dragonfly_executor.testing import VirtualClock
from tests.backends.fly.boots import nothing_is_left
from tests.backends.fly.conftest import Make, MakeBackend
from tests.support.fly_simulator.simulator import Simulator
from tests.support.helpers import PATIENCE, Events, Gate, Mailbox, error_of

DEFAULT_SIZE = {"cpu_kind": "performance", "cpus": 2, "memory_mb": 4096}


def by_the_clock(backend: FlyBackend) -> VirtualClock:
    """The pool's time is the test's; that of Fly and of the machines goes on by itself."""
    clock = VirtualClock()
    backend.make_loop = clock.make_loop  # type: ignore[method-assign]
    return clock


def holding(mailbox: Mailbox, gate: Gate) -> str:
    """What says that it runs, and runs until the gate opens. Machines here see the disk, and not the tests."""
    return f"open({mailbox.path!r}, 'w').write('1\\n') and open({gate.path!r}, 'rb', 0).read(1) and 'done'"


def test_a_cap_that_is_reached_ends_what_boots_and_lets_what_runs_go_on(
    on_fly: Simulator, make: Make, make_backend: MakeBackend, mailbox: Mailbox, gate: Gate
) -> None:
    backend = make_backend(prices=PRICES._replace(regions={"cdg": 1.0}), region="cdg")
    clock = by_the_clock(backend)
    price = PRICES.per_second(DEFAULT_SIZE, ["ams"])
    assert price is not None
    executor = make(backend, max=3, max_concurrency=1, budget=Budget(cost=60 * price))
    running = [executor.submit(eval, holding(mailbox, gate)) for _ in range(2)]
    mailbox.numbers(2)
    on_fly.timing.pull_time = None
    waiting = [executor.submit(pow, 2, number) for number in range(20)]
    third = on_fly.until(lambda world: world.booted[2:])[0]
    clock.advance(19)
    assert not any(future.done() for future in [*running, *waiting])
    clock.advance(2)
    for future in waiting:
        error = error_of(future)
        assert isinstance(error, BudgetExceeded)
        assert error.cost == pytest.approx(63 * price)
        assert "2026" in str(error)
    on_fly.wait_for(third, "destroyed")
    assert len(on_fly.world.alive) == 2
    assert not any(future.done() for future in running)
    gate.open(2)
    assert [future.result(PATIENCE) for future in running] == ["done", "done"]
    # Nobody has shut anything down.
    on_fly.until(lambda world: not world.alive)
    assert isinstance(error_of(executor.submit(pow, 2, 2)), BudgetExceeded)
    executor.shutdown()
    nothing_is_left(on_fly, backend)
    assert len(on_fly.history.of("create")) == 3


def test_min_machines_go_and_are_not_booted_again(on_fly: Simulator, make: Make, make_backend: MakeBackend) -> None:
    """Nobody has called anything: that is no reason to pay."""
    backend = make_backend()
    clock = by_the_clock(backend)
    events = Events()
    executor = make(backend, min=2, max=2, budget=Budget(machine_time=10), on_event=events)
    for _ in range(2):
        events.wait("up")
    clock.advance(6)
    on_fly.until(lambda world: world.booted and not world.alive)
    assert isinstance(error_of(executor.submit(pow, 2, 2)), BudgetExceeded)
    executor.shutdown()
    nothing_is_left(on_fly, backend)
    assert len(on_fly.history.of("create")) == 2


def test_what_is_counted_is_not_less_than_what_fly_bills(
    on_fly: Simulator, make: Make, make_backend: MakeBackend
) -> None:
    """Boots that failed, and machines that are being destroyed, are on the bill too."""
    backend = make_backend()
    on_fly.timing.destroy_time = 0.2
    on_fly.faults.on("create", nth=2, cut=True, commit=True)
    executor = make(backend, max=2, max_concurrency=1, single_use=True)
    futures = [executor.submit(pow, 2, number) for number in range(4)]
    assert [future.result(PATIENCE) for future in futures] == [1, 2, 4, 8]
    executor.shutdown()
    billed = sum(on_fly.history.billed().values())
    assert 0 < billed <= executor.pool.stats().machine_seconds
    nothing_is_left(on_fly, backend)
