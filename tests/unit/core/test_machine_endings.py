"""Runners whose end is known: what is still sent there, when they drain, and what becomes of their calls."""

from __future__ import annotations

from dragonfly_executor import errors
from dragonfly_executor.core import events
from dragonfly_executor.core.call_table import CallLimits
from dragonfly_executor.core.events import ShutdownMode
from tests.support.story import Story


def limited(seconds: float | None) -> CallLimits:
    return CallLimits(run_timeout=seconds)


def test_a_runner_drains_before_its_end_and_its_calls_fail_at_its_end() -> None:
    story = Story(max=2, slots_hint=1)
    story.submit_calls(1)
    story.boots(1, 1)
    assert story.ends(1, 100.0, "Slurm ended job 17 at its time limit") == []
    assert story.machine.deadline() == 70.0
    assert story.at(69.0) == []
    assert story.at(70.0) == ["drain 1 in 30"]
    assert story.leaves(1) == []
    assert story.submit_calls(1) == ["boot 2"]
    assert story.at(100.0) == ["stop 1: its time is over", "1 = RunnerLostError"]
    error = story.errors[1]
    assert isinstance(error, errors.RunnerLostError)
    assert error.runner_id == 1
    assert "runner 1 was lost: Slurm ended job 17 at its time limit" in str(error)


def test_a_call_that_may_be_tried_again_is() -> None:
    story = Story(max=2, slots_hint=1)
    story.submit_calls(1, CallLimits(retries=1))
    story.boots(1, 1)
    story.ends(1, 100.0)
    story.at(70.0)
    assert story.at(100.0) == ["stop 1: its time is over", "boot 2"]
    assert story.boots(2, 1) == ["send 1.2 to 2"]


def one_idle_runner() -> Story:
    """A pool of at most two runners; the first is up, and has run call 1."""
    story = Story(max=2, slots_hint=1)
    story.submit_calls(1)
    story.boots(1, 1)
    story.results(1, 1)
    return story


def test_what_waits_there_comes_back_and_a_runner_whose_calls_have_ended_goes() -> None:
    story = Story(max=2, slots_hint=1)
    story.submit_calls(1)
    story.boots(1, 1)
    assert story.submit_calls(1) == ["send 2.1 to 1", "boot 2"]
    story.ends(1, 100.0)
    story.boots(2, 1)
    assert story.at(70.0) == ["drain 1 in 30"]
    assert story.returns(1, 2) == ["send 2.1 to 2"]
    assert story.results(1, 1) == ["stop 1: leaving", "1 = result of 1.1"]
    assert story.is_gone(1) == []
    assert story.machine.deadline() is None


def test_an_idle_runner_is_stopped_at_once() -> None:
    story = Story(max=1).up(2)
    story.ends(1, 100.0)
    assert story.at(70.0) == ["stop 1: its time is nearly over"]


def test_min_is_refilled_when_the_drain_begins() -> None:
    story = Story(min=1, max=2, slots_hint=1)
    story.tell(events.Tick())
    story.boots(1, 1)
    story.submit_calls(1)
    story.ends(1, 100.0)
    assert story.at(70.0) == ["drain 1 in 30", "boot 2"]


def test_a_short_life_drains_at_its_half() -> None:
    story = Story(max=1).up(1)
    story.submit_calls(1)
    story.ends(1, 20.0)
    assert story.at(10.0) == ["drain 1 in 10"]


def test_a_notice_shortens_what_is_left_and_a_new_limit_lengthens_it() -> None:
    story = Story(max=1).up(1)
    story.submit_calls(1)
    story.ends(1, 1000.0)
    story.ends(1, 5000.0)
    assert story.at(970.0) == []
    assert story.machine.deadline() == 4970.0
    story.ends(1, 980.0)
    assert story.call(2).runner is None or story.stats.runners_up == 0
    assert story.at(980.0)[0] == "stop 1: its time is over"


def test_an_end_that_is_known_before_the_runner_is_up() -> None:
    story = Story(max=1, slots_hint=1)
    story.submit_calls(1)
    story.ends(1, 100.0)
    assert story.machine.deadline() is None
    assert story.boots(1, 1) == ["send 1.1 to 1"]
    assert story.machine.deadline() == 70.0


def test_a_call_goes_only_where_it_has_the_time() -> None:
    """Others may pass it there. It does not keep a free runner from them."""
    story = one_idle_runner()
    story.ends(1, 100.0)
    story.at(50.0)
    assert story.submit_calls(1, limited(60.0)) == ["boot 2"]
    assert story.submit_calls(1, limited(40.0)) == ["send 3.1 to 1"]
    assert story.boots(2, 1) == ["send 2.1 to 2"]


def test_a_call_for_which_no_runner_has_the_time_is_sent_anyway() -> None:
    """It waits for nothing that could come."""
    story = one_idle_runner()
    story.ends(1, 100.0)
    story.at(50.0)
    assert story.submit_calls(1, limited(101.0)) == ["send 2.1 to 1"]


def test_a_call_without_run_timeout_is_sent_until_the_drain_begins() -> None:
    story = one_idle_runner()
    story.ends(1, 100.0)
    story.at(69.0)
    assert story.submit_calls(1) == ["send 2.1 to 1"]
    assert story.at(70.0) == ["drain 1 in 30"]
    assert story.submit_calls(1) == ["boot 2"]


def test_calls_that_are_running_end_in_a_shutdown_too() -> None:
    story = Story(max=1, slots_hint=1)
    story.submit_calls(1)
    story.boots(1, 1)
    story.ends(1, 100.0)
    story.shuts_down(ShutdownMode.DRAIN)
    assert story.at(70.0) == ["drain 1 in 30"]
    assert story.at(100.0) == ["stop 1: its time is over", "1 = RunnerLostError"]
    assert story.is_gone(1) == ["closed"]


def test_the_end_of_a_runner_that_is_gone_is_nothing() -> None:
    story = Story(max=1).up(1)
    story.ends(1, 100.0)
    story.loses_runner(1)
    story.is_gone(1)
    assert story.ends(1, 50.0) == []
    assert story.machine.deadline() is None
