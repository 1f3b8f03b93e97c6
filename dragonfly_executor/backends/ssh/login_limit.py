"""How many logins may be under way at one sshd. It refuses more than its MaxStartups, by closing the connection."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dragonfly_executor.backends.ssh.deadline import Deadline
from dragonfly_executor.errors import BootError

FIRST_LIMIT = 10
"""Logins at once until the first refusal: from that number on an sshd with the default MaxStartups refuses some."""
TRIES = 4
"""Connections in a row that a server may close before its first word. An sshd that is full does not stay so."""
FULL_TRIES = 12
"""The same if other logins of this program are under way there, or the server says that it is full."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
SAYS_FULL = (b"MaxStartups", b"Not allowed at this time")


class BusyError(BootError):
    """A server has refused a connection because of others: another try may succeed."""


class LoginLimit:
    """Of one server. It is halved by each refusal, and grows by one with each login. Any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._limit = float(FIRST_LIMIT)
        self._running = 0

    @contextmanager
    def login(self, deadline: Deadline) -> Iterator[None]:
        """Wait for a turn, and keep it for the block.

        The wait takes none of the boot's time. It ends early if the boot is given up.
        """
        self._take(deadline)
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _take(self, deadline: Deadline) -> None:
        with self._changed:
            if self._running < int(self._limit):
                self._running += 1
                return
        with deadline.time.waiting(), deadline.ending(self._wake), self._changed:
            while self._running >= int(self._limit) and not deadline.is_given_up:
                self._changed.wait()
            self._running += 1

    def refused(self) -> bool:
        """Count a refusal. Return whether other logins are under way there."""
        with self._changed:
            others = self._running > 1
            self._limit = max(1.0, min(self._limit, self._running) / 2)
            return others

    def succeeded(self) -> None:
        """Count a login."""
        with self._changed:
            self._limit = min(self._limit + 1, FIRST_LIMIT)
            self._changed.notify_all()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


def pause_after(tries: int) -> float:
    """Return the seconds until the next try: a growing pause, with jitter."""
    jitter = random.uniform(0.5, 1.0)  # noqa: S311  # a pause is no secret
    return jitter * min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**tries)
