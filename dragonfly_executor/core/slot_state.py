"""The state of a runner's scheduler: all slots, all calls, and the times at which something is due.

A call is in exactly one place: in `waiting`, in `held`, or in `in_flight` of one slot.
"""

from __future__ import annotations

from collections import deque

from dragonfly_executor.core.key_homes import KeyHomes
from dragonfly_executor.core.slot_idle_check import IdleCheck
from dragonfly_executor.core.slot_records import NEVER, SlotCall, SlotRecord
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

    from dragonfly_executor.core.slot_actions import SlotAction
    from dragonfly_executor.core.slot_records import Ref

REVIEW_AFTER: Final = 0.003
"""Seconds after which a running call is reported as started, and calls behind it may count as stuck."""
STUCK_FACTOR: Final = 3.0
"""Multiple of the recent cost of a call, after which a call counts as slow."""
COST_WEIGHT: Final = 0.1
"""Weight of the last call in the recent cost of a call."""

STARVED_FOR: Final = 0.03
"""Seconds after which a call counts as slow even if its slot lacks processor time."""
CHEAP: Final = 0.001
"""Seconds of a call below which calls are queued in the slots."""
PREFETCH_SECONDS: Final = 0.004
"""Seconds of work that may be queued in a slot."""
FORKS_AT_ONCE: Final = 8
"""Slots that are forked between two ticks while calls take long: the agent does no other work for some 5 ms."""
MAX_PREFETCH: Final = 64
"""Calls that may be queued in a slot behind the running one."""


def prefetch_depth(cost: float | None) -> int:
    """Return the number of calls that may be queued in a slot behind the running one.

    Args:
        cost: seconds that calls took recently; None if that is unknown.
    """
    if cost is None or cost >= CHEAP:
        return 0
    return MAX_PREFETCH if cost * MAX_PREFETCH <= PREFETCH_SECONDS else int(PREFETCH_SECONDS / cost)


class SlotTable:
    """The slots of a runner, and its calls. All times are monotonic seconds.

    Attributes:
        slots: living slots by process id.
        idle: slots that are ready and have no call, by process id; the most recently busy one is last.
        starting: slots that are not ready, by process id, in the order of their forks.
        max_slots: number of calls that may run at once.
        extra: slots beyond `max_slots`, as a replacement for a slot that is busy with an idle check.
        is_lending: True from the time at which a call waits for its child calls until that has no more effect here.
        lenders: the calls that have waited so, by id and attempt.
        lent: slots beyond `max_slots` that there are, or may be, because calls wait or have waited so.
        calls_per_slot: calls after which a slot is replaced; 0 for no limit.
        gpus: number of GPUs that are given to calls which require some; 0 if each slot keeps its usual share.
        gives_gpus: True once a call has required GPUs: then only such calls see GPUs.
        opening: seconds for decoding a call that has a `run_timeout`, unless its `run_timeout` is longer.
        cost: seconds that calls took recently; None before the first.
        waiting: calls that wait for a slot, in order of arrival.
        held: calls that arrived during a sync, in order of arrival.
        is_holding: True during a sync.
        calls: calls that are in slots, by id and attempt, without idle checks.
        arrived: number of calls that have arrived.
        last_start: the time at which a call last became the first of a slot.
        is_closed: True if no more calls are started.
        no_fork_before: the time of the next attempt to fork, after a failed one.
        forked: number of slots that were forked since the last tick.
        review_at: the time of the next review.
        show_at: the time at which the next call may have run for long enough to be shown.
        is_in_review: True from a review until the calls that it took back were handed out.
        homes: by key, the process id of the slot to which a call with this key was handed last.
        check: the user's idle check.
        wake_at: a time no later than the first at which something is due.
        actions: the actions that the driver has yet to carry out.
    """

    def __init__(self, now: float) -> None:
        self.slots: dict[int, SlotRecord] = {}
        self.idle: dict[int, SlotRecord] = {}
        self.starting: dict[int, SlotRecord] = {}
        self.max_slots = 1
        self.extra = 0
        self.is_lending = False
        self.lenders: dict[Ref, SlotCall] = {}
        self.lent = 0
        self.calls_per_slot = 0
        self.gpus = 0
        self.gives_gpus = False
        self.opening = 30.0
        self.cost: float | None = None
        self.waiting: deque[SlotCall] = deque()
        self.held: deque[SlotCall] = deque()
        self.is_holding = False
        self.calls: dict[Ref, SlotCall] = {}
        self.arrived = 0
        self.last_start = now
        self.is_closed = False
        self.no_fork_before = now
        self.forked = 0
        self.review_at = self.show_at = NEVER
        self.is_in_review = False
        self.homes = KeyHomes()
        self.check = IdleCheck()
        self.wake_at = NEVER
        self.actions: deque[SlotAction] = deque()

    @property
    def is_idle(self) -> bool:
        """Return True if no call is on this runner."""
        return not self.waiting and not self.calls and not self.held

    @property
    def forks_left(self) -> int:
        """Return the number of slots that may be forked before the next tick.

        While calls are short, the slots that there are may empty the queue meanwhile. Calls that take longer than a
        fork still wait then, and several forks in a row copy fewer of the agent's pages than forks between other work.
        """
        is_slow = self.cost is not None and self.cost >= REVIEW_AFTER
        return max(0, (FORKS_AT_ONCE if is_slow else 1) - self.forked)

    @property
    def may_grow(self) -> bool:
        """Return True if the limit on slots allows another."""
        return len(self.slots) < self.max_slots + self.extra + self.lent

    @property
    def room(self) -> int:
        """Return the number of slots by which the limit on slots lets the runner grow."""
        return self.max_slots + self.extra + self.lent - len(self.slots)

    def free_numbers(self, count: int) -> list[int]:
        """Return the lowest numbers that no living slot has."""
        taken = {slot.number for slot in self.slots.values()}
        return [number for number in range(len(taken) + count) if number not in taken][:count]

    def is_extra(self, slot: SlotRecord) -> bool:
        """Return True if the slot was forked beyond `max_slots`: another's call waits, or it has the idle check."""
        return slot.number >= self.max_slots

    @property
    def stuck_after(self) -> float:
        """Return the seconds of one call after which the calls behind it count as stuck."""
        return max(REVIEW_AFTER, STUCK_FACTOR * (self.cost or 0.0))

    @property
    def expects_short(self) -> bool:
        """Return True if calls were so short lately that a slow one may only lack processor time."""
        return self.cost is not None and self.cost < CHEAP

    def wake(self, when: float) -> None:
        """Have the driver call `tick` at that time, or earlier."""
        self.wake_at = min(self.wake_at, when)

    def arm_review(self, now: float) -> None:
        """Have a review begin after `REVIEW_AFTER` seconds."""
        self.review_at = now + REVIEW_AFTER
        self.wake(self.review_at)

    def next_wake(self, now: float) -> float:
        """Return the first time after `now` at which something is due."""
        due = min(self.review_at, self.check.ends, self.show_at)
        if now < self.no_fork_before < due:
            due = self.no_fork_before
        for slot in self.slots.values():
            due = min(due, slot.limit_at)
        return due
