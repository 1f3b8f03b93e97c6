"""Boots that wait in somebody's queue: they are aborted when no call has needed them for a while."""

from __future__ import annotations

from dragonfly_executor.core import events
from dragonfly_executor.core.call_table import CallLimits
from tests.support.story import Story


def queued_story(calls: int, **limits: object) -> Story:
    """A pool whose calls have a boot each, and all of these boots wait."""
    story = Story(**{"max": 9, "slots_hint": 1, **limits})
    story.submit_calls(calls)
    for runner_id in range(1, calls + 1):
        story.waits(runner_id)
    return story


def test_boots_that_no_call_needs_any_more_are_aborted_the_latest_first() -> None:
    story = queued_story(4)
    story.tell(events.CancelRequested([1, 2]))
    assert story.machine.deadline() == 5.0
    assert story.at(4.9) == []
    assert story.at(5.0) == ["stop 3: no call needs it any more", "stop 4: no call needs it any more"]
    assert story.stats.boots_queued == 2
    assert story.machine.deadline() is None


def test_a_boot_that_has_started_is_kept() -> None:
    """Its node exists, and takes the calls first."""
    story = queued_story(3)
    story.asks(3)
    story.tell(events.CancelRequested([1, 2]))
    assert story.at(5.0) == ["stop 1: no call needs it any more", "stop 2: no call needs it any more"]
    assert story.machine.pool.runner_table.booting.keys() == {3}


def test_a_call_that_comes_in_time_keeps_the_place_in_the_queue() -> None:
    story = queued_story(2)
    story.tell(events.CancelRequested([1, 2]))
    story.at(3.0)
    story.submit_calls(1)
    assert story.at(5.0) == ["stop 2: no call needs it any more"]
    assert story.at(100.0) == []


def test_a_need_ends_the_wait_of_all() -> None:
    story = queued_story(1)
    story.tell(events.CancelRequested([1]))
    story.at(4.0)
    story.submit_calls(1)
    story.at(4.5)
    story.tell(events.CancelRequested([2]))
    assert story.machine.deadline() == 9.5
    assert story.at(9.5) == ["stop 1: no call needs it any more"]


def test_min_needs_its_boots() -> None:
    story = Story(min=2, max=4, slots_hint=1)
    story.tell(events.Tick())
    story.waits(1)
    story.waits(2)
    assert story.machine.deadline() is None
    story.now = 1.0
    story.tell(events.Resized(1, 4))
    assert story.at(6.0) == ["stop 2: no call needs it any more"]


def test_a_call_that_waits_for_its_retry_needs_a_boot() -> None:
    """A new boot would wait at the end of the queue."""
    story = Story(max=2, slots_hint=1)
    story.submit_calls(2, CallLimits(retries=1, retry_delays=(60.0,)))
    story.waits(2)
    story.boots(1, 1)
    story.results(1, 1, retryable=True)
    assert story.tell(events.Tick()) == []
    story.results(1, 2)
    assert story.at(30.0) == []
    assert story.stats.boots_queued == 1


def test_a_boot_that_waits_again_is_counted_from_then_on() -> None:
    story = queued_story(1)
    story.tell(events.CancelRequested([1]))
    story.asks(1)
    assert story.at(50.0) == []
    story.waits(1)
    assert story.machine.deadline() == 55.0
    assert story.at(55.0) == ["stop 1: no call needs it any more"]


def test_each_kind_needs_its_own() -> None:
    story = Story(max=4, slots_hint=1)
    story.submit_calls(2, kinds=("", "gpu"))
    story.waits(1)
    story.waits(2)
    story.tell(events.CancelRequested([2]))
    assert story.at(5.0) == ["stop 2: no call needs it any more"]


def test_the_boots_in_a_queue_are_told() -> None:
    story = queued_story(3)
    story.asks(1)
    assert (story.stats.runners_booting, story.stats.boots_queued) == (3, 2)
    assert "3 booting (2 in a queue)" in story.stats.explain
    story.boots(2, 1)
    assert story.stats.boots_queued == 1
