"""Which descriptors are ready: epoll where there is one, else what `selectors` finds.

`selectors` makes an object for each ready descriptor, which is a third of what a pass of the loop costs.
"""

from __future__ import annotations

import math
import select
import sys

READABLE = 1
WRITABLE = 4
"""As epoll numbers them; whatever else it reports is an error or a hang-up."""


class Poller:
    """Waits for descriptors."""

    def watch(self, fd: int, read: bool, write: bool) -> None:
        """Wait for these from now on; for neither: forget the descriptor."""
        raise NotImplementedError

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        """The ready descriptors and for what, after at most `timeout` seconds; None waits for as long as it takes."""
        raise NotImplementedError

    def fileno(self) -> int:
        """The descriptor of the poller itself."""
        raise NotImplementedError

    def close(self) -> None:
        """Give it back."""
        raise NotImplementedError


def make_poller() -> Poller:
    """The fastest one of this platform."""
    return EpollPoller() if sys.platform == "linux" else SelectorPoller()


class EpollPoller(Poller):
    """On Linux."""

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
        # epoll counts in milliseconds and Python rounds them up: no timer rings early, and none makes the loop spin.
        return self.poll_now(timeout)

    def fileno(self) -> int:
        """See `Poller`."""
        return self._epoll.fileno()

    def close(self) -> None:
        """See `Poller`."""
        self._epoll.close()


class SelectorPoller(Poller):
    """Everywhere else."""

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
        """See `Poller`; -1 where it has none."""
        fileno = getattr(self._selector, "fileno", None)
        return -1 if fileno is None else int(fileno())

    def close(self) -> None:
        """See `Poller`."""
        self._selector.close()
