"""Chance: the same for the same seed, and survivable."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from itertools import pairwise

import httpx

from tests.backends.fly.asking import Asker
from tests.support.fly_simulator.calls import Call
from tests.support.fly_simulator.chaos import Chaos
from tests.support.fly_simulator.simulator import Simulator


def call(action: str) -> Call:
    return Call(1, action, "GET", "", "", "media", "", {}, [], {}, b"", 0.0)


def what_happens(chaos: Chaos, action: str, count: int) -> list[str]:
    faults = [chaos.fault(call(action)) for _ in range(count)]
    return [repr(fault).partition(" seen=")[0] if fault and not fault.change else str(bool(fault)) for fault in faults]


def test_the_same_seed_draws_the_same_for_each_kind_of_request() -> None:
    first, second = Chaos(7, share=0.5), Chaos(7, share=0.5)
    creates = what_happens(first, "create", 50)
    gets = what_happens(first, "get", 50)
    assert what_happens(second, "get", 50) == gets
    assert what_happens(second, "create", 50) == creates
    assert what_happens(Chaos(8, share=0.5), "create", 50) != creates
    assert 10 < creates.count("False") + creates.count("None") < 40


def test_a_stubborn_client_gets_through(fly: Simulator, asker: Asker) -> None:
    """With one name for all attempts there is one machine at a time, whatever happens to the requests."""
    fly.rates.on = False
    chaos = Chaos(3, share=0.6, unfit=0.5)
    fly.faults.drawn, fly.pulled = chaos.fault, chaos.image
    for number in range(20):
        while True:
            with suppress(httpx.HTTPError, ValueError):
                response = asker.create(f"runner-{number}", "pass")
                if response.status_code == 409 and "already exists" in response.text:
                    break
                if response.status_code == 200 and response.json()["id"]:
                    break
    fly.until(lambda world: not world.alive)
    lives: dict[str, list[tuple[float, float]]] = {}
    for machine in fly.world.booted:
        lives.setdefault(machine.name, []).append((machine.created_at, machine.changes[-1][0]))
    assert len(lives) == 20
    # One that has ended before the next attempt gives its name free.
    assert all(end <= start for each in lives.values() for (_, end), (start, _) in pairwise(each))
    ends = Counter(machine.exits[-1].code if machine.exits else None for machine in fly.world.booted)
    assert ends[0] > 0
    assert ends.keys() - {0}
    assert len(set(map(str, fly.history.statuses("create")))) > 5
