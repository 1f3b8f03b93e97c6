"""The records of a runner's scheduler: one for each slot, and one for each call."""

from __future__ import annotations

from collections import deque

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING
from dragonfly_executor.util.plain_enum import IntEnum

if TYPE_CHECKING:
    from typing import Final

    Ref = tuple[int, int]
    """A call's id and its attempt."""

NEVER: Final = float("inf")
RETIRED: Final = 1
"""A flag of `SlotRecord.blocked`: the slot ends once its calls have ended."""
DYING: Final = 2
"""A flag of `SlotRecord.blocked`: the slot is being killed, or its setup has failed."""
FULL: Final = 4
"""A flag of `SlotRecord.blocked`: the slot refused a call. It is tried again after its next answer, or at a tick."""
RESERVED: Final = 8
"""A flag of `SlotRecord.blocked`: the slot ran the idle check, and an extra slot still runs a call in its place."""
PARKED: Final = 16
"""A flag of `SlotRecord.blocked`: as many calls run as may, because calls of other slots wait for their child calls."""


class EndReason(IntEnum):
    """The reasons for which a call is stopped."""

    CANCELLED = 1
    TIMED_OUT = 2
    CHECK_TIMED_OUT = 3
    """The user's idle check ran for too long."""


class RunLimits:
    """The limits of one call, and its clock. All times are monotonic seconds.

    Attributes:
        time_left: seconds that the call has from the moment at which a slot gets it.
        run_timeout: seconds that its function may run.
        since: the earliest time at which its slot can decode it.
        ends: the time at which `time_left` is over.
        unopened: milliseconds that decoding took, if the call was stopped because of that; 0 if not.
    """

    __slots__ = ("ends", "run_timeout", "since", "time_left", "unopened")

    def __init__(self, time_left: float, run_timeout: float) -> None:
        self.time_left = time_left
        self.run_timeout = run_timeout
        self.since = 0.0
        self.ends = NEVER
        self.unopened = 0


class SlotCall:
    """A call on this runner, from its arrival to its end: the only object that the agent keeps for it.

    Attributes:
        call_id: its id in the parent; 0 for the user's idle check.
        attempt: its attempt.
        packet: the bytes that a slot gets; opaque to the scheduler.
        cell: the number of the cell in which a slot marks the start of the call; opaque to the scheduler.
        claim: the number with which its slot claims it; opaque to the scheduler.
        number: its place in the order of arrival on this runner.
        is_check: True if it is the user's idle check.
        is_large: True if its payload comes in chunks, on request.
        missing: bytes of a large payload that have not arrived, then the number of shared objects that have not. The
            call cannot start before all have.
        chunks_owed: chunks that were forwarded to the slot and not replaced by a request; kept here for the driver.
        limits: its limits, or None.
        key: the number of its key; 0 for none.
        gpus: number of GPUs that it requires.
        slot: the slot that it was handed to; None while it waits.
        is_reported: True if the parent was told that it has started.
        is_shown: True if the title of its slot shows it.
        end_reason: why it is being stopped, or None.
    """

    __slots__ = (
        "attempt", "call_id", "cell", "chunks_owed", "claim", "end_reason", "gpus", "is_check", "is_large",
        "is_reported", "is_shown", "key", "limits", "missing", "number", "packet", "slot",
    )  # fmt: skip

    def __init__(self, call_id: int, attempt: int, packet: bytes, cell: int = 0) -> None:
        self.call_id = call_id
        self.attempt = attempt
        self.packet = packet
        self.cell = cell
        self.claim = 0
        self.number = 0
        self.is_check = False
        self.is_large = False
        self.missing = 0
        self.chunks_owed = 0
        self.limits: RunLimits | None = None
        self.key = 0
        self.gpus = 0
        self.slot: SlotRecord | None = None
        self.is_reported = False
        self.is_shown = False
        self.end_reason: EndReason | None = None

    @property
    def ref(self) -> Ref:
        """Return id and attempt."""
        return self.call_id, self.attempt

    def __repr__(self) -> str:
        return f"<SlotCall {self.call_id}.{self.attempt}>"


class SlotRecord:
    """A slot, as the scheduler sees it. Only the scheduler changes it.

    Attributes:
        pid: its process id.
        number: its number on the runner: from 0, and less than `SlotTable.max_slots`, unless it is an extra slot.
        gpus: the numbers of its GPUs; None if it has its usual share.
        in_flight: calls that were handed to it and not answered, oldest first. The first one is running.
        since: the time at which the first of them became the first.
        is_ready: True once its initializer is done.
        is_stuck: True if its running call is slow, or must be certain: then no call is queued behind it.
        is_checking: True if the user's idle check is among its calls.
        is_lending: True while its running call waits for calls that it has submitted.
        handed: calls that were handed to it, without those that were taken back and without idle checks.
        blocked: the reasons for which it gets no call: `RETIRED`, `DYING`, `FULL`, `RESERVED`, `PARKED`.
        limit_at: the time at which the limits of its running call must be checked.
        started_before: the value of `SlotTable.last_start` before the first call became the first.
    """

    __slots__ = (
        "blocked", "gpus", "handed", "in_flight", "is_checking", "is_lending", "is_ready", "is_stuck", "limit_at",
        "number", "pid", "since", "started_before",
    )  # fmt: skip

    def __init__(self, pid: int, now: float, number: int = 0, gpus: frozenset[int] | None = None) -> None:
        self.pid = pid
        self.number = number
        self.gpus = gpus
        self.in_flight: deque[SlotCall] = deque()
        self.since = now
        self.is_ready = False
        self.is_stuck = False
        self.is_checking = False
        self.is_lending = False
        self.handed = 0
        self.blocked = 0
        self.limit_at = NEVER
        self.started_before = now

    @property
    def is_retired(self) -> bool:
        """Return True if the slot gets no more calls, and ends after its present calls."""
        return bool(self.blocked & RETIRED)

    @property
    def is_dying(self) -> bool:
        """Return True if the slot is being killed, or if its setup has failed."""
        return bool(self.blocked & DYING)

    def __repr__(self) -> str:
        return f"<SlotRecord {self.pid}>"
