"""What a pool wants done. The driver carries the actions of one event out in the order in which they stand."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from dragonfly_executor.core.ledger import Call


class Verdict(Enum):
    """Outcomes that are neither a runner's answer nor an exception."""

    CANCELLED = "cancelled"


CANCELLED: Final = Verdict.CANCELLED
"""The outcome of a call that its user, or a shutdown, gave up."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send these calls to the runner, in this order."""

    runner_id: int
    calls: list[Call]


@dataclass(frozen=True, slots=True)
class Kill:
    """End this call on the runner; it is settled already. Answered by CallGone, or by whatever came first."""

    runner_id: int
    call: Call


@dataclass(frozen=True, slots=True)
class Settle:
    """Tell each call's token its outcome.

    An outcome is what a ResultsArrived carried, or an exception that core made or was given, or `CANCELLED`.
    """

    outcomes: list[tuple[Call, object]]


@dataclass(frozen=True, slots=True)
class Boot:
    """Boot a runner. Answered by BootSucceeded or BootFailed."""

    runner_id: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Release a runner, giving what runs there ``grace`` seconds. Answered by RunnerGone.

    It comes once per runner. Where the runner is still booting it stands: the boot is to be aborted (BootFailed is an
    answer as well), and a boot that succeeds nevertheless is to be undone by the driver.
    """

    runner_id: int
    grace: float
    reason: str


@dataclass(frozen=True, slots=True)
class CheckIdle:
    """Ask on the runner whether it may be stopped. Answered by IdleChecked."""

    runner_id: int


@dataclass(frozen=True, slots=True)
class Closed:
    """After a shutdown: no call and no runner is left. Comes once, and nothing comes after it."""


Action: TypeAlias = Send | Kill | Settle | Boot | Stop | CheckIdle | Closed
