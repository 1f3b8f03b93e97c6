"""How long something may still take, and whether anybody still wants it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dragonfly_executor.backends.base import GivenUp


class Patience:
    """So many seconds, that end at once when what is waited for is given up.

    Args:
        seconds: from now on.
        given_up: set by whoever does not want it any more.
    """

    def __init__(self, seconds: float, given_up: GivenUp | None = None) -> None:
        self._end = time.monotonic() + seconds
        self._given_up = GivenUp() if given_up is None else given_up

    @property
    def given_up(self) -> bool:
        """Whether nobody wants it any more."""
        return self._given_up.is_set()

    @property
    def over(self) -> bool:
        """Whether there is no time left, or no point."""
        return self.given_up or self.left() <= 0

    def left(self, at_most: float = float("inf")) -> float:
        """Seconds that are left."""
        return max(0.0, min(at_most, self._end - time.monotonic()))

    def part(self, seconds: float) -> Patience:
        """So much of it at most."""
        return Patience(self.left(seconds), self._given_up)

    def pause(self, seconds: float) -> None:
        """Wait, but not longer than there is time, nor when nobody wants it any more."""
        self._given_up.wait(self.left(seconds))

    @contextmanager
    def ending(self, end: Callable[[], object]) -> Iterator[None]:
        """Have this called, by whoever gives it up, if that is done meanwhile; see `GivenUp.call`."""
        self._given_up.call(end)
        try:
            yield
        finally:
            self._given_up.forget(end)
