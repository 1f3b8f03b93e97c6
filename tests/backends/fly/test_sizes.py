"""Machines of other sizes, for calls that require more than the user's size has."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly_executor import BootError, Budget, RequirementsError
from dragonfly_executor.backends.base import Signal
from dragonfly_executor.backends.fly.prices import PRICES
from dragonfly_executor.backends.fly.sizes import CPUS, MEMORY, Guest, MachineSizes, capacity_of
from dragonfly_executor.core.capacity import Capacity, Requirements
from tests.backends.fly.boots import ASLEEP_CONFIG, boot, request
from tests.backends.fly.conftest import Make, MakeBackend
from tests.support.fly_simulator.simulator import Simulator
from tests.support.helpers import PATIENCE

GIB = 2**30
SMALL = Guest("shared", 1, 256)


def chosen(own: Guest, **required: Any) -> Guest | None:
    return MachineSizes(own.check()).choose(Requirements(**required), PRICES)


@pytest.mark.parametrize(
    ("own", "required", "size"),
    [
        (Guest(), {"cpus": 2, "memory": 4 * GIB}, Guest()),
        (Guest(), {"cpus": 3}, Guest(cpus=4, memory_mb=8192)),
        (Guest(), {"cpus": 0.5}, Guest()),
        (Guest(), {"memory": 4 * GIB + 1}, Guest(memory_mb=6144)),
        (Guest(), {"memory": 20 * GIB}, Guest(cpus=4, memory_mb=20480)),
        (Guest(), {"cpus": 16, "memory": 128 * GIB}, Guest(cpus=16, memory_mb=131072)),
        (Guest(), {"cpus": 16.5}, None),
        (Guest(), {"memory": 128 * GIB + 1}, None),
        (Guest(), {"gpus": 1}, None),
        (SMALL, {"memory": 8 * GIB}, Guest("shared", 4, 8192)),
        (SMALL, {"cpus": 5}, Guest("shared", 6, 1536)),
        (SMALL, {"cpus": 9}, Guest("performance", 10, 20480)),
        (SMALL, {"memory": 16 * GIB + 1}, Guest("performance", 4, 18432)),
        (Guest("shared", 8, 512 * 8), {"memory": 5 * GIB}, Guest("shared", 8, 5120)),
        (Guest(gpu_kind="l40s"), {"gpus": 1}, Guest(gpu_kind="l40s")),
        (Guest(gpu_kind="l40s"), {"gpus": 3}, Guest(gpu_kind="l40s", gpus=4)),
        (Guest(gpu_kind="l40s", gpus=2), {"cpus": 4}, Guest(cpus=4, memory_mb=8192, gpu_kind="l40s", gpus=2)),
        (Guest(gpu_kind="l40s"), {"gpus": 9}, None),
    ],
)
def test_the_cheapest_size_that_has_what_calls_require(own: Guest, required: Any, size: Guest | None) -> None:
    assert chosen(own, **required) == size


@given(
    kind=st.sampled_from(sorted(CPUS)),
    place=st.integers(0, 4),
    cpus=st.floats(0, 20),
    memory=st.integers(0, 200 * GIB),
)
def test_a_chosen_size_is_one_that_fly_has_and_no_less_than_the_users(
    kind: str, place: int, cpus: float, memory: int
) -> None:
    """Also if Fly takes memory of performance machines in steps of 2048 MB only."""
    count = CPUS[kind][place]
    own = Guest(kind, count, MEMORY[kind][0] * count).check()
    required = Requirements(cpus=cpus, memory=memory)
    sizes = MachineSizes(own)
    size = sizes.choose(required, PRICES)
    assert (size is None) == (not required.fit(capacity_of(sizes.largest().encode(), frozenset())))
    if size is None:
        return
    assert size.check() == size
    assert required.fit(capacity_of(size.encode(), frozenset()))
    assert size.cpus >= own.cpus
    assert size.memory_mb >= own.memory_mb
    assert own.cpu_kind in (size.cpu_kind, "shared")
    assert size.memory_mb % (256 if size.cpu_kind == "shared" else 2048) == 0 or size == own


def test_a_machine_of_another_size_boots_for_calls_that_need_it(
    on_fly: Simulator, make_backend: MakeBackend, make: Make
) -> None:
    """It states what it has, and costs what its size costs."""
    on_fly.switches.performance_memory_step = 2048
    prices = PRICES._replace(regions={"cdg": 1.0})
    backend = make_backend(prices=prices, region="cdg", labels={"eu"})
    executor = make(backend, max=2, max_concurrency=None, budget=Budget(cost=1.0))
    required = {"cpus": 6, "memory": "13GiB", "label": "eu"}
    assert executor.options(requires=required).submit(pow, 2, 10).result(PATIENCE) == 1024
    (runner,) = executor.pool.stats().runners
    size = {"cpu_kind": "performance", "cpus": 6, "memory_mb": 14336}
    assert [machine.guest for machine in on_fly.world.booted] == [size]
    has = runner.capacity
    assert has is not None
    assert (has.cpus, has.gpus, has.memory, has.labels) == (6.0, 0, 14 * GIB, ("eu",))
    price = prices.per_second(size, ["cdg"])
    assert price is not None
    assert runner.cost == pytest.approx(runner.machine_seconds * price)


def test_calls_that_require_little_get_the_users_size(on_fly: Simulator, make_backend: MakeBackend, make: Make) -> None:
    executor = make(make_backend())
    assert executor.options(requires={"cpus": 1}).submit(pow, 2, 10).result(PATIENCE) == 1024
    assert [machine.guest["cpus"] for machine in on_fly.world.booted] == [2]


@pytest.mark.parametrize("is_seen", [True, False])
def test_price_and_journal_have_the_chosen_size_even_if_no_answer_tells_it(
    on_fly: Simulator, make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch, is_seen: bool
) -> None:
    """The runner has dialed in, but all answers are lost."""
    dialed_in = Signal()
    if not is_seen:
        monkeypatch.setattr("dragonfly_executor.backends.fly.creation.LOOK_FOR_RUNNERS", 0.1)
        on_fly.faults.on("create", hang=True, after=lambda call: dialed_in.set())
        on_fly.faults.on("list", hang=True)
    prices = PRICES._replace(regions={"cdg": 1.0})
    backend = make_backend(prices=prices, region="cdg", machine_config=ASLEEP_CONFIG)
    node = boot(backend, requires=Requirements(cpus=4), dialed_in=dialed_in)
    assert bool(node.machine_id) is is_seen
    size = {"cpu_kind": "performance", "cpus": 4, "memory_mb": 8192}
    assert node.price == prices.per_second(size, ["cdg"])
    assert backend.journal is not None
    (entry,) = backend.journal.entries()
    assert entry.guest == size
    node.stop()


@pytest.mark.parametrize(
    ("options", "capacity"),
    [
        ({"larger_sizes": False}, Capacity(2.0, 0, 4 * GIB, frozenset({"eu"}))),
        ({"cpus": 8, "memory_mb": 16384, "larger_sizes": False}, Capacity(8.0, 0, 16 * GIB, frozenset({"eu"}))),
        ({"gpu_kind": "a10", "larger_sizes": False}, Capacity(2.0, 1, 4 * GIB, frozenset({"eu"}))),
        ({"machine_config": {"guest": {"gpu_kind": "tpu", "gpus": 3}}}, Capacity(2.0, 3, 4 * GIB, frozenset({"eu"}))),
        ({"machine_config": {"guest": {"kernel_args": ["x"]}}}, Capacity(16.0, 0, 128 * GIB, frozenset({"eu"}))),
        ({}, Capacity(16.0, 0, 128 * GIB, frozenset({"eu"}))),
    ],
)
def test_what_machines_can_have_is_known_before_one_boots(
    make_backend: MakeBackend, options: Any, capacity: Capacity
) -> None:
    assert make_backend(region="ams", labels={"eu"}, **options).capacities() == (capacity,)


@pytest.mark.parametrize(
    ("options", "requires", "nearest"),
    [
        ({}, {"cpus": 17}, "16 CPUs, 128 GiB of memory"),
        ({"cpu_kind": "shared", "cpus": 1, "memory_mb": 256}, {"gpus": 1}, "16 CPUs, 128 GiB of memory"),
        ({"gpu_kind": "a10"}, {"gpus": 16}, "16 CPUs, 8 GPUs, 128 GiB of memory"),
        ({"labels": {"eu"}}, {"cpus": 4, "label": "us"}, "16 CPUs, 128 GiB of memory, the label eu"),
        ({"larger_sizes": False}, {"cpus": 4}, "2 CPUs, 4 GiB of memory"),
        ({"machine_config": {"guest": {"cpus": 4, "memory_mb": 8192}}}, {"cpus": 5}, "4 CPUs, 8 GiB of memory"),
    ],
)
def test_calls_that_no_size_can_run_are_refused_at_submit(
    on_fly: Simulator, make_backend: MakeBackend, make: Make, options: Any, requires: Any, nearest: str
) -> None:
    executor = make(make_backend(region="cdg", **options))
    with pytest.raises(RequirementsError, match=f"the nearest has {nearest}: require less"):
        executor.options(requires=requires).submit(pow, 2, 2)
    assert executor.submit(pow, 2, 2).result(PATIENCE) == 4


@pytest.mark.parametrize(
    ("options", "required"),
    [
        ({}, Requirements(cpus=17)),
        ({"larger_sizes": False}, Requirements(cpus=4)),
        ({"labels": {"eu"}}, Requirements(labels=frozenset({"us"}))),
    ],
)
def test_a_boot_for_what_no_machine_has_asks_fly_for_nothing(
    on_fly: Simulator, make_backend: MakeBackend, options: Any, required: Requirements
) -> None:
    with pytest.raises(BootError, match="no machine of this backend can have what the calls require") as caught:
        make_backend(**options).boot(request(requires=required))
    assert caught.value.final
    assert on_fly.history.left == []
