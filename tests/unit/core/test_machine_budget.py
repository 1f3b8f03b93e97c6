"""What runners use is counted, and a cap on it ends what would use more: boots, idle runners, calls that wait."""

from __future__ import annotations

import pytest

from dragonfly_executor import errors
from dragonfly_executor.core import events
from dragonfly_executor.core.call_table import CallLimits
from dragonfly_executor.core.events import ShutdownMode
from dragonfly_executor.core.usage import Usage, UsageCaps
from tests.support.story import PLAIN, PromptStory, Story

TOLD = "warn: the pool's budget of"


def test_a_runner_counts_from_its_boot_until_nothing_of_it_is_left() -> None:
    story = PromptStory(caps=UsageCaps(price=0.5), idle_after=5.0)
    assert (story.stats.machine_seconds, story.stats.cost) == (0.0, 0.0)
    story.now = 10.0
    story.submit_calls(1)
    story.now = 13.0
    story.boots(1)
    assert (story.stats.machine_seconds, story.stats.cost) == (3.0, 1.5)
    story.results(1, 1)
    assert story.at(18.0) == ["stop 1: idle"]
    story.now = 20.0
    assert (story.stats.machine_seconds, story.stats.cost) == (10.0, 5.0)
    (runner,) = story.stats.runners
    assert (runner.machine_seconds, runner.cost) == (10.0, 5.0)
    story.is_gone(1)
    story.now = 99.0
    assert (story.stats.machine_seconds, story.stats.cost) == (10.0, 5.0)


def test_a_boot_counts_from_when_its_node_is_asked_for() -> None:
    """A wait for a thread, a rate limit or a queue is no machine time."""
    story = Story(max=2, min=2, caps=UsageCaps(price=0.5))
    story.tell(events.Tick())
    story.now = 10.0
    assert (story.stats.machine_seconds, story.stats.cost) == (0.0, 0.0)
    story.asks(1)
    story.now = 14.0
    assert (story.stats.machine_seconds, story.stats.cost) == (4.0, 2.0)
    assert [(runner.machine_seconds, runner.cost) for runner in story.stats.runners] == [(4.0, 2.0), (0.0, 0.0)]
    story.asks(1)
    story.boots(1)
    story.now = 15.0
    assert story.stats.machine_seconds == 5.0
    # One that is up before anything was said of it counts from then on.
    story.boots(2)
    story.now = 16.0
    assert story.stats.machine_seconds == 7.0


def test_a_boot_that_has_to_wait_again_has_used_nothing() -> None:
    """There was no node: it was refused, as at a rate limit."""
    story = Story(caps=UsageCaps(price=0.5))
    story.submit_calls(1)
    story.asks(1)
    story.now = 4.0
    story.waits(1)
    assert (story.stats.machine_seconds, story.stats.cost) == (0.0, 0.0)
    story.now = 100.0
    story.waits(1)
    story.asks(1)
    story.now = 101.0
    story.boots(1)
    # Nonsense: it is up.
    story.waits(1)
    story.now = 103.0
    assert (story.stats.machine_seconds, story.stats.cost) == (3.0, 1.5)


def test_a_wait_keeps_what_is_known_of_prices() -> None:
    """The price of a node that there is not does not matter, until there is one."""
    story = Story()
    story.submit_calls(1)
    story.asks(1)
    assert story.stats.cost is None
    story.waits(1)
    assert story.stats.cost == 0.0
    story.asks(1)
    story.now = 2.0
    story.tell(events.BootSucceeded(1, 2, 0.25))
    assert story.stats.cost == 0.5


def test_a_boot_that_never_asks_does_not_use_up_a_budget() -> None:
    story = Story(caps=UsageCaps(machine_seconds=10.0))
    story.submit_calls(1)
    assert story.machine.deadline() is None
    story.now = 1000.0
    story.asks(1)
    assert story.machine.deadline() == 1010.0
    story.waits(1)
    assert story.machine.deadline() is None
    story.shuts_down(ShutdownMode.KILL)
    story.is_gone(1)
    assert story.stats.machine_seconds == 0.0


def test_a_boot_that_fails_has_cost_what_it_took() -> None:
    story = PromptStory(caps=UsageCaps(price=0.5))
    story.submit_calls(1)
    story.now = 4.0
    story.fails(1)
    story.now = 4.5
    assert (story.stats.machine_seconds, story.stats.cost) == (4.0, 2.0)


def test_the_cost_is_unknown_where_one_price_is() -> None:
    story = PromptStory(max=2, min=2)
    story.tell(events.Tick())
    story.now = 2.0
    story.tell(events.BootSucceeded(1, 2, 0.25))
    assert story.stats.cost is None
    assert [runner.cost for runner in story.stats.runners] == [0.5, None]
    story.tell(events.BootSucceeded(2, 2, 1.0))
    assert story.stats.cost == 2.5, "a price counts from the beginning of its runner"


def test_a_cap_that_is_reached_lets_what_runs_go_on_and_ends_the_rest() -> None:
    story = PromptStory(max=3, caps=UsageCaps(machine_seconds=30.0), slots_hint=1)
    story.submit_calls(3)
    story.boots(1, 1)
    story.boots(2, 1)
    # Each runner has a call that runs and one behind it; three wait for the runner that boots.
    assert story.submit_calls(4) == ["send 4.1 to 2"]
    assert story.machine.deadline() == 10.0
    assert story.at(9.0) == []
    assert story.at(10.0) == [TOLD, "stop 3: budget", "5 = BudgetExceeded", "6 = BudgetExceeded", "7 = BudgetExceeded"]
    assert story.stats.limits_that_bind[-1] == "budget"
    assert "held by max, budget" in story.stats.explain
    assert story.machine.deadline() is None, "there is nothing to wait for any more"
    assert story.results(1, 1) == ["1 = result of 1.1"]
    assert story.results(1, 2) == ["stop 1: budget", "2 = result of 2.1"]
    assert story.submit_calls(1) == ["8 = BudgetExceeded"]
    story.now = 12.0
    assert story.is_gone(3) == []
    assert story.is_gone(1) == []
    error = story.errors[5]
    assert isinstance(error, errors.BudgetExceeded)
    assert (error.machine_seconds, error.cost) == (30.0, None)
    assert "budget of 30 machine-seconds is used up" in str(error)


def test_idle_runners_and_min_are_given_back_too() -> None:
    """One that nobody uses must not run over the cap for ever."""
    story = PromptStory(min=2, max=2, caps=UsageCaps(cost=6.0, price=0.5), idle_check=True, idle_after=1.0)
    story.tell(events.Tick())
    story.boots(1)
    story.boots(2)
    story.submit_calls(1)
    assert story.at(6.0) == [TOLD, "stop 2: budget"]
    assert story.is_gone(2) == [], "min is not kept over it"
    assert story.results(1, 1) == ["stop 1: budget", "1 = result of 1.1"]


def test_a_price_that_becomes_known_moves_the_end() -> None:
    story = PromptStory(caps=UsageCaps(cost=6.0, price=0.5))
    story.submit_calls(1)
    assert story.machine.deadline() == 12.0
    story.now = 2.0
    story.tell(events.BootSucceeded(1, 2, 1.0))
    assert story.machine.deadline() == 6.0
    story.submit_calls(1)
    assert story.at(6.0) == [TOLD]
    assert story.submit_calls(1) == ["3 = BudgetExceeded"]


def test_nothing_is_used_while_nothing_is_there() -> None:
    story = PromptStory(caps=UsageCaps(machine_seconds=10.0), idle_after=1.0).up(2)
    story.at(1.0)
    story.is_gone(1)
    assert story.machine.deadline() is None
    story.now = 1000.0
    assert story.submit_calls(1) == ["boot 2"]
    assert story.machine.deadline() == 1009.0


def test_a_call_that_is_given_back_or_lost_then_does_not_begin_again() -> None:
    story = PromptStory(caps=UsageCaps(machine_seconds=10.0)).up(2)
    story.submit_calls(3, CallLimits(retries=2))
    story.now = 10.0
    assert story.returns(1, 6) == [TOLD, "6 = BudgetExceeded"]
    assert story.loses(1, 4) == ["4 = RunnerLostError"]
    assert story.results(1, 5, retryable=True) == ["stop 1: budget", "5 = result of 5.1"]


@pytest.mark.parametrize("notices", ["time", "the loss itself"])
@pytest.mark.parametrize("how", ["lost", "raised", "runner lost"])
def test_what_a_call_came_to_is_not_hidden_by_a_cap_that_is_reached_just_then(how: str, notices: str) -> None:
    """It has run: who hears that it was never started would start it again. Whether the pool was told of the time or
    of the loss first is chance."""
    story = PromptStory(caps=UsageCaps(machine_seconds=10.0)).up(2)
    (running,) = story.submit([CallLimits(retries=2)])
    story.now = 10.0
    if notices == "time":
        assert story.tell(events.Tick()) == [TOLD]
    told = [] if notices == "time" else [TOLD]
    if how == "lost":
        assert story.loses(1, running) == [*told, "stop 1: budget", f"{running} = RunnerLostError"]
    elif how == "raised":
        lines = story.results(1, running, retryable=True)
        assert lines == [*told, "stop 1: budget", f"{running} = result of {running}.1"]
    else:
        assert sorted(story.loses_runner(1)) == sorted([*told, f"{running} = RunnerLostError", "stop 1: lost"])
    assert story.stats.calls_retried == 0


def test_a_call_that_waits_to_be_tried_again_is_not_said_to_have_never_run() -> None:
    story = PromptStory(caps=UsageCaps(machine_seconds=10.0), max_workers=1).up(2)
    tried, _, fresh = story.submit([CallLimits(retries=1, retry_delays=(5.0,)), PLAIN, PLAIN])
    story.now = 9.0
    story.loses(1, tried)
    assert story.at(10.0) == [TOLD, f"{tried} = BudgetExceeded", f"{fresh} = BudgetExceeded"]
    assert "an earlier attempt of the call may have run; attempt 2 was not started; make" in str(story.errors[tried])
    assert "the call was not started; make a new pool with a larger budget=" in str(story.errors[fresh])
    for error in story.errors.values():
        assert isinstance(error, errors.BudgetExceeded)
        assert error.machine_seconds == 10.0


def test_each_call_has_an_error_of_its_own() -> None:
    """Raised again and again, one would collect the tracebacks of them all."""
    story = PromptStory(caps=UsageCaps(machine_seconds=10.0))
    story.submit_calls(3)
    story.at(10.0)
    assert len({id(story.errors[number]) for number in (1, 2, 3)}) == 3


@pytest.mark.parametrize(
    ("caps", "said"),
    [
        (
            UsageCaps(machine_seconds=0.25),
            "budget of 0.25 machine-seconds is used up: its runners have used 0.25 machine",
        ),
        (
            UsageCaps(machine_seconds=1_000_000.0),
            "budget of 1000000 machine-seconds is used up: its runners have used 1000",
        ),
        (
            UsageCaps(cost=0.00025, price=0.001),
            "budget of 0.00025 USD is used up: its runners have used 0.25 machine-sec",
        ),
        (UsageCaps(cost=0.00025, price=0.001), "(estimated at 0.00025 USD)"),
        (UsageCaps(cost=1234567.0, price=1.0), "budget of 1234567 USD is used up"),
        (UsageCaps(cost=1234567.0, price=1.0), "(estimated at 1234567 USD)"),
    ],
)
def test_small_budgets_and_large_ones_are_told_as_they_are(caps: UsageCaps, said: str) -> None:
    story = PromptStory(caps=caps)
    story.submit_calls(1)
    when = story.machine.deadline()
    assert when is not None
    story.at(when)
    assert said in str(story.errors[1])


def test_a_pool_that_has_used_its_budget_still_shuts_down() -> None:
    story = PromptStory(caps=UsageCaps(machine_seconds=10.0)).up(2)
    story.submit_calls(1)
    story.now = 10.0
    assert story.shuts_down() == [TOLD]
    assert story.results(1, 4) == ["stop 1: budget", "4 = result of 4.1"]
    assert story.is_gone(1) == ["closed"]


def test_what_is_left_by_a_rounding_error_boots_nobody() -> None:
    """0.1 s and 0.2 s are 0.3 s, though in binary fractions the latter, as it comes about here, is a little less."""
    story = PromptStory(caps=UsageCaps(machine_seconds=0.3))
    for number, (begin, end) in enumerate([(0.0, 0.1), (1.0, 1.2)], 1):
        story.now = begin
        assert story.submit_calls(1) == [f"boot {number}"]
        story.tell(events.CancelRequested([number]))
        story.now = end
        story.tell(events.BootFailed(number, OSError("no space"), 0.0))
    story.now = 100.0
    assert story.submit_calls(1) == ["3 = BudgetExceeded"]


@pytest.mark.parametrize("count", [1, 3, 7])
def test_a_meter_that_is_asked_when_it_said_is_exhausted_then(count: int) -> None:
    """However the fractions fall: else the machine would be called in vain, again and again."""
    usage = Usage(UsageCaps(machine_seconds=0.7, cost=0.1, price=0.3 / count))
    for number in range(count):
        usage.began(number, 0.01 * number)
    assert usage.until is not None
    assert not usage.check(usage.until - 1e-9)
    assert usage.check(usage.until)
    assert max(usage.seconds(usage.until) - 0.7, (usage.cost(usage.until) or 0) - 0.1) == pytest.approx(0, abs=1e-9)
