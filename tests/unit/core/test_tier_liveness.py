"""Random loads on pools with several backends, played to their end in virtual time: every call ends."""

from __future__ import annotations

import random
from heapq import heappop, heappush
from itertools import count
from typing import Any

import pytest

from dragonfly_executor.core import actions, events, placement
from dragonfly_executor.core.call_table import CallLimits
from dragonfly_executor.core.capacity import Capacity
from dragonfly_executor.core.limits import TierLimits
from tests.support.tiered_world import TieredStory
from tests.support.world import token_of

SORTS = [(Capacity(2),), (Capacity(64, 1, 2**40),), (), (Capacity(2, labels=frozenset({"gpu 1"})),)]
KINDS = [("",), ("", "gpu 1"), ("gpu 1", ""), ("", "gpu 1", "gpu 2")]
COURSES = 60
MOST_STEPS = 6000
"""Events of a course. The longest that ended had about a thousand."""


class Load:
    """A pool, calls that come at random times, and a driver that carries out what the pool wants."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        tiers = tuple([self._tier(index) for index in range(self.dice.choice([2, 3]))])
        self.world = TieredStory(tiers=tiers, **self._limits())
        self.tiers = tiers
        self.failing = self.dice.choice([0.0, 0.0, 0.3])
        self.kinds = self.dice.choice(KINDS)
        self.agenda: list[tuple[float, int, events.Event | None]] = []
        """What comes when; None is a call."""
        self.order = count()
        for _ in range(self.dice.choice([5, 20, 60])):
            self.at(self.dice.uniform(0, 30), None)

    def _tier(self, index: int) -> TierLimits:
        choose = self.dice.choice
        return TierLimits(
            name=f"t{index}",
            max=choose([None, 1, 2, 3]),
            slots_hint=2,
            idle_after=choose([None, 5.0]),
            boot_seconds=choose([1.0, 5.0, 30.0]),
            max_concurrent_boots=choose([1, 100]),
            packs=choose([False, True]),
            capacities=choose(SORTS),
        )

    def _limits(self) -> dict[str, Any]:
        choose = self.dice.choice
        return {
            "max": choose([1, 2, 3]),
            "min": choose([0, 0, 1]),
            "max_boot_failures": choose([1, 2]),
            "max_workers": choose([None, None, None, None, 1, 2, 3]),
            "single_use": choose([False, False, False, False, True]),
            "thrifty": choose([False, False, True]),
        }

    def at(self, when: float, event: events.Event | None) -> None:
        heappush(self.agenda, (when, next(self.order), event))

    def play(self) -> None:
        """Play until each call has its outcome."""
        world = self.world
        for _ in range(MOST_STEPS):
            if not world.pending and not any(event is None for _, _, event in self.agenda):
                return
            deadline = world.machine.deadline()
            assert self.agenda or deadline is not None, "calls wait, and nothing will ever come"
            if not self.agenda or (deadline is not None and deadline < self.agenda[0][0]):
                world.now = max(world.now, deadline or 0.0)
                self.carry_out(world.feed(events.Tick()))
            else:
                when, _, event = heappop(self.agenda)
                world.now = max(world.now, when)
                self.let_come(event)
        raise AssertionError(f"calls wait for ever: {world.machine.stats(world.now)}")

    def let_come(self, event: events.Event | None) -> None:
        """Let a call come, or an event, unless its runner has gone."""
        if event is None:
            self.world.submit([CallLimits()], (self.dice.choice(self.kinds),))
            self.carry_out(self.world.last_actions)
        elif getattr(event, "runner_id", 0) in self.world.nodes:
            stopped = self.world.nodes[event.runner_id].stopped  # type: ignore[attr-defined]
            if not stopped or isinstance(event, events.RunnerGone):
                self.carry_out(self.world.feed(event))

    def carry_out(self, wanted: list[actions.Action]) -> None:
        now, dice = self.world.now, self.dice
        for action in wanted:
            match action:
                case actions.Boot(runner_id, _, _, tier):
                    fails = dice.random() < self.failing
                    outcome = events.BootFailed(runner_id, OSError("no"), 1.0) if fails else None
                    taken = self.tiers[tier].boot_seconds * dice.uniform(0.5, 1.5)
                    self.at(now + taken, outcome or events.BootSucceeded(runner_id, 2))
                case actions.Stop(runner_id):
                    self.at(now + dice.choice([0.0, 1.0]), events.RunnerGone(runner_id))
                case actions.Send(runner_id, calls):
                    for call in calls:
                        seconds = dice.choice([0.1, 1.0, 3.0])
                        result = (call.id, call.attempt, seconds, token_of(call.id, call.attempt), False)
                        self.at(now + seconds, events.ResultsArrived(runner_id, [result]))


@pytest.mark.parametrize("first", range(0, COURSES, 10))
def test_every_call_ends(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "prefetch", lambda *_: 0)
    for seed in range(first, first + 10):
        Load(seed).play()
