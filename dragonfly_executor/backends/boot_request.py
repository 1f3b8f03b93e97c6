"""`BootRequest`: what a backend gets for one boot, with the signals that cancel it and the timer that it reports to."""

from __future__ import annotations

import logging
import threading
from collections import namedtuple

from dragonfly_executor.protocol.parent import Parent
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dragonfly_executor.core.capacity import Requirements

logger = logging.getLogger("dragonfly_executor")


class Signal(threading.Event):
    """An event with callbacks: setting it also unblocks threads that wait on something other than the event."""

    def __init__(self) -> None:
        super().__init__()
        self._calling = threading.Lock()
        self._ends: list[Callable[[], object]] = []

    def set(self) -> None:
        """Set the event and run the callbacks that `call` registered. Log a callback that raises."""
        with self._calling:
            super().set()
            ends, self._ends = self._ends, []
            for end in ends:
                try:
                    end()
                except BaseException:  # third-party code: its error must not end the engine thread
                    logger.exception("a callback of a signal raised an exception")

    def call(self, end: Callable[[], object]) -> None:
        """Register a callback, such as a socket's shutdown, that runs when the event is set. If it is set, run it now.

        Args:
            end: the callback. It must not block: the pool's engine thread runs it.
        """
        with self._calling:
            if not self.is_set():
                self._ends.append(end)
                return
        end()

    def forget(self, end: Callable[[], object]) -> None:
        """Unregister a callback. When this returns, the callback neither runs nor will run."""
        with self._calling:
            if end in self._ends:
                self._ends.remove(end)


class CancelToken(Signal):
    """A cancel token: set when a boot, or other work, is no longer wanted. Its callbacks unblock threads that wait."""


class BootClock(Protocol):
    """The timer of one boot. A backend reports when it queues and when it asks for the node, on any thread."""

    def queued(self) -> None:
        """Report that the backend waits for its turn, so that the timer stops."""

    def started(self) -> None:
        """Report that the backend asks for the node, so that the timer starts anew."""

    def ending(self, seconds: float, ended_by: str) -> None:
        """Report when the platform ends the node."""


_Request = namedtuple(  # noqa: PYI024  # typing is slow to import
    "_Request", "runner_id parent timeout given_up clock dialed_in requires", defaults=(None, None, None, None)
)


class BootRequest(_Request):
    """The runner to boot, and how to report progress and learn of cancellation.

    Attributes:
        runner_id: the runner's number in its pool.
        parent: the value of the runner's environment variable ``DRAGONFLY_PARENT``. If the runner dials back, the token
            in `parent` admits that runner once, until `timeout` has passed.
        timeout: seconds that the boot may take, counted from when the backend asks for the node. Then the pool cancels
            the boot.
        given_up: a `threading.Event` that the pool sets when it cancels the boot. `boot` must then return or raise
            within 2 s. So `boot` waits on this event, or registers a callback with `CancelToken.call` that unblocks its
            other waits. None if the caller never cancels a boot.
        clock: receives `queued` and `started`. None if the caller does not measure time.
        dialed_in: set when the runner has dialed back and authenticated. The node then exists and runs, even if the
            platform's answer was lost, and `boot` can return it. None if runners do not dial back.
        requires: what the calls that wait for the runner require of it: CPUs, GPUs, memory and labels. The backend asks
            for a node that has at least this, or raises a `BootError`. None if they require nothing.
    """

    __slots__ = ()
    runner_id: int
    parent: Parent
    timeout: float
    given_up: CancelToken | None
    clock: BootClock | None
    dialed_in: Signal | None
    requires: Requirements | None

    def queued(self) -> None:
        """Report that the backend waits at a rate limit or in a queue, and that there is no node yet.

        The boot timeout and the pool's budget stop counting until `started`. If a backend never calls `queued`, both
        count from when the pool calls `boot`.
        """
        if self.clock is not None:
            self.clock.queued()

    def started(self) -> None:
        """Report that the backend asks for the node now. After `queued`, the boot timeout starts anew."""
        if self.clock is not None:
            self.clock.started()

    def ending(self, seconds: float, ended_by: str) -> None:
        """Report that the platform ends the node: at a time limit that is known, or after a notice. From any thread.

        The runner then drains before its end. The latest report counts. A backend that knows the end when its runner
        comes up may set `Node.lifetime` instead.

        Args:
            seconds: seconds from now until the node ends.
            ended_by: who ends it and why, as a clause for the error of its calls: "Slurm ended job 17 at its time
                limit".
        """
        if self.clock is not None:
            self.clock.ending(seconds, ended_by)


def when_all_given_up(requests: Sequence[BootRequest]) -> CancelToken:
    """Return a token that is set once all of these boots are given up, for a step that they share.

    It is never set if one of them has no `given_up`.
    """
    token, lock, left = CancelToken(), threading.Lock(), len(requests)

    def one_is_given_up() -> None:
        """Count a boot that is given up."""
        nonlocal left
        with lock:
            left -= 1
            is_last = not left
        if is_last:
            token.set()

    for request in requests:
        if request.given_up is not None:
            request.given_up.call(one_is_given_up)
    return token
