"""The deadline of a boot on Fly. It stands still while the boot waits at Fly's rate limit."""

from __future__ import annotations

import time

from dragonfly_executor.backends.base import BootRequest
from dragonfly_executor.backends.deadline import Deadline


class FlyBootDeadline(Deadline):
    """The deadline of a boot. Waiting for a turn does not count. A runner that has dialed in ends all waits.

    Args:
        seconds: the timeout, without the waits for turns.
        request: the boot. It receives `queued` and `started`.

    Attributes:
        turn_came: monotonic time at which the rate limit allowed a create request that is not sent yet; otherwise None.
    """

    def __init__(self, seconds: float, request: BootRequest) -> None:
        super().__init__(seconds, request.given_up, request.dialed_in)
        self._request = request
        self.turn_came: float | None = None

    @property
    def is_given_up(self) -> bool:
        """Return True if the pool has cancelled the boot."""
        return self._request.given_up is not None and self._request.given_up.is_set()

    @property
    def dialed_in(self) -> bool:
        """Return True if the runner has dialed in."""
        return self._request.dialed_in is not None and self._request.dialed_in.is_set()

    def part(self, seconds: float) -> Deadline:
        """Return a deadline in `seconds`, or this one if it is earlier. Only the pool cancels it."""
        return Deadline(self.left(seconds), self._request.given_up)

    def wait_for_turn(self, seconds: float) -> None:
        """Wait for the create rate limit. The wait is neither boot time nor machine time."""
        self._request.queued()
        began = time.monotonic()
        self._wait(seconds)
        self._end += time.monotonic() - began

    def take_turn(self) -> float | None:
        """Consume the turn in `turn_came`. Return the seconds that it went unused; None if there is no turn."""
        came, self.turn_came = self.turn_came, None
        return None if came is None else time.monotonic() - came

    def asks(self) -> None:
        """Report that a create request is sent now, so that the boot timer starts."""
        self._request.started()

    def refused(self) -> None:
        """Report that Fly refused to create a machine, so that the boot is queued again."""
        self._request.queued()
