"""How a pool ends: shutdown in each mode and sequence, and a pool that broke."""

from __future__ import annotations

import pytest

from dragonfly_executor import errors
from dragonfly_executor.core import actions, events
from dragonfly_executor.core.call_table import CallLimits
from dragonfly_executor.core.events import ShutdownMode
from tests.support.story import Story
from tests.support.world import lost

DRAIN, CANCEL_QUEUED, KILL = ShutdownMode


@pytest.mark.parametrize("mode", ShutdownMode)
def test_a_pool_without_anything_closes_at_once_and_only_once(mode: ShutdownMode) -> None:
    story = Story()
    assert story.shuts_down(mode) == ["closed"]
    assert story.shuts_down(KILL) == []
    assert story.tell(events.Tick()) == []
    assert story.machine.deadline() is None


@pytest.mark.parametrize("mode", ShutdownMode)
def test_an_idle_runner_goes_and_the_pool_closes_when_it_is_gone(mode: ShutdownMode) -> None:
    story = Story(min=1).up(2)
    assert len(story.shuts_down(mode)) == 1
    assert story.nodes[1].stopped
    assert story.is_gone(1) == ["closed"]


def test_draining_finishes_what_waits_and_boots_for_it() -> None:
    story = Story(max=2)
    story.submit_calls(1)
    assert story.shuts_down() == []
    assert story.boots(1, 1) == ["send 1.1 to 1"]
    assert story.results(1, 1) == ["1 = result of 1.1", "stop 1: shutdown"]
    assert story.is_gone(1) == ["closed"]


def test_draining_boots_anew_for_calls_that_wait_when_a_runner_is_lost() -> None:
    story = Story(min=1).up(1)
    story.submit_calls(2)
    story.returns(1, 4)
    story.shuts_down()
    assert story.loses_runner(1) == ["stop 1: lost", "3 = RunnerLostError"]
    assert story.is_gone(1) == ["boot 2"]
    story.boots(2, 1)
    assert story.results(2, 4) == ["4 = result of 4.1", "stop 2: shutdown"]


def test_draining_waits_for_retries_and_keeps_a_runner_for_them() -> None:
    story = Story().up(1)
    story.submit_calls(1, CallLimits(retries=1, retry_delays=(5.0,)))
    story.loses(1, 3)
    assert story.shuts_down() == []
    assert story.at(5.0) == ["send 3.2 to 1"]
    assert story.results(1, 3) == ["3 = result of 3.2", "stop 1: shutdown"]


def test_draining_keeps_a_free_runner_while_a_call_waits_behind_another() -> None:
    story = Story(max=2).up(1, 1)
    story.submit_calls(4)
    story.results(2, 6, 8)
    assert story.shuts_down() == []
    assert story.returns(1, 7) == ["send 7.1 to 2"]
    assert story.results(2, 7) == ["7 = result of 7.1", "stop 2: shutdown"]


def test_draining_ends_where_nothing_boots() -> None:
    story = Story(max_boot_failures=1)
    story.submit_calls(2)
    story.shuts_down()
    assert story.fails(1) == ["1 = BootError", "2 = BootError", "closed"]


def test_draining_does_not_keep_min_and_stops_boots_that_no_call_needs() -> None:
    story = Story(min=1, max=3)
    story.submit_calls(5)
    assert story.stats.runners_booting == 3
    story.tell(events.CancelRequested([1, 2, 3]))
    assert story.shuts_down() == ["stop 2: shutdown", "stop 3: shutdown"]
    assert story.tell(events.CancelRequested([4, 5])) == ["4 = cancelled", "5 = cancelled", "stop 1: shutdown"]
    assert [story.is_gone(i) for i in (2, 3, 1)] == [[], [], ["closed"]]


@pytest.mark.parametrize(
    ("answers", "last"),
    [
        ([events.RunnerGone(1)], ["closed"]),
        ([events.BootFailed(1, OSError("aborted"), 1.0)], ["closed"]),
        ([events.BootSucceeded(1, 2), events.RunnerGone(1)], ["closed"]),
        ([events.RunnerLost(1, lost(1)), events.RunnerGone(1)], ["closed"]),
    ],
    ids=["gone", "failed", "succeeded nevertheless", "lost"],
)
def test_a_boot_that_was_aborted_may_end_in_any_way(answers: list[events.Event], last: list[str]) -> None:
    story = Story()
    story.submit_calls(1)
    assert story.shuts_down(KILL) == ["stop 1: killed", "1 = cancelled"]
    for event in answers[:-1]:
        assert story.tell(event) == []
    assert story.tell(answers[-1]) == last
    assert story.stats.boots_failed == 0, "it was told to go"


def test_cancelling_what_waits_lets_what_runs_finish() -> None:
    story = Story().up(1)
    story.submit_calls(4, CallLimits(retries=1, retry_delays=(5.0,)))
    story.loses(1, 3)
    assert set(story.nodes[1].flying) == {4, 5}
    assert story.shuts_down(CANCEL_QUEUED) == ["3 = cancelled", "6 = cancelled"]
    assert story.results(1, 4, retryable=True) == ["4 = result of 4.1"], "nothing is tried again"
    assert story.results(1, 5) == ["5 = result of 5.1", "stop 1: shutdown"]


def test_cancelling_what_waits_spares_the_calls_whose_slots_are_booting() -> None:
    story = Story(max=2)
    story.submit_calls(7, CallLimits(retries=1, retry_delays=(5.0,)))
    assert story.shuts_down(CANCEL_QUEUED) == ["5 = cancelled", "6 = cancelled", "7 = cancelled"]
    assert story.boots(1, slots=1) == ["send 1.1 to 1", "send 2.1 to 1"]
    assert story.fails(2) == ["3 = cancelled", "4 = cancelled"]
    assert story.results(1, 1, 2) == ["1 = result of 1.1", "2 = result of 2.1", "stop 1: shutdown"]
    assert story.is_gone(1) == ["closed"]


def test_what_comes_back_unstarted_after_cancelling_is_cancelled_and_what_is_lost_fails() -> None:
    story = Story().up(1)
    story.submit_calls(2, CallLimits(retries=5))
    story.shuts_down(CANCEL_QUEUED)
    assert story.returns(1, 4) == ["4 = cancelled"]
    assert story.loses(1, 3) == ["3 = RunnerLostError", "stop 1: shutdown"]


def test_killing_settles_everything_and_stops_everything_at_once() -> None:
    story = Story(max=2)
    story.submit_calls(5)
    story.boots(1, 1)
    lines = story.shuts_down(KILL)
    assert lines == [
        *("stop 1: killed", "stop 2: killed"),
        *("3 = cancelled", "4 = cancelled", "5 = cancelled", "1 = RunnerLostError", "2 = RunnerLostError"),
    ]
    assert "terminated" in str(story.errors[1])
    stops = [action for action in story.last_actions if isinstance(action, actions.Stop)]
    assert [stop.grace for stop in stops] == [0.0, 0.0]
    assert story.results(1, 1) == []
    story.is_gone(1)
    assert story.is_gone(2) == ["closed"]


def test_a_stronger_mode_may_follow_and_a_weaker_one_changes_nothing() -> None:
    story = Story().up(1)
    story.submit_calls(3)
    assert story.shuts_down(DRAIN) == []
    assert story.shuts_down(CANCEL_QUEUED) == ["5 = cancelled"]
    assert story.shuts_down(DRAIN) == []
    assert story.shuts_down(KILL) == ["stop 1: killed", "3 = RunnerLostError", "4 = RunnerLostError"]
    assert story.is_gone(1) == ["closed"]


def test_a_runner_has_the_pools_grace_when_it_is_told_to_go() -> None:
    story = Story(shutdown_grace=7.0).up(1)
    story.shuts_down()
    assert story.last_actions == [actions.Stop(1, 7.0, "shutdown")]


def test_a_call_that_slips_in_after_a_shutdown_is_settled_with_the_standard_librarys_error() -> None:
    story = Story()
    story.shuts_down()
    assert story.submit_calls(2) == ["1 = RuntimeError", "2 = RuntimeError"]
    assert str(story.errors[1]) == "cannot schedule new futures after shutdown"


def test_a_call_that_is_being_killed_holds_its_runner_until_it_has_left() -> None:
    story = Story().up(1)
    story.submit_calls(1)
    story.tell(events.CancelRequested([3]))
    assert story.shuts_down() == []
    assert story.tell(events.CallGone(1, 3, 1)) == ["stop 1: shutdown"]


def test_a_runner_that_is_being_asked_whether_it_is_idle_goes_in_a_shutdown() -> None:
    story = Story(idle_after=5.0, idle_check=True).up(1)
    story.at(5.0)
    assert story.shuts_down() == ["stop 1: shutdown"]
    assert story.tell(events.IdleChecked(1, idle=True)) == []


def test_a_broken_pool_fails_everything_now_and_later() -> None:
    story = Story(min=1, max=2)
    story.submit_calls(4)
    story.boots(1, 1)
    broken = errors.InitializerError("the initializer raised")
    lines = story.tell(events.PoolBroke(broken))
    assert lines == ["stop 1: broken", "stop 2: broken", *(f"{i} = InitializerError" for i in range(1, 5))]
    story.is_gone(1)
    assert story.is_gone(2) == [], "nothing boots again, not even min, and it is not shut down"
    assert story.submit_calls(1) == ["5 = InitializerError"]
    assert story.tell(events.PoolBroke(OSError("another"))) == []
    assert story.errors[5] is broken
    assert story.stats.limits_that_bind == ("broken",)
    assert story.shuts_down() == ["closed"]


def test_a_pool_that_breaks_while_it_drains_closes_when_its_runners_are_gone() -> None:
    story = Story().up(1)
    story.submit_calls(1)
    story.shuts_down()
    assert story.tell(events.PoolBroke(OSError("bug"))) == ["stop 1: broken", "3 = OSError"]
    assert story.is_gone(1) == ["closed"]
