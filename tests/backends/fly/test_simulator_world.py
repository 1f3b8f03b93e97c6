"""The simulator's world and its history without a server, on a clock that the test turns."""

from __future__ import annotations

import random

import pytest

from tests.support.fly_simulator.errors import ApiError
from tests.support.fly_simulator.history import History
from tests.support.fly_simulator.machines import duration
from tests.support.fly_simulator.state import App, Machine, World
from tests.support.fly_simulator.timing import Bucket, Rates


class Clock:
    """Seconds, which pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def world(clock: Clock) -> World:
    world = World(clock=clock, entropy=random.Random(1))
    world.apps["media"] = App("media", "personal")
    return world


def create(world: World, name: str | None = None) -> Machine:
    return world.create("media", {"name": name, "config": {"image": "i"}}, "fdaa::2")


def at(world: World, clock: Clock, moment: float, machine: Machine, state: str) -> None:
    clock.now = 1000.0 + moment
    world.move(machine, state)


def test_a_bucket_lets_pass_what_its_rate_allows() -> None:
    bucket = Bucket(1.0, 3.0)
    assert [bucket.take(0.0) for _ in range(4)] == [0.0, 0.0, 0.0, 1.0]
    assert bucket.take(0.5) == 0.5
    assert [bucket.take(2.0), bucket.take(2.0), bucket.take(2.0)] == [0.0, 0.0, 1.0]
    assert [bucket.take(100.0) for _ in range(4)] == [0.0, 0.0, 0.0, 1.0]


def test_rates_are_per_action_and_identifier() -> None:
    rates = Rates()
    assert [bool(rates.take("create", "a", "", 0.0)) for _ in range(4)] == [False, False, False, True]
    assert not rates.take("create", "b", "", 0.0)
    assert not rates.take("list", "a", "", 0.0)
    assert [bool(rates.take("get", "a", "m", 0.0)) for _ in range(11)] == [False] * 10 + [True]
    assert not rates.take("regions", "", "", 0.0)


def test_names_and_numbers_are_drawn(world: World) -> None:
    first, second = create(world), create(world)
    assert first.name != second.name
    assert first.id != second.id
    assert len(first.instance_id) == 26


def test_identifiers_sort_by_time(world: World, clock: Clock) -> None:
    first = world.ulid()
    clock.now += 0.001
    assert first < world.ulid()


def test_names_are_unique_in_an_app(world: World) -> None:
    machine = create(world, "a")
    with pytest.raises(ApiError, match=f"machine ID {machine.id} already exists"):
        create(world, "a")
    world.apps["other"] = App("other", "personal")
    world.create("other", {"name": "a", "config": {"image": "i"}}, "fdaa::2")


def test_a_lease_runs_out(world: World, clock: Clock) -> None:
    machine = create(world)
    lease = world.take_lease(machine, 60.0, "", None, "me")
    with pytest.raises(ApiError, match="lease currently held by me"):
        world.take_lease(machine, 60.0, "", None, "you")
    clock.now += 30.0
    assert world.take_lease(machine, 60.0, "", lease.nonce, "me").expires_at == 1090.0
    clock.now += 60.0
    assert world.lease_of(machine) is None
    assert world.take_lease(machine, 60.0, "", None, "you").owner == "you"


def test_who_listens_hears_of_every_change(world: World) -> None:
    heard: list[str] = []
    world.listeners.append(lambda machine: heard.append(machine.state))
    machine = create(world)
    world.started(machine)
    world.exited(machine, 0)
    assert list(dict.fromkeys(heard)) == ["created", "started", "stopped"]


def test_how_many_machines_there_were_at_once(world: World, clock: Clock) -> None:
    """A machine counts from being created until it has been destroyed; the parent's own does not."""
    history = History(world)
    parent = world.add("media", "parent", "cdg", {"image": "i"}, "fdaa::1", by_request=False)
    world.started(parent)
    first, second = create(world), create(world)
    assert history.most_at_once() == 2
    at(world, clock, 1.0, first, "destroying")
    at(world, clock, 2.0, first, "destroyed")
    create(world)
    at(world, clock, 3.0, second, "destroying")
    assert history.most_at_once() == 2
    third = create(world)
    assert history.most_at_once() == 3
    for machine in (second, third):
        at(world, clock, 4.0, machine, "destroyed")
    assert [machine.state for machine in history.left] == ["created"]


def test_what_is_billed(world: World, clock: Clock) -> None:
    """Only what is started costs; and goes on costing until it has ended."""
    history = History(world)
    machine = create(world)
    at(world, clock, 10.0, machine, "started")
    at(world, clock, 15.0, machine, "stopping")
    at(world, clock, 16.0, machine, "stopped")
    at(world, clock, 20.0, machine, "started")
    clock.now = 1025.0
    assert history.billed_seconds(machine) == 11.0
    assert history.billed(since=1012.0) == {machine.id: 9.0}
    assert history.billed_past(lambda _: 1024.0) == {machine.id: 1.0}
    assert history.would_be_billed() == [machine]
    at(world, clock, 25.0, machine, "destroying")
    at(world, clock, 26.0, machine, "destroyed")
    clock.now = 2000.0
    assert history.billed() == {machine.id: 11.0}
    assert history.billed_past(lambda _: 1025.0) == {}
    assert history.would_be_billed() == []


def test_durations() -> None:
    found = [duration(value, 5.0) for value in (None, "10s", "100ms", "1m", "1.5s", "3", 2_000_000_000)]
    assert found == [5.0, 10.0, 0.1, 60.0, 1.5, 3.0, 2.0]
    with pytest.raises(ValueError, match="not a duration"):
        duration("soon", 5.0)
