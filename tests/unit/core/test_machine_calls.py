"""What becomes of calls: order, placing, budgets, cancelling, retries, late messages."""

from __future__ import annotations

import pytest

from dragonfly_executor import errors
from dragonfly_executor.core import events
from dragonfly_executor.core.actions import Settle
from dragonfly_executor.core.call_table import CallLimits, CallState
from dragonfly_executor.core.calls import DEFAULT_KIND
from tests.support.story import Story
from tests.support.world import lost

# -- order and placing -------------------------------------------------------------------------------------------------


def test_a_call_boots_a_runner_goes_there_and_settles_with_what_comes_back() -> None:
    story = Story()
    assert story.submit_calls() == ["boot 1"]
    assert story.boots(1) == ["send 1.1 to 1"]
    assert story.call(1).state is CallState.SENT
    assert story.tell(events.CallsStarted(1, [(1, 1)])) == []
    assert story.call(1).state is CallState.STARTED
    assert story.results(1, 1) == ["1 = result of 1.1"]
    assert story.call(1).state is CallState.SETTLED


def test_calls_go_in_order_of_arrival_to_the_runner_with_the_fewest() -> None:
    story = Story(max=2).up(2, 3)
    # Slots are filled evenly, so that the second gets the fifth call; then both have credit, one a slot.
    assert story.submit_calls(10) == [
        *("send 8.1 to 1", "send 11.1 to 1", "send 13.1 to 1", "send 14.1 to 1"),
        *("send 9.1 to 2", "send 10.1 to 2", "send 12.1 to 2", "send 15.1 to 2", "send 16.1 to 2", "send 17.1 to 2"),
    ]
    assert story.submit_calls(1) == []
    assert story.results(2, 9) == ["9 = result of 9.1"], "a second-long call leaves no credit, and all slots are full"
    assert story.results(2, 10, 12, 15) == ["send 18.1 to 2", *(f"{i} = result of {i}.1" for i in (10, 12, 15))]


def test_packed_calls_fill_the_runner_with_the_most() -> None:
    story = Story(max=3, packs=True).up(2, 3, 2)
    assert story.submit_calls(3) == ["send 11.1 to 3", "send 12.1 to 3", "send 13.1 to 2"]
    assert story.submit_calls(1) == ["send 14.1 to 2"]
    story.results(3, 11)
    # Runner 3 has one call, and runner 2 has two.
    assert story.submit_calls(2) == ["send 15.1 to 2", "send 16.1 to 3"]
    assert story.stats.runners_idle == 1
    story.results(2, 13, 14, 15)
    assert story.submit_calls(4) == ["send 17.1 to 2", "send 18.1 to 2", "send 19.1 to 2", "send 20.1 to 1"]


def test_a_packed_call_goes_to_the_runner_that_became_idle_last() -> None:
    story = Story(max=3, packs=True, slots_hint=1, idle_after=5.0).up(1, 1, 1)
    story.submit_calls(3)
    for runner_id, call_id in [(2, 8), (1, 9), (3, 7)]:
        story.now += 1.0
        story.results(runner_id, call_id)
    assert story.submit_calls(1) == ["send 10.1 to 3"]
    assert story.at(6.0) == ["stop 2: idle"], "runner 2 has been idle longest"


def test_a_packed_call_goes_to_the_runner_of_a_call_that_waits_for_its_children() -> None:
    """That runner stays up in any case."""
    story = Story(max=2, packs=True).up(1, 1)
    story.submit_calls(2)
    assert story.results(1, 6) == ["6 = result of 6.1"]
    story.tell(events.CallsWait(2, [(5, 1, True)]))
    assert story.submit_calls(1) == ["send 7.1 to 2"]


def test_prefetched_calls_are_spread_even_if_calls_are_packed() -> None:
    story = Story(max=2, packs=True).up(1, 1)
    story.submit_calls(2)
    assert story.submit_calls(2) == ["send 7.1 to 1", "send 8.1 to 2"]


def test_no_call_is_put_behind_another_while_a_slot_anywhere_is_free() -> None:
    story = Story(max=2).up(1, 1)
    story.submit_calls(1)
    story.results(1, 5, cost=0.0)
    # Runner 1 is known to be fast, and has credit for many.
    assert story.submit_calls(3) == ["send 6.1 to 1", "send 8.1 to 1", "send 7.1 to 2"]


def test_small_calls_travel_by_the_hundred_and_long_ones_one_by_one() -> None:
    story = Story().up(2)
    story.submit_calls(1)
    story.results(1, 4, cost=0.00001)
    assert len(story.submit_calls(500)) == 2 + 2 * 128
    story.results(1, *story.nodes[1].flying, cost=1.0)
    assert len(story.nodes[1].flying) == 2


def test_a_far_runner_gets_calls_ahead_to_cover_the_round_trip() -> None:
    story = Story().up(1)
    story.submit_calls(1)
    story.results(1, 3, cost=0.010)
    assert len(story.submit_calls(9)) == 1
    # Three of them cover it, and as many again the way of a line that is busy.
    assert story.tell(events.RoundTrip(1, 0.030)) == [f"send {i}.1 to 1" for i in range(5, 11)]


def test_one_ping_that_was_held_up_sends_no_seconds_of_work_ahead() -> None:
    """The least of the last four counts, so that a way which has become longer counts soon, too."""
    story = Story().up(1)
    story.submit_calls(1)
    story.results(1, 3, cost=0.010)
    story.tell(events.RoundTrip(1, 0.002))
    story.submit_calls(50)
    for _ in range(3):
        assert story.tell(events.RoundTrip(1, 5.0)) == []
    story.tell(events.RoundTrip(1, 0.1))
    assert len(story.nodes[1].flying) == 1 + 20


def test_calls_that_were_stuck_come_back_to_the_front_and_cost_nothing() -> None:
    story = Story().up(1)
    story.submit_calls(4)
    assert set(story.nodes[1].flying) == {3, 4}, "one runs and one waits behind it"
    assert story.returns(1, 4) == [], "the slot is taken, and nothing is put behind it again"
    assert story.call(4).state is CallState.QUEUED
    assert story.results(1, 3, cost=0.02) == ["send 4.1 to 1", "3 = result of 3.1"]
    assert story.call(4).attempt == 1


def test_credit_comes_back_with_fast_results() -> None:
    story = Story().up(1)
    story.submit_calls(40)
    story.returns(1, 4)
    for call_id in range(3, 12):
        story.results(1, call_id, cost=0.00001)
    assert len(story.nodes[1].flying) > 1


def test_max_workers_caps_calls_over_all_runners_and_nothing_is_put_ahead() -> None:
    story = Story(max=2, max_workers=3).up(2, 2)
    assert len(story.submit_calls(5)) == 3
    assert story.stats.limits_that_bind == ("max", "max_workers")
    assert story.results(1, 7, cost=0.0) == ["send 10.1 to 1", "7 = result of 7.1"]


def test_what_is_given_to_a_single_use_runner_is_one_call() -> None:
    story = Story(max=2, single_use=True)
    assert story.submit_calls(3) == ["boot 1", "boot 2"]
    assert story.boots(1, 4) == ["send 1.1 to 1"]
    assert story.boots(2, 4) == ["send 2.1 to 2"]
    assert story.results(1, 1) == ["stop 1: used", "1 = result of 1.1"]
    assert story.is_gone(1) == ["boot 3"]
    assert story.loses(2, 2) == ["stop 2: used", "2 = RunnerLostError"]


# -- budgets -----------------------------------------------------------------------------------------------------------


def test_timeout_is_one_budget_from_submission_and_ends_a_call_that_waits() -> None:
    story = Story()
    story.submit_calls(1, CallLimits(timeout=4.0))
    assert story.machine.deadline() == 4.0
    assert story.at(3.9) == []
    assert story.at(4.0) == ["1 = CallTimeoutError"]
    assert "timeout of 4 s" in str(story.errors[1])
    assert "waiting for a runner" in str(story.errors[1])
    assert isinstance(story.errors[1], TimeoutError)


def test_timeout_kills_a_call_on_its_runner_and_its_place_is_free_when_it_has_left() -> None:
    story = Story().up(1)
    story.submit_calls(1, CallLimits(timeout=4.0))
    assert story.at(4.0) == ["kill 3.1 on 1", "3 = CallTimeoutError"]
    story.tell(events.CallsReturned(1, [(99, 1)]))
    assert story.submit_calls(3) == ["send 4.1 to 1"], "only the credit: the slot is not free yet"
    assert story.tell(events.CallGone(1, 3, 1)) == ["send 5.1 to 1"]
    assert story.stats.calls_timed_out == 1


@pytest.mark.parametrize(
    "answer",
    [
        events.ResultsArrived(1, [(3, 1, 0.0, "too late", False)]),
        events.CallLost(1, 3, 1, lost(1), True),
        events.CallLost(1, 3, 1, lost(1), False),
        events.CallsReturned(1, [(3, 1)]),
        events.CallTimedOut(1, 3, 1),
        events.CallGone(1, 3, 1),
    ],
    ids=lambda event: type(event).__name__,
)
def test_whatever_answers_a_kill_settles_nothing_again_and_frees_the_place(answer: events.Event) -> None:
    story = Story().up(1)
    story.submit_calls(1, CallLimits(retries=3))
    story.tell(events.CancelRequested([3]))
    assert story.stats.slots_busy == 1
    assert story.tell(answer) == []
    assert story.stats.slots_busy == 0
    assert story.tell(answer) == []
    assert story.stats.stale == 1


def test_queue_timeout_ends_a_wait_and_no_run() -> None:
    story = Story()
    story.submit_calls(1, CallLimits(queue_timeout=2.0))
    assert story.at(2.0) == ["1 = CallTimeoutError"]
    assert "queue_timeout of 2 s" in str(story.errors[1])
    story.boots(1)
    story.submit_calls(1, CallLimits(queue_timeout=2.0))
    assert story.at(100.0) == []
    assert story.machine.deadline() is None


def test_queue_timeout_gives_way_to_timeout_once_a_call_is_sent() -> None:
    story = Story().up(1)
    story.submit_calls(1, CallLimits(queue_timeout=2.0, timeout=6.0))
    assert story.at(2.0) == []
    assert story.machine.deadline() == 6.0
    assert story.at(6.0) == ["kill 3.1 on 1", "3 = CallTimeoutError"]


def test_a_call_that_came_back_too_late_to_start_in_time_is_not_sent_again() -> None:
    story = Story().up(1)
    story.submit_calls(2, CallLimits(queue_timeout=2.0))
    story.at(5.0)
    assert story.returns(1, 4) == ["4 = CallTimeoutError"]


def test_run_timeout_is_the_agents_to_keep_and_is_named() -> None:
    story = Story().up(1)
    story.submit_calls(1, CallLimits(run_timeout=3.0, retries=5))
    assert story.machine.deadline() is None
    story.now = 3.0
    assert story.tell(events.CallTimedOut(1, 3, 1)) == ["3 = CallTimeoutError"]
    assert "run_timeout of 3 s" in str(story.errors[3])


def test_a_call_that_ran_too_long_is_tried_again_if_its_options_say_so() -> None:
    story = Story().up(1)
    limits = CallLimits(run_timeout=3.0, timeout=8.0, retries=2, retries_timeouts=True, retry_delays=(1.0,))
    story.submit_calls(1, limits)
    story.now = 3.0
    assert story.tell(events.CallTimedOut(1, 3, 1)) == []
    assert story.at(4.0) == ["send 3.2 to 1"]
    story.now = 7.0
    assert story.tell(events.CallTimedOut(1, 3, 2)) == []
    assert story.at(8.0) == ["3 = CallTimeoutError"], "`timeout` is for all attempts"
    assert story.stats.calls_timed_out == 1
    assert story.stats.calls_retried == 2

    story.submit_calls(1, CallLimits(run_timeout=3.0, retries=1, retries_timeouts=True))
    assert story.tell(events.CallTimedOut(1, 4, 1, 30.0)) == ["send 4.2 to 1"], "it was never open"
    assert story.tell(events.CallTimedOut(1, 4, 2)) == ["4 = CallTimeoutError"]
    assert "run_timeout of 3 s" in str(story.errors[4])
    assert "at its attempt 2" in str(story.errors[4])

    story.submit_calls(1, CallLimits(timeout=3.0, retries=5, retries_timeouts=True))
    story.now += 3.0
    assert story.tell(events.CallTimedOut(1, 5, 1)) == ["5 = CallTimeoutError"]


def test_a_call_that_was_never_open_is_told_so_and_not_tried_again() -> None:
    story = Story().up(1)
    story.submit_calls(1, CallLimits(run_timeout=3.0, retries=5))
    assert story.tell(events.CallTimedOut(1, 3, 1, 30.0)) == ["3 = CallTimeoutError"]
    assert "before its function began" in str(story.errors[3])
    assert "took 30 s" in str(story.errors[3])


def test_a_result_that_comes_with_the_deadline_counts() -> None:
    story = Story().up(1)
    story.submit_calls(1, CallLimits(timeout=4.0))
    story.now = 5.0
    assert story.results(1, 3) == ["3 = result of 3.1"]


# -- cancelling --------------------------------------------------------------------------------------------------------


def test_cancel_settles_what_waits_and_kills_what_runs() -> None:
    story = Story().up(1)
    story.submit_calls(3)
    assert story.tell(events.CancelRequested([5, 3, 77])) == ["kill 3.1 on 1", "5 = cancelled", "3 = cancelled"]
    assert story.tell(events.CancelRequested([5, 3])) == []


def test_a_cancelled_call_in_the_middle_of_the_queue_is_passed_over() -> None:
    story = Story()
    story.submit_calls(5)
    story.tell(events.CancelRequested([1, 3]))
    assert story.boots(1, 4) == ["send 2.1 to 1", "send 4.1 to 1", "send 5.1 to 1"]


# -- lost calls and retries --------------------------------------------------------------------------------------------


def test_a_lost_slot_fails_its_call_and_no_neighbour() -> None:
    story = Story().up(2)
    story.submit_calls(3)
    assert story.loses(1, 4) == ["4 = RunnerLostError"]
    assert story.results(1, 5, 6) == ["5 = result of 5.1", "6 = result of 6.1"]


def test_a_lost_runner_fails_its_calls_and_the_rest_goes_on_elsewhere() -> None:
    story = Story(max=2).up(1, 1)
    story.submit_calls(5)
    lines = story.loses_runner(1)
    assert lines == ["stop 1: lost", "5 = RunnerLostError", "7 = RunnerLostError"]
    assert story.is_gone(1) == ["boot 3"], "one waits behind another, one in the queue"
    assert story.loses_runner(1) == []


def test_a_call_that_never_left_for_a_runner_that_was_lost_goes_to_another() -> None:
    story = Story(max=2).up(1, 1)
    story.submit_calls(2, CallLimits(retries=1))
    story.tell(events.RunnerLost(1, lost(1), [(5, 1)]))
    assert story.nodes[2].flying == {6: 1, 5: 1}
    assert story.call(5).deaths == 0


def test_calls_that_a_lost_runner_had_not_begun_go_to_another() -> None:
    """Where it is known which had: the one that ran fails, or has its next attempt, and the others lose nothing."""
    story = Story(max=2).up(3, 1)
    story.submit_calls(4)
    assert list(story.nodes[1].flying) == [7, 9, 10]
    assert story.leaves(1) == [], "its link died, and its processes are about to end"
    story.tell(events.CancelRequested([9]))
    begun = [(7, 1), (8, 1)]
    told = story.tell(events.RunnerLost(1, lost(1), (), begun))
    assert told == ["stop 1: lost", "send 10.1 to 2", "7 = RunnerLostError"]
    assert story.results(2, 8, 10) == ["8 = result of 8.1", "10 = result of 10.1"]


def test_a_lost_runner_that_had_begun_nothing_costs_no_call_an_attempt() -> None:
    story = Story(max=2).up(1, 1)
    story.submit_calls(2, CallLimits(retries=1))
    story.tell(events.RunnerLost(1, lost(1), (), []))
    assert story.nodes[2].flying == {6: 1, 5: 1}
    assert story.call(5).deaths == 0


def test_retries_run_a_call_again_after_their_delays() -> None:
    story = Story().up(1)
    story.submit_calls(1, CallLimits(retries=3, retry_delays=(1.5, 0.5)))
    assert story.loses(1, 3) == []
    assert story.call(3).state is CallState.DELAYED
    assert story.machine.deadline() == 1.5
    assert story.at(1.5) == ["send 3.2 to 1"]
    assert story.loses(1, 3) == []
    assert story.at(2.0) == ["send 3.3 to 1"]
    assert story.loses(1, 3) == [], "the last delay is that of all that follow"
    assert story.at(2.5) == ["send 3.4 to 1"]
    assert story.results(1, 3) == ["3 = result of 3.4"]
    assert story.stats.calls_retried == 3


def test_a_call_that_takes_its_slot_with_it_every_time_ends_as_poison() -> None:
    story = Story().up(1)
    story.submit_calls(1, CallLimits(retries=1))
    story.loses(1, 3)
    assert story.loses(1, 3) == ["3 = PoisonCallError"]
    error = story.errors[3]
    assert isinstance(error, errors.PoisonCallError)
    assert "2 attempts" in str(error)
    assert error.signal == 9
    assert isinstance(error.__cause__, errors.RunnerLostError)


def test_a_call_that_was_lost_only_the_last_time_is_no_poison() -> None:
    story = Story().up(1)
    story.submit_calls(1, CallLimits(retries=1))
    assert story.results(1, 3, retryable=True) == ["send 3.2 to 1"]
    assert story.loses(1, 3) == ["3 = RunnerLostError"]


def test_an_error_that_allows_it_is_tried_again_and_the_last_one_counts() -> None:
    story = Story().up(1)
    story.submit_calls(1, CallLimits(retries=1, retry_delays=(2.0,)))
    assert story.results(1, 3, retryable=True) == []
    assert story.at(2.0) == ["send 3.2 to 1"]
    assert story.results(1, 3, retryable=True) == ["3 = result of 3.2"]


def test_without_retries_a_retryable_error_is_just_the_outcome() -> None:
    story = Story().up(1)
    story.submit_calls(1)
    assert story.results(1, 3, retryable=True) == ["3 = result of 3.1"]


def test_a_retry_takes_its_old_place_in_the_queue() -> None:
    story = Story().up(1)
    story.submit_calls(2, CallLimits(retries=1))
    story.returns(1, 4)
    story.submit_calls(2)
    assert story.loses(1, 3) == ["send 3.2 to 1"], "call 3 came before 4, 5 and 6"
    assert story.results(1, 3) == ["send 4.1 to 1", "3 = result of 3.2"]


def test_a_call_that_provably_never_started_is_sent_again_and_loses_nothing() -> None:
    story = Story().up(1)
    story.submit_calls(1)
    assert story.loses(1, 3, may_have_started=False) == ["send 3.1 to 1"]
    assert story.call(3).deaths == 0


def test_a_call_over_which_slots_die_before_they_begin_it_ends_too() -> None:
    story = Story().up(1)
    story.submit_calls(2, CallLimits(retries=9))
    assert story.loses(1, 3, may_have_started=False) == ["send 3.1 to 1"]
    assert story.loses(1, 3, may_have_started=False) == ["send 3.1 to 1"]
    assert story.loses(1, 3, may_have_started=False) == ["3 = RunnerLostError"]
    assert story.results(1, 4) == ["4 = result of 4.1"]


def test_a_call_that_waits_for_its_retry_can_be_cancelled_and_can_time_out() -> None:
    story = Story().up(1)
    story.submit_calls(2, CallLimits(retries=1, retry_delays=(50.0,), timeout=5.0))
    story.loses(1, 3)
    story.loses(1, 4)
    assert story.tell(events.CancelRequested([3])) == ["3 = cancelled"]
    assert story.at(5.0) == ["4 = CallTimeoutError"]
    assert "its attempt 2" in str(story.errors[4])
    assert story.machine.deadline() is None


def test_a_retry_gets_a_queue_timeout_of_its_own() -> None:
    story = Story().up(1)
    story.submit_calls(1, CallLimits(retries=1, retry_delays=(10.0,), queue_timeout=2.0))
    story.loses(1, 3)
    story.loses_runner(1)
    assert story.at(10.0) == [], "max is one, and the lost runner still exists"
    assert story.at(12.0) == ["3 = CallTimeoutError"]


# -- late messages -----------------------------------------------------------------------------------------------------


def test_messages_about_what_is_not_there_are_counted_and_change_nothing() -> None:
    story = Story().up(1)
    story.submit_calls(1, CallLimits(retries=1))
    story.loses(1, 3)
    assert story.call(3).attempt == 2
    late: list[events.Event] = [
        events.ResultsArrived(1, [(3, 1, 0.1, "of the first attempt", False)]),
        events.ResultsArrived(9, [(3, 2, 0.1, "of no runner", False)]),
        events.CallsStarted(1, [(3, 1)]),
        events.CallsReturned(1, [(3, 1)]),
        events.CallLost(1, 3, 1, lost(1), True),
        events.CallTimedOut(1, 44, 1),
        events.CallGone(9, 3, 2),
        events.RunnerGone(9),
        events.RunnerLost(9, lost(9)),
        events.BootSucceeded(9, 1),
        events.BootFailed(9, OSError(), 1.0),
        events.RoundTrip(9, 1.0),
        events.IdleChecked(1, True),
        events.CallsReturned(9, []),
        events.CallsStarted(9, []),
    ]
    for event in late:
        assert story.tell(event) == []
    assert story.stats.stale == len(late)
    assert story.call(3).state is CallState.SENT


def test_a_call_that_left_its_slot_though_nobody_gave_it_up_is_lost() -> None:
    story = Story().up(1)
    story.submit_calls(1)
    assert story.tell(events.CallGone(1, 3, 1)) == ["3 = RunnerLostError"]


def test_a_clock_that_goes_back_stands_still() -> None:
    story = Story().up(1)
    story.submit_calls(1, CallLimits(timeout=4.0))
    story.at(3.0)
    assert story.machine.handle(events.Tick(), -100.0) == []
    assert isinstance(story.machine.handle(events.Tick(), 4.0)[1], Settle)


# -- leftovers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [CallLimits(timeout=1e6), CallLimits(queue_timeout=1e6), CallLimits()])
def test_nothing_that_is_over_is_kept(limits: CallLimits) -> None:
    """`validate`, which every step runs, bounds queues and heaps by what they are for."""
    story = Story()
    story.submit_calls(300, limits)
    story.tell(events.CancelRequested(range(1, 300)))
    assert len(story.machine.pool.call_table.queues[DEFAULT_KIND]._fresh) <= 66
    story.boots(1, 1)
    assert story.results(1, 300) == ["300 = result of 300.1"]
    call_table = story.machine.pool.call_table
    assert len(call_table.queues[DEFAULT_KIND]._fresh) + call_table.alarms.count <= 128
    assert not call_table.calls


def test_retries_that_are_over_are_not_kept() -> None:
    story = Story().up(200)
    story.submit_calls(200, CallLimits(retries=1, retry_delays=(1e6,)))
    story.results(1, *story.nodes[1].flying, retryable=True)
    assert story.stats.calls_delayed == 200
    story.tell(events.CancelRequested(list(story.accounts)))
    assert len(story.machine.pool.call_table.queues[DEFAULT_KIND].delays) <= 64


@pytest.mark.parametrize("packs", [False, True])
def test_the_order_of_runners_keeps_no_more_than_a_few_entries_each(packs: bool) -> None:
    story = Story(packs=packs).up(2)
    for _ in range(300):
        story.submit_calls(1)
        story.results(1, len(story.accounts), cost=1.0)
    placement = story.machine.pool.runner_table.placements.by_kind[DEFAULT_KIND]
    assert len(placement._free) + len(placement._spare) <= 2 * (4 + 64 + 1)
    assert placement._packed is None or len(placement._packed) == 1
