"""When runners are booted and stopped: growth, back-off, idling, resizing, and what the numbers say of it."""

from __future__ import annotations

import pytest

from dragonfly_executor import errors
from dragonfly_executor.core import events
from dragonfly_executor.core.call_table import CallLimits
from tests.support.story import Story
from tests.support.world import lost

# -- growth ------------------------------------------------------------------------------------------------------------


def test_boots_are_as_many_as_the_waiting_calls_need() -> None:
    story = Story(max=5)
    assert story.submit_calls(3) == ["boot 1", "boot 2"]
    assert story.submit_calls(1) == [], "the two that boot have a slot for it"
    assert story.submit_calls(1) == ["boot 3"]
    assert story.submit_calls(100) == ["boot 4", "boot 5"], "max is five"
    assert story.stats.limits_that_bind == ("max",)


def test_a_runner_with_more_slots_than_expected_raises_the_expectation() -> None:
    story = Story(max=5)
    story.submit_calls(1)
    story.boots(1, 8)
    assert story.submit_calls(7) == [f"send {i}.1 to 1" for i in range(2, 9)]
    assert story.submit_calls(8)[-1] == "boot 2", "eight wait behind others, and the next has room for eight"
    assert story.submit_calls(1) == ["boot 3"]


def test_calls_that_wait_behind_others_make_the_pool_grow() -> None:
    story = Story(max=2)
    story.submit_calls(1)
    story.boots(1, 1)
    assert story.submit_calls(1) == ["send 2.1 to 1", "boot 2"]


def test_a_stopping_runner_counts_against_max_until_it_is_gone() -> None:
    story = Story().up(1)
    story.submit_calls(1)
    assert story.loses_runner(1) == ["stop 1: lost", "3 = RunnerLostError"]
    assert story.submit_calls(1) == []
    assert story.is_gone(1) == ["boot 2"]


def test_max_workers_makes_more_runners_useless() -> None:
    story = Story(max=5, max_workers=3)
    assert story.submit_calls(100) == ["boot 1", "boot 2"]
    assert story.stats.limits_that_bind == ("max_workers",)


def test_min_runners_are_booted_without_calls_and_again_when_one_is_lost() -> None:
    story = Story(min=2, max=3)
    assert story.tell(events.Tick()) == ["boot 1", "boot 2"]
    story.boots(1)
    story.boots(2)
    assert story.loses_runner(1) == ["stop 1: lost", "boot 3"]


# -- failed boots ------------------------------------------------------------------------------------------------------


def test_a_failed_boot_is_tried_again_after_a_pause() -> None:
    story = Story()
    story.submit_calls(1)
    assert story.fails(1, retry_in=3.0) == []
    assert story.stats.back_off_until == 3.0
    assert story.stats.limits_that_bind == ("back-off",)
    assert story.stats.last_boot_error == "no space"
    assert "no space" in story.stats.explain
    assert story.submit_calls(1) == [], "asking again does not end the pause"
    assert story.at(3.0) == ["boot 2"]


def test_waiting_calls_fail_after_so_many_failed_boots_and_the_next_one_tries_again_at_once() -> None:
    story = Story(max_boot_failures=2)
    story.submit_calls(1, CallLimits(retries=1))
    story.fails(1, retry_in=1.0)
    story.at(1.0)
    last = errors.BootError("quota", "create", output="no quota left")
    assert story.fails(2, last, retry_in=9.0) == ["1 = BootError"]
    error = story.errors[1]
    assert isinstance(error, errors.BootError)
    assert (error.attempts, error.output) == (2, "no quota left")
    assert story.submit_calls(1) == ["boot 3"]
    assert story.fails(3) == []
    assert story.stats.boots_failed == 3


def test_what_a_backend_raised_is_the_cause_of_the_boot_error() -> None:
    story = Story(max_boot_failures=1)
    story.submit_calls(2)
    raised = OSError("no space")
    assert story.fails(1, raised) == ["1 = BootError", "2 = BootError"]
    assert story.errors[1].__cause__ is raised


def test_calls_that_wait_for_a_retry_fail_too_where_nothing_boots() -> None:
    story = Story(max_boot_failures=1).up(1)
    story.submit_calls(1, CallLimits(retries=1, retry_delays=(100.0,)))
    story.loses_runner(1)
    story.is_gone(1)
    story.submit_calls(1)
    assert story.fails(2) == ["3 = BootError", "4 = BootError"]


def test_a_success_ends_the_count_and_the_pause() -> None:
    story = Story(max=2, max_boot_failures=2)
    story.submit_calls(4)
    story.fails(1, retry_in=50.0)
    assert story.boots(2, 1) == ["send 1.1 to 2", "send 2.1 to 2", "boot 3"]
    assert story.fails(3, retry_in=5.0) == []
    assert story.loses_runner(2) == ["stop 2: lost", "1 = RunnerLostError", "2 = RunnerLostError"]


def test_failed_boots_fail_nothing_while_a_runner_is_up_or_may_yet_come() -> None:
    story = Story(max=3, max_boot_failures=1)
    story.submit_calls(5)
    assert story.fails(1) == []
    assert story.fails(2) == []
    assert story.boots(3, 2)[0] == "send 1.1 to 3"
    story.at(1.0)
    assert story.fails(4) == []


def test_boots_that_fail_one_after_another_come_to_an_end_without_any_pause() -> None:
    """Checklist 8. There would always be one under way if each that failed were followed by another."""
    story = Story(max=2, max_boot_failures=2)
    story.submit_calls(4)
    assert story.fails(1, retry_in=0.0) == ["boot 3"]
    assert story.fails(2, retry_in=0.0) == []
    assert story.fails(3, retry_in=0.0) == [f"{i} = BootError" for i in (1, 2, 3, 4)]


def test_min_that_cannot_be_booted_is_tried_again_with_pauses_for_ever() -> None:
    story = Story(min=1, max_boot_failures=2)
    story.tell(events.Tick())
    for runner_id in range(1, 9):
        assert story.fails(runner_id, retry_in=1.0) == []
        assert story.at(story.now + 1.0) == [f"boot {runner_id + 1}"]


@pytest.mark.parametrize("event", [events.RunnerLost(1, lost(1)), events.RunnerGone(1)], ids=["lost", "gone"])
def test_a_runner_that_dies_while_it_boots_is_a_failed_boot(event: events.Event) -> None:
    story = Story(max_boot_failures=1)
    story.submit_calls(1)
    assert story.tell(event)[-1] == "1 = BootError"


def test_a_runner_that_is_gone_without_having_been_stopped_takes_its_calls_with_it() -> None:
    story = Story().up(1)
    story.submit_calls(2, CallLimits(retries=1))
    assert story.is_gone(1) == ["boot 2"]
    assert story.boots(2) == ["send 3.2 to 2", "send 4.2 to 2"]


def test_a_boot_that_fails_after_it_succeeded_is_a_lost_runner() -> None:
    story = Story().up(1)
    story.submit_calls(1)
    assert story.fails(1, lost(1)) == ["3 = RunnerLostError"]
    assert story.stats.runners == ()


# -- idling ------------------------------------------------------------------------------------------------------------


def test_a_runner_above_min_stops_when_it_has_been_idle() -> None:
    story = Story(idle_after=5.0).up(2)
    assert story.machine.deadline() == 5.0
    story.now = 4.0
    story.submit_calls(1)
    assert story.machine.deadline() is None
    story.now = 6.0
    story.results(1, 4)
    assert story.at(10.9) == []
    assert story.at(11.0) == ["stop 1: idle"]
    assert story.is_gone(1) == []


def test_runners_within_min_have_a_patience_of_their_own() -> None:
    story = Story(min=1, max=2, idle_after=5.0, min_idle_after=60.0).up(1, 1)
    assert story.at(5.0) == ["stop 1: idle"]
    assert story.machine.deadline() == 60.0
    assert story.at(60.0) == ["stop 2: idle"]


def test_a_min_runner_that_idled_down_comes_back_with_demand_and_not_before() -> None:
    story = Story(min=2, max=3, min_idle_after=5.0)
    story.tell(events.Tick())
    story.boots(1)
    story.boots(2)
    assert story.at(5.0) == ["stop 1: idle", "stop 2: idle"]
    story.is_gone(1)
    assert story.is_gone(2) == []
    assert story.at(500.0) == []
    assert story.submit_calls(1) == ["boot 3", "boot 4"]


def test_resize_wakes_min_runners_that_idled_down() -> None:
    story = Story(min=1, min_idle_after=5.0)
    story.tell(events.Tick())
    story.boots(1)
    story.at(5.0)
    story.is_gone(1)
    assert story.tell(events.Resized(1, 1)) == ["boot 2"]


def test_min_runners_never_idle_down_by_default() -> None:
    story = Story(min=1, idle_after=5.0)
    story.tell(events.Tick())
    story.boots(1)
    assert story.machine.deadline() is None


def test_an_idle_check_has_the_last_word() -> None:
    story = Story(idle_after=5.0, idle_check=True).up(2)
    assert story.at(5.0) == ["ask 1"]
    assert story.machine.deadline() is None
    story.now = 6.0
    assert story.tell(events.IdleChecked(1, idle=False)) == []
    assert story.at(11.0) == ["ask 1"]
    assert story.tell(events.IdleChecked(1, idle=True)) == ["stop 1: idle"]


def test_a_call_in_between_overtakes_an_idle_check() -> None:
    story = Story(idle_after=5.0, idle_check=True).up(2)
    story.at(5.0)
    assert story.submit_calls(1) == ["send 4.1 to 1"]
    assert story.tell(events.IdleChecked(1, idle=True)) == []
    story.results(1, 4)
    assert story.tell(events.IdleChecked(1, idle=True)) == [], "nor does an old answer count later"
    assert story.at(10.0) == ["ask 1"]


def test_only_as_many_are_asked_as_are_above_min() -> None:
    story = Story(min=1, max=3, idle_after=5.0, idle_check=True).up(1, 1, 1)
    assert story.at(5.0) == ["ask 1", "ask 2"]
    assert story.loses_runner(3) == ["stop 3: lost"]
    assert story.tell(events.IdleChecked(1, idle=True)) == [], "the other may go, and min is one"
    assert story.tell(events.IdleChecked(2, idle=True)) == ["stop 2: idle"]


def test_a_runner_whose_slots_calls_elsewhere_may_need_is_not_idle() -> None:
    story = Story(max=2, idle_after=5.0).up(1, 1)
    story.submit_calls(4)
    story.tell(events.CancelRequested([6]))
    story.results(2, 6, 8)
    assert set(story.nodes[1].flying) == {5, 7}, "one waits there behind the other"
    assert story.at(50.0) == []
    assert story.returns(1, 7) == ["send 7.1 to 2"]


# -- resizing ----------------------------------------------------------------------------------------------------------


def test_a_larger_max_boots_at_once_what_waits() -> None:
    story = Story()
    story.submit_calls(6)
    assert story.tell(events.Resized(0, 3)) == ["boot 2", "boot 3"]
    assert (story.stats.min, story.stats.max) == (0, 3)


def test_runners_that_need_not_go_after_all_take_the_calls_that_wait_at_once() -> None:
    story = Story(min=2, max=2)
    story.submit_calls(1)
    story.boots(1)
    story.boots(2)
    story.submit_calls(1)
    story.tell(events.Resized(0, 1))
    assert story.submit_calls(4) == ["send 3.1 to 1", "send 4.1 to 1", "send 5.1 to 1"]
    assert story.tell(events.Resized(0, 2)) == ["send 6.1 to 2"]


def test_a_smaller_max_stops_boots_and_idle_runners_at_once_and_busy_ones_when_they_have_drained() -> None:
    story = Story(max=4).up(1, 1, 1)
    story.submit_calls(2)
    story.submit_calls(9)
    assert story.stats.runners_booting == 1
    assert story.tell(events.Resized(0, 2)) == ["stop 4: resized"]
    retiring = next(iter(story.machine.pool.runner_table.retiring))
    assert story.results(retiring, *story.nodes[retiring].flying)[-1] == f"stop {retiring}: resized"


def test_idle_runners_go_first_when_max_shrinks() -> None:
    story = Story(max=3).up(1, 1, 1)
    story.submit_calls(1)
    assert story.tell(events.Resized(0, 1)) == ["stop 3: resized", "stop 2: resized"]


def test_a_runner_that_was_to_retire_stays_when_it_is_needed_after_all() -> None:
    story = Story(max=2).up(1, 1)
    story.submit_calls(2)
    story.tell(events.Resized(0, 1))
    assert story.machine.pool.runner_table.retiring
    assert story.tell(events.Resized(0, 2)) == []
    assert not story.machine.pool.runner_table.retiring
    story.tell(events.Resized(0, 1))
    staying = next(i for i in (1, 2) if i not in story.machine.pool.runner_table.retiring)
    story.loses_runner(staying)
    assert not story.machine.pool.runner_table.retiring, "the other one is within max now"


def test_slots_that_max_workers_kept_free_are_used_when_others_have_gone() -> None:
    story = Story(min=3, max=3, max_workers=8)
    story.tell(events.Tick())
    story.boots(1, 3)
    story.submit_calls(6)
    story.boots(2, 4)
    story.boots(3, 4)
    assert story.submit_calls(2) == ["send 7.1 to 2", "send 8.1 to 3"]
    assert story.submit_calls(3) == [], "eight are on runners, three of them behind others"
    story.tell(events.Resized(0, 2))
    assert story.results(3, 8) == [
        *("send 9.1 to 2", "8 = result of 8.1", "stop 3: resized"),
        *("send 10.1 to 2", "send 11.1 to 2"),  # seven slots are left, which is less than eight
    ]


def test_min_is_new_at_once() -> None:
    story = Story(max=3)
    assert story.tell(events.Resized(2, 3)) == ["boot 1", "boot 2"]


# -- numbers -----------------------------------------------------------------------------------------------------------


def test_stats_tell_how_a_pool_stands() -> None:
    story = Story(max=2, max_workers=8).up(2)
    story.submit_calls(7, CallLimits(retries=1, retry_delays=(9.0,)))
    story.tell(events.CallsStarted(1, [(4, 1), (5, 1)]))
    story.loses(1, 4)
    stats = story.stats
    assert (stats.runners_up, stats.runners_booting, stats.runners_stopping, stats.runners_idle) == (1, 1, 0, 0)
    assert [(r.id, r.state, r.slots, r.in_flight) for r in stats.runners] == [(1, "up", 2, 4), (2, "booting", 0, 0)]
    assert (stats.slots_busy, stats.slots_free) == (2, 0)
    assert (stats.calls_queued, stats.calls_delayed, stats.calls_sent, stats.calls_running) == (2, 1, 4, 1)
    assert stats.calls_cancelled == 3
    assert stats.calls_retried == 1
    assert stats.boots_attempted == 2
    assert stats.limits_that_bind == ("max",)
    assert stats.explain == (
        "2 calls wait and 1 for a retry or their arguments; 1 of at most 2 runners up, 1 booting; 2 of 2 slots busy; "
        "held by max"
    )


def test_a_pause_that_is_over_ends_by_an_event_and_not_by_a_question() -> None:
    story = Story(max=2)
    story.submit_calls(1)
    story.fails(1, retry_in=5.0)
    assert story.machine.stats(5.0).back_off_until is None
    assert story.machine.deadline() == 5.0
    assert story.at(5.0) == ["boot 2"]


def test_a_pool_that_rests_has_nothing_to_explain() -> None:
    story = Story(idle_after=1.0).up(2)
    assert story.stats.limits_that_bind == ()
    assert story.stats.explain == "0 calls wait; 1 of at most 1 runners up; 0 of 2 slots busy"
    story.at(1.0)
    assert story.stats.explain == "0 calls wait; 0 of at most 1 runners up, 1 stopping; 0 of 0 slots busy"


# -- runners that go by themselves -------------------------------------------------------------------------------------


def test_a_runner_that_leaves_gets_no_more_calls_and_goes_when_it_has_none() -> None:
    story = Story(max=1).up(2)
    story.tell(events.Resized(0, 2))
    story.submit_calls(2)
    assert story.leaves(1) == [], "nothing waits, so nothing boots"
    assert [runner.state for runner in story.stats.runners] == ["leaving"]
    assert (story.stats.runners_up, story.stats.runners_stopping) == (0, 1)
    first, second = story.nodes[1].flying
    assert story.submit_calls(1) == ["boot 2"]
    assert story.results(1, first) == [f"{first} = result of {first}.1"]
    assert story.results(1, second) == ["stop 1: leaving", f"{second} = result of {second}.1"]
    assert story.boots(2) == [f"send {second + 1}.1 to 2"]


def test_what_a_runner_that_leaves_gives_back_goes_to_another_and_loses_nothing() -> None:
    story = Story(max=1).up(2)
    story.tell(events.Resized(0, 2))
    story.submit_calls(2)
    running, waiting = story.nodes[1].flying
    story.leaves(1)
    assert story.returns(1, waiting) == ["boot 2"]
    assert story.boots(2) == [f"send {waiting}.1 to 2"]
    assert story.results(1, running)[0] == "stop 1: leaving"


def test_a_runner_that_leaves_and_has_no_call_goes_at_once_and_counts_until_it_is_gone() -> None:
    story = Story(min=1, max=1)
    story.tell(events.Tick())
    story.boots(1)
    assert story.leaves(1) == ["stop 1: leaving"]
    assert story.leaves(1) == []
    assert story.submit_calls(1) == []
    assert story.is_gone(1) == ["boot 2"]


def test_a_runner_that_leaves_may_be_lost_with_its_calls() -> None:
    story = Story(max=1).up(2)
    story.submit_calls(1)
    (call,) = story.nodes[1].flying
    story.leaves(1)
    assert story.loses_runner(1) == ["stop 1: lost", f"{call} = RunnerLostError"]
    assert story.is_gone(1) == []


def test_a_runner_that_leaves_while_it_boots_is_none() -> None:
    story = Story(max=2)
    story.submit_calls(1)
    assert story.leaves(1) == ["stop 1: leaving", "boot 2"]
    assert story.stats.boots_failed == 0


def test_a_call_that_is_cancelled_on_a_runner_that_leaves_is_killed_there() -> None:
    story = Story(max=1).up(1)
    story.submit_calls(1)
    (call,) = story.nodes[1].flying
    story.leaves(1)
    assert story.tell(events.CancelRequested((call,))) == [f"kill {call}.1 on 1", f"{call} = cancelled"]
    assert story.tell(events.CallGone(1, call, 1)) == ["stop 1: leaving"]


def test_a_shutdown_waits_for_a_runner_that_leaves() -> None:
    story = Story(max=1).up(1)
    story.submit_calls(1)
    (call,) = story.nodes[1].flying
    story.leaves(1)
    assert story.shuts_down() == []
    assert story.results(1, call)[0] == "stop 1: leaving"
    assert story.is_gone(1) == ["closed"]


# -- runners without room for their slots ------------------------------------------------------------------------------


def test_a_call_that_a_runner_cannot_begin_goes_to_another_with_a_free_slot() -> None:
    """Runner 1 has two slots, and cannot start the second."""
    story = Story(max=2, slots_hint=2)
    story.submit_calls(4)
    story.boots(1, slots=2)
    story.boots(2, slots=4)
    assert story.returns(1, 2) == ["send 2.1 to 2"]


def test_a_runner_that_has_returned_a_call_gets_it_again_if_no_other_has_room() -> None:
    story = Story(max=1, slots_hint=2)
    story.submit_calls(2)
    story.boots(1, slots=2)
    assert story.returns(1, 2) == ["send 2.1 to 1"]
    story.results(1, 1)
    assert story.returns(1, 2) == ["send 2.1 to 1"]


def test_a_cap_on_workers_leaves_no_call_waiting_for_a_runner_that_returned_one() -> None:
    story = Story(max=1, slots_hint=3, max_workers=2)
    story.submit_calls(2)
    story.boots(1, slots=3)
    assert story.returns(1, 2) == ["send 2.1 to 1"]
