"""What ends very many calls settles them in slices: other events are handled in between, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dragonfly_executor import errors
from dragonfly_executor.core import events
from dragonfly_executor.core.call_table import CallLimits
from dragonfly_executor.core.events import ShutdownMode
from dragonfly_executor.core.usage import UsageCaps
from tests.support.story import Story


def turn(story: Story) -> list[str]:
    """The machine has asked to be called at once."""
    deadline = story.machine.deadline()
    assert deadline is not None
    assert deadline <= story.now
    return story.tell(events.Tick())


def test_a_shutdown_cancels_what_waits_in_slices_and_in_order() -> None:
    story = Story(at_once=2).up(1)
    story.submit_calls(7)
    waiting = [i for i, account in story.accounts.items() if not account.outcomes and account.call.runner is None]
    running = sorted(story.nodes[1].flying)
    assert len(waiting) == 5
    lines = story.shuts_down(ShutdownMode.CANCEL_QUEUED)
    assert lines == [f"{i} = cancelled" for i in waiting[:2]]
    assert story.stats.calls_queued == 3
    assert story.results(1, *running) == [
        *(f"{i} = result of {i}.1" for i in running),
        "stop 1: shutdown",
    ]
    assert turn(story) == [f"{i} = cancelled" for i in waiting[2:4]]
    assert turn(story) == [f"{waiting[4]} = cancelled"]
    assert story.is_gone(1) == ["closed"]


def test_a_pool_does_not_close_before_all_is_settled() -> None:
    story = Story(at_once=2)
    story.submit_calls(5)
    assert story.shuts_down(ShutdownMode.KILL) == ["stop 1: killed", "1 = cancelled", "2 = cancelled"]
    assert story.is_gone(1) == []
    assert turn(story) == ["3 = cancelled", "4 = cancelled"]
    assert turn(story) == ["5 = cancelled", "closed"]


def test_a_broken_pool_fails_its_calls_in_slices_the_oldest_first_and_sends_none() -> None:
    story = Story(at_once=2).up(1)
    story.submit_calls(5)
    error = errors.InitializerError("the initializer raised")
    first = min(story.nodes[1].flying)
    lines = story.tell(events.PoolBroke(error))
    assert lines == ["stop 1: broken", f"{first} = InitializerError", f"{first + 1} = InitializerError"]
    assert story.tell(events.CancelRequested([first + 2])) == [f"{first + 2} = cancelled"]
    assert turn(story) == [f"{first + 3} = InitializerError"], "the one that was cancelled is passed over"
    assert turn(story) == [f"{first + 4} = InitializerError"]
    assert not story.machine.pool.is_behind


def test_a_call_whose_runner_was_stopped_under_it_can_be_cancelled_until_it_fails() -> None:
    story = Story(at_once=1, max=2, slots_hint=1)
    story.submit_calls(2)
    story.boots(1, 1)
    story.boots(2, 1)
    assert story.shuts_down(ShutdownMode.KILL) == ["stop 1: killed", "stop 2: killed", "1 = RunnerLostError"]
    assert story.tell(events.CancelRequested([2])) == ["2 = cancelled"], "there is nothing left to kill"


def test_a_stronger_shutdown_goes_on_where_the_weaker_one_was() -> None:
    story = Story(at_once=1).up(1)
    story.submit_calls(4)
    running = sorted(story.nodes[1].flying)
    waiting = [i for i, account in story.accounts.items() if not account.outcomes and i not in running]
    assert story.shuts_down(ShutdownMode.CANCEL_QUEUED) == [f"{waiting[0]} = cancelled"]
    assert story.shuts_down(ShutdownMode.KILL) == ["stop 1: killed"]
    assert turn(story) == [f"{waiting[1]} = cancelled"]
    for call_id in running:
        while not (lines := turn(story)):
            continue
        assert lines == [f"{call_id} = RunnerLostError"]


def test_calls_that_come_after_the_pool_gave_up_booting_are_not_given_up_with_the_others() -> None:
    story = Story(at_once=1, max_boot_failures=1)
    story.submit_calls(3)
    assert story.fails(1, retry_in=0.0) == ["1 = BootError"]
    assert story.submit_calls(1) == ["boot 2"]
    assert turn(story) == ["2 = BootError"]
    assert story.boots(2, 1) == ["send 4.1 to 2"]
    assert turn(story) == ["3 = BootError"]
    assert story.results(2, 4) == ["4 = result of 4.1"]


def test_calls_that_a_budget_ends_fail_in_slices_those_that_come_meanwhile_last() -> None:
    story = Story(at_once=2, caps=UsageCaps(machine_seconds=5.0))
    story.submit_calls(3)
    story.asks(1)
    story.now = 6.0
    lines = story.tell(events.Tick())
    assert lines == ["warn: the pool's budget of", "stop 1: budget", "1 = BudgetExceeded", "2 = BudgetExceeded"]
    assert story.submit_calls(2) == []
    assert turn(story) == ["3 = BudgetExceeded", "4 = BudgetExceeded"]
    assert turn(story) == ["5 = BudgetExceeded"]


@pytest.mark.parametrize("limits", [CallLimits(timeout=5.0), CallLimits(queue_timeout=5.0)], ids=["timeout", "queue"])
def test_calls_time_out_in_slices_and_none_is_sent_meanwhile(limits: CallLimits) -> None:
    story = Story(at_once=2)
    story.submit_calls(5, limits)
    story.submit_calls(1)
    story.now = 5.0
    assert story.boots(1, 2) == ["1 = CallTimeoutError", "2 = CallTimeoutError"]
    assert turn(story) == ["3 = CallTimeoutError", "4 = CallTimeoutError"]
    assert turn(story) == ["send 6.1 to 1", "5 = CallTimeoutError"]


def test_calls_that_were_given_up_do_not_time_out() -> None:
    """What they end with was decided when the pool was shut down."""
    story = Story(at_once=1)
    story.submit_calls(4, CallLimits(timeout=5.0))
    story.fails(1, OSError("no"))
    story.now = 4.0
    assert story.shuts_down(ShutdownMode.KILL) == ["1 = cancelled"]
    story.now = 6.0
    assert [*turn(story), *turn(story), *turn(story)] == ["2 = cancelled", "3 = cancelled", "4 = cancelled", "closed"]


def test_retries_that_are_due_at_once_are_queued_in_slices() -> None:
    story = Story(at_once=2, max=1, slots_hint=4)
    story.submit_calls(4, CallLimits(retries=1, retry_delays=(3.0,)))
    story.boots(1, 4)
    story.results(1, 1, 2, 3, 4, retryable=True)
    assert story.at(3.0) == ["send 1.2 to 1", "send 2.2 to 1"]
    assert turn(story) == ["send 3.2 to 1", "send 4.2 to 1"]
    assert not story.machine.pool.is_behind


@pytest.mark.parametrize(
    "end",
    [
        lambda story: story.shuts_down(ShutdownMode.CANCEL_QUEUED),
        lambda story: story.shuts_down(ShutdownMode.KILL),
        lambda story: story.tell(events.PoolBroke(OSError("broken"))),
    ],
    ids=["cancel", "kill", "break"],
)
def test_one_event_settles_a_thousand_calls_at_most(end: Callable[[Story], list[str]]) -> None:
    story = Story().up(1)
    story.submit_calls(2500)
    counts = [sum(" = " in line for line in end(story))]
    while story.machine.pool.is_behind:
        counts.append(sum(" = " in line for line in turn(story)))
    assert counts[:2] == [1000, 1000]
    assert sum(counts) in (2498, 2500)
