"""What happens to a pool. The driver turns each into `Machine.handle(event, now)`.

Events carry batches: the cost of an event is paid once for all the calls in it. A *ref* names one sending of a call:
``(call id, attempt)``. An event that does not fit the state (a late, doubled or unknown message) is legal and ignored.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import IntEnum

from dragonfly_executor.core.calls import Call
from dragonfly_executor.core.record import Record

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from typing import TypeAlias

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


class Submitted(Record):
    """Calls were accepted; their ids are larger than every id before."""

    __slots__ = __match_args__ = ("calls",)

    def __init__(self, calls: Sequence[Call]) -> None:
        self.calls = calls


class CancelRequested(Record):
    """The user gave these calls up, wherever they are."""

    __slots__ = __match_args__ = ("call_ids",)

    def __init__(self, call_ids: Sequence[int]) -> None:
        self.call_ids = call_ids


class BootStarted(Record):
    """The backend asks for a runner's node now: from this moment on the runner counts as machine time.

    It may come again after a BootQueued. A BootSucceeded without it counts from that moment.
    """

    __slots__ = __match_args__ = ("runner_id",)

    def __init__(self, runner_id: int) -> None:
        self.runner_id = runner_id


class BootQueued(Record):
    """There is no node yet, and the backend waits for its turn to ask for one: that is no machine time."""

    __slots__ = __match_args__ = ("runner_id",)

    def __init__(self, runner_id: int) -> None:
        self.runner_id = runner_id


class BootReturned(Record):
    """The backend has come back from a boot that was said to hang; see BootFailed and RunnerGone."""

    __slots__ = __match_args__ = ("runner_id",)

    def __init__(self, runner_id: int) -> None:
        self.runner_id = runner_id


class BootSucceeded(Record):
    """A runner is up and takes ``slots`` calls at once.

    ``price``: US dollars for a second of it, where more is known of it than of the pool's runners.
    """

    __slots__ = __match_args__ = ("runner_id", "slots", "price")

    def __init__(self, runner_id: int, slots: int, price: float | None = None) -> None:
        self.runner_id = runner_id
        self.slots = slots
        self.price = price


class BootFailed(Record):
    """A boot came to nothing and the driver has released what there was of it.

    ``retry_in``: seconds, from now, before the next boot. ``hangs``: the backend blocks still, and the boot keeps its
    place among those that the backend can run at once until BootReturned.
    """

    __slots__ = __match_args__ = ("runner_id", "error", "retry_in", "hangs")

    def __init__(self, runner_id: int, error: Exception, retry_in: float, hangs: bool = False) -> None:
        self.runner_id = runner_id
        self.error = error
        self.retry_in = retry_in
        self.hangs = hangs


class RunnerLost(Record):
    """A runner's link died.

    ``never_left``: the calls that never left the parent whole. ``begun``: the calls that its slots had begun, where
    that is known, which it is only once all its processes have ended; None = each call that left may have started.
    """

    __slots__ = __match_args__ = ("runner_id", "error", "never_left", "begun")

    def __init__(
        self,
        runner_id: int,
        error: Exception,
        never_left: Collection[Ref] = (),
        begun: Collection[Ref] | None = None,
    ) -> None:
        self.runner_id = runner_id
        self.error = error
        self.never_left = never_left
        self.begun = begun


class RunnerLeaving(Record):
    """A runner takes no more calls. Either it goes by itself: it gives back what it has not started, and ends what it
    has. Or its link died, and `RunnerLost` follows when its processes have ended and it is known what they had begun.
    """

    __slots__ = __match_args__ = ("runner_id",)

    def __init__(self, runner_id: int) -> None:
        self.runner_id = runner_id


class RunnerGone(Record):
    """A stopped runner no longer exists. Until then it counts against ``max``. ``hangs``: as for BootFailed."""

    __slots__ = __match_args__ = ("runner_id", "hangs")

    def __init__(self, runner_id: int, hangs: bool = False) -> None:
        self.runner_id = runner_id
        self.hangs = hangs


class CallsStarted(Record):
    """Slots have begun to run these calls."""

    __slots__ = __match_args__ = ("runner_id", "refs")

    def __init__(self, runner_id: int, refs: Sequence[Ref]) -> None:
        self.runner_id = runner_id
        self.refs = refs


class ResultsArrived(Record):
    """Calls ended by themselves.

    ``results``: ``(call id, attempt, seconds it ran, outcome, retryable)`` each; ``outcome`` is opaque, ``retryable``
    says that it is an error which the call's options allow to be tried again.
    """

    __slots__ = __match_args__ = ("runner_id", "results")

    def __init__(self, runner_id: int, results: Sequence[Result]) -> None:
        self.runner_id = runner_id
        self.results = results


class CallsReturned(Record):
    """The agent gave back calls that provably never started."""

    __slots__ = __match_args__ = ("runner_id", "refs")

    def __init__(self, runner_id: int, refs: Sequence[Ref]) -> None:
        self.runner_id = runner_id
        self.refs = refs


class CallLost(Record):
    """A call's slot died under it. ``error``: the RunnerLostError that says how."""

    __slots__ = __match_args__ = ("runner_id", "call_id", "attempt", "error", "may_have_started")

    def __init__(self, runner_id: int, call_id: int, attempt: int, error: Exception, may_have_started: bool) -> None:
        self.runner_id = runner_id
        self.call_id = call_id
        self.attempt = attempt
        self.error = error
        self.may_have_started = may_have_started


class CallTimedOut(Record):
    """The agent killed a call at the end of its ``run_timeout`` or of its budget.

    If it was being opened for too long instead, `unopened` says for how many seconds.
    """

    __slots__ = __match_args__ = ("runner_id", "call_id", "attempt", "unopened")

    def __init__(self, runner_id: int, call_id: int, attempt: int, unopened: float = 0.0) -> None:
        self.runner_id = runner_id
        self.call_id = call_id
        self.attempt = attempt
        self.unopened = unopened


class CallGone(Record):
    """A call that was to be killed has left its slot."""

    __slots__ = __match_args__ = ("runner_id", "call_id", "attempt")

    def __init__(self, runner_id: int, call_id: int, attempt: int) -> None:
        self.runner_id = runner_id
        self.call_id = call_id
        self.attempt = attempt


class RoundTrip(Record):
    """A round trip to the runner and back took this many seconds."""

    __slots__ = __match_args__ = ("runner_id", "seconds")

    def __init__(self, runner_id: int, seconds: float) -> None:
        self.runner_id = runner_id
        self.seconds = seconds


class PoolBroke(Record):
    """The pool cannot go on (its initializer failed, or the engine did): every call fails with ``error``."""

    __slots__ = __match_args__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error


class IdleChecked(Record):
    """The answer to a CheckIdle: may the runner be stopped?"""

    __slots__ = __match_args__ = ("runner_id", "idle")

    def __init__(self, runner_id: int, idle: bool) -> None:
        self.runner_id = runner_id
        self.idle = idle


class Resized(Record):
    """New bounds for the number of runners."""

    __slots__ = __match_args__ = ("min", "max")

    def __init__(self, min: int, max: int) -> None:  # noqa: A002
        self.min = min
        self.max = max


class ShutdownRequested(Record):
    """No calls are accepted any more; what becomes of those that were is the mode's to say."""

    __slots__ = __match_args__ = ("mode",)

    def __init__(self, mode: ShutdownMode) -> None:
        self.mode = mode


class Tick(Record):
    """Time has passed: what `Machine.deadline` asked for."""

    __slots__ = ()


Event: TypeAlias = (
    Submitted
    | CancelRequested
    | BootStarted
    | BootQueued
    | BootReturned
    | BootSucceeded
    | BootFailed
    | RunnerLost
    | RunnerLeaving
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
