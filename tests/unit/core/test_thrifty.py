"""Thrifty scaling: the boots that pay, and the runners that are kept."""

from __future__ import annotations

from dragonfly_executor.core.boot_times import BootTimes
from dragonfly_executor.core.call_costs import CallCosts
from dragonfly_executor.core.call_queue import CallQueue
from dragonfly_executor.core.calls import Call, CallLimits, QueueTotal
from dragonfly_executor.core.idle_times import EDGES, GapHistogram, IdleTimes
from dragonfly_executor.core.key_costs import KeyCosts
from dragonfly_executor.core.thrifty import ThriftyScaling, time_off
from tests.support.story import Story

QUEUE = CallQueue({}, QueueTotal())


def a_call(number: int) -> Call:
    call = Call(number, b"", None, CallLimits())
    call.queue = QUEUE
    return call


class Measured:
    """A thrifty pool's decisions, after one boot and, if their seconds are given, twenty calls."""

    def __init__(self, boot: float | None = 15.0, seconds: float | None = None) -> None:
        self.boot_times, self.costs = BootTimes(), CallCosts()
        self.scaling = ThriftyScaling(self.boot_times, self.costs)
        if boot is not None:
            self.boot_times.began(1, 0.0)
            self.boot_times.ended(1, boot)
            self.scaling.boot_succeeded()
        for number in range(20) if seconds is not None else ():
            call = a_call(-number)
            self.costs.sent([call], 0.0)
            self.costs.ended(call, seconds or 0.0)

    def boots(self, waiting: int, slots_up: int, slots: int, now: float = 0.0) -> int:
        return self.scaling.boots(waiting, slots_up, slots, now)


# -- boots -------------------------------------------------------------------------------------------------------------


def test_while_nothing_is_known_boots_grow_with_the_root_of_the_calls() -> None:
    assert [Measured(boot=None).boots(waiting, 0, 1) for waiting in (1, 4, 100, 10_000)] == [2, 4, 20, 200]


def test_short_calls_share_a_boot_and_long_ones_get_one_each() -> None:
    assert Measured(seconds=0.15).boots(100, 0, 1) == 5, "15 s of work are five spans of 3 s"
    assert Measured(seconds=0.15).boots(100, 0, 4) == 1
    assert Measured(seconds=60.0).boots(100, 0, 1) == 100
    assert Measured(seconds=60.0).boots(100, 0, 4) == 25


def test_what_runners_do_until_a_boot_ends_needs_no_boot() -> None:
    pool = Measured(seconds=0.15)
    assert pool.boots(100, 2, 1) == 0, "two slots do 8 s of it each"
    pool.boot_times.began(2, 100.0)
    assert pool.boots(100, 0, 1, 112.0) == 3, "a runner comes up in 3 s"
    pool.boot_times.ended(2)
    assert pool.boots(100, 0, 1, 112.0) == 5


def test_a_slot_with_a_long_call_counts_for_nothing() -> None:
    """A long call among short ones: it does not make each waiting call look long, and its slot is not awaited."""
    pool, call = Measured(seconds=0.5), a_call(3)
    pool.costs.sent([call], 0.0)
    assert pool.boots(16, 1, 1, 1.0) == 0
    assert pool.scaling.next_review() == 3.0
    assert pool.boots(16, 1, 1, 3.0) == 3
    assert pool.scaling.next_review() is None
    pool.costs.ended(call, 600.0)
    assert pool.boots(16, 1, 1, 3.0) == 3, "the mean is of at most a span each"


def test_slots_whose_calls_take_much_longer_than_a_boot_count_with_the_calls_that_begin_there() -> None:
    assert [time_off(8.0, 1, cost, None) for cost in (0.2, 8.0, 12.0, 16.0, 60.0)] == [0.1, 4.0, 2.0, 0.0, 0.0]
    pool = Measured(seconds=20.0)
    pool.costs.sent([a_call(number) for number in range(1, 8)], 0.0)
    assert pool.boots(1, 7, 1) == 0, "seven slots begin 2.8 calls of 20 s in 8 s"
    assert pool.boots(4, 7, 1) == 1


def test_a_long_call_has_a_runner_of_several_slots_booted_for_it_alone() -> None:
    pool = Measured(seconds=600.0)
    pool.costs.sent([a_call(number) for number in range(1, 9)], 0.0)
    assert pool.boots(1, 8, 4) == 1
    pool = Measured(seconds=0.5)
    pool.costs.sent([a_call(1)], 0.0)
    assert pool.boots(6, 0, 4) == 0, "3 s of short calls are not enough for four slots"


def test_calls_with_keys_count_with_the_means_of_their_keys() -> None:
    pool, keys = Measured(seconds=1.0), KeyCosts()
    for key, seconds in ((1, 0.15), (2, 20.0)):
        keys.queued(key)
        keys.sent(key)
        keys.left(key)
        keys.ended(key, seconds, min(seconds, 3.0))
    assert pool.scaling.boots(100, 0, 1, 0.0, keys) == 33, "calls without a key"
    for _ in range(100):
        keys.queued(1)
    assert pool.scaling.boots(100, 0, 1, 0.0, keys) == 5
    for _ in range(10):
        keys.queued(2)
    assert pool.scaling.boots(110, 0, 1, 0.0, keys) == 15
    for _ in range(100):
        keys.queued(3)
    assert pool.scaling.boots(210, 0, 1, 0.0, keys) == 22, "a key that is new: as many as twenty calls without a key"


# -- the pool ----------------------------------------------------------------------------------------------------------


def test_one_boots_if_nothing_is_up_and_no_more_than_fast_scaling_boots() -> None:
    story = Story(max=9, thrifty=True, slots_hint=1)
    assert story.submit_calls(1) == ["boot 1"]
    assert Story(max=9, slots_hint=1).submit_calls(2) == ["boot 1", "boot 2"]


def test_short_calls_wait_for_the_runner_that_is_up() -> None:
    story = Story(max=9, thrifty=True, slots_hint=1)
    story.submit_calls(1)
    story.asks(1)
    story.now = 15.0
    story.boots(1, 1)
    story.results(1, 1, cost=0.5)
    story.submit_calls(10)
    assert story.stats.runners_booting == 0
    assert "thrifty" in story.stats.limits_that_bind
    # 25 s of work wait. The runner that is up does 8 s until another is there and has had its span of 3 s.
    assert story.submit_calls(40) == [f"boot {number}" for number in range(2, 8)]


def test_a_call_that_has_waited_for_two_boot_times_has_a_runner_booted() -> None:
    story = Story(max=9, thrifty=True, slots_hint=1)
    story.submit_calls(1)
    story.asks(1)
    story.now = 15.0
    story.boots(1, 1)
    for number in range(1, 41):
        story.results(1, number, cost=0.1)
        story.submit_calls(1)
    story.submit_calls(1)
    assert story.stats.calls_queued == 1
    assert story.machine.deadline() == 18.0
    assert story.at(18.0) == [], "the call that runs is long, but one call that waits is not enough work"
    assert story.machine.deadline() == 45.0
    assert story.at(45.0) == ["boot 2"]


def test_an_idle_runner_is_kept_for_as_long_as_has_paid() -> None:
    story = Story(max=9, thrifty=True, learns_idle=True, slots_hint=1)
    story.submit_calls(1)
    story.asks(1)
    story.now = 10.0
    story.boots(1, 1)
    story.results(1, 1)
    assert story.machine.deadline() == 30.0, "two boot times, while nothing is known"
    for number in range(2, 12):
        # Each call comes 12 s after the last has ended: later ones never do.
        story.now += 12.0
        story.submit_calls(1)
        story.results(1, number)
    kept = (story.machine.deadline() or 0.0) - story.now
    assert 12.0 <= kept < 15.0
    assert story.at(story.now + kept) == ["stop 1: idle"]


# -- idle times --------------------------------------------------------------------------------------------------------


def histogram(*gaps: float) -> GapHistogram:
    found = GapHistogram(2.0)
    for gap in gaps:
        found.add(gap)
    return found


def test_until_enough_gaps_are_known_the_idle_time_is_the_initial_one() -> None:
    assert histogram(*[0.5] * 7).best() == 2.0
    assert histogram(*[0.01] * 100).best() == 2.0, "gaps that are too short decide nothing"


def test_a_runner_is_kept_over_short_gaps_and_not_over_long_ones() -> None:
    assert histogram(*[0.5] * 20).best() == 0.5
    assert histogram(*[100.0] * 20).best() == EDGES[0]
    assert histogram(*[0.5] * 20, *[100.0] * 20).best() == 0.5
    assert histogram(*[1.9] * 20).best() == 2.0, "a boot and a wait cost three boot times"
    assert histogram(*[6.0] * 20).best() == EDGES[0]


def test_a_boot_tells_how_soon_the_runner_that_was_stopped_last_would_have_been_needed() -> None:
    times = IdleTimes()
    for number in range(20):
        times.stopped(100.0 * number, 1)
        times.needed(100.0 * number + 15.0, 10.0)
    assert times.of(1) == 2.0, "the class of gaps from 1.4 to 2 boot times"
    assert times.of(8) == 1.0, "nothing is known of other levels"


def test_runners_that_were_stopped_and_never_needed_count_as_long_gaps_and_are_not_kept_in_mind() -> None:
    times = IdleTimes()
    for number in range(100):
        times.stopped(float(number), 1)
    times.needed(1000.0, 10.0)
    assert times.of(1) == EDGES[0]
    assert not times._stopped
