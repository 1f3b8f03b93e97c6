"""Calls that wait for child calls which no runner can take: the pool warns, once."""

from __future__ import annotations

import pytest

from dragonfly_executor.core import actions, events, placement
from dragonfly_executor.core.calls import CallLimits
from tests.support.story import Story

PLAIN = CallLimits()
WARNING = "warn: a call waits for a runner"


@pytest.fixture(autouse=True)
def no_call_is_sent_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "prefetch", lambda *_: 0)


def waiting(kind: str, *, max: int = 1) -> tuple[Story, int, list[str]]:  # noqa: A002  # the option's name
    """A call that waits for a child call of this kind, the number of that, and what came of it."""
    story = Story(max=max).up(2)
    story.submit_calls(1)
    outer = len(story.accounts)
    story.has_lent = True
    child = story.submit_child(outer, PLAIN, kind)
    return story, child, story.tell(events.CallsWait(1, [(outer, 1, True)]))


def test_a_call_that_waits_for_a_kind_without_room_is_told_of_once() -> None:
    story, child, lines = waiting("gpu")
    assert lines == [WARNING]
    (warning,) = [each.text for each in story.last_actions if isinstance(each, actions.Warn)]
    assert "every call on the runners that are up waits for child calls: max=1 has no room" in warning
    outer = child - 1
    assert story.tell(events.CallsWait(1, [(outer, 1, False)])) == []
    assert story.tell(events.CallsWait(1, [(outer, 1, True)])) == []


def test_the_child_call_begins_when_there_is_room() -> None:
    story, child, _ = waiting("gpu")
    assert story.tell(events.Resized(0, 2)) == ["boot 2 of gpu"]
    assert story.boots(2) == [f"send {child}.1 to 2"]


def test_no_call_is_stuck_while_another_one_runs_or_a_runner_can_boot() -> None:
    story, child, lines = waiting("gpu", max=2)
    assert lines == []
    assert story.is_gone(2) == ["boot 3 of gpu"]
    assert story.boots(3) == [f"send {child}.1 to 3"]
    story, child, lines = waiting("")
    assert lines == []
    assert story.accounts[child].call.runner == 1
    story = Story(max=1).up(2)
    story.submit_calls(2)
    story.has_lent = True
    first, second = sorted(story.accounts)[-2:]
    story.submit_child(first, PLAIN, "gpu")
    assert story.tell(events.CallsWait(1, [(first, 1, True)])) == []
    assert story.tell(events.CallsWait(1, [(second, 1, True)])) == [WARNING]
