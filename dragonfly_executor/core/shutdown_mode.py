"""The ways in which a pool ends."""

from __future__ import annotations

from dragonfly_executor.util.plain_enum import IntEnum


class ShutdownMode(IntEnum):
    """The ways in which a pool ends.

    A stronger mode may follow a weaker one. A weaker mode after a stronger one changes nothing.
    """

    DRAIN = 1
    """Every accepted call finishes."""
    CANCEL_QUEUED = 2
    """Calls on runners finish; all others are cancelled."""
    KILL = 3
    """No call finishes: calls on runners fail, all others are cancelled, runners go at once."""
