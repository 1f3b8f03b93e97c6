"""One accepted call of a pool: its limits and its state."""

from __future__ import annotations

from dragonfly_executor.core.capacity import Requirements
from dragonfly_executor.core.key_costs import KeyCosts
from dragonfly_executor.core.record import Record
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol
from dragonfly_executor.util.plain_enum import IntEnum

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final, TypeAlias

    Payload: TypeAlias = bytes | Sequence[bytes | bytearray | memoryview]


DEFAULT_KIND: Final = ""
"""The kind of calls that require nothing, and of the runners that `min` keeps."""


class CallState(IntEnum):
    """The states of a call."""

    QUEUED = 0
    DELAYED = 1
    """The call waits for the end of a retry's delay, or for its arguments."""
    SENT = 2
    STARTED = 3
    SETTLED = 4


QUEUED: Final = CallState.QUEUED
DELAYED: Final = CallState.DELAYED
SENT: Final = CallState.SENT
STARTED: Final = CallState.STARTED
SETTLED: Final = CallState.SETTLED
"""Plain names for the members: an enum lookup takes longer than the comparison."""


class CallLimits(Record):
    """The limits of a call, and its place among others. One object serves all calls of a view of an executor.

    Args:
        timeout: seconds from submission to result, waiting included; None = no limit.
        queue_timeout: seconds from submission (for a retry: from the end of its delay) until the call is sent; None =
            no limit.
        run_timeout: seconds that the call may run, enforced by the agent; None = no limit.
        retries: how often the call may run again after its slot was lost, or after an error that allows a retry.
        retries_timeouts: whether it may also run again after the runner has stopped it at its run_timeout.
        retry_delays: seconds before each retry, in order. The last one applies to all that follow. 0 if there are none.
        requirements: what the call requires of its runner; None if nothing. Their key is the call's kind.
        priority: calls with a larger priority are sent first.
        key: a number that stands for the call's key: the call is sent to where a call with this key was sent last, if
            there is room. 0 = no key.

    Attributes:
        kind: the key of the requirements; empty if there are none.
        concern_runner: True if the runner enforces one of the limits, or places the call by its key.
        has_place: True if the call has a priority or a key, or waits for its arguments, so that it is not simply the
            last in the queue.
    """

    __match_args__ = (
        "timeout",
        "queue_timeout",
        "run_timeout",
        "retries",
        "retries_timeouts",
        "retry_delays",
        "requirements",
        "priority",
        "key",
    )
    __slots__ = (*__match_args__, "concern_runner", "has_place", "kind")

    def __init__(
        self,
        *,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        run_timeout: float | None = None,
        retries: int = 0,
        retries_timeouts: bool = False,
        retry_delays: tuple[float, ...] = (),
        requirements: Requirements | None = None,
        priority: float = 0,
        key: int = 0,
    ) -> None:
        self.timeout = timeout
        self.queue_timeout = queue_timeout
        self.run_timeout = run_timeout
        self.retries = retries
        self.retries_timeouts = retries_timeouts
        self.retry_delays = retry_delays
        self.requirements = requirements
        self.kind = DEFAULT_KIND if requirements is None else requirements.key
        self.priority = priority
        self.key = key
        has_share = requirements is not None and (requirements.memory > 0 or requirements.gpus > 0)
        self.concern_runner = timeout is not None or run_timeout is not None or key != 0 or has_share
        self.has_place = priority != 0 or key != 0

    def dependent(self) -> CallLimits:
        """Return these limits for a call that waits for its arguments."""
        limits = CallLimits(**{name: getattr(self, name) for name in self.__match_args__})
        limits.has_place = True
        return limits

    def without_retries(self) -> CallLimits:
        """Return the same limits for a call that must not run again."""
        values = {name: getattr(self, name) for name in self.__match_args__}
        return CallLimits(**values | {"retries": 0, "retry_delays": ()})


class QueueTotal:
    """The counts of the queues of all kinds together.

    Attributes:
        queued, delayed: sums over the queues.
    """

    __slots__ = ("delayed", "queued")

    def __init__(self) -> None:
        self.queued = 0
        self.delayed = 0


class QueueCounts:
    """The counts of a queue. Settling a call updates the counts of its queue, and of all queues together.

    Attributes:
        queued: unsettled calls that wait for a slot.
        delayed: unsettled calls that wait for the end of a retry's delay, or for their arguments.
        dependent: the ids of the latter.
        settled: number of stale entries in the queue: calls that were settled while they were queued.
        total: the counts of all queues together. A queue that was given up has a total of its own.
        key_costs: how long calls of each key take; None if that is not measured.
    """

    __slots__ = ("delayed", "dependent", "key_costs", "queued", "settled", "total")

    def __init__(self, total: QueueTotal, key_costs: KeyCosts | None = None) -> None:
        self.queued = 0
        self.delayed = 0
        self.dependent: set[int] = set()
        self.settled = 0
        self.total = total
        self.key_costs = key_costs


class CallToken(Protocol):
    """The receiver of a call's outcome, as the driver uses it. The core only keeps it."""

    def hand_over(self) -> bool:
        """Accept that the call is sent to a runner. Returns False if the call was cancelled before."""
        ...

    def settle(self, outcome: object) -> None:
        """Accept the outcome: the value from a ResultsArrived, an exception, or `CANCELLED`."""


class Call:
    """One accepted call: the only object that the core keeps for it.

    Attributes:
        id: larger than the id of every call submitted before, so ids are the order of arrival.
        attempt: 1, plus one for every retry.
        payload: the data that the driver sends; opaque to the core. Empty once the call is settled.
        token: the receiver of the outcome; opaque to the core. None once it has the outcome.
        limits: its timeouts and retries, its priority and its key.
        kind: the key of its requirements. Calls of one kind wait in one queue, and runners are booted for a kind.
        state: its state.
        queue: the queue that it is in, or was in last; set when the call is accepted.
        runner: id of the runner that has it, or None.
        deaths: attempts that ended with the death of their slot.
        false_starts: slots that died before they could begin it.
        submitted_at: monotonic seconds at which the core accepted it.
        waits_since: monotonic seconds from which on its current attempt waits for a slot.
        deadline: monotonic seconds at which its timeout expires, or None; set when the call is accepted.
        alarm: monotonic seconds at which the call table next checks its timeouts, or None.
        name: the name of its function, for people. The driver sets it.
        began_at: monotonic seconds at which a slot's start was reported; set while the call is in the state STARTED.
        slot: number of that slot, or None if the runner has not said it; set likewise.
    """

    __slots__ = (
        "alarm", "attempt", "began_at", "deadline", "deaths", "false_starts", "id", "kind", "limits", "name", "payload",
        "queue", "runner", "slot", "state", "submitted_at", "token", "waits_since",
    )  # fmt: skip
    queue: QueueCounts
    began_at: float
    slot: int | None
    is_item = False
    """True for a call that is one item of a map, or a chunk of them."""
    depth = 0
    """Number of calls that the call is nested in: each was submitted by the one before."""
    is_stream = False
    """True for a call whose items come while it runs."""
    is_hidden = False
    """True for a call that only serves other calls, which are counted and shown in its place."""

    def __init__(
        self,
        id: int,  # noqa: A002
        payload: Payload,
        token: CallToken | None,
        limits: CallLimits,
        kind: str = DEFAULT_KIND,
    ) -> None:
        self.id = id
        self.attempt = 1
        self.payload = payload
        self.token = token
        self.limits = limits
        self.kind = kind
        self.name = ""
        self.state: CallState = QUEUED
        self.runner: int | None = None
        self.deaths = 0
        self.false_starts = 0
        self.submitted_at = self.waits_since = 0.0
        self.deadline: float | None = None
        self.alarm: float | None = None

    def wait_for_arguments(self) -> None:
        """Have the core hold this new call, which has no payload, until `ArgumentsReady`. Called before its submit."""
        self.state = DELAYED
        self.limits = self.limits.dependent()

    def __repr__(self) -> str:
        where = "" if self.runner is None else f" on runner {self.runner}"
        return f"<Call {self.id}.{self.attempt} {self.state.name.lower()}{where}>"


class ChildCall(Call):
    """A call that a call has submitted.

    Of calls with the same priority, the deepest come first. So few calls wait for others at any time: those on the
    paths to the calls that run. In order of arrival, a tree of calls begins all its branches before it ends one.
    """

    __slots__ = ("depth",)

    def __init__(self, id: int, payload: Payload, token: CallToken | None, limits: CallLimits, depth: int) -> None:  # noqa: A002
        super().__init__(id, payload, token, limits, limits.kind)
        self.depth = depth
