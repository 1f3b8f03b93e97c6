"""How long a boot may still take, and whether the pool still wants it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dragonfly_executor.backends.base import GivenUp

LEAST = 0.01
"""Seconds that a step always gets: a late step fails by itself, and its error names the step."""


class Deadline:
    """The moment by which a boot has to be done. It comes at once if the pool gives the boot up.

    Args:
        seconds: from now on.
        given_up: set when the pool does not want the boot any more; None if no pool will say so.
    """

    def __init__(self, seconds: float, given_up: GivenUp | None = None) -> None:
        self._when = time.monotonic() + seconds
        self._given_up = GivenUp() if given_up is None else given_up

    def left(self, at_most: float = float("inf")) -> float:
        """Return the seconds that are left, at least `LEAST` and at most `at_most`."""
        if self._given_up.is_set():
            return LEAST
        return max(LEAST, min(at_most, self._when - time.monotonic()))

    def part(self, given_up: GivenUp) -> Deadline:
        """Return a deadline for the same moment that is given up by `given_up` alone."""
        return Deadline(self._when - time.monotonic(), given_up)

    @property
    def is_given_up(self) -> bool:
        """Whether the pool does not want the boot any more."""
        return self._given_up.is_set()

    @property
    def is_over(self) -> bool:
        """Whether no time is left, or the boot was given up."""
        return self.is_given_up or time.monotonic() >= self._when

    def pause(self, seconds: float) -> None:
        """Wait for `seconds`, for the time that is left, or until the boot is given up."""
        self._given_up.wait(self.left(seconds))

    @contextmanager
    def ending(self, end: Callable[[], object]) -> Iterator[None]:
        """Call `end` if the boot is given up inside the block, or was before. It must not block: an engine calls it."""
        self._given_up.call(end)
        try:
            yield
        finally:
            self._given_up.forget(end)
