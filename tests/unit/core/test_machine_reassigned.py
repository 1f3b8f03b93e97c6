"""Runners that have less than the calls for which they were booted require."""

from __future__ import annotations

from dragonfly_executor.core import events
from dragonfly_executor.core.capacity import Capacity
from dragonfly_executor.errors import BootError
from tests.support.story import Story

TWO_CPUS = Capacity(2.0, memory=8)
SMALL = BootError("runner 1 has 2 CPUs")


def reassign(story: Story, kind: str, runner_id: int = 1, retry_in: float = 1.0) -> list[str]:
    return story.tell(events.BootReassigned(runner_id, kind, SMALL, retry_in))


def comes_up(story: Story, runner_id: int = 1, slots: int = 2) -> list[str]:
    return story.tell(events.BootSucceeded(runner_id, slots, None, TWO_CPUS))


def test_the_calls_that_fit_run_there_and_the_others_get_another_boot() -> None:
    story = Story(max=2, slots_hint=2, max_concurrent_boots=1)
    assert story.submit_calls(1, kinds=["cpu 3"]) == ["boot 1 of cpu 3"]
    assert story.submit_calls(1, kinds=["cpu 2"]) == []
    assert story.machine.use_of(TWO_CPUS) == "cpu 2"
    assert reassign(story, "cpu 2") == []
    assert comes_up(story) == ["send 2.1 to 1"]
    assert story.results(1, 2) == ["2 = result of 2.1"]
    story.now += 1
    assert story.tell(events.Tick()) == ["boot 2 of cpu 3"]
    stats = story.machine.stats(story.now)
    assert (stats.boots_attempted, stats.boots_failed, stats.last_boot_error) == (2, 1, str(SMALL))


def test_the_calls_that_asked_for_it_fail_after_enough_boots() -> None:
    story = Story(max=1, max_boot_failures=1)
    story.submit_calls(1, kinds=["cpu 3"])
    story.submit_calls(1)
    assert reassign(story, "") == ["1 = BootError"]
    assert "runner 1 has 2 CPUs" in str(story.errors[1])
    assert comes_up(story) == ["send 2.1 to 1"]


def test_calls_come_in_their_order() -> None:
    """The oldest of those that fit says what the runner is for."""
    story = Story(max=1)
    story.submit_calls(1, kinds=["gpu 1"])
    story.submit_calls(2, kinds=["cpu 2", "memory"])
    assert story.machine.use_of(TWO_CPUS) == "cpu 2"
    assert story.machine.use_of(Capacity(1.0, memory=8)) == "memory"
    assert story.machine.use_of(Capacity(1.0)) is None


def test_calls_that_do_not_wait_need_no_such_runner() -> None:
    story = Story(max=2, slots_hint=1)
    story.submit_calls(1)
    comes_up(story)
    story.submit_calls(1, kinds=["cpu 3"])
    assert story.machine.use_of(TWO_CPUS) is None


def test_what_does_not_boot_is_not_reassigned() -> None:
    story = Story(max=2, slots_hint=1)
    story.submit_calls(1, kinds=["cpu 2"])
    comes_up(story)
    for kind, runner_id in (("", 1), ("", 9), ("cpu 2", 1)):
        assert reassign(story, kind, runner_id) == []
    story.submit_calls(1, kinds=["cpu 3"])
    assert reassign(story, "never heard of", 2) == []
    assert story.machine.stats(story.now).boots_failed == 0
