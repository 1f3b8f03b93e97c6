"""The time left for requests, and their cancellation."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from dragonfly_executor.backends.base import BootRequest, GivenUp, Signal


class RequestDeadline:
    """A timeout for several requests together, which also ends when the work is cancelled.

    Args:
        seconds: the timeout, from now on.
        given_up: the cancel token; None if the work is never cancelled.

    Attributes:
        turn_came: monotonic time at which the rate limit allowed a create request that is not sent yet; otherwise None.
    """

    def __init__(self, seconds: float, given_up: GivenUp | None = None) -> None:
        self._end = time.monotonic() + seconds
        self._given_up = GivenUp() if given_up is None else given_up
        self.turn_came: float | None = None

    @property
    def given_up(self) -> bool:
        """Return True if the work was cancelled."""
        return self._given_up.is_set()

    @property
    def over(self) -> bool:
        """Return True if no time is left or the work was cancelled."""
        return self.given_up or self.left() <= 0

    @property
    def is_cut_short(self) -> bool:
        """Return True if no request may be sent any more, even if time is left."""
        return self.given_up

    def left(self, at_most: float = float("inf")) -> float:
        """Return the seconds left, at most `at_most`."""
        return max(0.0, min(at_most, self._end - time.monotonic()))

    def part(self, seconds: float) -> RequestDeadline:
        """Return a timeout of `seconds`, or of the time left if that is less. Cancellation is shared."""
        return RequestDeadline(self.left(seconds), self._given_up)

    def pause(self, seconds: float) -> None:
        """Wait, but no longer than the time left. Cancellation ends the wait."""
        self._wait(self.left(seconds))

    def wait_for_turn(self, seconds: float) -> None:
        """Wait for the create rate limit."""
        self.pause(seconds)

    def take_turn(self) -> float | None:
        """Consume the turn in `turn_came`. Return the seconds that it went unused; None if there is no turn."""
        came, self.turn_came = self.turn_came, None
        return None if came is None else time.monotonic() - came

    def asks(self) -> None:
        """Report that a create request is sent now. The base class ignores it."""

    def refused(self) -> None:
        """Report that Fly refused to create a machine. The base class ignores it."""

    def _wait(self, seconds: float) -> None:
        self._given_up.wait(seconds)

    @contextmanager
    def ending(self, end: Callable[[], object]) -> Iterator[None]:
        """Run `end` when no response is awaited any more, while in the block; see `Signal.call`."""
        with ExitStack() as stack:
            for signal in self._signals():
                signal.call(end)
                stack.callback(signal.forget, end)
            yield

    def _signals(self) -> list[Signal]:
        return [self._given_up]


class BootDeadline(RequestDeadline):
    """The timeout of a boot. Waiting for a turn does not count, and waits end when the runner has dialed in.

    Args:
        seconds: the timeout, without the waits for turns.
        request: the boot. It receives `queued` and `started`.
    """

    def __init__(self, seconds: float, request: BootRequest) -> None:
        super().__init__(seconds, request.given_up)
        self._request = request
        self._dialed_in = request.dialed_in
        self._woken = threading.Event()
        for signal in self._signals():
            signal.call(self._woken.set)

    @property
    def dialed_in(self) -> bool:
        """Return True if the runner has dialed in."""
        return self._dialed_in is not None and self._dialed_in.is_set()

    @property
    def is_cut_short(self) -> bool:
        """Return True if the runner has dialed in or the boot was cancelled. Both make further requests pointless."""
        return self.given_up or self.dialed_in

    def wait_for_turn(self, seconds: float) -> None:
        """Wait for the create rate limit. The wait is neither boot time nor machine time."""
        self._request.queued()
        began = time.monotonic()
        self._wait(seconds)
        self._end += time.monotonic() - began

    def asks(self) -> None:
        """Report that a create request is sent now, so that the boot timer starts."""
        self._request.started()

    def refused(self) -> None:
        """Report that Fly refused to create a machine, so that the boot is queued again."""
        self._request.queued()

    def _wait(self, seconds: float) -> None:
        if self._dialed_in is None:
            super()._wait(seconds)
        else:
            self._woken.wait(seconds)

    def _signals(self) -> list[Signal]:
        return [*super()._signals(), *([] if self._dialed_in is None else [self._dialed_in])]
