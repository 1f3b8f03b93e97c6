"""The steps of random courses of events for a pool's machine: whatever happens, in whatever order."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from dragonfly_executor import errors
from dragonfly_executor.core import actions, events
from dragonfly_executor.core.call_table import CallLimits
from dragonfly_executor.core.calls import DEFAULT_KIND
from dragonfly_executor.core.capacity import Capacity
from dragonfly_executor.core.events import ShutdownMode
from dragonfly_executor.core.machine import PoolLimits
from dragonfly_executor.core.usage import UsageCaps
from tests.support.courses import StateMachine, opening, step
from tests.support.world import World, lost, token_of

LIMITS = [
    CallLimits(),
    CallLimits(timeout=4.0),
    CallLimits(queue_timeout=2.0),
    CallLimits(timeout=8.0, queue_timeout=3.0, run_timeout=5.0),
    CallLimits(retries=1),
    CallLimits(retries=2, retry_delays=(1.0,)),
    CallLimits(timeout=6.0, queue_timeout=1.5, retries=3, retry_delays=(0.5, 2.0, 5.0)),
    CallLimits(retries=1, retry_delays=(1.0,), priority=2),
    CallLimits(timeout=5.0, priority=-1.5),
    CallLimits(key=1),
    CallLimits(key=2, retries=1),
    CallLimits(key=3, priority=2),
]
CAPS = [
    *[UsageCaps()] * 4,
    UsageCaps(price=0.5),
    UsageCaps(machine_seconds=30.0),
    UsageCaps(machine_seconds=6.0, price=0.25),
    UsageCaps(cost=20.0, price=0.5),
    UsageCaps(machine_seconds=200.0, cost=1.0, price=0.1),
]
BOTH = [False, True]
POOLS: dict[str, Collection[Any]] = {
    "min": range(3),
    "max": range(1, 4),
    "max_workers": [None, None, 1, 3],
    "slots_hint": range(1, 4),
    "idle_after": [None, 5.0],
    "min_idle_after": [None, 3.0, 9.0],
    "idle_check": BOTH,
    "queued_idle_after": [5.0, 5.0, 0.0],
    "single_use": [False, False, False, True],
    "packs": BOTH,
    "thrifty": BOTH,
    "learns_idle": BOTH,
    "max_boot_failures": range(1, 4),
    "max_concurrent_boots": [100, 100, 1, 2],
    "at_once": [1000, 1000, 1, 3],
    "caps": CAPS,
}
SMALL = range(8)
KINDS = {
    "runners of their own": [DEFAULT_KIND, "gpu", "large"],
    "shares": [DEFAULT_KIND, "cpu 2", "cpu 3"],
    "devices": [DEFAULT_KIND, "gpu 1", "gpu 2"],
    "labels": [DEFAULT_KIND, "eu", "memory"],
}
RICH = Capacity(4.0, 2, 8, frozenset({"eu", "us"}))
COSTS = [0.0, 1e-5, 0.002, 0.02, 3.0]


class MachineAndWorld(StateMachine):
    """Steps choose by small numbers, taken modulo what there is to choose from: so nearly every step does something.

    What destroys much is rare, or there would never be much.
    """

    @opening(
        calls=range(10), first=range(len(LIMITS)), warm=[True, True, False], kinds=range(1, 4), sort=KINDS, **POOLS
    )  # fmt: skip
    def open(
        self, calls: int, first: int, warm: bool, kinds: int, sort: str = "runners of their own", **limits: Any
    ) -> None:
        """Make a pool with some calls: of all kinds, or all of one kind."""
        self.world = World(PoolLimits(**limits))
        self.kinds = KINDS[sort][:kinds]
        self.world.submit([LIMITS[(first + i) % len(LIMITS)] for i in range(calls)], self.kinds)
        if warm:
            self.all_runners_come_and_go(slots=2)

    def runner(self, which: int, *, up: bool) -> int:
        """One that is up, or one that boots; if there is none, any number."""
        known = [i for i, node in self.world.nodes.items() if node.up == up and not node.stopped]
        return known[which % len(known)] if known else which

    def busy_runner(self, which: int) -> int:
        """One that has calls; if there is none, calls come first, and runners for them."""
        if not any(node.flying for node in self.world.nodes.values()):
            self.world.submit([LIMITS[which % len(LIMITS)]] * 3, self.kinds)
            self.all_runners_come_and_go(slots=2)
        busy = [i for i, node in self.world.nodes.items() if node.flying]
        return busy[which % len(busy)] if busy else which

    def flying(self, runner_id: int) -> list[tuple[int, int]]:
        node = self.world.nodes.get(runner_id)
        return list(node.flying.items()) if node is not None else []

    @step(steps=range(1, 4))
    def things_go_well(self, steps: int) -> None:
        for _ in range(steps):
            self.world.feed(self.world.what_is_next())

    @step(slots=range(1, 5))
    def all_runners_come_and_go(self, slots: int) -> None:
        for runner_id, node in list(self.world.nodes.items()):
            if node.stopped:
                self.world.feed(events.RunnerGone(runner_id))
        for runner_id, node in list(self.world.nodes.items()):
            if not node.up:
                self.comes_up(runner_id, slots, is_rich=runner_id % 2 == 0)

    def comes_up(self, runner_id: int, slots: int, price: float | None = None, *, is_rich: bool) -> None:
        """It has what was asked for, or more. Of some runners, the pool sees how long their boots take."""
        node = self.world.nodes.get(runner_id)
        if node is not None and not node.up and not node.stopped and runner_id % 2:
            self.world.feed(events.BootStarted(runner_id))
            self.world.now += 1.5
        capacity = self.world.least_capacity(node.kind) if node is not None else None
        if is_rich and capacity is not None:
            capacity = RICH
        self.world.feed(events.BootSucceeded(runner_id, slots, price, capacity))

    @step(first=LIMITS, count=[0, 1, 1, 2, 5], last=LIMITS, kind=SMALL, other=SMALL)
    def submit(self, first: CallLimits, count: int, last: CallLimits, kind: int, other: int) -> None:
        kinds = [self.kinds[each % len(self.kinds)] for each in (kind, other)]
        self.world.submit([*[first] * count, last], kinds)

    @step(which=range(1, 21), other=[None, *range(1, 21)])
    def cancel(self, which: int, other: int | None) -> None:
        self.world.feed(events.CancelRequested([which] if other is None else [which, other]))

    @step(
        which=SMALL,
        slots=range(5),
        later=[0.0, 2.0],
        price=[None, None, 0.1, 2.0],
        is_rich=BOTH,
    )
    def boot_succeeds(
        self, which: int, slots: int, later: float, price: float | None = None, is_rich: bool = False
    ) -> None:
        self.world.now += later
        self.comes_up(self.runner(which, up=False), slots, price, is_rich=is_rich)

    @step(which=SMALL, waits=BOTH, later=[0.0, 2.0])
    def boot_is_asked_for(self, which: int, waits: bool, later: float) -> None:
        """Or has to wait for its turn again."""
        self.world.now += later
        runner_id = self.runner(which, up=False)
        self.world.feed(events.BootQueued(runner_id) if waits else events.BootStarted(runner_id))

    @step(which=SMALL)
    def backend_comes_back(self, which: int) -> None:
        hung = sorted(self.world.hung)
        self.world.feed(events.BootReturned(hung[which % len(hung)] if hung else which))

    @step(which=SMALL, retry_in=[0.0, 1.0, 7.0], kind=SMALL, hangs=BOTH, shared=[False, False, True])
    def boot_fails(self, which: int, retry_in: float, kind: int, hangs: bool = False, shared: bool = False) -> None:
        final = errors.BootError("no", final=True)
        error = [errors.BootError("no"), OSError("no"), errors.VersionMismatchError("3.11 and 3.12"), final][kind // 2]
        self.world.feed(events.BootFailed(self.runner(which, up=False), error, retry_in, hangs, shared))

    @step(which=SMALL, kind=SMALL, retry_in=[0.0, 1.0, 7.0], final=[False, False, False, True])
    def boot_brings_a_runner_for_others(self, which: int, kind: int, retry_in: float, final: bool) -> None:
        """It is too small for the calls that it was booted for, or that is said of one that does not boot."""
        error = errors.BootError("too small", final=final)
        other = self.kinds[kind % len(self.kinds)]
        self.world.feed(events.BootReassigned(self.runner(which, up=False), other, error, retry_in))

    @step(which=SMALL, calls=range(3), cost=COSTS, retryable=BOTH, twice=BOTH)
    def results_arrive(self, which: int, calls: int, cost: float, retryable: bool, twice: bool) -> None:
        runner_id = self.busy_runner(which)
        results = [(i, n, cost, token_of(i, n), retryable) for i, n in self.flying(runner_id)[: calls + 1]]
        self.world.feed(events.ResultsArrived(runner_id, results * (2 if twice else 1)))

    @step(which=SMALL, calls=SMALL)
    def calls_start(self, which: int, calls: int) -> None:
        runner_id = self.busy_runner(which)
        self.world.feed(events.CallsStarted(runner_id, self.flying(runner_id)[: calls + 1]))

    @step(which=SMALL, calls=SMALL)
    def calls_are_returned(self, which: int, calls: int) -> None:
        runner_id = self.busy_runner(which)
        self.world.feed(events.CallsReturned(runner_id, self.flying(runner_id)[calls:]))

    @step(which=SMALL, call=SMALL, how=["lost", "unstarted", "timed out", "unopened", "gone"])
    def call_leaves(self, which: int, call: int, how: str) -> None:
        runner_id = self.busy_runner(which)
        flying = self.flying(runner_id) or [(call, 1)]
        ref = flying[call % len(flying)]
        if how == "timed out":
            self.world.feed(events.CallTimedOut(runner_id, *ref))
        elif how == "unopened":
            self.world.feed(events.CallTimedOut(runner_id, *ref, 30.0))
        elif how == "gone":
            self.world.feed(events.CallGone(runner_id, *ref))
        else:
            self.world.feed(events.CallLost(runner_id, *ref, lost(runner_id), how == "lost"))

    @step(which=SMALL, call=SMALL, kind=range(6))
    def a_lost_call_answers_after_all(self, which: int, call: int, kind: int) -> None:
        """Its retry may be on the same runner by then."""
        runner_id = self.busy_runner(which)
        flying = self.flying(runner_id)
        if flying:
            ref = flying[call % len(flying)]
            self.world.feed(events.CallLost(runner_id, *ref, lost(runner_id), True))
            self.the_deadline_comes()
            self.message(kind, runner_id, *ref)

    @step(which=SMALL, up=BOTH, rare=SMALL, got=SMALL, ran=[None, 0, 1, 3])
    def runner_is_lost(self, which: int, up: bool, rare: int, got: int, ran: int | None) -> None:
        """Of some it is known at once, or a little later, which calls they had begun; of others it never is."""
        if rare < 3:
            runner_id = self.runner(which, up=up)
            begun = None if ran is None else self.flying(runner_id)[:ran]
            if ran is not None and rare:
                self.world.feed(events.RunnerLeaving(runner_id))
                self.world.feed(events.CancelRequested([call_id for call_id, _ in self.flying(runner_id)[1::3]]))
            never_left = self.flying(runner_id)[got:]
            self.world.feed(events.RunnerLost(runner_id, lost(runner_id), never_left, begun))

    @step(which=SMALL, up=BOTH, rare=SMALL)
    def runner_leaves(self, which: int, up: bool, rare: int) -> None:
        if rare < 3:
            self.world.feed(events.RunnerLeaving(self.runner(which, up=up)))

    @step(which=SMALL, up=BOTH, rare=SMALL, hangs=BOTH)
    def runner_is_gone(self, which: int, up: bool, rare: int, hangs: bool) -> None:
        stopped = [i for i, node in self.world.nodes.items() if node.stopped]
        if stopped and rare:
            self.world.feed(events.RunnerGone(stopped[which % len(stopped)], hangs))
        elif rare == 0:
            self.world.feed(events.RunnerGone(self.runner(which, up=up), hangs))

    @step(kind=SMALL, runner=range(7), call=range(13), attempt=range(1, 5))
    def something_strange_arrives(self, kind: int, runner: int, call: int, attempt: int) -> None:
        """From a runner, about a call, that may be anything: known or not, there or long gone."""
        self.message(kind, runner, call, attempt)

    @step(kind=range(6), back=SMALL)
    def something_late_arrives(self, kind: int, back: int) -> None:
        """About a sending that there was: of a call that was sent again since, if there is one."""
        flying = {(runner, *ref) for runner, node in self.world.nodes.items() for ref in node.flying.items()}
        again = {call for _, call, _ in flying}
        flown = [each for each in self.world.flown if each[1] in again and each not in flying] or self.world.flown
        if flown:
            self.message(kind, *flown[-1 - back % len(flown)])

    def message(self, kind: int, runner: int, call: int, attempt: int) -> None:
        late: list[events.Event] = [
            events.ResultsArrived(runner, [(call, attempt, 0.01, token_of(call, attempt), False)]),
            events.CallsReturned(runner, [(call, attempt)]),
            events.CallsStarted(runner, [(call, attempt)]),
            events.CallLost(runner, call, attempt, lost(runner), True),
            events.CallTimedOut(runner, call, attempt),
            events.CallGone(runner, call, attempt),
            events.BootSucceeded(runner, attempt),
            events.BootFailed(runner, OSError("late"), 1.0),
        ]
        self.world.feed(late[kind])

    @step(kind=range(3), runner=range(7))
    def something_strange_is_said_of_a_boot(self, kind: int, runner: int) -> None:
        """Of one that may be up, or gone, or none."""
        said = [events.BootStarted, events.BootQueued, events.BootReturned]
        self.world.feed(said[kind](runner))

    @step(which=SMALL, up=[True, True, False], seconds=[0.0, 1.0, 6.0, 20.0, 500.0], rare=SMALL, passes=BOTH)
    def runner_is_told_its_end(self, which: int, up: bool, seconds: float, rare: int, passes: bool) -> None:
        """Tell a runner's end, once or again: earlier or later. Then the time may come at which it is replaced."""
        if rare < 4:
            runner_id = self.runner(which, up=up)
            self.world.feed(events.RunnerEnding(runner_id, self.world.now + seconds, "the platform ended it"))
            if passes:
                self.the_deadline_comes()

    @step(which=SMALL, idle=BOTH)
    def idle_is_checked(self, which: int, idle: bool) -> None:
        asked = [i for i, node in self.world.nodes.items() if node.asked]
        runner_id = asked[which % len(asked)] if asked else self.runner(which, up=True)
        self.world.feed(events.IdleChecked(runner_id, idle))

    @step(which=SMALL, seconds=[0.0001, 0.005, 0.3])
    def round_trip_is_measured(self, which: int, seconds: float) -> None:
        self.world.feed(events.RoundTrip(self.runner(which, up=True), seconds))

    @step(seconds=[0.0, 0.4, 2.0, 6.0, 100.0])
    def time_passes(self, seconds: float) -> None:
        self.world.now += seconds
        self.world.feed(events.Tick())

    @step()
    def the_deadline_comes(self) -> None:
        deadline = self.world.machine.deadline()
        if deadline is not None:
            self.world.now = max(self.world.now, deadline)
            self.world.feed(events.Tick())

    @step(low=range(4), high=range(1, 5), rare=SMALL)
    def resize(self, low: int, high: int, rare: int) -> None:
        if rare < 4:
            self.world.feed(events.Resized(min(low, high), high))

    @step(mode=ShutdownMode, rare=SMALL)
    def shut_down(self, mode: ShutdownMode, rare: int) -> None:
        if rare == 0:
            self.world.feed(events.ShutdownRequested(mode))

    @step(rare=range(16))
    def break_pool(self, rare: int) -> None:
        if rare == 0:
            self.world.feed(events.PoolBroke(errors.InitializerError("the initializer raised")))

    def end(self) -> None:
        self.world.play_out()


RETRIED = CallLimits(retries=1, run_timeout=2.0, retries_timeouts=True)


class DependentMachineAndWorld(MachineAndWorld):
    """The same, with spare runners, calls that wait for their arguments, and time-outs that are retried.

    It is a class of its own, because each further step changes the courses that a seed stands for.
    """

    @opening(
        calls=range(10),
        first=range(len(LIMITS)),
        warm=[True, True, False],
        kinds=range(1, 4),
        sort=KINDS,
        spare=[0, 1, 1, 2],
        **POOLS,
    )
    def open(
        self, calls: int, first: int, warm: bool, kinds: int, sort: str = "runners of their own", **limits: Any
    ) -> None:
        """Make a pool with spare runners."""
        super().open(calls, first, warm, kinds, sort, **limits)

    @step(count=range(1, 4))
    def submit_retried(self, count: int) -> None:
        """Submit calls that are tried again after their run_timeout."""
        self.world.submit([RETRIED] * count, self.kinds)

    @step(first=LIMITS, count=[1, 1, 2], kind=SMALL)
    def submit_dependent(self, first: CallLimits, count: int, kind: int) -> None:
        """Submit calls that wait for their arguments."""
        self.world.submit([first] * count, [self.kinds[kind % len(self.kinds)]], dependent=True)

    @step(which=SMALL, how=["ready", "ready", "failed", "cancelled", "strange"])
    def arguments_come(self, which: int, how: str) -> None:
        """Or never will; or that is said of a call that does not wait for them."""
        waiting = sorted(self.world.dependent & self.world.pending.keys()) if how != "strange" else []
        call_id = waiting[which % len(waiting)] if waiting else which
        outcome: dict[str, object] = {"failed": ValueError("no value"), "cancelled": actions.CANCELLED}
        if how in outcome:
            self.world.feed(events.ArgumentsFailed(call_id, outcome[how]))
        else:
            self.world.feed(events.ArgumentsReady(call_id))


class NestingMachineAndWorld(MachineAndWorld):
    """The same, with calls that submit calls and wait for them."""

    @step(which=SMALL, call=SMALL, limits=LIMITS)
    def call_waits_for_a_child(self, which: int, call: int, limits: CallLimits) -> None:
        """The child call is of the same kind, so it fits where its call runs."""
        runner_id = self.busy_runner(which)
        flying = self.flying(runner_id)
        if flying and not self.world.limits.single_use:
            self.world.wait_for_child(runner_id, *flying[call % len(flying)], limits)

    @step(which=SMALL, call=SMALL)
    def call_submits_a_child(self, which: int, call: int) -> None:
        """It does not wait for it."""
        flying = self.flying(self.busy_runner(which))
        if flying:
            self.world.submit_child(flying[call % len(flying)][0], CallLimits())

    @step(which=SMALL, call=SMALL, waits=BOTH)
    def something_is_said_of_a_wait(self, which: int, call: int, waits: bool) -> None:
        """A call goes on, or is said to wait again; or that is said of a call that is not there."""
        runner_id = self.busy_runner(which)
        flying = self.flying(runner_id) or [(call, 1)]
        ref = flying[call % len(flying)]
        if not waits:
            self.world.waits_for.pop(ref, None)
        self.world.has_lent = True
        self.world.feed(events.CallsWait(runner_id, [(*ref, waits), (call, 7, waits)]))
