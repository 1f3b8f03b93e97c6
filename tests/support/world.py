"""The world that a machine lives in: a driver, runners and users, as far as the machine can tell.

`World.feed` hands the machine an event, carries its actions out on the world's own books, and checks them there. The
books are kept from actions and events alone, never from the machine's state.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from math import isclose

from dragonfly_executor import errors
from dragonfly_executor.core import actions, events
from dragonfly_executor.core.call_queue import LOOKAHEAD
from dragonfly_executor.core.call_table import Call, CallLimits
from dragonfly_executor.core.calls import DEFAULT_KIND, QUEUED, ChildCall
from dragonfly_executor.core.capacity import Capacity, Requirements
from dragonfly_executor.core.events import ShutdownMode
from dragonfly_executor.core.machine import Machine, PoolLimits
from dragonfly_executor.core.stats import PoolStats
from tests.support.validate import boots_are_needed, is_given_up, validate

NEEDLESS = "no call needs it any more"
ADDRESS = re.compile(r" object at 0x[0-9a-f]+")
FAR = 1e4
"""Seconds after which every timeout and pause is over."""
CLOSE = {"rel_tol": 1e-6, "abs_tol": 1e-12}
"""What rounding may make of a sum."""


@dataclass
class TrackedRunner:
    """A runner as the world sees it."""

    slots: int = 0
    kind: str = DEFAULT_KIND
    tier: int = 0
    up: bool = False
    stopped: bool = False
    leaving: bool = False
    boots: bool = True
    """Whether it has a place among the boots that the backend can run."""
    flying: dict[int, int] = field(default_factory=dict)
    """Call ids and attempts that are there."""
    had: int = 0
    asked: bool = False
    ends_at: float | None = None
    """When its platform ends it, as far as the machine was told."""
    queued: bool = False
    """Whether its boot waits in a queue."""
    since: float | None = None
    """When its node was asked for; None before."""
    price: float | None = None
    capacity: Capacity | None = None


REQUIREMENTS = {
    DEFAULT_KIND: Requirements(),
    "gpu 1": Requirements(gpus=1),
    "gpu 2": Requirements(gpus=2, cpus=1),
    "cpu 2": Requirements(cpus=2),
    "cpu 3": Requirements(cpus=3),
    "memory": Requirements(memory=3),
    "eu": Requirements(labels=frozenset({"eu"})),
}
"""By kind, what its calls require. Calls of any other kind run only on runners that were booted for it."""


@dataclass(frozen=True)
class Prospects:
    """What was known of the boots when a call was given up that no runner had."""

    is_over: bool
    why: Exception | None
    all_boots_hang: bool
    is_up: bool
    """Whether a runner was up, and stays."""


@dataclass
class TrackedCall:
    """A call as the world sees it."""

    call: Call
    outcomes: list[object] = field(default_factory=list)
    attempts_begun: set[int] = field(default_factory=set)
    """Attempts that may have run: none of them may be sent again."""
    tokens: list[object] = field(default_factory=list)
    false_starts: int = 0
    """Slots that died under it before it began."""
    overtaken: int = 0
    """Later calls that were sent before it."""

    @property
    def turn(self) -> tuple[float, int, int]:
        """Its place in the order of calls."""
        return -self.call.limits.priority, -self.call.depth, self.call.id


class World:
    def __init__(self, limits: PoolLimits) -> None:
        self.limits = limits
        self.machine = Machine(limits)
        self.now = 0.0
        self.nodes: dict[int, TrackedRunner] = {}
        self.accounts: dict[int, TrackedCall] = {}
        self.pending: dict[int, TrackedCall] = {}
        """Those without an outcome."""
        self.mode: ShutdownMode | None = None
        self.broken = False
        self.closed = False
        self.most_slots = 0
        """The largest number of slots that were up at once."""
        self.hung: set[int] = set()
        """Boots that are over, and over which the backend blocks."""
        self.used = 0.0
        """Machine-seconds of the runners that are gone."""
        self.paid = 0.0
        self.unpriced = False
        """Whether one of them had no price."""
        self.is_spent = self.may_be_spent = self.was_spent = False
        """Whether a cap is reached, or is too near to say; and whether the machine had said so."""
        self.failures: Counter[str] = Counter()
        """By kind, boots that failed in a row."""
        self.final: dict[str, Exception] = {}
        """By kind, why no further boot can end better, while others are under way that still may."""
        self.gives_up: str | None = None
        """The kind for which the last event has made a runner impossible."""
        self.why: Exception | None = None
        """The error that ended it, where the event has one."""
        self.spared: set[int] = set()
        """Calls that may still be sent after a shutdown that cancels what waits: those that a boot will take."""
        self.dependent: set[int] = set()
        """Calls that have yet to get their arguments, or never will."""
        self.waits_for: dict[tuple[int, int], int] = {}
        """By call and attempt, the child call for which it waits."""
        self.has_lent = False
        """Whether a call has waited for a child call."""
        self.given_up: dict[int, Prospects] = {}
        """Calls whose end is decided, and that are settled at one of the next events."""
        self.flown: list[tuple[int, int, int]] = []
        """Every sending there was: runner, call, attempt."""
        self.last_event: events.Event = events.Tick()
        # It gets the same events at the same times, and is asked nothing.
        self._twin = Machine(limits)

    # -- events --------------------------------------------------------------------------------------------------------

    @staticmethod
    def _required(limits: CallLimits, kind: str) -> CallLimits:
        """The limits of a call of this kind."""
        required = REQUIREMENTS.get(kind)
        if required is None or not required.key:
            return limits
        values = {name: getattr(limits, name) for name in CallLimits.__match_args__}
        return CallLimits(**values | {"requirements": required})

    def submit(
        self, limits: Iterable[CallLimits], kinds: Sequence[str] = (DEFAULT_KIND,), *, dependent: bool = False
    ) -> list[int]:
        """Submit calls with these limits, of these kinds in turn. `dependent`: they have yet to get their arguments."""
        batch = list(limits)
        first = len(self.accounts) + 1

        def make() -> events.Submitted:
            calls = [
                Call(first + i, b"", None, self._required(each, kind), kind)
                for i, (each, kind) in enumerate(zip(batch, cycle(kinds), strict=False))
            ]
            for call in calls if dependent else ():
                call.wait_for_arguments()
            return events.Submitted(calls)

        event = make()
        accounts = {call.id: TrackedCall(call) for call in event.calls}
        self.accounts |= accounts
        self.pending |= accounts
        self.dependent |= accounts.keys() if dependent else set()
        self.feed(event, make())
        return [call.id for call in event.calls]

    def submit_child(self, outer: int, limits: CallLimits, kind: str = DEFAULT_KIND) -> int:
        """A call submits another one."""
        number, depth = len(self.accounts) + 1, self.accounts[outer].call.depth + 1

        def make() -> events.ChildrenSubmitted:
            call = ChildCall(number, b"", None, self._required(limits, kind), depth)
            call.kind = kind
            return events.ChildrenSubmitted([call])

        event = make()
        self.accounts[number] = self.pending[number] = TrackedCall(event.calls[0])
        self.feed(event, make())
        return number

    def wait_for_child(self, runner_id: int, outer: int, attempt: int, limits: CallLimits) -> None:
        """A call submits another one like itself, and waits for it."""
        self.has_lent = True
        self.waits_for[outer, attempt] = self.submit_child(outer, limits, self.accounts[outer].call.kind)
        self.feed(events.CallsWait(runner_id, [(outer, attempt, True)]))

    def is_waiting(self, node: TrackedRunner, ref: tuple[int, int]) -> bool:
        """Whether a call waits for a child call that has yet to end, and nothing but that ends the wait."""
        return not node.leaving and self.waits_for.get(ref) in self.pending

    def lent(self, runner_id: int) -> set[int]:
        """The calls on a runner of which the machine knows that they wait."""
        return {*self.machine.pool.runner_table.runners[runner_id].lent}

    def feed(self, event: events.Event, again: events.Event | None = None) -> list[actions.Action]:
        """Hand the machine an event now, carry out the actions, and check everything.

        Args:
            event: the event.
            again: the same event for the twin, if it has objects that a machine changes.
        """
        self.last_event = event
        mode = self.mode
        self.gives_up = None
        lightest = self._least_loaded() if isinstance(event, events.Resized) else []
        self._note(event)
        self._count_spending()
        result = self.machine.handle(event, self.now)
        assert isinstance(result, list)
        same = self._twin.handle(again or event, self.now)
        assert describe(same) == describe(result), "the same events at the same times give other actions"
        sent_before = {call_id for node in self.nodes.values() for call_id in node.flying}
        loads = {runner_id: len(node.flying) for runner_id, node in self.nodes.items()} if self.limits.packs else {}
        booting: Counter[str] = Counter()
        if self.mode is not mode:
            booting.update(node.kind for node in self.nodes.values() if not node.up and not node.stopped)
            # Those that a boot is to take may go to a slot that is free, and that had none while others were settled.
            self.spared = self._waiting(sent_before)
        for action in result:
            assert not self.closed or isinstance(action, actions.Settle), f"{action} after Closed"
            getattr(self, CARRY_OUT[type(action)])(action)
        self.most_slots = max(self.most_slots, sum(node.slots for node in self.nodes.values()))
        if result:
            self._check_order(sent_before)
        if self.mode is not mode:
            # One that asks for less than was asked for already changes nothing.
            self._spare(booting, sent_before)
        self._check_placement(loads, result)
        if isinstance(event, events.Resized):
            self._check_retiring(lightest, result)
        for action in result:
            if isinstance(action, actions.Boot):
                assert boots_are_needed(self.machine.pool, action)
        self._give_up(validate(self.machine, self.now, lends=self.has_lent).given_up)
        self._check_accounts()
        return result

    def _give_up(self, given_up_now: list[int]) -> None:
        """Note the calls whose end one event has decided, and that later events settle. Each stays noted until then."""
        before = self.given_up
        if not before and not given_up_now:
            return
        given_up = {call_id: self.pending[call_id].call.kind for call_id in given_up_now}
        assert self.pending.keys() & before.keys() <= given_up.keys(), "a call that was given up is not any more"
        self.given_up = {call_id: before.get(call_id) or self._prospects(kind) for call_id, kind in given_up.items()}
        for call_id in given_up.keys() - before.keys():
            prospects = self.given_up[call_id]
            hangs = prospects.all_boots_hang and not (prospects.is_over or prospects.is_up)
            if hangs and self.mode in (None, ShutdownMode.DRAIN):
                self._boots_count_anew(given_up[call_id])

    def _prospects(self, kind: str) -> Prospects:
        fitting = [node for node in self.nodes.values() if self.fits(kind, node)]
        is_up = any(node.up and not node.stopped and not node.leaving for node in fitting)
        return Prospects(self.gives_up == kind, self.why, self.all_boots_hang, is_up)

    def _least_loaded(self) -> list[int]:
        """The runners that may be told to retire, in the order in which they are to be."""
        retiring = {i for i, runner in self.machine.pool.runner_table.runners.items() if runner.retiring}
        loads = [
            (len(node.flying), -runner_id)
            for runner_id, node in self.nodes.items()
            if node.up and not node.stopped and not node.leaving and runner_id not in retiring
            if not self.lent(runner_id)
        ]
        return [-number for _, number in sorted(loads)]

    def _check_retiring(self, lightest: list[int], result: list[actions.Action]) -> None:
        """A pool that is made smaller stops the runners with the fewest calls.

        With a smaller `min`, the same event may also stop runners that have been idle for too long: the oldest first.
        So does another kind that gets their room.
        """
        others = ("idle", "room for another kind")
        going = {act.runner_id for act in result if isinstance(act, actions.Stop) and act.reason not in others}
        going |= self.machine.pool.runner_table.retiring.keys()
        chosen = [runner_id for runner_id in lightest if runner_id in going]
        assert chosen == lightest[: len(chosen)], "a runner retires that has more calls than another one"

    def _check_placement(self, loads: dict[int, int], result: list[actions.Action]) -> None:
        """No packed call goes to a runner while one with more calls has a free slot.

        Args:
            loads: calls on each runner, before the actions.
            result: the actions.
        """
        if not self.limits.packs or any(isinstance(action, actions.Stop) for action in result):
            return
        if any(account.call.limits.requirements or account.call.limits.key for account in self.accounts.values()):
            return  # what the calls require decides, or where a call of their key was sent last
        for action in result:
            if not isinstance(action, actions.Send):
                continue
            to, runners = self.nodes[action.runner_id], self.machine.pool.runner_table.runners
            for runner_id, node in self.nodes.items():
                if node.kind != to.kind or not node.up or node.stopped or node.leaving:
                    continue
                if runners[runner_id].capacity != runners[action.runner_id].capacity:
                    continue  # a runner that has more than the calls require comes last
                has_room = len(node.flying) < runners[runner_id].slots
                if has_room and not runners[runner_id].retiring and not runners[runner_id].is_short:
                    assert loads[runner_id] <= loads[action.runner_id], "a call is not packed"

    def _waiting(self, flying: set[int]) -> set[int]:
        return self.pending.keys() - flying

    def _spare(self, booting: Counter[str], sent_before: set[int]) -> None:
        """Keep those that may be sent after a shutdown; so many runners of each kind did boot as it came."""
        flying = {call_id for node in self.nodes.values() for call_id in node.flying}
        left = self._waiting(flying)
        self.spared = {i for i in left if not is_given_up(self.machine.pool, self.accounts[i].call)}
        if self.mode is ShutdownMode.CANCEL_QUEUED:
            taken = Counter(self.accounts[i].call.kind for i in self.spared | (flying - sent_before))
            for kind, count in taken.items():
                group = self.machine.pool.runner_table.groups[kind][0]
                hint = self.machine.pool.slots_hint(group)
                assert count <= booting[kind] * hint, "calls wait, and no boot will take them"

    def _note(self, event: events.Event) -> None:
        """Keep the books on what an event tells."""
        node = self.nodes.get(getattr(event, "runner_id", 0))
        self._count_boots(event, node)
        match event:
            case events.ArgumentsReady(call_id) | events.ArgumentsFailed(call_id, _):
                self.dependent.discard(call_id)
            case events.ShutdownRequested(mode):
                self.mode = max(self.mode or mode, mode)
            case events.PoolBroke():
                self.broken = True
            case events.BootStarted() if node is not None:
                self._asks(node)
                node.queued = False
            case events.BootQueued() if node is not None and not node.up and not node.stopped and not node.leaving:
                node.since = None
                node.queued = True
            case events.BootReturned(runner_id):
                self.hung.discard(runner_id)
            case events.BootReassigned(_, kind) if node is not None and self._changes_kind(node, kind):
                node.kind, node.queued = kind, False
            case events.BootSucceeded(_, slots, price, capacity):
                if node is not None:
                    self._asks(node)
                    node.boots = False
                if node is not None and price is not None:
                    node.price = price
                if node is not None and not node.up and not node.stopped:
                    node.up, node.slots, node.capacity = True, max(1, slots), capacity
            case events.BootFailed() | events.RunnerGone() if node is not None:
                self._lose(node)
                del self.nodes[event.runner_id]
                if event.hangs and node.boots:
                    self.hung.add(event.runner_id)
                if node.since is not None:
                    self.used += self.now - node.since
                    self.paid += (self.now - node.since) * (node.price or 0.0)
                    self.unpriced |= node.price is None
            case events.RunnerLost(_, _, never_left, begun) if node is not None:
                unbegun = [] if begun is None else [ref for ref in node.flying.items() if ref not in begun]
                for call_id, attempt in [*never_left, *unbegun]:
                    self._leaves(node, call_id, attempt, may_have_run=False)
                self._lose(node)
            case events.RunnerEnding(_, ends_at, _) if node is not None:
                node.ends_at = max(self.now, ends_at)
            case events.RunnerLeaving() if node is not None:
                node.leaving = True
            case events.ResultsArrived(_, results) if node is not None:
                for call_id, attempt, _, outcome, _ in results:
                    if self._leaves(node, call_id, attempt, may_have_run=True):
                        self.accounts[call_id].tokens.append(outcome)
            case events.CallsReturned(_, refs) if node is not None:
                for call_id, attempt in refs:
                    self._leaves(node, call_id, attempt, may_have_run=False)
            case events.CallLost(_, call_id, attempt, _, may) if node is not None:
                if self._leaves(node, call_id, attempt, may_have_run=may) and not may:
                    self.accounts[call_id].false_starts += 1
            case events.CallTimedOut(_, call_id, attempt) | events.CallGone(_, call_id, attempt) if node is not None:
                self._leaves(node, call_id, attempt, may_have_run=True)
            case events.IdleChecked() if node is not None:
                node.asked = False

    def _asks(self, node: TrackedRunner) -> None:
        if node.since is None:
            node.since, node.price = self.now, self.price_on(node.tier)

    def price_on(self, tier: int) -> float | None:
        """What a runner costs until its own price is known."""
        return self.limits.caps.price

    def _count_boots(self, event: events.Event, node: TrackedRunner | None) -> None:
        """Count the boots that fail in a row, and note whether another boot may succeed."""
        if node is None or node.up or node.stopped:
            return
        match event:
            case events.BootSucceeded():
                self.failures[node.kind] = 0
                self.final.pop(node.kind, None)
            case events.BootFailed(_, error, _, _, is_shared):
                self._boot_fails(node, error, counts=not is_shared)
            case events.RunnerLost(_, error):
                self._boot_fails(node, error)
            case events.RunnerGone():
                self._boot_fails(node, None)
            case events.BootReassigned(_, kind, error) if self._changes_kind(node, kind):
                self._boot_fails(node, error)

    def _changes_kind(self, node: TrackedRunner, kind: str) -> bool:
        """Whether a runner may boot for another kind from now on."""
        boots = not node.up and not node.stopped and not node.leaving
        return boots and kind != node.kind and kind in self.machine.pool.runner_table.groups

    def _boot_fails(self, node: TrackedRunner, error: Exception | None, *, counts: bool = True) -> None:
        kind = node.kind
        self.failures[kind] += counts
        nodes = [other for other in self.nodes.values() if other.kind == kind]
        others = [other for other in nodes if other is not node and not other.stopped]
        fitting = [other for other in self.nodes.values() if other is not node and self.fits(kind, other)]
        if any(other.up and not other.leaving and not other.stopped for other in fitting):
            return
        if isinstance(error, errors.BootError) and error.final:
            self.final[kind] = error
        is_enough = kind in self.final or self.failures[kind] >= self.limits.max_boot_failures
        if is_enough and all(other.up for other in others):
            self.gives_up, self.why = kind, self.final.pop(kind, error)
            self.failures[kind] = 0

    def _boots_count_anew(self, kind: str) -> None:
        self.failures[kind] = 0
        self.final.pop(kind, None)

    def _leaves(self, node: TrackedRunner, call_id: int, attempt: int, *, may_have_run: bool) -> bool:
        if node.flying.get(call_id) != attempt:
            return False
        del node.flying[call_id]
        self.waits_for.pop((call_id, attempt), None)
        if may_have_run:
            self.accounts[call_id].attempts_begun.add(attempt)
        return True

    def _lose(self, node: TrackedRunner) -> None:
        for call_id, attempt in list(node.flying.items()):
            self._leaves(node, call_id, attempt, may_have_run=True)

    # -- what is spent -------------------------------------------------------------------------------------------------

    def exists(self, node: TrackedRunner) -> float:
        """Seconds since its node was asked for."""
        return 0.0 if node.since is None else self.now - node.since

    def seconds(self) -> float:
        return self.used + sum(map(self.exists, self.nodes.values()))

    def cost(self) -> float | None:
        if self.unpriced or any(node.price is None and node.since is not None for node in self.nodes.values()):
            return None
        return self.paid_at_least()

    def _count_spending(self) -> None:
        """Whether a cap is reached; a hair's breadth from it nobody can say, and the machine is believed."""
        caps = self.limits.caps
        spent = [(self.seconds(), caps.machine_seconds), (self.paid_at_least(), caps.cost)]
        near = any(cap is not None and abs(cap - used) < 1e-6 for used, cap in spent)
        self.is_spent |= any(cap is not None and used >= cap for used, cap in spent) and not near
        self.may_be_spent = self.is_spent or near

    def paid_at_least(self) -> float:
        return self.paid + sum(self.exists(node) * (node.price or 0.0) for node in self.nodes.values())

    @property
    def all_boots_hang(self) -> bool:
        """Whether no boot can begin until the backend comes back."""
        return len(self.hung) >= self.limits.max_concurrent_boots

    @property
    def all_is_spent(self) -> bool:
        """Whether nothing may begin any more: a cap is reached, or has been by what was known of prices then."""
        return self.is_spent or self.was_spent

    def _check_spending(self, stats: PoolStats) -> None:
        usage = self.machine.pool.usage
        assert not usage.exhausted or self.may_be_spent or self.was_spent, "a cap is said to be reached before it is"
        assert usage.exhausted or not self.is_spent, "a cap is reached, and the machine has not noticed"
        self.was_spent = usage.exhausted
        assert isclose(stats.machine_seconds, self.seconds(), **CLOSE)
        cost = self.cost()
        assert (stats.cost is None) == (cost is None)
        assert cost is None or isclose(stats.cost or 0.0, cost, **CLOSE)
        for runner in stats.runners:
            assert isclose(runner.machine_seconds, self.exists(self.nodes[runner.id]), **CLOSE)

    # -- actions -------------------------------------------------------------------------------------------------------

    def _send(self, action: actions.Send) -> None:
        node = self.nodes[action.runner_id]
        assert node.up
        assert not self.all_is_spent, "a call is sent after a cap was reached"
        assert not node.stopped, "a call is sent to a runner that was told to go"
        assert not node.leaving, "a call is sent to a runner that said that it goes"
        assert not self.broken
        assert self.mode is not ShutdownMode.KILL, "a call is sent after a shutdown"
        assert action.calls
        for call in action.calls:
            if self.mode is ShutdownMode.CANCEL_QUEUED:
                assert call.id in self.spared, "a call is sent after a shutdown"
                self.spared.remove(call.id)
            account = self.accounts[call.id]
            assert not account.outcomes, "a settled call is sent"
            assert call.id not in self.given_up, "a call is sent that was given up"
            assert call.deadline is None or call.deadline > self.now, "a call is sent whose time is over"
            assert all(call.id not in other.flying for other in self.nodes.values()), "a call is on two runners"
            assert call.attempt not in account.attempts_begun, "an attempt that may have run is sent again"
            assert call.attempt <= 1 + call.limits.retries
            assert self._has_the_time(action.runner_id, call), "a call is sent to a runner that ends too soon for it"
            assert self.fits(call.kind, node), "a call is sent to a runner on which it does not fit"
            node.flying[call.id] = call.attempt
            node.had += 1
            self.flown.append((action.runner_id, call.id, call.attempt))
        node.asked = False
        runner = self.machine.pool.runner_table.runners[action.runner_id]
        assert len(node.flying) - len(runner.lent) <= node.slots + runner.prefetch, "more calls than slots and credit"
        self._check_shares(node)
        if self.limits.single_use:
            assert node.had == 1, "a single-use runner has a second call"
        up = [other for other in self.nodes.values() if other.up and not other.stopped and not other.leaving]
        slots = len(up) if self.limits.single_use else sum(other.slots for other in up)
        workers = self.limits.max_workers
        if workers is not None and slots > workers:
            flying = sum(len(other.flying) for other in up) - self.machine.pool.runner_table.lent
            assert flying <= workers, "more calls than max_workers"

    def _has_the_time(self, runner_id: int, call: Call) -> bool:
        node, seconds = self.nodes[runner_id], call.limits.run_timeout
        if node.ends_at is None or seconds is None:
            return True
        return (
            seconds <= node.ends_at - self.now or seconds > self.machine.pool.runner_table.runners[runner_id].lifetime
        )

    def fits(self, kind: str, node: TrackedRunner) -> bool:
        """Whether calls of a kind may run on a node."""
        required = REQUIREMENTS.get(kind)
        return kind == node.kind or (required is not None and node.capacity is not None and required.fit(node.capacity))

    def _check_shares(self, node: TrackedRunner) -> None:
        """What the calls of a node require fits there together."""
        runner_id = next(number for number, each in self.nodes.items() if each is node)
        kinds = [self.accounts[call_id].call.kind for call_id in node.flying.keys() - self.lent(runner_id)]
        shares = [required for kind in kinds if (required := REQUIREMENTS.get(kind)) is not None]
        # Calls beyond the number of slots wait there, and each of the others has a slot's share.
        may_run_at_once = len(kinds) <= node.slots and not self.has_lent
        if node.capacity is not None and may_run_at_once and any(required.cpus for required in shares):
            share = node.capacity.cpus / (1 if self.limits.single_use else node.slots)
            cpus = sum(max(required.cpus, share) for required in shares) + (len(kinds) - len(shares)) * share
            # A call that requires more than the share of a slot may not keep another one from a CPU.
            assert cpus <= max(node.capacity.cpus, *(required.cpus for required in shares)) + 1e-6
        # A call that goes on after a wait takes its share again at once. Until others end, that may be too much.
        if node.capacity is not None and not self.has_lent:
            assert sum(required.gpus for required in shares) <= node.capacity.gpus
            assert sum(required.memory for required in shares) <= node.capacity.memory

    def _check_order(self, sent_before: set[int]) -> None:
        """Calls leave the queue by priority, and in the order in which they came.

        Only a call with a key may be overtaken, by few calls, and by none with another priority. But on a runner whose
        end is known, calls may overtake a first one that has not the time there.
        """
        sent = {call_id for node in self.nodes.values() for call_id in node.flying} - sent_before
        call_table = self.machine.pool.call_table
        for kind, queue in call_table.queues.items():
            queued = [
                self.accounts[i] for i, call in call_table.calls.items() if call.state is QUEUED and call.queue is queue
            ]
            first = min(queued, key=lambda account: account.turn, default=None)
            gone = []
            for account in (self.accounts[i] for i in sent if self.accounts[i].call.kind == kind):
                where = next(i for i, node in self.nodes.items() if account.call.id in node.flying)
                if first is None or self._has_the_time(where, first.call):
                    gone.append(account.turn)
            if not gone:
                continue
            last = max(gone)
            for account in queued:
                if last > account.turn:
                    assert account.call.limits.key, "a call was overtaken by one of its kind"
                    assert last[0] == account.turn[0], "a call was overtaken by one of a lower priority"
                    account.overtaken += sum(turn > account.turn for turn in gone)
                    most = LOOKAHEAD * self.most_slots
                    assert account.overtaken <= most, "a call with a key was overtaken again and again"

    def _kill(self, action: actions.Kill) -> None:
        assert self.nodes[action.runner_id].flying[action.call.id] == action.call.attempt
        assert self.accounts[action.call.id].call.state == 4, "a call is killed that nobody has given up"

    def _settle(self, action: actions.Settle) -> None:
        for call, outcome in action.outcomes:
            account = self.accounts[call.id]
            account.outcomes.append(outcome)
            assert len(account.outcomes) == 1, f"{call} is settled twice"
            del self.pending[call.id]
            own = isinstance(outcome, Exception) or outcome is actions.CANCELLED
            its_own = any(outcome is token for token in account.tokens)
            assert own or its_own, f"{call} is settled with an outcome that is not its own"
            if own:
                self._check_reason(account, outcome)
            else:
                # Another call's result could look the same: tokens name their call and attempt.
                assert outcome == f"result of {call.id}.{call.attempt}"

    def _check_reason(self, account: TrackedCall, outcome: object) -> None:
        """A call ends without an answer of its own only for a reason that there is."""
        call, limits = account.call, account.call.limits
        flying = any(call.id in node.flying for node in self.nodes.values())
        match outcome:
            case errors.CallTimeoutError():
                told = isinstance(self.last_event, events.CallTimedOut)
                late = limits.timeout is not None and self.now >= call.submitted_at + limits.timeout
                queued_for_long = limits.queue_timeout is not None and not flying
                assert told or late or queued_for_long, "a call timed out before its time"
            case errors.BootError():
                self._check_boot_error(account, outcome, flying=flying)
            case errors.RunnerLostError():
                died = call.attempt in account.attempts_begun
                killed = self.mode is ShutdownMode.KILL
                assert died or killed or account.false_starts >= 3, "nothing that ran the call was lost"
                ending = self.mode not in (None, ShutdownMode.DRAIN) or self.machine.pool.usage.exhausted
                assert not died or ending or call.attempt > limits.retries, "it had a retry left"
            case errors.BudgetExceeded():
                # A price that becomes known later may make it less than the cap again: used up stays used up.
                self._check_budget_is_used_up(call)
                assert not flying, "a call that runs goes on"
                fresh = "the call was not started" in str(outcome)
                assert fresh is not bool(account.attempts_begun), "a call that may have run is said not to have"
            case actions.CANCELLED:
                asked = isinstance(self.last_event, events.CancelRequested) and call.id in self.last_event.call_ids
                asked |= self.last_event == events.ArgumentsFailed(call.id, actions.CANCELLED)
                assert asked or (self.mode or 0) >= ShutdownMode.CANCEL_QUEUED, "nobody cancelled it"

    def _check_budget_is_used_up(self, call: Call) -> None:
        assert self.may_be_spent or self.was_spent, "a budget is used up before its time"

    def _check_boot_error(self, account: TrackedCall, outcome: errors.BootError, *, flying: bool) -> None:
        call = account.call
        # Nonsense, but survived: the boot failed of a runner that was up already, and had the call.
        was_up = isinstance(self.last_event, events.BootFailed) and call.attempt in account.attempts_begun
        assert was_up or not flying
        prospects = self.given_up.get(call.id) or self._prospects(call.kind)
        assert was_up or not prospects.is_up, "a runner is up"
        if prospects.all_boots_hang and not prospects.is_over:
            assert was_up or "still block in the backend" in str(outcome)
            self._boots_count_anew(call.kind)
            return
        assert was_up or prospects.is_over, "boots fail, and another boot may succeed"
        assert was_up or prospects.why is None or prospects.why in (outcome, outcome.__cause__), "another boot's error"

    def _boot(self, action: actions.Boot) -> None:
        assert action.runner_id not in self.nodes
        assert not self.broken
        assert self.mode in (None, ShutdownMode.DRAIN), "a boot after a shutdown"
        assert not self.all_is_spent, "a boot after a cap was reached"
        kind = action.kind
        booting = any(node.kind == kind and not node.up and not node.stopped for node in self.nodes.values())
        serves = any(
            node.up and not node.stopped and not node.leaving and self.fits(kind, node) for node in self.nodes.values()
        )
        assert kind not in self.final or not booting or serves, "a boot that cannot end better than the last one"
        self.final.pop(kind, None)
        self.nodes[action.runner_id] = TrackedRunner(price=self.price_on(action.tier), kind=kind, tier=action.tier)
        self._check_room(action)
        assert len(self.nodes) <= self.machine.pool.max, "more runners than max"

    def _check_room(self, action: actions.Boot) -> None:
        boots = sum(node.boots for node in self.nodes.values()) + len(self.hung)
        assert boots <= self.limits.max_concurrent_boots, "more boots than the backend can run at once"

    def _stop(self, action: actions.Stop) -> None:
        node = self.nodes[action.runner_id]
        assert not node.stopped, "a runner is stopped twice"
        assert action.grace >= 0
        if action.reason == NEEDLESS:
            assert node.queued, "a boot is aborted because no call needs it, and it waits in no queue"
            assert not node.up
        if node.flying and node.leaving and node.ends_at is not None and node.ends_at <= self.now:
            # Its time is over: its calls have begun, as it has given back those that had not.
            self._lose(node)
        live = node.flying.keys() & self.pending.keys()
        assert not live or self.broken or self.mode is ShutdownMode.KILL, "a runner is stopped under its calls"
        node.stopped = True
        node.flying.clear()

    def _drain(self, action: actions.Drain) -> None:
        node = self.nodes[action.runner_id]
        assert node.up
        assert not node.leaving, "a runner drains twice"
        assert not node.stopped
        assert node.flying, "a runner without calls drains, and is not stopped"
        assert node.ends_at is not None
        assert action.seconds == max(0.0, node.ends_at - self.now)
        node.leaving = True

    def _check_idle(self, action: actions.CheckIdle) -> None:
        node = self.nodes[action.runner_id]
        assert self.limits.idle_check
        assert not node.flying
        assert not node.asked, "a runner is asked twice"
        node.asked = True

    def _closed(self, action: actions.Closed) -> None:
        assert self.mode is not None
        assert not self.nodes, "closed, and runners are left"
        self.closed = True

    def _warn(self, action: actions.Warn) -> None:
        assert action.text
        if "waits for child calls" in action.text:
            assert self.has_lent
            return
        assert not self.was_spent, "somebody is told twice that a budget is used up"

    def _check_accounts(self) -> None:
        """Invariant 2, from outside: what has no outcome is known to the machine, and nothing else is."""
        pending = list(self.pending)
        assert pending == [call.id for call in self.machine.unsettled()]
        if self.broken or self.mode is ShutdownMode.KILL:
            assert self.given_up.keys() == set(pending)
        if self.gives_up is not None:
            flying = {call_id for node in self.nodes.values() for call_id in node.flying}
            waiting = set(pending) - flying - self.given_up.keys()
            left = [i for i in waiting if self.accounts[i].call.kind == self.gives_up]
            assert not left, "no runner comes, and calls wait for one"
        if self.mode is not None and not pending and not self.nodes:
            assert self.closed, "nothing is left, and the pool does not close"
        assert not (self.closed and pending)
        # Users ask at any time: that changes nothing, or the twin would go another way.
        self.machine.stats(self.now + FAR)
        stats = self.machine.stats(self.now)
        assert stats.calls_queued + stats.calls_delayed + stats.calls_sent == len(pending)
        ended = stats.calls_done + stats.calls_failed + stats.calls_cancelled + stats.calls_timed_out
        assert ended == len(self.accounts) - len(pending)
        assert len(stats.runners) == len(self.nodes)
        self._check_spending(stats)
        assert stats.explain

    # -- the end -------------------------------------------------------------------------------------------------------

    def play_out(self) -> None:
        """Shut down, be a world in which everything works from now on, and see everything end."""
        if self.mode is None:
            self.feed(events.ShutdownRequested(ShutdownMode.DRAIN))
        for _ in range(50 + 10 * len(self.accounts)):
            if self.closed:
                break
            event = self.what_is_next()
            if isinstance(event, events.Tick):
                deadline = self.machine.deadline()
                assert deadline is not None, "the pool waits for nothing, and does not close"
                self.now = max(self.now, deadline)
            self.feed(event)
        assert self.closed, "the pool does not come to its end"
        assert all(len(account.outcomes) == 1 for account in self.accounts.values())

    def what_is_next(self) -> events.Event:
        """What comes next where everything works."""
        for runner_id in self.hung:
            return events.BootReturned(runner_id)
        for runner_id, node in self.nodes.items():
            if node.stopped:
                return events.RunnerGone(runner_id)
            if not node.up:
                return events.BootSucceeded(runner_id, 2, None, self.least_capacity(node.kind))
            flying = [ref for ref in node.flying.items() if not self.is_waiting(node, ref)]
            if flying:
                results = [(i, n, 0.01, token_of(i, n), False) for i, n in flying]
                return events.ResultsArrived(runner_id, results)
            if node.asked:
                return events.IdleChecked(runner_id, idle=True)
        for call_id in sorted(self.dependent & self.pending.keys()):
            return events.ArgumentsReady(call_id)
        return events.Tick()

    @staticmethod
    def least_capacity(kind: str) -> Capacity | None:
        """What a runner that was booted for a kind has at least; None if only that kind may use it."""
        required = REQUIREMENTS.get(kind)
        if required is None:
            return None
        return Capacity(max(1.0, required.cpus), required.gpus, required.memory, required.labels)


def token_of(call_id: int, attempt: int) -> str:
    return f"result of {call_id}.{attempt}"


def lost(runner_id: int) -> errors.RunnerLostError:
    return errors.RunnerLostError("killed by SIGKILL", signal=9, runner_id=runner_id)


def describe(result: list[actions.Action]) -> list[object]:
    """Return actions in a form that is equal for two machines in the same state."""
    return [(type(action), *(_plain(getattr(action, name)) for name in action.__match_args__)) for action in result]


def _plain(value: object) -> object:
    if isinstance(value, Call):
        return value.id, value.attempt, value.state, value.runner
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return ADDRESS.sub("", repr(value)) if isinstance(value, Exception) else value


CARRY_OUT: dict[type, str] = {
    actions.Send: "_send",
    actions.Kill: "_kill",
    actions.Settle: "_settle",
    actions.Boot: "_boot",
    actions.Stop: "_stop",
    actions.Drain: "_drain",
    actions.CheckIdle: "_check_idle",
    actions.Closed: "_closed",
    actions.Warn: "_warn",
}
"""The method that carries out an action."""
