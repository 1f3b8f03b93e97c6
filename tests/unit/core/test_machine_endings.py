"""Runners whose end is known: what is still sent there, when they drain, and what becomes of their calls."""

from __future__ import annotations

from heapq import heappop, heappush
from random import Random
from typing import Any

import pytest

from dragonfly_executor import errors
from dragonfly_executor.core import actions, events, placement
from dragonfly_executor.core.call_queue import LOOKAHEAD
from dragonfly_executor.core.call_table import CallLimits
from dragonfly_executor.core.events import ShutdownMode
from tests.support.story import PLAIN, Story
from tests.support.world import lost, token_of


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


# -- calls that overtake others, because they have the time ----------------------------------------------------------


def one_has_forty_seconds(monkeypatch: pytest.MonkeyPatch) -> Story:
    """Runner 1 is idle and ends in 40 s. Runner 2 has calls that may take longer in both slots, and no call is sent
    ahead.
    """
    monkeypatch.setattr(placement, "prefetch", lambda *_: 0)
    story = Story(max=2).up(1, 2)
    story.ends(1, 100.0)
    story.now = 60.0
    assert story.submit_calls(2, limited(50.0)) == ["send 6.1 to 2", "send 7.1 to 2"]
    return story


def test_a_call_that_has_the_time_is_sent_as_soon_as_those_before_it_are(monkeypatch: pytest.MonkeyPatch) -> None:
    story = one_has_forty_seconds(monkeypatch)
    story.submit_calls(1, limited(50.0))
    # Of the calls with another priority, only the first is looked at.
    assert story.submit_calls(1, CallLimits(priority=-1)) == []
    assert story.results(2, 6) == ["send 8.1 to 2", "send 9.1 to 1", "6 = result of 6.1"]


def test_a_call_that_has_the_time_is_sent_as_soon_as_it_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    story = one_has_forty_seconds(monkeypatch)
    story.submit_calls(LOOKAHEAD, limited(50.0))
    assert story.submit_calls(2) == []
    assert story.results(2, 6) == ["send 8.1 to 2", "send 40.1 to 1", "6 = result of 6.1"]


def test_a_call_that_comes_back_is_behind_those_that_it_has_overtaken(monkeypatch: pytest.MonkeyPatch) -> None:
    story = one_has_forty_seconds(monkeypatch)
    story.submit_calls(2, limited(50.0))
    assert story.submit_calls(1) == ["send 10.1 to 1"]
    story.submit_calls(1, limited(50.0))
    story.tell(events.CancelRequested([8]))
    story.tell(events.RunnerLost(1, lost(1), never_left=[(10, 1)]))
    assert story.results(2, 6, 7) == [
        "send 9.1 to 2", "send 10.1 to 2", "6 = result of 6.1", "7 = result of 7.1",
    ]  # fmt: skip


def test_many_calls_that_come_back_are_behind_one_that_they_have_overtaken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "prefetch", lambda *_: 0)
    many = 3 * LOOKAHEAD
    story = Story(max=2, max_boot_failures=9).up(1, many)
    story.ends(2, 100.0)
    story.now = 60.0
    busy, first, *others = range(len(story.accounts) + 1, len(story.accounts) + many + 3)
    assert story.submit_calls(2, limited(50.0)) == [f"send {busy}.1 to 1"]
    assert story.submit_calls(many) == [f"send {call_id}.1 to 2" for call_id in others]
    story.tell(events.RunnerLost(2, lost(2), never_left=list(story.nodes[2].flying.items())))
    order = [busy]
    for _ in range(many + 1):
        line = story.results(1, order[-1])[0]
        order.append(int(line.split()[1].split(".")[0]))
    assert order == [busy, first, *others]


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


# -- replacements ------------------------------------------------------------------------------------------------------


def booted_in(seconds: float, slots: int = 1, **limits: Any) -> Story:
    """A pool whose first runner has taken so many seconds to boot, is up and has run call 1. It ends 1000 s later."""
    story = Story(**{"max": 3, "slots_hint": slots, **limits})
    story.submit_calls(1)
    story.asks(1)
    story.now = seconds
    story.boots(1, slots)
    story.results(1, 1)
    story.ends(1, seconds + 1000.0)
    return story


def test_a_replacement_boots_so_early_that_it_is_up_when_the_drain_begins() -> None:
    story = booted_in(20.0)
    assert story.machine.deadline() == 970.0, "a boot time before the drain begins"
    story.now = 960.0
    story.submit_calls(1)
    assert story.at(970.0) == ["boot 2"]
    story.asks(2)
    assert story.results(1, 2) == ["2 = result of 2.1"]
    assert story.submit_calls(1) == ["send 3.1 to 1"], "until the drain begins, it takes calls"
    story.now = 989.0
    assert story.boots(2, 1) == []
    assert story.machine.deadline() == 990.0
    assert story.at(990.0) == ["drain 1 in 30"]
    assert story.submit_calls(1) == ["send 4.1 to 2"]


def test_a_runner_that_no_call_uses_has_no_replacement_until_one_does() -> None:
    story = booted_in(20.0)
    assert story.at(970.0) == []
    assert story.machine.deadline() == 990.0
    story.now = 980.0
    assert story.submit_calls(1) == ["send 2.1 to 1", "boot 2"]


def test_calls_that_only_run_on_need_no_replacement() -> None:
    """A call that runs for hours, while none comes, is not a reason to boot a runner that would have no call."""
    story = booted_in(20.0)
    story.submit_calls(1)
    assert story.at(970.0) == []
    assert story.at(990.0) == ["drain 1 in 30"]


def test_slots_that_others_have_free_need_no_replacement() -> None:
    story = booted_in(20.0)
    assert story.submit_calls(2) == ["send 2.1 to 1", "boot 2"]
    story.boots(2, 2)
    story.now = 960.0
    story.results(1, 2)
    story.results(2, 3)
    story.submit_calls(1)
    assert story.at(970.0) == [], "runner 2 has room for the call"
    assert story.submit_calls(2) == ["send 5.1 to 2", "send 6.1 to 2", "boot 3"]


def test_min_counts_without_a_runner_that_drains_soon() -> None:
    story = booted_in(20.0, min=1, idle_after=5.0, min_idle_after=None)
    assert story.at(970.0) == ["boot 2"]
    story.asks(2)
    story.now = 985.0
    assert story.boots(2, 1) == ["stop 1: idle"], "it is one more than min"
    assert story.machine.deadline() is None, "the second one is kept, because it is the one of min now"


def test_a_runner_of_min_is_not_stopped_for_being_idle_while_the_other_drains_soon() -> None:
    """Otherwise a third one boots for it, and so on."""
    story = booted_in(20.0, min=1, idle_after=5.0, min_idle_after=None)
    story.at(970.0)
    story.now = 971.0
    story.submit_calls(1)
    story.boots(2, 1)
    assert story.at(989.0) == [], "runner 2 is idle, and the one of min"
    assert story.at(990.0) == ["drain 1 in 30"]
    assert story.at(2000.0) == ["stop 1: its time is over", "2 = RunnerLostError"]
    assert story.machine.deadline() is None


def test_a_longer_life_ends_the_need_for_a_replacement() -> None:
    story = booted_in(20.0)
    assert story.at(970.0) == []
    story.ends(1, 5000.0)
    assert story.submit_calls(1) == ["send 2.1 to 1"]
    assert story.machine.deadline() == 4950.0


def test_in_a_shutdown_no_runner_is_replaced() -> None:
    story = booted_in(20.0)
    story.now = 960.0
    story.submit_calls(1)
    story.shuts_down(ShutdownMode.DRAIN)
    assert story.at(970.0) == []


def test_a_runner_for_one_call_is_not_replaced() -> None:
    story = Story(max=3, single_use=True)
    story.submit_calls(1)
    story.asks(1)
    story.now = 20.0
    story.boots(1, 1)
    story.ends(1, 60.0)
    assert story.at(39.0) == []
    assert story.at(40.0) == ["drain 1 in 20"]


def test_at_max_the_replacement_boots_when_the_runner_has_gone() -> None:
    story = booted_in(20.0, max=1)
    story.now = 960.0
    story.submit_calls(1)
    assert story.at(970.0) == []
    story.at(990.0)
    story.submit_calls(1)
    story.results(1, 2)
    assert story.is_gone(1) == ["boot 2"]


def test_max_workers_leaves_room_for_a_replacement() -> None:
    story = booted_in(20.0, max_workers=1)
    story.now = 960.0
    story.submit_calls(1)
    assert story.at(970.0) == ["boot 2"]


def test_a_thrifty_pool_replaces_what_is_in_use() -> None:
    story = booted_in(20.0, slots=4, thrifty=True, idle_after=None)
    story.now = 960.0
    story.submit_calls(4)
    assert story.at(970.0) == ["boot 2"]


class Lives(Story):
    """A pool whose boots take 20 s, and whose runners live for 100 s. A call takes some seconds."""

    def __init__(self, dice: Random, **limits: Any) -> None:
        super().__init__(max=6, slots_hint=2, idle_after=5.0, **limits)
        self.dice = dice
        self.waits: list[float] = []
        self._began: dict[int, float] = {}
        self._agenda: list[tuple[float, int, events.Event]] = []
        self._number = 0

    def later(self, seconds: float, event: events.Event) -> None:
        self._number += 1
        heappush(self._agenda, (self.now + seconds, self._number, event))

    def play(self, until: float) -> None:
        while True:
            due = self.machine.deadline()
            first = self._agenda[0][0] if self._agenda else until
            if min(due if due is not None else until, first) >= until:
                break
            if due is not None and due < first:
                self.now = max(self.now, due)
                self.handle(events.Tick())
            else:
                self.now, _, event = heappop(self._agenda)
                self.handle(event)
        self.now = until

    def handle(self, event: events.Event) -> None:
        match event:
            case events.BootSucceeded(runner_id):
                self.later(0.0, events.RunnerEnding(runner_id, self.now + 100.0, "the platform ended it"))
            case events.ResultsArrived(runner_id, results) if results[0][0] not in self.nodes[runner_id].flying:
                return
        for action in self.feed(event):
            self.carry_out(action)

    def comes(self) -> None:
        self.submit([PLAIN])
        for action in self.last_actions:
            self.carry_out(action)

    def carry_out(self, action: actions.Action) -> None:
        match action:
            case actions.Boot(runner_id):
                self.later(0.0, events.BootStarted(runner_id))
                self.later(20.0, events.BootSucceeded(runner_id, 2))
            case actions.Stop(runner_id):
                self.later(0.0, events.RunnerGone(runner_id))
            case actions.Send(runner_id, calls):
                for call in calls:
                    self.waits.append(self.now - call.submitted_at)
                    cost = self.dice.uniform(1.0, 5.0)
                    result = (call.id, call.attempt, cost, token_of(call.id, call.attempt), False)
                    self.later(cost, events.ResultsArrived(runner_id, [result]))


@pytest.mark.parametrize("thrifty", [False, True])
def test_while_runners_come_and_go_calls_that_come_all_the_time_do_not_wait(thrifty: bool) -> None:
    """Each step checks every invariant. Two slots are enough for these calls nearly always."""
    pool = Lives(Random(7), thrifty=thrifty)
    for _ in range(300):
        pool.comes()
        pool.play(pool.now + pool.dice.uniform(2.0, 6.0))
    assert pool.stats.boots_attempted >= 12
    assert pool.stats.boots_attempted <= 20
    late = [wait for wait in pool.waits[10:] if wait > 5.0]
    assert late == []
