"""`RestartPolicy`: whether, and after which pause, a placed worker begins again. Pure."""

from __future__ import annotations

from dragonfly_executor.util.backoff import exponential

NEVER, ON_FAILURE, ALWAYS = "never", "on_failure", "always"
CALM = 60.0
"""Seconds that a worker must have served for its next pause to be as short as the first."""


class RestartPolicy:
    """The restarts of one worker.

    Args:
        restart: "never", "on_failure" or "always".
        most: maximum number of restarts; None for no limit.

    Attributes:
        restarts: number of restarts so far.
    """

    def __init__(self, restart: str, most: int | None) -> None:
        self._restart = restart
        self._most = most
        self._in_a_row = 0
        self.restarts = 0

    def pause(self, *, failed: bool, served: float) -> float | None:
        """Return the pause before the next restart in seconds, and count it; None if there is none.

        Args:
            failed: whether the worker was lost or could not be made; False if it has ended by itself.
            served: seconds since its object was made; 0 if that failed.
        """
        if self._restart == NEVER or (self._restart == ON_FAILURE and not failed):
            return None
        if self._most is not None and self.restarts >= self._most:
            return None
        self.restarts += 1
        self._in_a_row = 1 if served >= CALM else self._in_a_row + 1
        # The first one comes at once: most losses are single ones.
        return 0.0 if self._in_a_row == 1 else exponential(self._in_a_row - 1)
