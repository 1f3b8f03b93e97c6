"""One boot over the hosts of a backend: the first host that answers carries the runner."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from enum import Enum
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, TypeAlias

from dragonfly_executor import errors
from dragonfly_executor.backends.base import BootRequest, GivenUp
from dragonfly_executor.backends.ssh.deadline import NEVER, Deadline
from dragonfly_executor.backends.ssh.host_table import Place, Places
from dragonfly_executor.backends.ssh.hosts import SSHHost

if TYPE_CHECKING:
    from dragonfly_executor.backends.ssh.boot import HostBooter
    from dragonfly_executor.backends.ssh.node import SSHNode
    from dragonfly_executor.backends.ssh.ready_host import ReachedHost

STAGGER = 1.0
"""Seconds without an answer after which the next host is tried too."""
SHARE_OF_BOOT = 0.9
"""Of the time that a boot has. In the rest its runner says hello, or the boot is cleared away, and its error says what
went wrong on which host."""
REST = 0.5
"""Seconds of that rest at least."""
LEAST_SHARE = 0.8
"""Of the time that a boot has, where it has little."""


class _News(Enum):
    PROGRESS = "a host has given an answer"
    CHANGED = "a place may have come free, or the boot was given up"


Changes: TypeAlias = "SimpleQueue[_Attempt | _News]"


class _Attempt:
    """An attempt to reach one host, on a thread of its own.

    Attributes:
        outcome: the host, or why it was not reached; None as long as neither is known.
    """

    def __init__(self, place: Place, boot: Deadline, reach: Callable[[Deadline], ReachedHost], news: Changes) -> None:
        self.place = place
        self.given_up = GivenUp()
        self.deadline = boot.of_attempt(self.given_up, lambda: news.put(_News.PROGRESS))
        self.outcome: ReachedHost | BaseException | None = None
        self.is_overtaken = False
        """Whether a host that was asked later has answered first."""
        self._reach = reach
        self._news = news
        self._thread = threading.Thread(target=self._run, name=f"dragonfly-ssh-boot-{place.host}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self.deadline.time.working():
                self.outcome = self._reach(self.deadline)
        except BaseException as error:  # the boot's own thread raises it
            self.outcome = error
        self._news.put(self)

    def join(self) -> None:
        """Wait for the end of the thread."""
        self._thread.join()


class Race:
    """One boot.

    Args:
        places: the hosts.
        booter: boots on one of them.
        request: as the backend got it.
    """

    def __init__(self, places: Places, booter: HostBooter, request: BootRequest) -> None:
        self._places = places
        self._booter = booter
        self._request = request
        self._deadline = Deadline(time_for(request.timeout), request.given_up, request)
        self._tried: dict[int, errors.BootError] = {}
        self._running: list[_Attempt] = []
        """Those that nothing is known of yet, in the order in which they began."""
        self._news: Changes = SimpleQueue()

    def run(self) -> SSHNode:
        """Boot a runner.

        Raises:
            BootError: no host could be used, or the boot was given up.
        """
        with ExitStack() as stack:
            changed = lambda: self._news.put(_News.CHANGED)  # noqa: E731  # the same object is forgotten afterwards
            stack.enter_context(self._places.watched(changed))
            stack.enter_context(self._deadline.ending(changed))
            stack.callback(self._end_others)
            while True:
                node = self._finish(*self._first_that_answers())
                if node is not None:
                    return node

    # -- until a host answers -----------------------------------------------------------------------------------------

    def _first_that_answers(self) -> tuple[_Attempt, ReachedHost]:
        due = time.monotonic()
        while True:
            if not self._running or time.monotonic() >= due:
                if self._begin_next():
                    due = time.monotonic() + STAGGER
                elif self._running:
                    due = NEVER  # until a place comes free
                else:
                    self._wait_for_a_place()
                    continue
            match self._next(due):
                case _News.PROGRESS if due != NEVER:
                    due = time.monotonic() + STAGGER
                case _News.CHANGED if due == NEVER:
                    due = time.monotonic()
                case _Attempt(outcome=outcome) as attempt if attempt in self._running and outcome is not None:
                    earlier = self._running[: self._running.index(attempt)]
                    self._running.remove(attempt)
                    attempt.join()
                    if not isinstance(outcome, BaseException):
                        self._give_up(self._running, earlier)
                        return attempt, outcome
                    self._failed(attempt.place, outcome)
                    due = time.monotonic()

    def _give_up(self, others: list[_Attempt], earlier: list[_Attempt]) -> None:
        """A host has answered: the boot needs no other."""
        for other in earlier:
            other.is_overtaken = True
        for other in others:
            other.given_up.set()

    def _next(self, due: float) -> _Attempt | _News | None:
        """Return what happens next; None if nothing has happened until then."""
        try:
            return self._news.get(timeout=None if due == NEVER else max(0.0, due - time.monotonic()))
        except Empty:
            return None

    def _begin_next(self) -> bool:
        """Begin an attempt on the host whose turn it is. Return False if there is none."""
        if (self._tried or self._running) and self._deadline.is_over:
            return False
        place = self._places.take({*self._tried, *(attempt.place.number for attempt in self._running)})
        if place is None:
            return False
        try:
            attempt = _Attempt(
                place,
                self._deadline,
                lambda deadline: self._booter.reach(place.host, self._request, deadline),
                self._news,
            )
        except BaseException as error:
            place.release()
            if self._running and isinstance(error, RuntimeError):
                return True  # there is no thread for a rival now
            raise
        self._running.append(attempt)
        return True

    def _wait_for_a_place(self) -> None:
        """Wait until something changes on the hosts, if that can bring a place."""
        if self._tried or not self._places.may_come_free():
            raise self._places.nothing_left(self._tried)
        with self._deadline.time.working(), self._deadline.time.waiting():
            self._news.get()
        if self._deadline.is_given_up:
            raise errors.BootError("the boot was given up while it waited for a place on a host", "resolve")

    # -- and then -----------------------------------------------------------------------------------------------------

    def _finish(self, attempt: _Attempt, reached: ReachedHost) -> SSHNode | None:
        """Make a runner of the host that has answered; None if that fails there, and others may be tried."""
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

    def _failed(self, place: Place, error: BaseException) -> None:
        """An attempt has failed. Raises what ends the boot."""
        if not isinstance(error, errors.BootError):
            place.release()
            raise error
        if self._deadline.is_given_up:
            # The host may be as good as any: nothing is held against it.
            place.release()
            text = f"{place.host}: the boot was given up before the runner was ready"
            raise errors.BootError(text, error.phase, output=error.output) from error
        self._tried[place.number] = error
        place.failed(error)

    def _end_others(self, winner: SSHHost | None = None) -> None:
        """End the attempts that are under way, and leave nothing of them on their hosts.

        Args:
            winner: the host that has answered first, if one has.
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
    """Return the seconds that a backend takes of a boot's time."""
    return max(LEAST_SHARE * timeout, min(SHARE_OF_BOOT * timeout, timeout - REST))
