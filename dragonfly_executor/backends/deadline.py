"""`Deadline`: the time left for several steps together, and their cancellation."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from dragonfly_executor.backends.base import Signal

LEAST = 0.01
"""Minimum seconds of a step: a step that starts too late still runs and fails, so that the error names the step."""
NEVER = float("inf")


class Deadline:
    """A deadline of several steps together. It passes at once if the work is cancelled. Any thread.

    Args:
        seconds: the timeout, from now on.
        signals: each of them cancels the work when it is set. None stands for no signal.
    """

    def __init__(self, seconds: float, *signals: Signal | None) -> None:
        self._end = time.monotonic() + seconds
        self._signals = tuple(signal for signal in signals if signal is not None)

    @property
    def when(self) -> float:
        """Return the monotonic time of the deadline."""
        return self._end

    @property
    def is_cancelled(self) -> bool:
        """Return True if the work was cancelled."""
        return any(signal.is_set() for signal in self._signals)

    @property
    def is_over(self) -> bool:
        """Return True if no time is left, or the work was cancelled."""
        return self.is_cancelled or time.monotonic() >= self.when

    def left(self, at_most: float = NEVER) -> float:
        """Return the seconds left, at most `at_most`. Cancellation does not change them."""
        return max(0.0, min(at_most, self.when - time.monotonic()))

    def step_timeout(self, at_most: float = NEVER) -> float:
        """Return the seconds for a blocking step, at least `LEAST` and at most `at_most`. `LEAST` if cancelled."""
        return LEAST if self.is_cancelled else max(LEAST, self.left(at_most))

    def part(self, seconds: float) -> Deadline:
        """Return a deadline in `seconds`, or this one if it is earlier. Cancellation is shared."""
        return Deadline(self.left(seconds), *self._signals)

    def pause(self, seconds: float) -> None:
        """Wait for `seconds`, but no longer than the time left. Cancellation ends the wait."""
        self._wait(self.left(seconds))

    def _wait(self, seconds: float) -> None:
        if len(self._signals) == 1:
            self._signals[0].wait(seconds)
            return
        woken = threading.Event()
        with self.ending(woken.set):
            woken.wait(seconds)

    @contextmanager
    def ending(self, end: Callable[[], object]) -> Iterator[None]:
        """Call `end` if the work is cancelled inside the block, or was cancelled before. It may be called twice.

        Args:
            end: the callback. It must not block: the pool's engine thread runs it.
        """
        with ExitStack() as stack:
            for signal in self._signals:
                signal.call(end)
                stack.callback(signal.forget, end)
            yield
