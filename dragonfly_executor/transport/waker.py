"""How another thread wakes a loop."""

from __future__ import annotations

import os
import socket
import sys
from _thread import RLock


class Waker:
    """A descriptor that becomes readable at `wake`. After `close` a wake does nothing."""

    fd: int

    def wake(self) -> None:
        """Make the descriptor readable; any thread, never blocks."""
        raise NotImplementedError

    def clear(self) -> None:
        """Make it unreadable again."""
        raise NotImplementedError

    def descriptors(self) -> tuple[int, ...]:
        """All that a forked child must close."""
        raise NotImplementedError

    def close(self) -> None:
        """Give the descriptors back."""
        raise NotImplementedError


def make_waker() -> Waker:
    """The cheapest one of this platform."""
    return EventWaker() if sys.platform == "linux" else SocketWaker()


class EventWaker(Waker):
    """An eventfd: one descriptor, and no buffer that could be full."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # Between a look at the number and the write it may be closed, and be somebody else's file. Reentrant, because a
        # garbage collection in here may wake this loop as well.
        self._lock = RLock()

    def wake(self) -> None:
        """See `Waker`."""
        with self._lock:
            if self.fd >= 0:
                os.eventfd_write(self.fd, 1)

    def clear(self) -> None:
        """See `Waker`."""
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            return

    def descriptors(self) -> tuple[int, ...]:
        """See `Waker`."""
        return (self.fd,)

    def close(self) -> None:
        """See `Waker`."""
        with self._lock:
            fd, self.fd = self.fd, -1
        os.close(fd)


class SocketWaker(Waker):
    """A socket pair."""

    def __init__(self) -> None:
        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)
        self.fd = self._receiver.fileno()

    def wake(self) -> None:
        """See `Waker`."""
        try:
            self._sender.send(b"w")
        except OSError:
            # Full: then a wake is under way. Closed: then there is nobody to wake.
            return

    def clear(self) -> None:
        """See `Waker`."""
        try:
            self._receiver.recv(64)
        except BlockingIOError:
            return

    def descriptors(self) -> tuple[int, ...]:
        """See `Waker`."""
        return (self._receiver.fileno(), self._sender.fileno())

    def close(self) -> None:
        """See `Waker`."""
        self._receiver.close()
        self._sender.close()
