"""Several backends in one pool: earlier tiers first, later ones only for what the earlier ones do not begin in time."""

from __future__ import annotations

from typing import Any

import pytest

from dragonfly_executor.core import events, overflow, placement
from dragonfly_executor.core.calls import CallLimits
from dragonfly_executor.core.capacity import Capacity
from dragonfly_executor.core.limits import TierLimits
from dragonfly_executor.core.usage import UsageCaps
from dragonfly_executor.errors import BootError
from tests.support.story import Story
from tests.support.tiered_world import TieredStory

NEAR = TierLimits(name="near", max=1, slots_hint=2, idle_after=None, boot_seconds=1.0)
FAR = TierLimits(name="far", max=3, slots_hint=2, idle_after=20.0, boot_seconds=30.0)


@pytest.fixture(autouse=True)
def no_call_is_sent_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """So runners are full once each slot has a call."""
    monkeypatch.setattr(placement, "prefetch", lambda *_: 0)


def tiered(*tiers: TierLimits, **limits: Any) -> TieredStory:
    """Tell of a pool with these tiers."""
    return TieredStory(**{"max": 4, "tiers": tiers or (NEAR, FAR), **limits})


def changed(tier: TierLimits, **changes: Any) -> TierLimits:
    return TierLimits(**{name: getattr(tier, name) for name in TierLimits.__match_args__} | changes)


def first_two_run(story: TieredStory, count: int) -> None:
    """The first tier is up, and has two of `count` calls at 1.0 s."""
    assert story.submit_calls(count) == ["boot 1"]
    story.at_or_tell(1.0, events.BootSucceeded(1, 2))
    story.tell(events.CallsStarted(1, [(1, 1), (2, 1)]))


# -- boots -------------------------------------------------------------------------------------------------------------


def test_nothing_is_known_so_the_first_tier_boots_alone() -> None:
    story = tiered()
    assert story.submit_calls(100) == ["boot 1"]


def test_calls_that_wait_on_the_first_runner_boot_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "prefetch", lambda *_: 8)
    story = tiered()
    first_two_run(story, 8)
    story.now = 2.0
    assert story.results(1, 1) == ["1 = result of 1.1"], "no call is queued, and five wait there"


def test_calls_that_the_first_tier_begins_in_time_boot_nothing_else() -> None:
    story = tiered()
    first_two_run(story, 8)
    story.now = 2.0
    # Two slots begin 60 calls of a second within 30 s.
    assert story.results(1, 1) == ["send 3.1 to 1", "1 = result of 1.1"]
    assert story.stats.runners_booting == 0


def test_a_later_tier_boots_for_the_calls_that_are_left() -> None:
    story = tiered()
    first_two_run(story, 13)
    story.now = 11.0
    # Two slots begin 6 calls of 10 s within 30 s. 10 calls wait, so 4 are left, for 2 runners.
    assert story.results(1, 1, cost=10.0) == [
        "send 3.1 to 1", "1 = result of 1.1", "boot 2 on tier 1", "boot 3 on tier 1",
    ]  # fmt: skip


def test_the_estimate_grows_while_no_call_has_ended() -> None:
    story = tiered()
    first_two_run(story, 12)
    # Ten calls wait. Two slots begin ten of them within 30 s if each takes 6 s, and eight if each takes 7.5 s.
    # The first half second may be the start of the slot.
    assert story.at(7.4) == []
    assert story.at(7.5) == ["boot 2 on tier 1"]
    assert story.at(8.9) == []
    assert story.at(9.0) == ["boot 3 on tier 1"]
    assert story.machine.deadline() == 11.5, "at 10 s each, two slots begin six"
    assert story.at(11.5) == ["boot 4 on tier 1"]


def test_short_calls_in_slots_that_are_yet_to_start_boot_nothing_else() -> None:
    story = tiered()
    first_two_run(story, 1000)
    assert story.at(1.5) == []
    story.now = 1.6
    assert not any(line.startswith("boot") for line in story.results(1, 1, 2, cost=0.01))


def test_the_time_that_a_slot_takes_to_start_is_none_of_a_call() -> None:
    """So a burst of short calls does not boot a later tier before the first of them has begun."""
    story = tiered()
    story.submit_calls(12)
    story.at_or_tell(1.0, events.BootSucceeded(1, 2))
    assert story.at(20.0) == []
    assert story.tell(events.CallsStarted(1, [(1, 1)])) == []
    assert story.at(26.4) == []
    assert story.at(26.5) == ["boot 2 on tier 1"], "ten calls wait, and may take six seconds each"


def test_a_call_that_was_cancelled_is_no_measure_of_those_that_follow() -> None:
    story = tiered()
    first_two_run(story, 3)
    story.tell(events.CancelRequested([1, 2, 3]))
    story.now = 20.0
    for call_id in (1, 2):
        story.tell(events.CallGone(1, call_id, 1))
    assert story.submit_calls(12)[-1] == "send 5.1 to 1"
    assert story.at(49.9) == []


def test_a_call_that_has_waited_for_a_boot_time_boots_whatever_the_estimate_says() -> None:
    story = tiered()
    first_two_run(story, 3)
    story.now = 21.0
    assert story.results(1, 1, cost=20.0) == ["send 3.1 to 1", "1 = result of 1.1"]
    # By the estimate, two slots begin three calls within 30 s.
    assert story.submit_calls(1) == []
    assert story.at(50.9) == []
    assert story.at(51.0) == ["boot 2 on tier 1"]


@pytest.mark.parametrize("priority", [0, -1])
@pytest.mark.parametrize("cancelled", [0, 1])
def test_a_call_that_others_go_before_for_ever_boots_a_later_tier(priority: int, cancelled: int) -> None:
    """The first tier carries the load, but the call with the least priority would never run."""
    story = tiered(changed(NEAR, slots_hint=1), FAR)
    story.submit_calls(1)
    story.at_or_tell(1.0, events.BootSucceeded(1, 1))
    first, lines = CallLimits(priority=1), []
    story.submit_calls(2, first)
    story.submit_calls(cancelled + 1, CallLimits(priority=priority))
    story.tell(events.CancelRequested(range(4, 4 + cancelled)))
    running = 1
    while story.now < 31.0 and not lines:
        story.now += 1.0
        sent = story.results(1, running, cost=1.0)
        running = int(sent[0].split()[1].split(".")[0])
        lines = [line for line in story.submit_calls(1, first) if line.startswith("boot")] or [
            line for line in sent if line.startswith("boot")
        ]
    assert (story.now, lines) == (31.0, ["boot 2 on tier 1"])


def test_a_slot_with_a_long_call_is_not_expected_to_begin_others() -> None:
    story = tiered()
    first_two_run(story, 4)
    story.now = 1.1
    assert story.results(1, 1, 2, cost=0.1) == [
        "send 3.1 to 1", "send 4.1 to 1", "1 = result of 1.1", "2 = result of 2.1",
    ]  # fmt: skip
    assert story.submit_calls(1) == []
    assert story.at(7.0) == []
    # After a fifth of a boot time both calls are long.
    assert story.at(7.1) == ["boot 2 on tier 1"]


def test_calls_become_long_by_events_and_not_by_questions() -> None:
    story = tiered(max=1)
    first_two_run(story, 4)
    story.now = 1.1
    story.results(1, 1, 2, cost=0.1)
    story.submit_calls(1)
    pool, costs = story.machine.pool, story.machine.pool.runner_table.default.costs
    assert costs is not None
    later = pool.runner_table.groups[""][1]
    assert overflow.calls_begun_soon(pool, pool.call_table.queue_of(""), later, 50.0) == 0
    assert overflow.calls_left(pool, later, overflow.Promises(), 50.0) == 1
    assert overflow.next_overflows(pool, later, 50.0) == []
    assert (list(costs.running), costs.long) == ([story.call(3), story.call(4)], set())
    story.now = 50.0
    story.submit_calls(1)
    assert costs.long == {story.call(3), story.call(4)}


def test_without_a_first_runner_calls_wait_for_the_boot_time_of_the_next_tier_at_most() -> None:
    story = tiered()
    assert story.submit_calls(4) == ["boot 1"]
    assert story.at(29.9) == []
    assert story.at(30.0) == ["boot 2 on tier 1", "boot 3 on tier 1"]


def test_the_place_of_a_runner_that_stops_is_as_good_as_free() -> None:
    """A lost or used runner of the first tier keeps its place until it is gone. The next tier is too slow to help."""
    story = tiered()
    first_two_run(story, 6)
    assert story.loses_runner(1) == ["stop 1: lost", "1 = RunnerLostError", "2 = RunnerLostError"]
    assert story.is_gone(1) == ["boot 2"]


def test_a_place_that_does_not_become_free_is_awaited_for_the_boot_time_of_the_next_tier_at_most() -> None:
    story = tiered()
    first_two_run(story, 6)
    story.loses_runner(1)
    assert story.at(29.9) == []
    assert story.at(30.0) == ["boot 2 on tier 1", "boot 3 on tier 1"]


def test_a_retried_call_has_not_waited_while_it_ran() -> None:
    story = tiered()
    assert story.submit_calls(2, CallLimits(retries=1)) == ["boot 1"]
    story.at_or_tell(1.0, events.BootSucceeded(1, 2))
    story.now = 100.0
    story.loses_runner(1)
    assert story.is_gone(1) == ["boot 2"]
    assert story.at(129.9) == []
    assert story.at(130.0) == ["boot 3 on tier 1"]


def test_boots_that_wait_for_others_of_an_earlier_tier_count() -> None:
    """The first tier has room for all calls, and runs only one boot at once."""
    story = tiered(changed(NEAR, max=10, max_concurrent_boots=1), FAR, max=20)
    assert story.submit_calls(16) == ["boot 1"]
    assert story.boots(1)[-1] == "boot 2"
    story.now = 25.0
    assert story.results(1, 1, 2, cost=25.0) == [
        "send 3.1 to 1", "send 4.1 to 1", "1 = result of 1.1", "2 = result of 2.1",
    ]  # fmt: skip


def test_a_boot_time_that_was_seen_counts_more_than_the_expected_one() -> None:
    story = tiered()
    first_two_run(story, 4)
    story.at(31.0)
    story.tell(events.BootSucceeded(2, 2))
    story.results(1, 1, 2)
    story.results(2, 3, 4)
    story.now = 100.0
    story.tell(events.Tick())
    assert story.machine.pool.runner_table.tiers[1].boot_seconds == pytest.approx(0.001)


def test_max_of_the_pool_bounds_all_tiers_together() -> None:
    story = tiered(max=2)
    first_two_run(story, 30)
    assert story.at(31.0) == ["boot 2 on tier 1"]


def test_a_tier_has_no_more_runners_than_its_own_max() -> None:
    story = tiered(max=9)
    first_two_run(story, 100)
    story.at(31.0)
    assert [each.tier for each in story.stats.runners] == [0, 1, 1, 1]


def test_three_tiers_boot_one_after_the_other() -> None:
    story = tiered(NEAR, changed(FAR, max=1), changed(FAR, name="farther", boot_seconds=60.0), max=9)
    first_two_run(story, 100)
    assert story.at(30.0) == ["boot 2 on tier 1"] or story.nodes.keys() >= {2}
    story.at(61.0)
    assert [each.tier for each in story.stats.runners] == [0, 1, 2, 2, 2]


def test_min_is_kept_by_the_first_tiers() -> None:
    story = tiered(min=3)
    assert story.tell(events.Tick()) == ["boot 1", "boot 2 on tier 1", "boot 3 on tier 1"]


# -- calls -------------------------------------------------------------------------------------------------------------


def test_calls_go_to_the_first_tier_that_has_a_free_slot() -> None:
    story = tiered(min=2)
    story.tell(events.Tick())
    story.tell(events.BootSucceeded(2, 2))
    story.tell(events.BootSucceeded(1, 2))
    assert story.submit_calls(3) == ["send 1.1 to 1", "send 2.1 to 1", "send 3.1 to 2"]
    story.results(1, 1, 2)
    assert story.submit_calls(1) == ["send 4.1 to 1"]


def with_mean(seconds: float) -> TieredStory:
    """Tell of two tiers that are up, the first with two slots, whose calls took this long so far."""
    story = tiered(changed(NEAR, slots_hint=4), FAR, min=2)
    story.tell(events.Tick())
    story.tell(events.BootSucceeded(1, 4))
    story.submit_calls(1)
    story.now = seconds
    story.results(1, 1, cost=seconds)
    # The mean of the boot times was seen.
    story.now = 30.0
    story.tell(events.BootSucceeded(2, 2))
    return story


def test_a_later_tier_gets_no_calls_that_the_first_one_begins_soon() -> None:
    story = with_mean(4.0)
    # Four slots begin two more calls within the half of 4 s.
    assert story.submit_calls(6) == [f"send {number}.1 to 1" for number in (2, 3, 4, 5)]
    assert story.submit_calls(1) == ["send 6.1 to 2"]
    assert story.at(31.9) == []
    assert story.at(32.0) == ["send 7.1 to 2"], "it has waited for two seconds"


def test_in_a_thrifty_pool_a_later_tier_gets_a_call_as_soon_as_those_of_the_first_one_are_long() -> None:
    story = tiered(thrifty=True, min=2)
    assert story.submit_calls(2) == ["boot 1", "boot 2 on tier 1"]
    for runner_id in (1, 2):
        story.tell(events.BootStarted(runner_id))
    story.at_or_tell(1.0, events.BootSucceeded(1, 2))
    story.now = 10.0
    story.tell(events.BootSucceeded(2, 2))
    story.results(1, 1, 2, cost=1.0)
    assert story.submit_calls(2) == ["send 3.1 to 1", "send 4.1 to 1"]
    story.now = 11.8
    assert story.submit_calls(1) == [], "a slot is expected to be free within half a second"
    assert story.at(12.0) == ["send 5.1 to 2"], "both calls have run for twice the mean"


def test_soon_is_within_a_tenth_of_a_boot_time() -> None:
    story = with_mean(20.0)
    # Four slots begin 0.6 calls within 3 s.
    assert story.submit_calls(5)[-1] == "send 6.1 to 2"


def test_no_call_waits_for_an_earlier_tier_whose_slots_have_long_calls() -> None:
    story = with_mean(4.0)
    story.submit_calls(4)
    story.now = 38.0
    assert story.submit_calls(1) == ["send 6.1 to 2"]


@pytest.mark.parametrize("packs", [(True, False), (False, True), (True, True)])
def test_packed_and_spread_tiers_share_a_pool(packs: tuple[bool, bool]) -> None:
    near, far = changed(NEAR, max=2, packs=packs[0]), changed(FAR, packs=packs[1])
    story = tiered(near, far, min=4)
    story.tell(events.Tick())
    for runner_id in (4, 3, 2, 1):
        story.tell(events.BootSucceeded(runner_id, 2))
    sent = [story.submit_calls(1)[0].split(" to ")[1] for _ in range(8)]
    first, second = sent[:4], sent[4:]
    assert sorted(first) == ["1", "1", "2", "2"]
    assert sorted(second) == ["3", "3", "4", "4"]
    assert (first[0] == first[1]) == packs[0]
    assert (second[0] == second[1]) == packs[1]


def test_a_later_tier_is_given_back_first() -> None:
    story = tiered(min=3)
    story.tell(events.Tick())
    for runner_id in (1, 2, 3):
        story.tell(events.BootSucceeded(runner_id, 2))
    story.tell(events.Resized(0, 4))
    assert story.at(20.0) == ["stop 2: idle", "stop 3: idle"]


def test_a_smaller_pool_gives_up_later_tiers_first() -> None:
    story = tiered(min=3)
    story.tell(events.Tick())
    for runner_id in (1, 2):
        story.tell(events.BootSucceeded(runner_id, 2))
    story.submit_calls(2)
    assert story.tell(events.Resized(0, 1)) == ["stop 3: resized", "stop 2: resized"]


# -- requirements ------------------------------------------------------------------------------------------------------


def test_requirements_pick_the_tier_that_can_meet_them() -> None:
    near = changed(NEAR, capacities=(Capacity(2),))
    far = changed(FAR, capacities=(Capacity(2, labels=frozenset({"gpu 1"})), Capacity(64, 1, 2**40)))
    story = tiered(near, far)
    assert story.submit_calls(1, kinds=["gpu 1"]) == ["boot 1 of gpu 1 on tier 1"]


def one_runner_for_two_sorts() -> TieredStory:
    """Tell of a pool of one runner at most. Only the second tier can take calls of the kind "gpu 1"."""
    near, far = changed(NEAR, capacities=(Capacity(2),)), changed(FAR, capacities=(Capacity(64, 1, 2**40),))
    story = tiered(near, far, max=1)
    first_two_run(story, 2)
    return story


def test_an_idle_runner_of_another_tier_makes_room_in_the_pool() -> None:
    story = one_runner_for_two_sorts()
    story.results(1, 1, 2)
    assert story.submit_calls(1, kinds=["gpu 1"]) == ["stop 1: room for another kind"]
    assert story.is_gone(1) == ["boot 2 of gpu 1 on tier 1"]


def test_a_busy_runner_of_another_tier_makes_room_in_the_pool_in_turn() -> None:
    """Its tier has calls without end. The calls that were there first are served first."""
    story = one_runner_for_two_sorts()
    story.submit_calls(1)
    story.submit_calls(1, kinds=["gpu 1"])
    story.submit_calls(4)
    assert story.results(1, 1) == ["send 3.1 to 1", "1 = result of 1.1"]
    assert story.results(1, 2) == ["2 = result of 2.1"]
    assert story.results(1, 3) == ["3 = result of 3.1", "stop 1: room for another kind"]
    assert story.is_gone(1) == ["boot 2 of gpu 1 on tier 1"]
    assert story.boots(2) == ["send 4.1 to 2"]
    # Now these wait for a runner of the first tier.
    assert story.results(2, 4) == ["4 = result of 4.1", "stop 2: room for another kind"]
    assert story.is_gone(2) == ["boot 3"]


def test_a_runner_of_another_tier_need_not_go_if_the_call_does_not_need_it_any_more() -> None:
    story = one_runner_for_two_sorts()
    story.submit_calls(1, kinds=["gpu 1"])
    story.submit_calls(2)
    assert story.results(1, 1) == ["1 = result of 1.1"]
    assert story.tell(events.CancelRequested([3])) == ["send 4.1 to 1", "3 = cancelled"]


def test_runners_of_a_tier_stay_if_another_tier_has_reached_its_own_max() -> None:
    near, far = changed(NEAR, capacities=(Capacity(2),)), changed(FAR, max=1, capacities=(Capacity(64, 1, 2**40),))
    story = tiered(near, far, max=2)
    first_two_run(story, 2)
    assert story.submit_calls(3, kinds=["gpu 1"]) == ["boot 2 of gpu 1 on tier 1"]
    assert story.results(1, 1, 2) == ["1 = result of 1.1", "2 = result of 2.1"]


# -- failures ----------------------------------------------------------------------------------------------------------


def test_a_tier_that_fails_is_passed_over() -> None:
    story = tiered(max_boot_failures=2)
    assert story.submit_calls(2) == ["boot 1"]
    assert story.fails(1) == []
    assert story.at(1.0) == ["boot 2"]
    assert story.fails(2) == ["warn: the near backend could not boot a runner", "boot 3 on tier 1"]
    assert story.stats.tiers[0].passed_over == "no space"
    assert story.tell(events.BootSucceeded(3, 2)) == ["send 1.1 to 3", "send 2.1 to 3"]


def test_a_failure_that_no_further_boot_mends_passes_a_tier_over_at_once() -> None:
    story = tiered()
    story.submit_calls(1)
    assert story.fails(1, BootError("no such image", final=True)) == [
        "warn: the near backend could not boot a runner", "boot 2 on tier 1",
    ]  # fmt: skip


def test_a_tier_that_was_passed_over_is_tried_again_later() -> None:
    story = tiered(max_boot_failures=1)
    story.submit_calls(1)
    story.fails(1)
    story.tell(events.BootSucceeded(2, 2))
    story.results(2, 1, cost=100.0)
    assert story.submit_calls(3)[-1] == "boot 3 on tier 1"
    assert story.at(59.9) == []
    assert story.at(60.0) == ["boot 4"]
    assert story.fails(4) == ["warn: the near backend could not boot a runner"]
    assert story.at(119.9) == []
    assert story.at(120.0) == ["boot 5"]


def test_calls_fail_if_every_tier_fails() -> None:
    story = tiered(max_boot_failures=1)
    story.submit_calls(1)
    assert story.fails(1) == ["warn: the near backend could not boot a runner", "boot 2 on tier 1"]
    assert story.fails(2) == ["1 = BootError"]
    assert story.submit_calls(1) == ["boot 3"], "the first call after that tries the first tier again"


def test_calls_fail_if_the_only_tier_that_can_take_them_fails() -> None:
    near, far = changed(NEAR, capacities=(Capacity(2),)), changed(FAR, capacities=(Capacity(64, 1, 2**40),))
    story = tiered(near, far, max_boot_failures=1)
    story.submit_calls(1, kinds=["gpu 1"])
    assert story.fails(1) == ["1 = BootError"]


def test_boots_that_hang_on_one_tier_do_not_hold_the_others() -> None:
    story = tiered(changed(NEAR, max_concurrent_boots=1), FAR)
    story.submit_calls(1)
    assert story.fails(1, hangs=True)[-1] == "boot 2 on tier 1"


# -- budgets -----------------------------------------------------------------------------------------------------------


def test_a_tier_whose_budget_is_used_up_takes_no_more_calls() -> None:
    near = changed(NEAR, caps=UsageCaps(machine_seconds=10.0))
    story = tiered(near, FAR)
    story.submit_calls(1)
    story.tell(events.BootSucceeded(1, 2))
    assert story.at(10.0) == ["warn: the near backend's budget of"]
    assert story.submit_calls(1) == ["boot 2 on tier 1"]
    assert story.results(1, 1) == ["stop 1: leaving", "1 = result of 1.1"]


def test_calls_fail_if_the_budget_of_every_tier_is_used_up() -> None:
    caps = UsageCaps(machine_seconds=10.0)
    story = tiered(changed(NEAR, caps=caps), changed(FAR, max=1, caps=caps))
    story.submit_calls(5)
    story.tell(events.BootSucceeded(1, 2))
    story.at(10.0)
    story.tell(events.BootSucceeded(2, 2))
    story.now = 20.0
    story.tell(events.Tick())
    assert "5 = BudgetExceeded" in story.submit_calls(0) or 5 in story.errors


def test_the_usage_is_told_for_each_tier() -> None:
    near = changed(NEAR, caps=UsageCaps(price=0.0))
    far = changed(FAR, max=1, caps=UsageCaps(price=2.0))
    story = tiered(near, far, min=2)
    story.tell(events.Tick())
    story.now = 10.0
    stats = story.stats
    assert [each.machine_seconds for each in stats.tiers] == [10.0, 10.0]
    assert [each.cost for each in stats.tiers] == [0.0, 20.0]
    assert (stats.machine_seconds, stats.cost) == (20.0, 20.0)
    assert [(each.name, each.max, each.runners_booting) for each in stats.tiers] == [("near", 1, 1), ("far", 1, 1)]
    assert [each.tier for each in stats.runners] == [0, 1]


def test_a_pool_with_one_backend_has_no_tiers() -> None:
    assert Story().stats.tiers == ()
