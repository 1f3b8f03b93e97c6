"""Polling for ready descriptors: with epoll if the platform has it, otherwise with `selectors`.

`selectors` makes an object for each ready descriptor, which takes a third of the time of a pass of the loop.
"""

from __future__ import annotations

import math
import select
import sys

READABLE = 1
WRITABLE = 4
"""The bits that epoll uses. All other bits that epoll reports mean an error or a hang-up."""


class Poller:
    """A poller for the readiness of descriptors."""

    def watch(self, fd: int, read: bool, write: bool) -> None:
        """Set what to wait for on `fd`. With neither `read` nor `write`, forget the descriptor."""
        raise NotImplementedError

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        """Return the ready descriptors with their event bits.

        Args:
            timeout: maximum time to wait, in seconds; None waits without a limit.
        """
        raise NotImplementedError

    def fileno(self) -> int:
        """Return the poller's own descriptor."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the poller's own descriptor."""
        raise NotImplementedError


def make_poller() -> Poller:
    """Return the fastest poller of this platform."""
    return EpollPoller() if sys.platform == "linux" else SelectorPoller()


class EpollPoller(Poller):
    """The poller for Linux."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, int] = {}
        self.poll_now = self._epoll.poll

    def watch(self, fd: int, read: bool, write: bool) -> None:
        """See `Poller`."""
        wanted = (READABLE if read else 0) | (WRITABLE if write else 0)
        known = self._watched.pop(fd, 0)
        if wanted:
            self._watched[fd] = wanted
            if known:
                self._epoll.modify(fd, wanted)
            else:
                self._epoll.register(fd, wanted)
        elif known:
            self._epoll.unregister(fd)

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        """See `Poller`."""
        if timeout is None:
            return self.poll_now()
        # epoll counts in milliseconds, and Python rounds up. So no timer fires early, and none makes the loop spin.
        return self.poll_now(timeout)

    def fileno(self) -> int:
        """See `Poller`."""
        return self._epoll.fileno()

    def close(self) -> None:
        """See `Poller`."""
        self._epoll.close()


class SelectorPoller(Poller):
    """The poller for all other platforms."""

    def __init__(self) -> None:
        import selectors

        self._selector = selectors.DefaultSelector()

    def watch(self, fd: int, read: bool, write: bool) -> None:
        """See `Poller`."""
        events = (1 if read else 0) | (2 if write else 0)
        known = fd in self._selector.get_map()
        if not events:
            if known:
                self._selector.unregister(fd)
        elif known:
            self._selector.modify(fd, events)
        else:
            self._selector.register(fd, events)

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        """See `Poller`."""
        if timeout is not None:
            timeout = math.ceil(timeout * 1000) / 1000
        return [
            (key.fd, (READABLE if events & 1 else 0) | (WRITABLE if events & 2 else 0))
            for key, events in self._selector.select(timeout)
        ]

    def fileno(self) -> int:
        """See `Poller`; -1 if it has no descriptor."""
        fileno = getattr(self._selector, "fileno", None)
        return -1 if fileno is None else int(fileno())

    def close(self) -> None:
        """See `Poller`."""
        self._selector.close()
