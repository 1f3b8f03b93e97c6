"""A world that is told step by step, for tests of one thing at a time. Every step also checks every invariant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dragonfly_executor.core import actions, events
from dragonfly_executor.core.call_table import Call, CallLimits
from dragonfly_executor.core.events import ShutdownMode
from dragonfly_executor.core.machine import PoolLimits
from dragonfly_executor.core.stats import PoolStats
from tests.support.world import World, lost, token_of

PLAIN = CallLimits()


class Story(World):
    """Each step gives what the machine wants done, one line for each call or runner:

    ``send 1.1 to 1``, ``kill 1.1 on 1``, ``1 = result of 1.1``, ``boot 1``, ``boot 2 of gpu on tier 1``,
    ``stop 1: idle``, ``drain 1 in 30``, ``ask 1``, ``closed``.
    """

    def __init__(self, **limits: Any) -> None:
        super().__init__(PoolLimits(**{"max": 1, "slots_hint": 2, "idle_after": None, **limits}))
        self.errors: dict[int, Exception] = {}

    def tell(self, event: events.Event) -> list[str]:
        return self._lines(self.feed(event))

    def submit_calls(self, count: int = 1, limits: CallLimits = PLAIN, *, kinds: Sequence[str] = ("",)) -> list[str]:
        """Submit calls, of these kinds in turn."""
        self.submit([limits] * count, kinds)
        return self._lines(self.last_actions)

    def asks(self, runner_id: int = 1) -> list[str]:
        return self.tell(events.BootStarted(runner_id))

    def waits(self, runner_id: int = 1) -> list[str]:
        return self.tell(events.BootQueued(runner_id))

    def boots(self, runner_id: int = 1, slots: int = 2) -> list[str]:
        return self.tell(events.BootSucceeded(runner_id, slots))

    def fails(
        self, runner_id: int, error: Exception | None = None, retry_in: float = 1.0, *, hangs: bool = False
    ) -> list[str]:
        return self.tell(events.BootFailed(runner_id, error or OSError("no space"), retry_in, hangs))

    def results(self, runner_id: int, *call_ids: int, cost: float = 1.0, retryable: bool = False) -> list[str]:
        attempts = [self.accounts[i].call.attempt for i in call_ids]
        results = [(i, n, cost, token_of(i, n), retryable) for i, n in zip(call_ids, attempts, strict=True)]
        return self.tell(events.ResultsArrived(runner_id, results))

    def loses(self, runner_id: int, call_id: int, *, may_have_started: bool = True) -> list[str]:
        attempt = self.accounts[call_id].call.attempt
        return self.tell(events.CallLost(runner_id, call_id, attempt, lost(runner_id), may_have_started))

    def returns(self, runner_id: int, *call_ids: int) -> list[str]:
        return self.tell(events.CallsReturned(runner_id, [(i, self.accounts[i].call.attempt) for i in call_ids]))

    def loses_runner(self, runner_id: int) -> list[str]:
        return self.tell(events.RunnerLost(runner_id, lost(runner_id)))

    def leaves(self, runner_id: int) -> list[str]:
        return self.tell(events.RunnerLeaving(runner_id))

    def ends(self, runner_id: int, ends_at: float, ended_by: str = "the platform ended it") -> list[str]:
        return self.tell(events.RunnerEnding(runner_id, ends_at, ended_by))

    def is_gone(self, runner_id: int, *, hangs: bool = False) -> list[str]:
        return self.tell(events.RunnerGone(runner_id, hangs))

    def returns_late(self, runner_id: int) -> list[str]:
        return self.tell(events.BootReturned(runner_id))

    def shuts_down(self, mode: ShutdownMode = ShutdownMode.DRAIN) -> list[str]:
        return self.tell(events.ShutdownRequested(mode))

    def at(self, now: float) -> list[str]:
        """Time passes until then. The machine must have asked for it, if anything comes of it."""
        deadline = self.machine.deadline()
        self.now = now
        lines = self.tell(events.Tick())
        assert not lines or (deadline is not None and deadline <= now)
        return lines

    def up(self, *slots: int) -> Story:
        """Get runners up that have no calls, as many as there are numbers of slots."""
        self.submit_calls(sum(slots) + len(slots))
        self.tell(events.CancelRequested(list(self.accounts)))
        for runner_id, count in enumerate(slots, 1):
            if runner_id not in self.nodes:
                raise AssertionError(f"runner {runner_id} was not booted")
            self.boots(runner_id, count)
        return self

    def at_or_tell(self, now: float, event: events.Event) -> list[str]:
        """Let an event come at this time."""
        self.now = now
        return self.tell(event)

    @property
    def stats(self) -> PoolStats:
        return self.machine.stats(self.now)

    def call(self, call_id: int) -> Call:
        return self.accounts[call_id].call

    def feed(self, event: events.Event, again: events.Event | None = None) -> list[actions.Action]:
        self.last_actions = super().feed(event, again)
        return self.last_actions

    def _lines(self, result: list[actions.Action]) -> list[str]:
        lines: list[str] = []
        for action in result:
            match action:
                case actions.Send(runner_id, calls):
                    lines += [f"send {call.id}.{call.attempt} to {runner_id}" for call in calls]
                case actions.Kill(runner_id, call):
                    lines.append(f"kill {call.id}.{call.attempt} on {runner_id}")
                case actions.Settle(outcomes):
                    lines += [self._outcome(call, outcome) for call, outcome in outcomes]
                case actions.Boot(runner_id, kind, _, tier):
                    of, on = f" of {kind}" if kind else "", f" on tier {tier}" if tier else ""
                    lines.append(f"boot {runner_id}{of}{on}")
                case actions.Stop(runner_id, _, reason):
                    lines.append(f"stop {runner_id}: {reason}")
                case actions.Drain(runner_id, seconds):
                    lines.append(f"drain {runner_id} in {seconds:g}")
                case actions.CheckIdle(runner_id):
                    lines.append(f"ask {runner_id}")
                case actions.Warn(text):
                    beginning, _, rest = text.partition(" of ")
                    lines.append(f"warn: {beginning} of" if rest else f"warn: {text.partition(',')[0]}")
                case actions.Closed():
                    lines.append("closed")
        return lines

    def _outcome(self, call: Call, outcome: object) -> str:
        if isinstance(outcome, Exception):
            self.errors[call.id] = outcome
            return f"{call.id} = {type(outcome).__name__}"
        return f"{call.id} = {'cancelled' if outcome is actions.CANCELLED else outcome}"


class PromptStory(Story):
    """Its backend asks for each node as soon as it may."""

    def feed(self, event: events.Event, again: events.Event | None = None) -> list[actions.Action]:
        result = super().feed(event, again)
        for action in result:
            if isinstance(action, actions.Boot):
                super().feed(events.BootStarted(action.runner_id))
        self.last_actions = result
        return result
