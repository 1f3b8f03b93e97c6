"""How many boots a backend can run at once: the machine asks for no more, and boots that hang keep their places."""

from __future__ import annotations

from dragonfly_executor import errors
from dragonfly_executor.core import events
from dragonfly_executor.core.events import ShutdownMode
from tests.support.story import Story


def test_no_more_boots_are_asked_for_than_can_run() -> None:
    story = Story(max=9, max_concurrent_boots=2, single_use=True)
    assert story.submit_calls(5) == ["boot 1", "boot 2"]
    assert story.stats.limits_that_bind == ("max_concurrent_boots",)
    assert story.boots(1, 1) == ["send 1.1 to 1", "boot 3"]
    assert story.boots(3, 1) == ["send 2.1 to 3", "boot 4"]
    assert story.boots(2, 1) == ["send 3.1 to 2", "boot 5"]
    # One call waits, and one runner boots.
    assert story.boots(4, 1) == ["send 4.1 to 4"]
    assert story.stats.limits_that_bind == ()


def test_without_a_word_it_is_a_hundred() -> None:
    story = Story(max=500, slots_hint=1)
    assert len(story.submit_calls(500)) == 100


def test_min_is_booted_as_fast_as_the_backend_can() -> None:
    story = Story(min=3, max=9, max_concurrent_boots=2)
    assert story.tell(events.Tick()) == ["boot 1", "boot 2"]
    assert story.boots(1) == ["boot 3"]


def test_a_boot_that_failed_makes_room_at_once() -> None:
    story = Story(max=9, max_concurrent_boots=1, slots_hint=1)
    assert story.submit_calls(3) == ["boot 1"]
    assert story.fails(1, retry_in=0.0) == ["boot 2"]


def test_a_boot_that_was_given_up_has_its_place_until_it_is_gone() -> None:
    story = Story(max=9, max_concurrent_boots=1, slots_hint=1, min=1)
    assert story.submit_calls(1) == ["boot 1"]
    assert story.tell(events.Resized(0, 1)) == []
    assert story.tell(events.CancelRequested([1])) == ["1 = cancelled"]
    assert story.shuts_down(ShutdownMode.DRAIN) == ["stop 1: shutdown"]
    assert story.is_gone(1) == ["closed"]
    assert story.machine.pool.runner_table.tiers[0].boots.free == 1


def test_calls_wait_for_those_that_are_up_while_all_boots_hang() -> None:
    story = Story(max=9, max_concurrent_boots=1, single_use=True)
    assert story.submit_calls(3) == ["boot 1"]
    assert story.boots(1, 1) == ["send 1.1 to 1", "boot 2"]
    assert story.fails(2, retry_in=0.0, hangs=True) == []
    assert story.stats.limits_that_bind == ("max_concurrent_boots",)
    assert story.returns_late(2) == ["boot 3"]
    # With the last runner goes the hope, if no boot can begin.
    assert story.fails(3, retry_in=0.0, hangs=True) == []
    assert story.results(1, 1) == ["stop 1: used", "1 = result of 1.1", "2 = BootError", "3 = BootError"]


def test_calls_end_where_every_boot_hangs_and_nothing_is_up() -> None:
    """Nobody waits for nothing: no other boot can begin. The pause after a failure is for the backend to come back."""
    story = Story(max=9, max_concurrent_boots=2, slots_hint=1, max_boot_failures=9)
    assert story.submit_calls(3) == ["boot 1", "boot 2"]
    error = errors.BootTimeoutError("too slow")
    assert story.fails(1, error, retry_in=1.0, hangs=True) == []
    assert story.fails(2, error, retry_in=3.0, hangs=True) == []
    assert story.at(3.0) == ["1 = BootError", "2 = BootError", "3 = BootError"]
    assert "2 boots that were given up" in str(story.errors[1])
    assert story.errors[1].__cause__ is error
    # Later calls do not wait either, and those after the backend is back are tried.
    assert story.submit_calls(1) == ["4 = BootError"]
    assert story.returns_late(1) == []
    assert story.submit_calls(2) == ["boot 3"]
    assert story.stats.stale == 0


def test_the_backend_may_come_back_within_the_pause() -> None:
    story = Story(max=9, max_concurrent_boots=1, slots_hint=1, max_boot_failures=9)
    story.submit_calls(1)
    assert story.fails(1, retry_in=3.0, hangs=True) == []
    story.now = 1.0
    assert story.returns_late(1) == []
    assert story.at(3.0) == ["boot 2"]


def test_a_boot_that_was_given_up_and_hangs_keeps_its_place() -> None:
    story = Story(max=1, max_concurrent_boots=1, slots_hint=1)
    story.submit_calls(1)
    story.tell(events.CancelRequested([1]))
    story.tell(events.RunnerLeaving(1))
    assert story.nodes[1].stopped
    assert story.is_gone(1, hangs=True) == []
    assert story.submit_calls(1) == ["2 = BootError"]
    assert story.returns_late(1) == []
    assert story.submit_calls(1) == ["boot 2"]


def test_what_comes_back_twice_or_never_hung_changes_nothing() -> None:
    story = Story(max=9, max_concurrent_boots=1)
    story.submit_calls(1)
    story.returns_late(1)
    assert story.machine.pool.runner_table.tiers[0].boots.free == 0
    story.boots(1)
    story.returns_late(1)
    story.returns_late(7)
    assert story.stats.stale == 3
    assert story.machine.pool.runner_table.tiers[0].boots.free == 1
