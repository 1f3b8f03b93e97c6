"""A limit of concurrent logins at one sshd, as sshd closes connections beyond its MaxStartups."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dragonfly_executor.backends.ssh.boot_deadline import SSHBootDeadline
from dragonfly_executor.errors import BootError

FIRST_LIMIT = 10
"""Concurrent logins until the first refusal. An sshd with the default MaxStartups refuses some beyond this number."""
TRIES = 4
"""Consecutive connections that a server may close before its banner. An overloaded sshd recovers soon."""
FULL_TRIES = 12
"""The number of tries if this program has other logins in progress there, or the server says that it is full."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
SAYS_FULL = (b"MaxStartups", b"Not allowed at this time")


class BusyError(BootError):
    """A refusal because of other connections to the server. A retry may succeed."""


class LoginLimit:
    """The limit of one server. Each refusal halves it, and each login raises it by one. Any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._limit = float(FIRST_LIMIT)
        self._running = 0

    @contextmanager
    def login(self, deadline: SSHBootDeadline) -> Iterator[None]:
        """Wait for a turn, and keep it while in the block.

        The wait does not count as boot time. Cancellation of the boot ends it.
        """
        self._take(deadline)
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _take(self, deadline: SSHBootDeadline) -> None:
        with self._changed:
            if self._running < int(self._limit):
                self._running += 1
                return
        with deadline.time.waiting(), deadline.ending(self._wake), self._changed:
            while self._running >= int(self._limit) and not deadline.is_cancelled:
                self._changed.wait()
            self._running += 1

    def refused(self) -> bool:
        """Count a refusal. Return True if other logins are in progress at the server."""
        with self._changed:
            others = self._running > 1
            self._limit = max(1.0, min(self._limit, self._running) / 2)
            return others

    def succeeded(self) -> None:
        """Count a successful login."""
        with self._changed:
            self._limit = min(self._limit + 1, FIRST_LIMIT)
            self._changed.notify_all()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


def pause_after(tries: int) -> float:
    """Return the seconds until the next try: a growing pause, with jitter."""
    jitter = random.uniform(0.5, 1.0)  # noqa: S311  # jitter needs no cryptographic randomness
    return jitter * min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**tries)
