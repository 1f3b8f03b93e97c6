"""Boots under faults by chance: calls settle once, machines are never too many, and none is left."""

from __future__ import annotations

import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from dragonfly_executor import BootError, FlyBackend
from tests.backends.fly.boots import ASLEEP_CONFIG, boot
from tests.backends.fly.conftest import Make, MakeBackend
from tests.support import payloads
from tests.support.fly_simulator.chaos import Chaos
from tests.support.fly_simulator.simulator import Simulator
from tests.support.helpers import Settled

SEED = int(os.environ.get("FLY_CHAOS_SEED", "20261124"))


def let_loose(fly: Simulator, backend: FlyBackend, share: float, unfit: float) -> None:
    """From now on anything may happen; and nothing is paced, for that would take minutes."""
    chaos = Chaos(SEED, share=share, unfit=unfit)
    fly.faults.drawn, fly.pulled = chaos.fault, chaos.image
    fly.rates.on = False
    backend.api._connections._rate_limiter.reserve = lambda action, thing, now: 0.0  # type: ignore[method-assign]


def nothing_is_left_for_good(fly: Simulator, backend: FlyBackend) -> None:
    """When nothing goes wrong any more one sweep is enough. What never came to be is forgotten when it has expired."""
    fly.faults.drawn = lambda call: None
    backend.sweep()
    fly.until(lambda world: not world.alive)
    assert backend.journal is not None
    for entry in backend.journal.entries():
        assert entry.abandoned
        assert entry.machine_id is None
    assert not any(machine.name in {entry.name for entry in backend.journal.entries()} for machine in fly.history.left)


def calls_on_runners(
    fly: Simulator, make: Make, make_backend: MakeBackend, boots: int, most: int, seconds: float
) -> None:
    """A runner for each call, real ones."""
    backend = make_backend(region=["cdg", "lhr", "any"], failsafe=2.0, sweep=True)
    let_loose(fly, backend, share=0.3, unfit=0.15)
    settled = Settled()
    options = {"single_use": True, "max_concurrency": 1, "max_boot_failures": 1000, "boot_timeout": 60.0}
    with make(backend, max=most, **options) as executor:
        futures = [executor.submit(payloads.echo, number) for number in range(boots)]
        for future in futures:
            future.add_done_callback(settled)
        end = time.monotonic() + seconds
        assert [future.result(end - time.monotonic()) for future in futures] == list(range(boots))
        assert settled.wait(boots)
    assert settled.count == boots
    assert len(fly.world.booted) >= boots
    assert fly.history.most_at_once() <= most
    nothing_is_left_for_good(fly, backend)


def test_calls_on_runners_whose_machines_are_made_in_trouble(
    on_fly: Simulator, make: Make, make_backend: MakeBackend
) -> None:
    calls_on_runners(on_fly, make, make_backend, boots=12, most=3, seconds=25.0)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_two_hundred_boots_in_trouble(on_fly: Simulator, make: Make, make_backend: MakeBackend) -> None:
    calls_on_runners(on_fly, make, make_backend, boots=200, most=4, seconds=800.0)


@pytest.mark.parametrize("boots", [40, pytest.param(500, marks=[pytest.mark.soak, pytest.mark.timeout(900)])])
def test_machines_are_made_and_given_back_in_trouble(on_fly: Simulator, make_backend: MakeBackend, boots: int) -> None:
    """Without runners: a boot gives a node, or an error; a node that was given back is gone."""
    backend = make_backend(region=["cdg", "lhr"], machine_config=ASLEEP_CONFIG)
    let_loose(on_fly, backend, share=0.4, unfit=0.2)
    ends: Counter[str] = Counter()

    def one(number: int) -> None:
        try:
            node = boot(backend, 30.0, number=number)
        except BootError:
            ends["refused"] += 1
            return
        node.ended(0.01)
        node.stop()
        ends["booted"] += 1

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(one, range(boots)))
    assert ends.total() == boots
    assert ends["booted"] > 0.7 * boots
    assert on_fly.history.most_at_once() <= 8
    statuses = Counter(on_fly.history.statuses("create"))
    assert statuses[409] > 0
    assert statuses[None] > 0
    nothing_is_left_for_good(on_fly, backend)
