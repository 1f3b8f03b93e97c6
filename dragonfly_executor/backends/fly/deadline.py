"""How long something may still take, and whether anybody still wants it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from dragonfly_executor.backends.base import BootRequest, GivenUp, Signal


class Patience:
    """So many seconds, that end at once when what is waited for is given up.

    Args:
        seconds: from now on.
        given_up: set by whoever does not want it any more.

    Attributes:
        turn_came: when its turn to create a machine came, if that turn was not taken; in monotonic seconds.
    """

    def __init__(self, seconds: float, given_up: GivenUp | None = None) -> None:
        self._end = time.monotonic() + seconds
        self._given_up = GivenUp() if given_up is None else given_up
        self.turn_came: float | None = None

    @property
    def given_up(self) -> bool:
        """Whether nobody wants it any more."""
        return self._given_up.is_set()

    @property
    def over(self) -> bool:
        """Whether there is no time left, or no point."""
        return self.given_up or self.left() <= 0

    @property
    def is_cut_short(self) -> bool:
        """Whether no question is to be asked any more, however much time is left."""
        return self.given_up

    def left(self, at_most: float = float("inf")) -> float:
        """Seconds that are left."""
        return max(0.0, min(at_most, self._end - time.monotonic()))

    def part(self, seconds: float) -> Patience:
        """So much of it at most."""
        return Patience(self.left(seconds), self._given_up)

    def pause(self, seconds: float) -> None:
        """Wait, but not longer than there is time, nor when nobody wants it any more."""
        self._wait(self.left(seconds))

    def wait_for_turn(self, seconds: float) -> None:
        """Wait until Fly may be asked to create a machine."""
        self.pause(seconds)

    def take_turn(self) -> float | None:
        """Take the turn that has come: for how many seconds it has waited; None if there is none."""
        came, self.turn_came = self.turn_came, None
        return None if came is None else time.monotonic() - came

    def asks(self) -> None:
        """Fly is asked to create a machine now."""

    def refused(self) -> None:
        """Fly has not created a machine."""

    def _wait(self, seconds: float) -> None:
        self._given_up.wait(seconds)

    @contextmanager
    def ending(self, end: Callable[[], object]) -> Iterator[None]:
        """Have this called if the answer is not waited for any more; see `Signal.call`."""
        with ExitStack() as stack:
            for signal in self._signals():
                signal.call(end)
                stack.callback(signal.forget, end)
            yield

    def _signals(self) -> list[Signal]:
        return [self._given_up]


class BootPatience(Patience):
    """The patience of a boot. Waiting for its turn takes none of it; and it ends when the runner has dialed in.

    Args:
        seconds: for all but the turns.
        request: hears when a machine is asked for, and when the boot waits.
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
        """Whether the runner is there."""
        return self._dialed_in is not None and self._dialed_in.is_set()

    @property
    def is_cut_short(self) -> bool:
        """Nothing is left to ask if the runner is there, or nobody wants it."""
        return self.given_up or self.dialed_in

    def wait_for_turn(self, seconds: float) -> None:
        """See `Patience`: that is neither boot time nor machine time."""
        self._request.queued()
        began = time.monotonic()
        self._wait(seconds)
        self._end += time.monotonic() - began

    def asks(self) -> None:
        """See `Patience`: the boot's time begins."""
        self._request.started()

    def refused(self) -> None:
        """See `Patience`: there is no machine, so it waits for its turn again."""
        self._request.queued()

    def _wait(self, seconds: float) -> None:
        if self._dialed_in is None:
            super()._wait(seconds)
        else:
            self._woken.wait(seconds)

    def _signals(self) -> list[Signal]:
        return [*super()._signals(), *([] if self._dialed_in is None else [self._dialed_in])]
