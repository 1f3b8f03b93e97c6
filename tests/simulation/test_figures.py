"""The figures that docs/scaling.md states: pools of ours beside the documented rules of other systems.

Loads are generated. The rules of the others are in `tests.support.peers`, with where each is from.
"""

from __future__ import annotations

import pytest

from dragonfly_executor.simulation.simulator import SimulatedNodes, simulate
from tests.simulation.figures import BOOT, FAST, MOST, SLOTS, SPREAD, THRIFTY, ours, theirs
from tests.support.loads import LOADS, load
from tests.support.peers import PEERS, simulate_peer
from tests.support.public_traces import TRACES, public_trace

# The figures do not depend on the Python, and take long.
pytestmark = pytest.mark.exhaustive

MACHINE_TIME = 1.3
"""Maximum machine-seconds of a thrifty pool, of those of Dask's."""
NEARLY = {("long_among_short", 1): 1.07, ("long_among_short", 4): 1.07, ("on_and_off", 4): 1.05}
"""Loads on which the p99 wait of a thrifty pool is longer than Dask's, and by what factor at most."""
UNUSED = 0.05
"""Maximum share of boots that run no call, if there are more than a few."""


on_each_load = pytest.mark.parametrize(("name", "slots"), [(name, slots) for name in LOADS for slots in SLOTS])


@on_each_load
def test_a_thrifty_pool_waits_no_longer_than_dask_and_costs_little_more_at_most(name: str, slots: int) -> None:
    thrifty, dask = ours(name, slots, THRIFTY), theirs(name, slots, "Dask")
    assert thrifty.p99 <= dask.p99 * NEARLY.get((name, slots), 1.0)
    assert thrifty.machine_seconds <= MACHINE_TIME * dask.machine_seconds


@on_each_load
def test_nearly_each_boot_of_a_thrifty_pool_runs_a_call(name: str, slots: int) -> None:
    got = ours(name, slots, THRIFTY)
    assert got.unused_boots <= max(3, UNUSED * got.boots)


@pytest.mark.parametrize("slots", SLOTS)
def test_keys_tell_a_thrifty_pool_how_long_calls_take(slots: int) -> None:
    """The calls of one key take a hundred times as long as those of the other; their mean says nothing of either."""
    calls, nodes = load("pictures_and_films"), SimulatedNodes(BOOT, slots)
    with_keys = simulate(calls, THRIFTY.limits(MOST, slots), nodes)
    without = simulate([call._replace(key=None) for call in calls], THRIFTY.limits(MOST, slots), nodes)
    assert with_keys.p95 <= 17.5
    assert with_keys.p99 <= 0.53 * without.p99
    assert with_keys.machine_seconds <= 0.85 * without.machine_seconds
    assert with_keys.unused_boots <= 0.08 * with_keys.boots
    assert with_keys.unused_boots <= 0.25 * without.unused_boots


def test_over_all_loads_one_boot_in_fifty_of_a_thrifty_pool_runs_no_call() -> None:
    runs = [ours(name, slots, THRIFTY) for name in LOADS for slots in SLOTS]
    assert sum(run.unused_boots for run in runs) <= 0.02 * sum(run.boots for run in runs)


@on_each_load
def test_a_thrifty_pool_costs_less_than_a_fast_one(name: str, slots: int) -> None:
    assert ours(name, slots, THRIFTY).machine_seconds <= ours(name, slots, FAST).machine_seconds


@on_each_load
@pytest.mark.parametrize("peer", ["Ray", "KEDA"])
def test_no_default_of_others_has_both_shorter_waits_and_less_cost(name: str, slots: int, peer: str) -> None:
    other = theirs(name, slots, peer)
    for setting in (FAST, THRIFTY):
        got = ours(name, slots, setting)
        assert got.p99 <= other.p99 or got.machine_seconds <= other.machine_seconds


@pytest.mark.parametrize("name", LOADS)
def test_the_default_rule_is_flames(name: str) -> None:
    """FLAME's documented rule, played on a pool that has nothing of ours, gives the same figures."""
    got, flame = ours(name, 4, SPREAD), theirs(name, 4, "FLAME")
    assert got.p99 == pytest.approx(flame.p99, abs=0.1)
    assert got.machine_seconds == pytest.approx(flame.machine_seconds, rel=0.06)


@pytest.mark.parametrize("name", LOADS)
def test_packing_costs_no_more_and_less_where_runners_have_several_slots(name: str) -> None:
    spread, pack = ours(name, 4, SPREAD), ours(name, 4, FAST)
    assert pack.machine_seconds <= spread.machine_seconds
    if name in ("steady", "long_among_short", "diurnal", "heavy_tailed", "on_and_off", "changing"):
        assert pack.machine_seconds <= 0.75 * spread.machine_seconds
    # A wait for a boot is the price: never more than that.
    assert pack.longest <= BOOT + 0.1


@pytest.mark.parametrize("slots", SLOTS)
@pytest.mark.parametrize("name", [name for name in TRACES if name.startswith("Azure")])
def test_on_public_traces_a_setting_of_ours_waits_no_longer_than_dask(name: str, slots: int) -> None:
    """The rule of Dask takes a minute for the jobs of the batch system, so those are not compared with it."""
    calls, nodes = public_trace(name), SimulatedNodes(BOOT, slots)
    dask = simulate_peer(calls, PEERS["Dask"](), nodes, MOST)
    runs = [simulate(calls, setting.limits(MOST, slots), nodes) for setting in (THRIFTY, FAST, SPREAD)]
    assert runs[0].machine_seconds <= MACHINE_TIME * dask.machine_seconds
    good = [got for got in runs if got.p99 <= dask.p99 * 1.01]
    assert min(got.machine_seconds for got in good) <= MACHINE_TIME * dask.machine_seconds


def test_on_jobs_of_a_batch_system_a_thrifty_pool_costs_no_more_than_a_fast_one() -> None:
    calls, nodes, most = public_trace("lublin_256.swf"), SimulatedNodes(BOOT, 4), 10_000
    thrifty, fast = (simulate(calls, setting.limits(most, 4), nodes) for setting in (THRIFTY, FAST))
    assert thrifty.p99 <= BOOT + 0.1
    assert thrifty.machine_seconds <= fast.machine_seconds
