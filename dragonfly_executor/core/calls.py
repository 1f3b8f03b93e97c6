"""One accepted call of a pool: what it may take, and where it is."""

from __future__ import annotations

from enum import IntEnum

from dragonfly_executor.core.record import Record

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from typing import Final


class CallState(IntEnum):
    """Where a call is."""

    QUEUED = 0
    DELAYED = 1
    """Waits for the end of a retry's delay."""
    SENT = 2
    STARTED = 3
    SETTLED = 4


QUEUED: Final = CallState.QUEUED
DELAYED: Final = CallState.DELAYED
SENT: Final = CallState.SENT
STARTED: Final = CallState.STARTED
SETTLED: Final = CallState.SETTLED
"""As plain names: looking a member up in its enum takes longer than comparing with it."""


class CallLimits(Record):
    """What a call may take. One object serves all calls of a view of an executor.

    Args:
        timeout: seconds from submission to result, waiting included; None = no limit.
        queue_timeout: seconds from submission (for a retry: from the end of its delay) to being sent; None = no limit.
        run_timeout: seconds that it may run, kept by the agent; None = no limit.
        retries: how often it may run again after its slot was lost, or after an error that allows it.
        retry_delays: seconds before each retry, in order; the last one is that of all that follow. 0 if there are none.
    """

    __slots__ = __match_args__ = ("timeout", "queue_timeout", "run_timeout", "retries", "retry_delays")

    def __init__(
        self,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        run_timeout: float | None = None,
        retries: int = 0,
        retry_delays: tuple[float, ...] = (),
    ) -> None:
        self.timeout = timeout
        self.queue_timeout = queue_timeout
        self.run_timeout = run_timeout
        self.retries = retries
        self.retry_delays = retry_delays


class Waiting:
    """The counts of a queue, which each of its calls keeps when it is settled.

    Attributes:
        queued: unsettled calls that wait for a slot.
        delayed: unsettled calls that wait for the end of a retry's delay.
        settled: calls that were settled while they were queued, since the queue was swept last. Some of them, at most
            all, are in it still.
    """

    __slots__ = ("delayed", "queued", "settled")

    def __init__(self) -> None:
        self.queued = 0
        self.delayed = 0
        self.settled = 0


class Call:
    """One accepted call: the only object that the core keeps for it.

    Attributes:
        id: larger than that of every call submitted before; so ids are the order of arrival.
        attempt: 1, and one more for every retry.
        payload: what the driver sends; not looked at here.
        token: whom the driver tells the outcome; not looked at here.
        limits: its budgets and retries.
        state: where it is.
        queue: the queue that it is in, or was in last; set when it is accepted.
        runner: id of the runner that has it, or None.
        deaths: attempts that ended with the death of their slot.
        false_starts: slots that died before it could begin there.
        submitted_at: when the core accepted it, in monotonic seconds.
        deadline: monotonic seconds at which its whole budget ends, or None; set when it is accepted.
        alarm: when the ledger looks at its budgets next, or None.
    """

    __slots__ = (
        "alarm", "attempt", "deadline", "deaths", "false_starts", "id", "limits", "payload", "queue", "runner",
        "state", "submitted_at", "token",
    )  # fmt: skip
    queue: Waiting

    def __init__(self, id: int, payload: object, token: object, limits: CallLimits) -> None:  # noqa: A002
        self.id = id
        self.attempt = 1
        self.payload = payload
        self.token = token
        self.limits = limits
        self.state: CallState = QUEUED
        self.runner: int | None = None
        self.deaths = 0
        self.false_starts = 0
        self.submitted_at = 0.0
        self.deadline: float | None = None
        self.alarm: float | None = None

    def __repr__(self) -> str:
        where = "" if self.runner is None else f" on runner {self.runner}"
        return f"<Call {self.id}.{self.attempt} {self.state.name.lower()}{where}>"
