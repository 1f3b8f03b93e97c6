"""The actions of the core. The driver carries out the actions of one event in their order."""

from __future__ import annotations

from enum import Enum

from dragonfly_executor.core.calls import DEFAULT_KIND, Call
from dragonfly_executor.core.capacity import Requirements
from dragonfly_executor.core.record import Record
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final


class OutcomeSentinel(Enum):
    """Outcomes that are neither a runner's answer nor an exception."""

    CANCELLED = "cancelled"


CANCELLED: Final = OutcomeSentinel.CANCELLED
"""The outcome of a call that its user or a shutdown cancelled."""


class Action(Record):
    """The base class of the actions. `ActionRunner` of the engine has the handler of each."""

    __slots__ = ()


class Send(Action):
    """An order to send these calls to the runner, in this order."""

    __slots__ = __match_args__ = ("runner_id", "calls")

    def __init__(self, runner_id: int, calls: list[Call]) -> None:
        self.runner_id = runner_id
        self.calls = calls


class Kill(Action):
    """An order to end this call on the runner. The call is settled already.

    The driver answers with CallGone, or with another event that ended the call first.
    """

    __slots__ = __match_args__ = ("runner_id", "call")

    def __init__(self, runner_id: int, call: Call) -> None:
        self.runner_id = runner_id
        self.call = call


class Settle(Action):
    """An order to pass each call's outcome to the call's token.

    An outcome is the value from a ResultsArrived, an exception, or `CANCELLED`.
    """

    __slots__ = __match_args__ = ("outcomes",)

    def __init__(self, outcomes: list[tuple[Call, object]]) -> None:
        self.outcomes = outcomes


class Boot(Action):
    """An order to boot a runner for this kind of calls. The driver answers with BootSucceeded or BootFailed.

    ``requirements``: what a call of this kind requires of the runner; None if nothing, or unknown. ``tier``: index of
    the backend that boots it.
    """

    __slots__ = __match_args__ = ("runner_id", "kind", "requirements", "tier")

    def __init__(
        self, runner_id: int, kind: str = DEFAULT_KIND, requirements: Requirements | None = None, tier: int = 0
    ) -> None:
        self.runner_id = runner_id
        self.kind = kind
        self.requirements = requirements
        self.tier = tier


class Stop(Action):
    """An order to release a runner and give its running calls ``grace`` seconds. The driver answers with RunnerGone.

    The action comes once per runner. If the runner is still booting, the driver aborts the boot, and BootFailed is an
    answer as well. If the boot succeeds nevertheless, the driver undoes it.
    """

    __slots__ = __match_args__ = ("runner_id", "grace", "reason")

    def __init__(self, runner_id: int, grace: float, reason: str) -> None:
        self.runner_id = runner_id
        self.grace = grace
        self.reason = reason


class Drain(Action):
    """An order to a runner to return the calls that it has not started, and to notify the running calls of their end.

    No call is sent there any more. Its calls have ``seconds`` until the runner is stopped.
    """

    __slots__ = __match_args__ = ("runner_id", "seconds")

    def __init__(self, runner_id: int, seconds: float) -> None:
        self.runner_id = runner_id
        self.seconds = seconds


class CheckIdle(Action):
    """An order to ask the runner whether it may be stopped. The driver answers with IdleChecked."""

    __slots__ = __match_args__ = ("runner_id",)

    def __init__(self, runner_id: int) -> None:
        self.runner_id = runner_id


class Warn(Action):
    """A warning for the user of the pool. It has no other effect."""

    __slots__ = __match_args__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


class Closed(Action):
    """The end of a shutdown: no call and no runner is left. It comes once, and no action follows it."""

    __slots__ = ()
