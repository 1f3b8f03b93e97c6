"""The state of a pool, and the small steps that both the facts and the reconciling are made of."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from itertools import islice

from dragonfly_executor.core import call_errors
from dragonfly_executor.core.actions import CANCELLED, Action, Boot, Kill, Stop
from dragonfly_executor.core.call_table import Ledger
from dragonfly_executor.core.calls import Call, CallState
from dragonfly_executor.core.events import Ref, ShutdownMode
from dragonfly_executor.core.record import Record
from dragonfly_executor.core.runners import Roster, Runner, RunnerState
from dragonfly_executor.core.scaling import BackOff, BootPlaces
from dragonfly_executor.core.settle_queue import Backlog
from dragonfly_executor.core.usage import Caps, Meter

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from typing import Final


class Tally:
    """What is only counted. The names are those of `PoolStats`."""

    __slots__ = ("boots_attempted", "boots_failed", "cancelled", "done", "failed", "retried", "stale", "timed_out")

    def __init__(self) -> None:
        self.done = 0
        self.failed = 0
        self.cancelled = 0
        self.timed_out = 0
        self.retried = 0
        self.stale = 0
        self.boots_attempted = 0
        self.boots_failed = 0


class PoolLimits(Record):
    """What a pool may do. Durations are seconds; None = never, or no limit.

    Args:
        min: runners that are kept.
        max: runners at most, those that boot and those that stop counted in.
        max_workers: calls at once over the whole pool.
        slots_hint: slots that a runner is expected to have, until one has been seen.
        idle_after: how long a runner above `min` may be idle.
        min_idle_after: how long the `min` runners may be; one that stopped for it is booted again when calls come.
        idle_check: ask the runner before it is stopped for being idle.
        single_use: a runner takes one call and goes.
        max_boot_failures: failed boots in a row, with no runner up, after which waiting calls fail.
        max_concurrent_boots: boots that the backend can run at once.
        at_once: calls that one event settles at most, of those that it does not name. Of more that a shutdown, a broken
            pool, a budget or the time ends, the rest follows with the next ticks, for which the machine asks at once.
        shutdown_grace: seconds that a runner may take to go.
        caps: the most that all runners together may use.
    """

    __slots__ = __match_args__ = (
        "min", "max", "max_workers", "slots_hint", "idle_after", "min_idle_after", "idle_check", "single_use",
        "max_boot_failures", "max_concurrent_boots", "at_once", "shutdown_grace", "caps",
    )  # fmt: skip

    def __init__(
        self,
        *,
        min: int = 0,  # noqa: A002  # Dragonfly's word
        max: int = 1,  # noqa: A002
        max_workers: int | None = None,
        slots_hint: int = 1,
        idle_after: float | None = 30.0,
        min_idle_after: float | None = None,
        idle_check: bool = False,
        single_use: bool = False,
        max_boot_failures: int = 3,
        max_concurrent_boots: int = 100,
        at_once: int = 1000,
        shutdown_grace: float = 30.0,
        caps: Caps | None = None,
    ) -> None:
        self.min = min
        self.max = max
        self.max_workers = max_workers
        self.slots_hint = slots_hint
        self.idle_after = idle_after
        self.min_idle_after = min_idle_after
        self.idle_check = idle_check
        self.single_use = single_use
        self.max_boot_failures = max_boot_failures
        self.max_concurrent_boots = max_concurrent_boots
        self.at_once = at_once
        self.shutdown_grace = shutdown_grace
        self.caps = caps or Caps()


MAX_FALSE_STARTS: Final = 3
"""Slots that may die over a call that they could not begin, until it is taken to be the reason."""


class PoolState:
    """What is known of a pool.

    Attributes:
        limits: as they were given. min, max: as they are now.
        ledger, roster: its calls and its runners.
        backlog: the calls whose end is decided, and that are still to be settled.
        is_behind: whether the last event left something to be done at once: a backlog, budgets or delays that ended.
        back_off: the pause after failed boots.
        boots: the places of those that the backend can run at once.
        meter: what runners have used.
        mode: how it shuts down, or None. closed: whether that has ended.
        broken: the error that broke it, or None.
        resting: runners within `min` that went for being idle; `min` counts for that much less until calls come.
        has_told_of_budget: whether it was said that the budget is used up.
        tally: what is only counted.
        last_boot_error: of the last boot that failed.
        actions: what is to be done, since the driver was told last.
    """

    def __init__(self, limits: PoolLimits) -> None:
        self.limits: Final = limits
        self.min = min(limits.min, limits.max)
        self.max = limits.max
        self.ledger: Final = Ledger()
        self.roster: Final = Roster(single_use=limits.single_use)
        self.backlog: Final = Backlog()
        self.is_behind = False
        self.back_off: Final = BackOff()
        self.boots: Final = BootPlaces(limits.max_concurrent_boots)
        self.meter: Final = Meter(limits.caps)
        self.tally: Final = Tally()
        self.mode: ShutdownMode | None = None
        self.closed = False
        self.broken: Exception | None = None
        self.resting = 0
        self.has_told_of_budget = False
        self.last_boot_error: Exception | None = None
        self.actions: list[Action] = []

    # -- what holds now ------------------------------------------------------------------------------------------------

    @property
    def starts_calls(self) -> bool:
        """Whether calls that wait may still be started."""
        return self.broken is None and (self.mode is None or self.mode is ShutdownMode.DRAIN)

    @property
    def floor(self) -> int:
        """`min`, as long as it counts."""
        return self.min if self.mode is None and self.broken is None and not self.meter.exhausted else 0

    @property
    def keep(self) -> int:
        """How many runners to keep whether there are calls or not."""
        return max(0, self.floor - self.resting)

    @property
    def last_boots(self) -> bool:
        """Whether so many boots have failed that only those under way are waited for: more would put the end off."""
        return self.has_failed_enough and bool(self.roster.booting) and not self.roster.up

    @property
    def has_failed_enough(self) -> bool:
        """Whether so many boots have failed, or one in such a way, that no others are tried for what waits."""
        return self.back_off.final is not None or self.back_off.failures >= self.limits.max_boot_failures

    @property
    def slots_hint(self) -> int:
        """How many slots the next runner is expected to have."""
        return 1 if self.limits.single_use else max(1, self.roster.most_slots or self.limits.slots_hint)

    @property
    def excess(self) -> int:
        """How many runners there are beyond `max`, without those that go already; negative where more may be."""
        return self.roster.up + len(self.roster.booting) - self.max

    @property
    def slots_coming(self) -> int:
        """How many calls the runners that boot will take at once. As where processes start, these count as begun."""
        coming = len(self.roster.booting) * self.slots_hint
        workers = self.limits.max_workers
        return coming if workers is None else max(0, min(coming, workers - self.roster.in_flight))

    def idle_until(self, runner: Runner) -> float | None:
        """When a runner that is idle, and not being asked, has been so for too long; None = never as things are."""
        roster = self.roster
        if roster.in_flight > roster.slots - runner.slots:
            # Calls wait behind others on their runners. Should they come back, this one's slots are what they need.
            return None
        within_min = roster.up - len(roster.asked) <= self.floor
        after = self.limits.min_idle_after if within_min else self.limits.idle_after
        return None if after is None else runner.idle_since + after

    # -- calls ---------------------------------------------------------------------------------------------------------

    def end(self, call: Call, outcome: object) -> None:
        """Settle a call wherever it is. On a runner it keeps its place until it has left its slot."""
        if call.runner is not None:
            runner = self.roster.runners.get(call.runner)
            # If all was given up the runner was stopped, and has no calls.
            if runner is not None and call.id in runner.in_flight:
                self.actions.append(Kill(call.runner, call))
        self.ledger.settle(call, outcome)

    def cancel(self, calls: Iterable[Call]) -> None:
        """Give calls up."""
        for call in calls:
            self.tally.cancelled += 1
            self.end(call, CANCELLED)

    def cancel_waiting(self, spare: int = 0) -> None:
        """Give up the calls that wait, but for the first so many of the queue."""
        self.backlog.add(self.ledger.give_up_waiting(spare), lambda call: self.cancel((call,)))

    def fail_waiting(self, error_of: Callable[[Call], Exception]) -> None:
        """Settle the calls that wait with the error that the function makes for each."""
        self.backlog.add(self.ledger.give_up_waiting(), lambda call: self.fail((call,), error_of(call)))

    def fail_all(self, error: Exception) -> None:
        """Settle all calls, wherever they are, with an error. The runners are to be stopped."""
        self.backlog.add(self.ledger.give_up_all(), lambda call: self.fail((call,), error))

    def fail(self, calls: Iterable[Call], error: Exception) -> None:
        """Settle calls with the error of what would have carried them."""
        for call in calls:
            self.tally.failed += 1
            self.ledger.settle(call, error)

    def may_retry(self, call: Call, now: float) -> bool:
        """Whether the call has an attempt left that may still be made."""
        # The cap may be reached at this very moment, and what the call came to must not get lost over that.
        return call.attempt <= call.limits.retries and self.starts_calls and not self.meter.check(now)

    def retry(self, call: Call, now: float) -> None:
        """Give a call its next attempt."""
        self.tally.retried += 1
        self.ledger.retry(call, now)

    def hit(self, call: Call, error: Exception, now: float) -> None:
        """What ran a call died, and the call may have started: that costs it an attempt."""
        if call.state is CallState.SETTLED:
            return
        call.deaths += 1
        if self.may_retry(call, now):
            self.retry(call, now)
        elif call.limits.retries and call.deaths == call.attempt > call.limits.retries:
            self.fail((call,), call_errors.poisoned(call, error))
        else:
            self.fail((call,), error)

    def fell_over(self, call: Call, error: Exception, now: float) -> None:
        """Its slot died before the call began. That costs no attempt, but one that no slot survives has to end."""
        call.false_starts += 1
        if call.false_starts < MAX_FALSE_STARTS:
            self.never_started(call, now)
        else:
            self.fail((call,), error)

    def never_started(self, call: Call, now: float) -> None:
        """A call came back that did not run: it takes its place in the queue again, and loses nothing."""
        if self.starts_calls:
            self.ledger.requeue(call, now)
        else:
            self.tally.cancelled += 1
            self.ledger.settle(call, CANCELLED)

    # -- runners -------------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Have a runner booted."""
        # While one is under way that may still end better, none is begun: so this is another round.
        self.back_off.final = None
        self.tally.boots_attempted += 1
        # Boots are counted, so their count is a number that no runner has had.
        runner_id = self.tally.boots_attempted
        self.roster.add(runner_id)
        self.boots.take(runner_id)
        self.actions.append(Boot(runner_id))

    def forget(self, runner: Runner, now: float, *, hangs: bool = False) -> None:
        """Nothing of a runner is left; with `hangs` its backend still blocks over its boot."""
        self.roster.forget(runner)
        self.boots.leave(runner.id, hangs=hangs)
        self.meter.ended(runner.id, now)

    def stop(self, runner: Runner, reason: str, grace: float | None = None) -> None:
        """Have a runner go; at most once. `grace`: seconds, default the pool's."""
        if runner.state is not RunnerState.STOPPING:
            self.roster.stop(runner)
            self.actions.append(Stop(runner.id, self.limits.shutdown_grace if grace is None else grace, reason))

    def stop_all(self, reason: str) -> None:
        """Have all runners go at once."""
        for runner in list(self.roster.runners.values()):
            self.stop(runner, reason, 0.0)

    def stop_unused(self, reason: str) -> None:
        """Have the runners go that are up and have no call."""
        if self.roster.idle or self.roster.asked:
            for runner in [*self.roster.idle.values(), *self.roster.asked.values()]:
                self.stop(runner, reason)

    def stop_idle(self, runner: Runner) -> None:
        """Have a runner go because nothing has run there for long."""
        if self.roster.up <= self.floor:
            self.resting = min(self.min, self.resting + 1)
        self.stop(runner, "idle")

    def abort_boots(self, count: int, reason: str) -> None:
        """Abort the latest `count` boots, or all if that is less."""
        if count <= 0 or not self.roster.booting:
            return
        latest = list(islice(reversed(self.roster.booting.values()), count))
        for runner in reversed(latest):
            self.stop(runner, reason, 0.0)

    def lose(
        self,
        runner: Runner,
        error: Exception,
        now: float,
        next_boot: float,
        never_left: Collection[Ref] = (),
        begun: Collection[Ref] | None = None,
    ) -> None:
        """A runner is no more, or its boot came to nothing.

        Args:
            runner: the runner.
            error: what its calls are settled with, if they may not be tried again.
            now: monotonic seconds.
            next_boot: when the next boot may begin, if this was one.
            never_left: the calls of which the runner cannot have got everything.
            begun: the calls that it had begun; None if that is not known.
        """
        state, calls = runner.state, list(runner.in_flight.values())
        self.roster.stop(runner)
        if state is RunnerState.BOOTING:
            self._boot_failed(error, next_boot)
        for call in calls:
            ref = call.id, call.attempt
            if ref not in never_left and (begun is None or ref in begun):
                self.hit(call, error, now)
            elif call.state is not CallState.SETTLED:
                self.never_started(call, now)

    def _boot_failed(self, error: Exception, next_boot: float) -> None:
        self.tally.boots_failed += 1
        self.last_boot_error = error
        self.back_off.failed(next_boot)
        if self.roster.up:
            return
        if call_errors.is_final(error):
            self.back_off.final = error
        # Those that are under way may have been begun before what is wrong now was wrong.
        if self.has_failed_enough and not self.roster.booting:
            self.give_up_booting(self.back_off.final or error)

    def give_up_booting(self, why: Exception) -> None:
        """Fail what waits: no boot can help it now. Later calls try again."""
        failures = self.back_off.gave_up()
        if self.ledger.queued or self.ledger.delayed:
            error = call_errors.no_runner(why, failures)
            self.fail_waiting(lambda _call: error)
