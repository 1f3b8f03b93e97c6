"""The events of a pool. The driver passes each to `Machine.handle(event, now)`.

Events carry batches: the cost of an event is paid once for all the calls in it. A *ref* names one sending of a call:
``(call id, attempt)``. An event that does not fit the state (a late, repeated or unknown message) is legal and ignored.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from dragonfly_executor.core.calls import Call
from dragonfly_executor.core.capacity import Capacity
from dragonfly_executor.core.record import Record
from dragonfly_executor.core.shutdown_mode import ShutdownMode
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TypeAlias

Ref: TypeAlias = tuple[int, int]
Result: TypeAlias = tuple[int, int, float, object, bool]


class Event(Record):
    """The base class of the events. `core.transitions` has the transition of each."""

    __slots__ = ()


class Submitted(Event):
    """New calls. Their ids are larger than every id before."""

    __slots__ = __match_args__ = ("calls",)

    def __init__(self, calls: Sequence[Call]) -> None:
        self.calls = calls


class ArgumentsReady(Event):
    """The values that a call has waited for are there, and its payload is complete."""

    __slots__ = __match_args__ = ("call_id",)

    def __init__(self, call_id: int) -> None:
        self.call_id = call_id


class ArgumentsFailed(Event):
    """A call that never gets the arguments that it waits for. ``outcome``: an exception, or `CANCELLED`."""

    __slots__ = __match_args__ = ("call_id", "outcome")

    def __init__(self, call_id: int, outcome: object) -> None:
        self.call_id = call_id
        self.outcome = outcome


class CancelRequested(Event):
    """A user's request to cancel these calls, in any state."""

    __slots__ = __match_args__ = ("call_ids",)

    def __init__(self, call_ids: Sequence[int]) -> None:
        self.call_ids = call_ids


class BootStarted(Event):
    """The start of machine time: the backend requests a runner's node now.

    The event may come again after a BootQueued. A BootSucceeded without it starts the machine time.
    """

    __slots__ = __match_args__ = ("runner_id",)

    def __init__(self, runner_id: int) -> None:
        self.runner_id = runner_id


class BootQueued(Event):
    """A boot that waits in a queue of the backend. The wait is no machine time, and ends with BootStarted.

    The core aborts the boot if no call needs it any more.
    """

    __slots__ = __match_args__ = ("runner_id",)

    def __init__(self, runner_id: int) -> None:
        self.runner_id = runner_id


class BootReturned(Event):
    """The end of a hung boot: the backend has returned from it. See BootFailed and RunnerGone."""

    __slots__ = __match_args__ = ("runner_id",)

    def __init__(self, runner_id: int) -> None:
        self.runner_id = runner_id


class BootSucceeded(Event):
    """A runner that is up and takes ``slots`` calls at once.

    ``price``: its price in US dollars per second, if it is known more exactly than the pool's price.
    ``capacity``: what it has; None if unknown.
    """

    __slots__ = __match_args__ = ("runner_id", "slots", "price", "capacity")

    def __init__(
        self, runner_id: int, slots: int, price: float | None = None, capacity: Capacity | None = None
    ) -> None:
        self.runner_id = runner_id
        self.slots = slots
        self.price = price
        self.capacity = capacity


class BootFailed(Event):
    """A failed boot, of which the driver has released all parts.

    ``retry_in``: seconds, from now, before the next boot. ``hangs``: the backend still blocks in the boot, which keeps
    its place among those that the backend can run at once until BootReturned. ``is_shared``: one request to the backend
    has failed for several boots, and another boot has reported that. It counts as one failure in a row.
    """

    __slots__ = __match_args__ = ("runner_id", "error", "retry_in", "hangs", "is_shared")

    def __init__(
        self, runner_id: int, error: Exception, retry_in: float, hangs: bool = False, is_shared: bool = False
    ) -> None:
        self.runner_id = runner_id
        self.error = error
        self.retry_in = retry_in
        self.hangs = hangs
        self.is_shared = is_shared


class BootReassigned(Event):
    """A booting runner that has less than the calls of its kind require, and boots for another kind from now on.

    Its boot counts as failed for the first kind. ``kind``: the other kind. ``error``: says what the runner lacks.
    ``retry_in``: seconds, from now, before the next boot for the first kind.
    """

    __slots__ = __match_args__ = ("runner_id", "kind", "error", "retry_in")

    def __init__(self, runner_id: int, kind: str, error: Exception, retry_in: float) -> None:
        self.runner_id = runner_id
        self.kind = kind
        self.error = error
        self.retry_in = retry_in


class RunnerLost(Event):
    """A runner whose link died.

    ``never_left``: the calls that never left the parent completely. ``begun``: the calls that its slots had begun, if
    known. They are known only once all its processes have ended. None = each call that left may have started.
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


class RunnerLeaving(Event):
    """A runner that takes no more calls.

    Either the runner goes by itself: it gives back the calls that it has not started, and finishes the others. Or its
    link died: `RunnerLost` follows once its processes have ended and it is known which calls they had begun.
    """

    __slots__ = __match_args__ = ("runner_id",)

    def __init__(self, runner_id: int) -> None:
        self.runner_id = runner_id


class RunnerEnding(Event):
    """A runner whose platform ends it at a known time.

    The runner drains before that: it takes no more calls, and gives back those that it has not started. The latest
    event counts, whether it names an earlier time or a later one. A drain that has begun goes on.

    ``ends_at``: monotonic seconds. ``ended_by``: a clause that names who ends it and why, such as "Slurm ended job 17
    at its time limit".
    """

    __slots__ = __match_args__ = ("runner_id", "ends_at", "ended_by")

    def __init__(self, runner_id: int, ends_at: float, ended_by: str) -> None:
        self.runner_id = runner_id
        self.ends_at = ends_at
        self.ended_by = ended_by


class RunnerGone(Event):
    """A stopped runner that no longer exists. Until then it counts against ``max``. ``hangs``: as for BootFailed."""

    __slots__ = __match_args__ = ("runner_id", "hangs")

    def __init__(self, runner_id: int, hangs: bool = False) -> None:
        self.runner_id = runner_id
        self.hangs = hangs


class CallsStarted(Event):
    """Calls that slots have begun to run.

    ``slots``: the number of each call's slot; empty if the runner has not said them.
    """

    __slots__ = __match_args__ = ("runner_id", "refs", "slots")

    def __init__(self, runner_id: int, refs: Sequence[Ref], slots: Sequence[int] = ()) -> None:
        self.runner_id = runner_id
        self.refs = refs
        self.slots = slots


class CallsWait(Event):
    """Calls on a runner that begin to wait for calls that they have submitted, or go on after such a wait.

    Each wait is ``(call id, attempt, whether the call waits from now on)``, in order.
    """

    __slots__ = __match_args__ = ("runner_id", "waits")

    def __init__(self, runner_id: int, waits: Sequence[tuple[int, int, bool]]) -> None:
        self.runner_id = runner_id
        self.waits = waits


class ChildrenSubmitted(Event):
    """Calls that calls have submitted. They are accepted as long as calls are started, during a shutdown as well."""

    __slots__ = __match_args__ = ("calls",)

    def __init__(self, calls: Sequence[Call]) -> None:
        self.calls = calls


class ResultsArrived(Event):
    """Calls that ended by themselves.

    ``results``: ``(call id, attempt, run time in seconds, outcome, retryable)`` each. ``outcome`` is opaque.
    ``retryable`` is True for an error that the call's options allow to be tried again.
    """

    __slots__ = __match_args__ = ("runner_id", "results")

    def __init__(self, runner_id: int, results: Sequence[Result]) -> None:
        self.runner_id = runner_id
        self.results = results


class CallsReturned(Event):
    """Calls that the agent gave back. They provably never started."""

    __slots__ = __match_args__ = ("runner_id", "refs")

    def __init__(self, runner_id: int, refs: Sequence[Ref]) -> None:
        self.runner_id = runner_id
        self.refs = refs


class CallLost(Event):
    """A call whose slot died. ``error``: the RunnerLostError that describes the death."""

    __slots__ = __match_args__ = ("runner_id", "call_id", "attempt", "error", "may_have_started")

    def __init__(self, runner_id: int, call_id: int, attempt: int, error: Exception, may_have_started: bool) -> None:
        self.runner_id = runner_id
        self.call_id = call_id
        self.attempt = attempt
        self.error = error
        self.may_have_started = may_have_started


class CallTimedOut(Event):
    """A call that the agent killed at the end of its ``run_timeout`` or ``timeout``.

    If the slot took too long to open the call, `unopened` is the number of seconds that it took.
    """

    __slots__ = __match_args__ = ("runner_id", "call_id", "attempt", "unopened")

    def __init__(self, runner_id: int, call_id: int, attempt: int, unopened: float = 0.0) -> None:
        self.runner_id = runner_id
        self.call_id = call_id
        self.attempt = attempt
        self.unopened = unopened


class CallGone(Event):
    """A killed call that has left its slot."""

    __slots__ = __match_args__ = ("runner_id", "call_id", "attempt")

    def __init__(self, runner_id: int, call_id: int, attempt: int) -> None:
        self.runner_id = runner_id
        self.call_id = call_id
        self.attempt = attempt


class RoundTrip(Event):
    """A round-trip time to the runner, in seconds."""

    __slots__ = __match_args__ = ("runner_id", "seconds")

    def __init__(self, runner_id: int, seconds: float) -> None:
        self.runner_id = runner_id
        self.seconds = seconds


class PoolBroke(Event):
    """The failure of the pool (its initializer or the engine failed): every call fails with ``error``."""

    __slots__ = __match_args__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error


class IdleChecked(Event):
    """The answer to a CheckIdle: ``idle`` is True if the runner may be stopped."""

    __slots__ = __match_args__ = ("runner_id", "idle")

    def __init__(self, runner_id: int, idle: bool) -> None:
        self.runner_id = runner_id
        self.idle = idle


class Resized(Event):
    """New bounds for the number of runners."""

    __slots__ = __match_args__ = ("min", "max")

    def __init__(self, min: int, max: int) -> None:  # noqa: A002
        self.min = min
        self.max = max


class ShutdownRequested(Event):
    """A request to shut down. No more calls are accepted; the mode decides about the accepted ones."""

    __slots__ = __match_args__ = ("mode",)

    def __init__(self, mode: ShutdownMode) -> None:
        self.mode = mode


class Tick(Event):
    """The passing of time: `Machine.deadline` asked for it."""

    __slots__ = ()
