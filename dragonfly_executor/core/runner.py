"""One runner of a pool, as the core sees it."""

from __future__ import annotations

from enum import Enum

from dragonfly_executor.core.calls import Call
from dragonfly_executor.core.capacity import Capacity
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final


class RunnerState(Enum):
    """The states of a runner."""

    BOOTING = "booting"
    UP = "up"
    LEAVING = "leaving"
    """The runner goes by itself: it takes no call, and finishes its calls. Otherwise it counts as stopped."""
    STOPPING = "stopping"
    """The runner was told to go, or was lost, and still counts against ``max``."""


UP: Final = RunnerState.UP
"""A plain name for the member: an enum lookup takes longer than the comparison."""


class Runner:
    """One runner.

    Attributes:
        id: its number in the pool.
        kind: its kind.
        tier: index of the backend that booted it.
        state: its state.
        slots: number of calls that it runs at once.
        capacity: its CPUs, GPUs, memory and labels; None if unknown.
        extra: number of slots that its calls take beyond one each, less the slots of calls that wait for child calls.
        lent: by id, those calls. They have lent what they take of the runner.
        gpus_used, memory_used: sums over its calls: GPUs and bytes of memory that they require.
        counted_load: its load as it is counted in the sums over runners.
        held_for: the kind whose next call waits for room on this runner. No call of another kind is sent here. Or None.
        prefetch: number of calls that it may have beyond `slots`; up to date while each slot has a call.
        in_flight: by id, the calls that were sent to it and have not left it. Settled calls that it must still end are
            included, because they occupy their place.
        cost: estimated run time of a call here, in seconds; None if unknown.
        round_trip: round-trip time in seconds: the minimum of the last few measurements.
        trips: these measurements.
        sent_at: monotonic seconds at which it was sent calls last.
        idle_since: monotonic seconds since which it has no call; meaningful only while it has none.
        retiring: True if it takes no more calls because the pool was made smaller, or because another kind needs its
            room.
        is_queued: True if it boots, and its boot waits in a queue of the backend.
        is_short: True if it has returned calls that it could not begin though slots seemed free, and no call has ended
            there since. Calls go to other runners first.
        is_uneven: True if a call there takes more than one slot, or has lent its own. Then none is sent ahead.
        done: number of calls that ended here.
        ends_at: monotonic seconds at which its platform ends it; None = not known.
        replace_at: monotonic seconds at which its slots are not counted on any more, a boot time before `drains_at`.
        drains_at: monotonic seconds at which it stops taking calls, so that its calls can end before that.
        lifetime: seconds between its coming up and `ends_at`.
        ended_by: who ends it, and why, for the error of its calls.
    """

    __slots__ = (
        "capacity", "cost", "counted_load", "done", "drains_at", "ended_by", "ends_at", "extra", "gpus_used",
        "held_for", "id", "idle_since", "in_flight", "is_queued", "is_short", "is_uneven", "kind", "lent", "lifetime",
        "memory_used", "prefetch", "replace_at", "retiring", "round_trip", "sent_at", "slots", "state", "tier", "trips",
    )  # fmt: skip

    def __init__(self, id: int, kind: str, tier: int = 0) -> None:  # noqa: A002
        self.id = id
        self.kind = kind
        self.tier = tier
        self.state: RunnerState = RunnerState.BOOTING
        self.slots = 0
        self.capacity: Capacity | None = None
        self.extra = 0
        self.lent: dict[int, Call] = {}
        self.gpus_used = 0
        self.memory_used = 0
        self.counted_load = 0
        self.held_for: str | None = None
        self.prefetch = 0
        self.in_flight: dict[int, Call] = {}
        self.cost: float | None = None
        self.round_trip = 0.0
        self.trips: tuple[float, ...] = ()
        self.idle_since = 0.0
        self.sent_at = float("-inf")
        self.retiring = False
        self.is_queued = False
        self.is_short = False
        self.is_uneven = False
        self.done = 0
        self.ends_at: float | None = None
        self.replace_at = 0.0
        self.drains_at = 0.0
        self.lifetime = 0.0
        self.ended_by = ""

    @property
    def load(self) -> int:
        """Return how many slots its calls take, with the slots of prefetched calls, and without lent slots."""
        return len(self.in_flight) + self.extra

    def __repr__(self) -> str:
        return f"<Runner {self.id} {self.state.value} {len(self.in_flight)}/{self.slots}+{self.prefetch}>"
