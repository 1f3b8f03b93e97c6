"""The simulated world around the state machine, and the figures of a run."""

from __future__ import annotations

from typing import Any

from dragonfly_executor.core.machine import PoolLimits
from dragonfly_executor.simulation.figures import RunnerTime, figures_of, percentile
from dragonfly_executor.simulation.settings import Setting, Try, choose, settings
from dragonfly_executor.simulation.simulator import SimulatedNodes, simulate
from dragonfly_executor.simulation.trace import TraceCall
from tests.support.loads import load


def calls(*pairs: tuple[float, float]) -> list[TraceCall]:
    return [TraceCall(*pair) for pair in pairs]


def limits(**options: Any) -> PoolLimits:
    return PoolLimits(**{"max": 10, "idle_after": 30.0} | options)


def test_a_call_waits_for_a_boot_and_the_runner_for_its_idle_time() -> None:
    got = simulate(calls((0, 4)), limits(), SimulatedNodes(boot=10))
    assert (got.p50, got.p99, got.longest) == (10, 10, 10)
    assert (got.machine_seconds, got.boots, got.unused_boots, got.most_runners) == (10 + 4 + 30, 1, 0, 1)
    assert got.seconds == 14


def test_a_warm_runner_takes_the_next_call_at_once() -> None:
    got = simulate(calls((0, 4), (20, 4)), limits(), SimulatedNodes(boot=10))
    assert (got.p50, got.longest, got.boots) == (0, 10, 1)
    assert got.machine_seconds == 20 + 4 + 30


def test_a_slot_runs_one_call_at_a_time_and_calls_start_in_order() -> None:
    got = simulate(calls((0, 4), (0, 4), (0, 4)), limits(max=1, slots_hint=2), SimulatedNodes(boot=10, slots=2))
    assert (got.p50, got.longest, got.boots) == (10, 14, 1)


def test_a_call_that_is_sent_behind_a_long_one_goes_to_another_runner() -> None:
    """A new runner is sent two calls for one slot, because the cost is unknown; an agent returns the second."""
    got = simulate(calls((0, 100), (0, 100)), limits(), SimulatedNodes(boot=10))
    assert got.longest < 10.1


def test_kept_runners_count_until_the_last_call_ends() -> None:
    got = simulate(calls((5, 4)), limits(min=2, idle_after=None), SimulatedNodes(boot=1))
    assert (got.longest, got.machine_seconds) == (0, 2 * 9)
    assert got.unused_boots == 1


def test_each_runner_is_billed_by_whole_intervals() -> None:
    got = simulate(calls((0, 4)), limits(), SimulatedNodes(boot=10, billing=60))
    assert (got.machine_seconds, got.billed_seconds) == (44, 60)


def test_the_same_trace_gives_the_same_figures() -> None:
    trace = load("heavy_tailed")
    assert simulate(trace, limits(), SimulatedNodes()) == simulate(trace, limits(), SimulatedNodes())


def test_percentiles_are_values_that_occurred() -> None:
    ordered = [float(n) for n in range(1, 201)]
    assert [percentile(ordered, each) for each in (50, 95, 99)] == [100, 190, 198]
    assert percentile([7.0], 99) == 7.0


def test_the_most_runners_at_once_counts_one_that_ends_as_another_begins_only_once() -> None:
    lives = [RunnerTime(0, 10, 1), RunnerTime(10, 20, 1), RunnerTime(15, 16, 0)]
    got = figures_of([0.0], lives, 20)
    assert (got.most_runners, got.unused_boots, got.machine_seconds) == (2, 1, 21)


def test_the_cheapest_setting_within_the_accepted_wait_is_chosen() -> None:
    def tried(wait: float, seconds: float) -> Try:
        return Try(Setting(), figures_of([wait], [RunnerTime(0, seconds, 1)], 1), None)

    tries = [tried(0, 900), tried(5, 500), tried(20, 100)]
    assert choose(tries, 10) is tries[1]
    assert choose(tries, 30) is tries[2]
    assert choose(tries, 4) is tries[0]
    assert choose(tries[1:], 1) is tries[1], "none is good enough, so it is the shortest wait"


def test_the_settings_that_are_tried_are_options_as_a_user_writes_them() -> None:
    tried = settings(12.345, minimum=1)
    assert len(set(tried)) == len(tried)
    assert str(tried[0]) == "placement='spread', idle_shutdown_after=12, min=1"
    assert all(each.min >= 1 for each in tried)
