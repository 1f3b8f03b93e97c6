"""A boot across the hosts of a backend: the first host that answers gets the runner."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from enum import Enum
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, TypeAlias

from dragonfly_executor import errors
from dragonfly_executor.backends.base import BootRequest, CancelToken
from dragonfly_executor.backends.deadline import NEVER
from dragonfly_executor.backends.ssh.boot_deadline import SSHBootDeadline
from dragonfly_executor.backends.ssh.host_table import HostPlace, HostTable
from dragonfly_executor.backends.ssh.hosts import SSHHost

if TYPE_CHECKING:
    from dragonfly_executor.backends.ssh.boot import HostBooter
    from dragonfly_executor.backends.ssh.node import SSHNode
    from dragonfly_executor.backends.ssh.ready_host import ReachedHost

STAGGER = 1.0
"""Seconds without an answer after which the next host is tried as well."""
SHARE_OF_BOOT = 0.9
"""The share of the boot timeout for the backend.

The rest is for the runner's HELLO, or for cleaning up and reporting the failure of each host."""
REST = 0.5
"""The minimum of that rest, in seconds."""
LEAST_SHARE = 0.8
"""The minimum share of the boot timeout for the backend, if the timeout is short."""


class _RaceEvent(Enum):
    PROGRESS = "a host has given an answer"
    CHANGED = "a place may have come free, or the boot was given up"


Changes: TypeAlias = "SimpleQueue[_HostAttempt | _RaceEvent]"


class _HostAttempt:
    """An attempt to reach one host, on its own thread.

    Attributes:
        outcome: the reached host, or the error; None while the attempt runs.
    """

    def __init__(
        self, place: HostPlace, boot: SSHBootDeadline, reach: Callable[[SSHBootDeadline], ReachedHost], news: Changes
    ) -> None:
        self.place = place
        self.given_up = CancelToken()
        self.deadline = boot.of_attempt(self.given_up, lambda: news.put(_RaceEvent.PROGRESS))
        self.outcome: ReachedHost | BaseException | None = None
        self.is_overtaken = False
        """True if another host was tried later and has answered first."""
        self._reach = reach
        self._news = news
        self._thread = threading.Thread(target=self._run, name=f"dragonfly-ssh-boot-{place.host}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self.deadline.time.working():
                self.outcome = self._reach(self.deadline)
        except BaseException as error:  # the boot's thread raises it
            self.outcome = error
        self._news.put(self)

    def join(self) -> None:
        """Wait until the thread has ended."""
        self._thread.join()


class HostRace:
    """A boot of one runner.

    Args:
        places: the hosts.
        booter: boots a runner on one host.
        request: the backend's boot request.
    """

    def __init__(self, places: HostTable, booter: HostBooter, request: BootRequest) -> None:
        self._places = places
        self._booter = booter
        self._request = request
        self._deadline = SSHBootDeadline(time_for(request.timeout), request.given_up, request)
        self._tried: dict[int, errors.BootError] = {}
        self._running: list[_HostAttempt] = []
        """Attempts without an outcome, in the order in which they began."""
        self._news: Changes = SimpleQueue()

    def run(self) -> SSHNode:
        """Boot a runner.

        Raises:
            BootError: no host could be used, or the boot was cancelled.
        """
        with ExitStack() as stack:
            changed = lambda: self._news.put(_RaceEvent.CHANGED)  # noqa: E731  # it is unregistered by identity
            stack.enter_context(self._places.watched(changed))
            stack.enter_context(self._deadline.ending(changed))
            stack.callback(self._end_others)
            while True:
                node = self._finish(*self._first_that_answers())
                if node is not None:
                    return node

    # -- until a host answers -----------------------------------------------------------------------------------------

    def _first_that_answers(self) -> tuple[_HostAttempt, ReachedHost]:
        due = time.monotonic()
        while True:
            if not self._running or time.monotonic() >= due:
                if self._begin_next():
                    due = time.monotonic() + STAGGER
                elif self._running:
                    due = NEVER  # until a place is free
                else:
                    self._wait_for_a_place()
                    continue
            match self._next(due):
                case _RaceEvent.PROGRESS if due != NEVER:
                    due = time.monotonic() + STAGGER
                case _RaceEvent.CHANGED if due == NEVER:
                    due = time.monotonic()
                case _HostAttempt(outcome=outcome) as attempt if attempt in self._running and outcome is not None:
                    earlier = self._running[: self._running.index(attempt)]
                    self._running.remove(attempt)
                    attempt.join()
                    if not isinstance(outcome, BaseException):
                        self._give_up(self._running, earlier)
                        return attempt, outcome
                    self._failed(attempt.place, outcome)
                    due = time.monotonic()

    def _give_up(self, others: list[_HostAttempt], earlier: list[_HostAttempt]) -> None:
        """Cancel the other attempts, as a host has answered. Mark the earlier ones as overtaken."""
        for other in earlier:
            other.is_overtaken = True
        for other in others:
            other.given_up.set()

    def _next(self, due: float) -> _HostAttempt | _RaceEvent | None:
        """Return the next news, or None if there is none until `due` (monotonic time)."""
        try:
            return self._news.get(timeout=None if due == NEVER else max(0.0, due - time.monotonic()))
        except Empty:
            return None

    def _begin_next(self) -> bool:
        """Begin an attempt on the host whose turn it is. Return False if there is no host left."""
        if (self._tried or self._running) and self._deadline.is_over:
            return False
        place = self._places.take({*self._tried, *(attempt.place.number for attempt in self._running)})
        if place is None:
            return False
        try:
            attempt = _HostAttempt(
                place,
                self._deadline,
                lambda deadline: self._booter.reach(place.host, self._request, deadline),
                self._news,
            )
        except BaseException as error:
            place.release()
            if self._running and isinstance(error, RuntimeError):
                return True  # no thread is available for a second attempt now
            raise
        self._running.append(attempt)
        return True

    def _wait_for_a_place(self) -> None:
        """Wait until something changes on the hosts. Raise if no change can free a place for this boot."""
        if self._tried or not self._places.may_come_free():
            raise self._places.nothing_left(self._tried)
        with self._deadline.time.working(), self._deadline.time.waiting():
            self._news.get()
        if self._deadline.is_cancelled:
            raise errors.BootError("the boot was given up while it waited for a place on a host", "resolve")

    # -- after a host has answered -------------------------------------------------------------------------------------

    def _finish(self, attempt: _HostAttempt, reached: ReachedHost) -> SSHNode | None:
        """Start a runner on the host that has answered. Return None if that fails and other hosts may be tried."""
        place = attempt.place
        try:
            with self._deadline.time.working():
                node = self._booter.finish(reached, self._request, attempt.deadline, place)
        except BaseException as error:
            self._end_others()
            self._failed(place, error)
            return None
        place.worked()
        self._end_others(place.host)
        return node

    def _failed(self, place: HostPlace, error: BaseException) -> None:
        """Record a failed attempt. Raise if the failure ends the boot."""
        if not isinstance(error, errors.BootError):
            place.release()
            raise error
        if self._deadline.is_cancelled:
            # A cancelled attempt is no failure of the host.
            place.release()
            text = f"{place.host}: the boot was given up before the runner was ready"
            raise errors.BootError(text, error.phase, output=error.output) from error
        self._tried[place.number] = error
        place.failed(error)

    def _end_others(self, winner: SSHHost | None = None) -> None:
        """Cancel the running attempts, and leave nothing of them on their hosts.

        Args:
            winner: the host that has answered first; None if no host has.
        """
        others, self._running = self._running, []
        for other in others:
            other.given_up.set()
        for other in others:
            other.join()
            outcome = other.outcome
            if outcome is not None and not isinstance(outcome, BaseException):
                outcome.close()
            if isinstance(outcome, errors.HostKeyError | errors.VersionMismatchError):
                other.place.failed(outcome)
            elif winner is not None and other.is_overtaken:
                other.place.overtaken(winner)
            else:
                other.place.release()


def time_for(timeout: float) -> float:
    """Return the seconds of a boot timeout that the backend may use."""
    return max(LEAST_SHARE * timeout, min(SHARE_OF_BOOT * timeout, timeout - REST))
