"""The state of a pool, and the small steps that transitions and reconciliation share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from itertools import islice

from dragonfly_executor.core import call_errors
from dragonfly_executor.core.actions import CANCELLED, Action, Boot, Kill, Stop
from dragonfly_executor.core.call_table import CallTable
from dragonfly_executor.core.call_times import CallTimes
from dragonfly_executor.core.calls import DEFAULT_KIND, Call, CallState
from dragonfly_executor.core.capacity import Requirements
from dragonfly_executor.core.counters import Counters
from dragonfly_executor.core.key_homes import KeyHomes
from dragonfly_executor.core.limits import PoolLimits
from dragonfly_executor.core.runner_group import RunnerGroup
from dragonfly_executor.core.runners import Runner, RunnerState, RunnerTable
from dragonfly_executor.core.settle_queue import SettleQueue
from dragonfly_executor.core.shutdown_mode import ShutdownMode
from dragonfly_executor.core.usage import Usage
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final


MANY_KINDS: Final = 64
"""Number of kinds of calls from which on kinds that are not in use are dropped when another kind comes."""
MAX_FALSE_STARTS: Final = 3
"""Number of slots that may die before they begin a call, until the call is taken to be the cause."""


class PoolState:
    """The state of a pool.

    Attributes:
        limits: the given limits. min, max: their current values.
        call_table, runner_table: its calls and its runners.
        settle_queue: the calls whose end is decided, and that are still to be settled.
        is_behind: True if the last event left work to do at once: calls to settle, or timeouts or delays that ended.
        homes: by key, the runner to which a call with this key was sent last.
        usage: the usage of the runners.
        mode: the shutdown mode, or None. closed: True once the shutdown is complete.
        broken: the error that broke the pool, or None.
        is_used, used_at: with `PoolLimits.spare`, whether calls without requirements ran or waited at the last event,
            and the monotonic seconds of the last event of which that is true.
        idled_below_min: number of runners within `min` that stopped because they were idle; it is subtracted from `min`
            until calls come.
        has_told_of_stuck_calls: True once the warning was given that child calls can never begin.
        has_told_of_budget: True once the warning that the budget is used up was given.
        counters: counters.
        last_boot_error: the error of the last boot that failed.
        is_tiered: True if there are several backends.
        actions: actions since the driver last took them.
    """

    def __init__(self, limits: PoolLimits) -> None:
        self.limits: Final = limits
        self.min = min(limits.min, limits.max)
        self.max = limits.max
        self.call_table: Final = CallTable(measures_keys=limits.thrifty)
        self.is_tiered: Final = len(limits.tiers) > 1
        self.runner_table: Final = RunnerTable(
            limits.of_tiers(),
            single_use=limits.single_use,
            thrifty=limits.thrifty,
            sends_ahead=limits.sends_ahead,
        )
        self.settle_queue: Final = SettleQueue()
        self.is_behind = False
        self.homes: Final = KeyHomes()
        self.usage: Final = Usage(limits.caps)
        self.counters: Final = Counters()
        self.call_times: Final = CallTimes()
        self.mode: ShutdownMode | None = None
        self.closed = False
        self.broken: Exception | None = None
        self.is_used = False
        self.used_at = 0.0
        self.idled_below_min = 0
        self.has_told_of_budget = False
        self.has_told_of_stuck_calls = False
        self.last_boot_error: Exception | None = None
        self.actions: list[Action] = []

    # -- current values ------------------------------------------------------------------------------------------------

    @property
    def starts_calls(self) -> bool:
        """Return whether waiting calls may still be started."""
        return self.broken is None and (self.mode is None or self.mode is ShutdownMode.DRAIN)

    @property
    def floor(self) -> int:
        """Return `min` while it applies, and 0 during a shutdown, in a broken pool or with a used-up budget."""
        return self.min if self.mode is None and self.broken is None and not self.usage.exhausted else 0

    @property
    def keep(self) -> int:
        """Return the number of runners to keep even without calls."""
        return max(0, self.floor - self.idled_below_min)

    def keep_of(self, group: RunnerGroup) -> int:
        """Return the number of runners of a group to keep even without calls.

        `min` is about the default kind. A tier keeps what the tiers before it may not.
        """
        if group.kind != DEFAULT_KIND:
            return 0
        keep = self.keep
        if self.is_tiered and keep:
            for earlier in self.runner_table.groups[DEFAULT_KIND][: group.tier.index]:
                keep -= self.most_of(earlier) if self.may_boot(earlier) else earlier.up + len(earlier.booting)
            most = group.tier.limits.max
            return max(0, keep if most is None else min(keep, most))
        return keep

    def most_of(self, group: RunnerGroup) -> int:
        """Return the maximum number of runners of a group's backend."""
        most = group.tier.limits.max
        return self.max if most is None else min(self.max, most)

    def may_boot(self, group: RunnerGroup) -> bool:
        """Return whether boots of a group may begin, now or after a pause that any failed boot brings."""
        tier = group.tier
        return group.is_possible and not (group.passed_over or tier.usage.exhausted or tier.boots.all_hang)

    def waiting_calls(self, kind: str) -> int:
        """Return how many calls of a kind have no slot: queued calls, and calls that wait on runners."""
        groups = self.runner_table.groups[kind]
        return self.call_table.queue_of(kind).queued + sum([group.ahead for group in groups])

    def waiting_for(self, group: RunnerGroup) -> int:
        """Return how many calls of a group's kind have no slot, and none in boots of earlier tiers."""
        waiting = self.waiting_calls(group.kind)
        for earlier in self.runner_table.groups[group.kind][: group.tier.index]:
            waiting -= len(earlier.booting) * self.slots_hint(earlier)
        return max(0, waiting)

    def has_boots_for_all(self, kind: str) -> bool:
        """Return whether the booting runners of a kind have slots for all calls of this kind that wait."""
        last = self.runner_table.groups[kind][-1]
        return self.waiting_for(last) <= len(last.booting) * self.slots_hint(last)

    def is_at_last_boots(self, group: RunnerGroup) -> bool:
        """Return whether enough boots of a kind have failed that the pool only waits for the pending boots.

        More boots only delay the error of the waiting calls.
        """
        return self.has_failed_enough(group) and bool(group.booting) and not self.has_member(group)

    def has_failed_enough(self, group: RunnerGroup) -> bool:
        """Return whether enough boots, or one boot finally, have failed that the waiting calls get no further boot."""
        return group.back_off.final is not None or group.back_off.failures >= self.limits.max_boot_failures

    def slots_hint(self, group: RunnerGroup) -> int:
        """Return the expected number of calls of a kind that the next runner of this kind can run at once."""
        if self.limits.single_use:
            return 1
        if group.most_calls:
            return group.most_calls
        placement, limits = self.runner_table.placements.by_kind[group.kind], group.tier.limits
        slots = max(1, limits.slots_hint)
        if placement.requirements is None or not placement.shares:
            return slots
        expected = limits.capacity
        return 1 if expected is None else placement.requirements.calls_at_once(slots, expected)

    def has_member(self, group: RunnerGroup) -> bool:
        """Return whether a runner is up on which calls of a kind fit."""
        return bool(self.runner_table.placements.by_kind[group.kind].members)

    def is_served(self, group: RunnerGroup) -> bool:
        """Return whether a runner on which calls of a kind fit boots for them, or is up and does not yield."""
        placement = self.runner_table.placements.by_kind[group.kind]
        if group.booting or len(placement.members) > placement.yielding:
            return True
        return self.is_tiered and any(each.booting for each in self.runner_table.groups[group.kind])

    @property
    def excess(self) -> int:
        """Return the number of runners beyond `max`, stopping ones not counted; negative if the pool may grow."""
        return self.runner_table.up + len(self.runner_table.booting) - self.max

    def slots_coming(self, kind: str) -> int:
        """Return the number of calls that the booting runners of a kind can take at once.

        These calls count as begun, as they do in a ``ProcessPoolExecutor`` that starts processes.
        """
        coming = sum([len(group.booting) * self.slots_hint(group) for group in self.runner_table.groups[kind]])
        workers = self.limits.max_workers
        return (
            coming
            if workers is None
            else max(0, min(coming, workers - self.runner_table.in_flight + self.runner_table.lent))
        )

    def add_kind(self, kind: str, requirements: Requirements | None) -> None:
        """Add a kind of calls; see `RunnerTable.add_kind`. If there are many kinds, drop the unused ones."""
        table = self.runner_table
        if len(table.groups) >= MANY_KINDS and not self.settle_queue.entries:
            for unused in [each for each in table.groups if each != kind and self._is_unused(each)]:
                table.drop_kind(unused)
                self.call_table.queues.pop(unused, None)
        table.add_kind(kind, requirements)

    def _is_unused(self, kind: str) -> bool:
        """Return whether a kind has neither calls nor runners, and no pause after failed boots."""
        groups, queue = self.runner_table.groups[kind], self.call_table.queue_of(kind)
        return (
            kind != DEFAULT_KIND
            and not (queue.queued or queue.delayed or self.runner_table.placements.by_kind[kind].in_flight)
            and not any(group.runners or group.back_off.until is not None for group in groups)
        )

    # -- calls ---------------------------------------------------------------------------------------------------------

    def end(self, call: Call, outcome: object) -> None:
        """Settle a call in any state. A call on a runner keeps its place there until it has left its slot."""
        if call.runner is not None:
            runner = self.runner_table.runners.get(call.runner)
            # After `give_up_all` the runner was stopped, and has no calls.
            if runner is not None and call.id in runner.in_flight:
                self.actions.append(Kill(call.runner, call))
        self.call_table.settle(call, outcome)

    def cancel(self, calls: Iterable[Call]) -> None:
        """Cancel calls in any state."""
        for call in calls:
            self.counters.calls_cancelled += 1
            self.end(call, CANCELLED)

    def cancel_waiting(self, kind: str, spare: int = 0) -> None:
        """Cancel all waiting calls of a kind except the first `spare` calls of the queue."""
        self.settle_queue.add(self.call_table.give_up_waiting(kind, spare), lambda call: self.cancel((call,)))

    def fail_waiting(self, kind: str, error_of: Callable[[Call], Exception]) -> None:
        """Settle the waiting calls of a kind, each with the error that `error_of` makes for it."""
        self.settle_queue.add(self.call_table.give_up_waiting(kind), lambda call: self.fail((call,), error_of(call)))

    def fail_all(self, error: Exception) -> None:
        """Settle all calls in any state with an error. The caller stops the runners."""
        self.settle_queue.add(self.call_table.give_up_all(), lambda call: self.fail((call,), error))

    def fail(self, calls: Iterable[Call], error: Exception) -> None:
        """Settle calls with the error of the runner, boot or pool that was to carry them."""
        for call in calls:
            self.counters.calls_failed += 1
            self.call_table.settle(call, error)

    def may_retry(self, call: Call, now: float) -> bool:
        """Return whether the call has an attempt left that may be made now."""
        # The cap may be reached at this very moment. The call's outcome must not get lost then.
        return call.attempt <= call.limits.retries and self.starts_calls and not self.usage.check(now)

    def may_retry_timeout(self, call: Call, now: float) -> bool:
        """Return whether a call that its runner has stopped at its `run_timeout` may be tried again now."""
        # The runner also stops a call at its `timeout`, which is for all attempts together.
        has_time = call.deadline is None or now < call.deadline
        return call.limits.retries_timeouts and has_time and self.may_retry(call, now)

    def retry(self, call: Call, now: float) -> None:
        """Start the next attempt of a call."""
        self.counters.calls_retried += 1
        self.call_table.retry(call, now)

    def attempt_lost(self, call: Call, error: Exception, now: float) -> None:
        """Charge an attempt: the slot or runner died, and the call may have run."""
        if call.state is CallState.SETTLED:
            return
        call.deaths += 1
        if self.may_retry(call, now):
            self.retry(call, now)
        elif call.limits.retries and call.deaths == call.attempt > call.limits.retries:
            self.fail((call,), call_errors.poisoned(call, error))
        else:
            self.fail((call,), error)

    def slot_died_before_start(self, call: Call, error: Exception, now: float) -> None:
        """Handle a call whose slot died before the call began.

        That costs no attempt. The call fails with `error` once `MAX_FALSE_STARTS` slots have died this way.
        """
        call.false_starts += 1
        if call.false_starts < MAX_FALSE_STARTS:
            self.never_started(call, now)
        else:
            self.fail((call,), error)

    def never_started(self, call: Call, now: float) -> None:
        """Return a call that did not run to its place in the queue. Its attempt is not charged."""
        if self.starts_calls:
            self.call_table.requeue(call, now)
        else:
            self.counters.calls_cancelled += 1
            self.call_table.settle(call, CANCELLED)

    # -- runners -------------------------------------------------------------------------------------------------------

    def boot(self, group: RunnerGroup) -> None:
        """Boot a runner of a kind."""
        # No boot begins while a pending boot may still succeed after a final error. So this boot starts a new round.
        group.back_off.final = None
        self.counters.boots_attempted += 1
        # Every boot is counted, so the count is a number that no other runner has.
        runner_id = self.counters.boots_attempted
        if group.thrifty is not None:
            group.thrifty.runner_needed(self.runner_table.now)
        self.runner_table.add(runner_id, group)
        group.tier.boots.take(runner_id)
        requirements = self.runner_table.placements.by_kind[group.kind].requirements if group.kind else None
        self.actions.append(Boot(runner_id, group.kind, requirements, group.tier.index))

    def forget(self, runner: Runner, now: float, *, hangs: bool = False) -> None:
        """Remove a runner of which nothing is left. With `hangs`, its backend still blocks in its boot."""
        self.runner_table.forget(runner)
        self.runner_table.tiers[runner.tier].boots.leave(runner.id, hangs=hangs)
        for usage in self.usages_of(runner):
            usage.ended(runner.id, now)

    def usages_of(self, runner: Runner) -> tuple[Usage, ...]:
        """Return where a runner's usage is counted: the pool's, and that of its backend if there are several."""
        return (self.usage, self.runner_table.tiers[runner.tier].usage) if self.is_tiered else (self.usage,)

    def began(self, runner: Runner, now: float) -> None:
        """Start to count a runner whose node is being requested. If the runner counts already, nothing changes."""
        is_new = self.usage.began(runner.id, now)
        if self.is_tiered and is_new:
            usage = self.runner_table.tiers[runner.tier].usage
            usage.began(runner.id, now)
            if usage.caps.price is not None:
                self.usage.priced(runner.id, usage.caps.price, now)

    def stop(self, runner: Runner, reason: str, grace: float | None = None) -> None:
        """Stop a runner, at most once.

        Args:
            runner: the runner.
            reason: reason for the log.
            grace: seconds for its running calls; None takes the pool's value.
        """
        if runner.state is not RunnerState.STOPPING:
            self.runner_table.stop(runner)
            self.actions.append(Stop(runner.id, self.limits.shutdown_grace if grace is None else grace, reason))

    def stop_all(self, reason: str) -> None:
        """Stop all runners at once, without grace."""
        for runner in list(self.runner_table.runners.values()):
            self.stop(runner, reason, 0.0)

    def stop_unused(self, group: RunnerGroup, reason: str, demanding: Collection[str] = ()) -> None:
        """Stop the runners of a kind that are up and have no call, except those on which calls of `demanding` fit."""
        if group.idle or group.idle_check_pending:
            for runner in [*group.idle.values(), *group.idle_check_pending.values()]:
                if not any(runner.id in self.runner_table.placements.by_kind[kind].members for kind in demanding):
                    self.stop(runner, reason)

    def abort_boots(self, booting: OrderedDict[int, Runner], count: int, reason: str) -> None:
        """Abort the latest `count` of these boots, or all boots if there are fewer."""
        if count <= 0 or not booting:
            return
        latest = list(islice(reversed(booting.values()), count))
        for runner in reversed(latest):
            self.stop(runner, reason, 0.0)
