"""What happens to a pool. The driver turns each into `Machine.handle(event, now)`.

Events carry batches: the cost of an event is paid once for all the calls in it. A *ref* names one sending of a call:
``(call id, attempt)``. An event that does not fit the state (a late, doubled or unknown message) is legal and ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from dragonfly_executor.core.ledger import Call

Ref: TypeAlias = tuple[int, int]
Result: TypeAlias = tuple[int, int, float, object, bool]


class ShutdownMode(IntEnum):
    """How a pool ends. A stronger mode may follow a weaker one; a weaker one after a stronger one changes nothing."""

    DRAIN = 1
    """Every accepted call finishes."""
    CANCEL_QUEUED = 2
    """Calls on runners finish; all others are cancelled."""
    KILL = 3
    """Nothing finishes: calls on runners fail, all others are cancelled, runners go at once."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """Calls were accepted; their ids are larger than every id before."""

    calls: Sequence[Call]


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """The user gave these calls up, wherever they are."""

    call_ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class BootSucceeded:
    """A runner is up and takes ``slots`` calls at once."""

    runner_id: int
    slots: int


@dataclass(frozen=True, slots=True)
class BootFailed:
    """A boot came to nothing and the driver has released what there was of it.

    ``retry_in``: seconds, from now, before the next boot.
    """

    runner_id: int
    error: Exception
    retry_in: float


@dataclass(frozen=True, slots=True)
class RunnerLost:
    """A runner's link died. What was in flight on it may have started."""

    runner_id: int
    error: Exception


@dataclass(frozen=True, slots=True)
class RunnerGone:
    """A stopped runner no longer exists. Until then it counts against ``max``."""

    runner_id: int


@dataclass(frozen=True, slots=True)
class CallsStarted:
    """Slots have begun to run these calls."""

    runner_id: int
    refs: Sequence[Ref]


@dataclass(frozen=True, slots=True)
class ResultsArrived:
    """Calls ended by themselves.

    ``results``: ``(call id, attempt, seconds it ran, outcome, retryable)`` each; ``outcome`` is opaque, ``retryable``
    says that it is an error which the call's options allow to be tried again.
    """

    runner_id: int
    results: Sequence[Result]


@dataclass(frozen=True, slots=True)
class CallsReturned:
    """The agent gave back calls that provably never started."""

    runner_id: int
    refs: Sequence[Ref]


@dataclass(frozen=True, slots=True)
class CallLost:
    """A call's slot died under it. ``error``: the RunnerLostError that says how."""

    runner_id: int
    call_id: int
    attempt: int
    error: Exception
    may_have_started: bool


@dataclass(frozen=True, slots=True)
class CallTimedOut:
    """The agent killed a call at the end of its ``run_timeout`` or of its budget."""

    runner_id: int
    call_id: int
    attempt: int


@dataclass(frozen=True, slots=True)
class CallGone:
    """A call that was to be killed has left its slot."""

    runner_id: int
    call_id: int
    attempt: int


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """A round trip to the runner and back took this many seconds."""

    runner_id: int
    seconds: float


@dataclass(frozen=True, slots=True)
class PoolBroke:
    """The pool cannot go on (its initializer failed, or the engine did): every call fails with ``error``."""

    error: Exception


@dataclass(frozen=True, slots=True)
class IdleChecked:
    """The answer to a CheckIdle: may the runner be stopped?"""

    runner_id: int
    idle: bool


@dataclass(frozen=True, slots=True)
class Resized:
    """New bounds for the number of runners."""

    min: int
    max: int


@dataclass(frozen=True, slots=True)
class ShutdownRequested:
    """No calls are accepted any more; what becomes of those that were is the mode's to say."""

    mode: ShutdownMode


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: what `Machine.deadline` asked for."""


Event: TypeAlias = (
    Submitted
    | CancelRequested
    | BootSucceeded
    | BootFailed
    | RunnerLost
    | RunnerGone
    | CallsStarted
    | ResultsArrived
    | CallsReturned
    | CallLost
    | CallTimedOut
    | CallGone
    | RoundTrip
    | PoolBroke
    | IdleChecked
    | Resized
    | ShutdownRequested
    | Tick
)
