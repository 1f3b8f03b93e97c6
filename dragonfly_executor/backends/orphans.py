"""The rules of every sweep: from a node's label and the time, whether its owner is alive. They err towards the owner.

A node is an orphan in three cases: its pool has abandoned it; its owner process is gone; or its owner cannot be
checked from here and its lease or its expiry date has passed. Until then, a node whose owner cannot be checked is kept.
"""

from __future__ import annotations

from typing import NamedTuple

from dragonfly_executor.backends.label import OwnerLabel
from dragonfly_executor.backends.owner import Liveness, Owner

RENEWAL_SLACK = 300.0
"""Seconds that a lease must have been over before the node counts as orphaned."""
CLOCK_SLACK = 30 * 24 * 3600.0
"""Seconds by which this machine's clock may differ from the platform's. Beyond that it is unclear which is wrong."""


class OwnerVerdict(NamedTuple):
    """A judgement on a node's owner.

    Attributes:
        liveness: whether the owner is alive.
        why: the reason, in words.
    """

    liveness: Liveness
    why: str


ABANDONED = OwnerVerdict(Liveness.GONE, "its pool has released it")
NO_LABEL = OwnerVerdict(Liveness.UNKNOWN, "its owner is unknown")


def judge(label: OwnerLabel, me: Owner, now: float, created: float | None, *, is_here: bool) -> OwnerVerdict:
    """Judge whether the owner of a node is alive.

    Args:
        label: the node's label.
        me: this process.
        now: the platform's time, in seconds since the epoch.
        created: the time at which the platform made the node; None if it is not known.
        is_here: whether the label was found on this machine's own disk.
    """
    liveness = label.owner.liveness(me, is_here=is_here)
    if liveness is Liveness.UNKNOWN:
        if label.expires_on(created) < now:
            return OwnerVerdict(Liveness.GONE, "it has expired")
        held = label.held_until(created)
        if held is not None and held + RENEWAL_SLACK < now:
            return OwnerVerdict(Liveness.GONE, "its owner has not renewed its claim")
    return OwnerVerdict(liveness, describe(label, liveness))


def describe(label: OwnerLabel, liveness: Liveness) -> str:
    """Return in words whether the owner is alive."""
    process = f"process {label.owner.pid} on {label.owner.host}"
    elsewhere = f"{process} of app {label.app}" if label.app else process
    return {
        Liveness.ALIVE: f"{process} has it",
        Liveness.GONE: f"{elsewhere} is gone",
        Liveness.UNKNOWN: f"{elsewhere} cannot be checked from here",
    }[liveness]


def earlier_clock(platform: float, here: float) -> float:
    """Return the platform's time. If the clocks are far apart, return the earlier one: nothing must expire too soon."""
    return platform if abs(platform - here) < CLOCK_SLACK else min(platform, here)
