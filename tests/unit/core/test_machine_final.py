"""Boots that fail for a reason that no further boot can mend: what waits is told, and nobody is asked in vain."""

from __future__ import annotations

import copy
import pickle

import pytest

from dragonfly_executor import errors
from dragonfly_executor.core import events
from tests.support.story import Story


def final() -> errors.BootError:
    return errors.BootError("the token was revoked", final=True)


@pytest.mark.parametrize(
    "error",
    [
        errors.VersionMismatchError("3.11 here and 3.12 there", "handshake"),
        errors.HostKeyError("another key than it used to be", "host key"),
        errors.BootError("the token was revoked", final=True),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_no_further_boot_can_mend_fails_what_waits_at_once(error: errors.BootError) -> None:
    story = Story()
    story.submit_calls(3)
    assert story.fails(1, error, retry_in=4.0) == [f"{i} = {type(error).__name__}" for i in (1, 2, 3)]
    assert story.errors[1] is error
    assert error.attempts == 1
    assert story.machine.deadline() == 4.0
    assert story.at(4.0) == [], "and nothing boots again until somebody asks"
    assert story.submit_calls(1) == ["boot 2"]


def test_boots_under_way_may_still_end_better_than_one_that_no_further_boot_can_mend() -> None:
    """Their machines may have been made before: what waits is theirs, and nothing else is tried meanwhile."""
    story = Story(max=4)
    story.submit_calls(5)
    assert story.fails(1, final(), retry_in=0.0) == []
    assert story.fails(2, retry_in=0.0) == []
    assert story.submit_calls(3) == []
    assert story.boots(3)[:2] == ["send 1.1 to 3", "send 2.1 to 3"]


def test_where_the_boots_under_way_fail_too_it_is_the_error_that_nothing_mends_that_is_told() -> None:
    story = Story(max=3)
    story.submit_calls(5)
    error = final()
    assert story.fails(1, error) == []
    assert story.fails(2) == []
    assert story.fails(3) == [f"{i} = BootError" for i in range(1, 6)]
    assert all(story.errors[i] is error for i in range(1, 6))
    assert error.attempts == 3
    assert story.submit_calls(1) == ["boot 4"]
    assert story.fails(4) == [], "that is over: another boot counts anew"


def test_with_a_runner_up_what_waits_is_its_own_and_boots_that_cannot_end_better_keep_their_pauses() -> None:
    story = Story(max=2).up(2)
    story.submit_calls(5)
    assert story.fails(2, final(), retry_in=3.0) == []
    assert story.submit_calls(1) == [], "asking again does not end the pause"
    assert story.at(3.0) == ["boot 3"]
    assert story.fails(3, final(), retry_in=3.0) == []
    story.loses_runner(1)
    story.is_gone(1)
    assert story.at(6.0) == ["boot 4"]
    assert all(line.endswith(" = BootError") for line in story.fails(4, final()))
    assert story.stats.calls_queued == 0


def test_min_that_nothing_can_mend_is_tried_again_with_pauses_for_ever() -> None:
    """A person may have mended it."""
    story = Story(min=1)
    story.tell(events.Tick())
    for runner_id in range(1, 5):
        assert story.fails(runner_id, final(), retry_in=1.0) == []
        assert story.at(story.now + 1.0) == [f"boot {runner_id + 1}"]


def test_boots_that_are_given_up_take_their_hope_with_them() -> None:
    story = Story(max=2)
    story.submit_calls(4)
    story.fails(1, final(), retry_in=1.0)
    assert story.tell(events.CancelRequested([3, 4])) == ["3 = cancelled", "4 = cancelled"]
    assert story.leaves(2) == ["stop 2: leaving"]
    story.is_gone(2)
    assert story.at(1.0) == ["boot 3"], "another round"
    assert story.fails(3) == [], "what was wrong then is not what is wrong now"


class NoLicence(errors.BootError):
    """A backend's own, of which each is final."""

    final = True


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.BootError("no"), False),
        (errors.BootError("no", "create", 2, "last words", True), True),
        (errors.BootTimeoutError("late", final=True), True),
        (errors.VersionMismatchError("3.11 and 3.12"), True),
        (errors.HostKeyError("another key", final=False), False),
        (NoLicence("none"), True),
    ],
    ids=str,
)
def test_an_error_stays_final_or_not_wherever_it_goes(error: errors.BootError, expected: bool) -> None:
    error.attempts = 7
    for each in (error, pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(each) is type(error)
        assert (each.final, each.attempts, each.output, str(each)) == (expected, 7, error.output, str(error))
