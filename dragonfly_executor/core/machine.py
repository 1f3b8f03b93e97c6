"""The state machine of a pool: an event goes in, actions come out.

The machine first records the facts of an event, then reconciles the whole state. So a lost runner, a failed boot, a
resize and a burst of calls need no code of their own.
"""

from __future__ import annotations

from dragonfly_executor.core import call_errors
from dragonfly_executor.core.actions import Action, Settle
from dragonfly_executor.core.calls import Call
from dragonfly_executor.core.events import Event, Tick
from dragonfly_executor.core.idle_limits import idle_deadline
from dragonfly_executor.core.limits import PoolLimits
from dragonfly_executor.core.queued_boots import needless_until
from dragonfly_executor.core.reassigned_boots import use_of
from dragonfly_executor.core.reconcile import reconcile
from dragonfly_executor.core.runner_endings import next_ending
from dragonfly_executor.core.runners import RunnerState
from dragonfly_executor.core.sharing import next_review
from dragonfly_executor.core.state import PoolState
from dragonfly_executor.core.tier_budgets import next_tier_spent
from dragonfly_executor.core.transitions import TRANSITIONS
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly_executor.core.capacity import Capacity
    from dragonfly_executor.core.stats import PoolStats

__all__ = ["Machine", "PoolLimits"]


class Machine:
    """The state machine of a pool.

    Only `handle` changes its state. It is deterministic: the same log of ``(event, now)`` gives the same actions, no
    matter what the machine is asked in between. It is total: any event in any state gives a list of actions, never an
    exception.
    """

    def __init__(self, limits: PoolLimits) -> None:
        self.pool = PoolState(limits)
        self._now = float("-inf")

    def handle(self, event: Event, now: float) -> list[Action]:
        """Apply an event and return the resulting actions.

        Args:
            event: the event.
            now: monotonic seconds; a time before that of the last event counts as that of the last event.

        Returns:
            The actions, in the order in which the driver carries them out.
        """
        self._now = now = max(now, self._now)
        pool = self.pool
        # Work that is too long for one event is done in slices, one at each tick. Many events may come before the next
        # tick, and each of them must stay short.
        in_turn = not pool.is_behind or type(event) is Tick
        pool.runner_table.now = now
        TRANSITIONS[type(event)](pool, event, now)
        reconcile(pool, now, in_turn=in_turn)
        actions = pool.actions
        pool.actions = []
        return actions

    def deadline(self) -> float | None:
        """Return when the driver must call `handle` next if no event comes first, in monotonic seconds; None = never.

        The time of the last event means at once: there is more work than one event may do. The driver goes on with a
        Tick.
        """
        pool = self.pool
        if pool.is_behind:
            return self._now
        deadline, usage, runners = pool.call_table.deadline(), pool.usage, pool.runner_table
        when = runners.default.back_off.until if len(runners.all_groups) == 1 else runners.next_boot()
        if when is not None and (deadline is None or when < deadline):
            deadline = when
        when = idle_deadline(pool) if runners.idle else None
        if when is not None and (deadline is None or when < deadline):
            deadline = when
        when = needless_until(pool) if runners.queued else None
        if when is not None and (deadline is None or when < deadline):
            deadline = when
        when = next_ending(pool) if runners.endings else None
        if when is not None and (deadline is None or when < deadline):
            deadline = when
        if (pool.limits.thrifty or pool.is_tiered) and pool.call_table.total.queued:
            when = next_review(pool)
            if when is not None and (deadline is None or when < deadline):
                deadline = when
        when = usage.until
        if when is not None and not usage.exhausted and (deadline is None or when < deadline):
            deadline = when
        when = next_tier_spent(pool) if pool.is_tiered else None
        if when is not None and (deadline is None or when < deadline):
            deadline = when
        return deadline

    def find(self, call_id: int) -> Call | None:
        """Return the call with this id; None if it is settled or unknown."""
        return self.pool.call_table.calls.get(call_id)

    def has_call(self, runner_id: int, call_id: int, attempt: int) -> bool | None:
        """Return whether a runner must still end this attempt of a call.

        Returns:
            None for a runner that was told to go: its calls are not tracked.
        """
        runner = self.pool.runner_table.runners.get(runner_id)
        if runner is None or runner.state is RunnerState.STOPPING:
            return None
        call = runner.in_flight.get(call_id)
        return call is not None and call.attempt == attempt

    def call_on(self, runner_id: int, call_id: int) -> Call | None:
        """Return the call with this id that a runner must still end; None if there is none."""
        runner = self.pool.runner_table.runners.get(runner_id)
        return None if runner is None else runner.in_flight.get(call_id)

    def use_of(self, capacity: Capacity) -> str | None:
        """Return the kind of the waiting calls that a runner with this capacity can serve first; None if none fits."""
        return use_of(self.pool, capacity)

    @property
    def waiting(self) -> int:
        """Return the number of calls that wait for a slot, for a retry, or to be settled without having run."""
        return self.pool.call_table.waiting

    @property
    def runners_up(self) -> int:
        """Return the number of runners that are up."""
        return self.pool.runner_table.up

    @property
    def boots_failed(self) -> int:
        """Return the number of boots that have failed since the pool began."""
        return self.pool.counters.boots_failed

    def why_none_comes_up(self, failed_before: int) -> Exception | None:
        """Return the error of a wait for runners, if none is up or boots, and enough boots have failed since it began.

        Args:
            failed_before: number of boots that had failed when the wait began.
        """
        pool = self.pool
        error, failures = pool.last_boot_error, pool.counters.boots_failed - failed_before
        if error is None or failures <= 0 or pool.runner_table.up or pool.runner_table.booting:
            return None
        is_enough = failures >= pool.limits.max_boot_failures or call_errors.is_final(error)
        return call_errors.no_runner(error, failures) if is_enough else None

    @property
    def in_flight(self) -> int:
        """Return the number of calls on runners."""
        return self.pool.runner_table.in_flight

    def unsettled(self) -> list[Call]:
        """Return the accepted calls whose outcome the driver has not received, in order of arrival."""
        pool = self.pool
        # Between two events the call table has all of them.
        settled = [*pool.call_table.settled]
        for action in pool.actions:
            if isinstance(action, Settle):
                settled += action.outcomes
        return [*pool.call_table.calls.values(), *(call for call, _ in settled)]

    def stats(self, now: float) -> PoolStats:
        """Return a snapshot of the pool at `now` (monotonic seconds)."""
        # Not every program asks for stats, and this import costs a cold start milliseconds.
        from dragonfly_executor.core.stats_snapshot import summarize

        return summarize(self.pool, now)
