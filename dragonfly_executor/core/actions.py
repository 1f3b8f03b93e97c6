"""What a pool wants done. The driver carries the actions of one event out in the order in which they stand."""

from __future__ import annotations

from enum import Enum

from dragonfly_executor.core.calls import Call
from dragonfly_executor.core.record import Record

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from typing import Final, TypeAlias


class Verdict(Enum):
    """Outcomes that are neither a runner's answer nor an exception."""

    CANCELLED = "cancelled"


CANCELLED: Final = Verdict.CANCELLED
"""The outcome of a call that its user, or a shutdown, gave up."""


class Send(Record):
    """Send these calls to the runner, in this order."""

    __slots__ = __match_args__ = ("runner_id", "calls")

    def __init__(self, runner_id: int, calls: list[Call]) -> None:
        self.runner_id = runner_id
        self.calls = calls


class Kill(Record):
    """End this call on the runner; it is settled already. Answered by CallGone, or by whatever came first."""

    __slots__ = __match_args__ = ("runner_id", "call")

    def __init__(self, runner_id: int, call: Call) -> None:
        self.runner_id = runner_id
        self.call = call


class Settle(Record):
    """Tell each call's token its outcome.

    An outcome is what a ResultsArrived carried, or an exception that core made or was given, or `CANCELLED`.
    """

    __slots__ = __match_args__ = ("outcomes",)

    def __init__(self, outcomes: list[tuple[Call, object]]) -> None:
        self.outcomes = outcomes


class Boot(Record):
    """Boot a runner. Answered by BootSucceeded or BootFailed."""

    __slots__ = __match_args__ = ("runner_id",)

    def __init__(self, runner_id: int) -> None:
        self.runner_id = runner_id


class Stop(Record):
    """Release a runner, giving what runs there ``grace`` seconds. Answered by RunnerGone.

    It comes once per runner. Where the runner is still booting it stands: the boot is to be aborted (BootFailed is an
    answer as well), and a boot that succeeds nevertheless is to be undone by the driver.
    """

    __slots__ = __match_args__ = ("runner_id", "grace", "reason")

    def __init__(self, runner_id: int, grace: float, reason: str) -> None:
        self.runner_id = runner_id
        self.grace = grace
        self.reason = reason


class CheckIdle(Record):
    """Ask on the runner whether it may be stopped. Answered by IdleChecked."""

    __slots__ = __match_args__ = ("runner_id",)

    def __init__(self, runner_id: int) -> None:
        self.runner_id = runner_id


class Warn(Record):
    """Tell whoever runs this; nothing else follows from it."""

    __slots__ = __match_args__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


class Closed(Record):
    """After a shutdown: no call and no runner is left. Comes once, and nothing comes after it."""

    __slots__ = ()


Action: TypeAlias = Send | Kill | Settle | Boot | Stop | CheckIdle | Warn | Closed
