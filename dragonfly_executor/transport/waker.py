"""Wakers, with which another thread wakes a loop.

A waker has no lock. The waking thread may be interrupted between any two bytecodes, and a lock that it leaves locked
stops the loop for good.
"""

from __future__ import annotations

import os
import select
import sys

from dragonfly_executor.transport.sockets import socketpair


class Waker:
    """A descriptor that becomes readable at `wake`. After `close`, `wake` does nothing."""

    fd: int

    def wake(self) -> None:
        """Make the descriptor readable. Any thread may call this, and it never blocks."""
        raise NotImplementedError

    def clear(self) -> None:
        """Make the descriptor unreadable again."""
        raise NotImplementedError

    def descriptors(self) -> tuple[int, ...]:
        """Return the descriptors that a forked child must close."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the descriptors."""
        raise NotImplementedError

    def abandon(self) -> None:
        """Close the descriptors in a forked child, even if another thread was using them during the fork."""
        self.close()


def make_waker() -> Waker:
    """Return the cheapest waker of this platform."""
    return EventWaker() if sys.platform == "linux" else SocketWaker()


class EventWaker(Waker):
    """A waker with an eventfd: one descriptor, and no buffer that can be full."""

    def __init__(self) -> None:
        # An epoll object closes its descriptor once the last reference is gone. So during a wake-up the number cannot
        # become another file. That takes no bytecode, unlike a `__del__`, so no interrupt can come in between.
        self._event: select.epoll | None = select.epoll.fromfd(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
        self.fd = self._event.fileno()

    def wake(self) -> None:
        """See `Waker`."""
        event = self._event
        if event is not None:
            os.eventfd_write(event.fileno(), 1)

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
        self.fd = -1
        self._event = None

    def abandon(self) -> None:
        """See `Waker`."""
        event = self._event
        self.close()
        if event is not None:
            event.close()


class SocketWaker(Waker):
    """A waker with a socket pair."""

    def __init__(self) -> None:
        self._receiver, self._sender = socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)
        self.fd = self._receiver.fileno()

    def wake(self) -> None:
        """See `Waker`."""
        try:
            self._sender.send(b"w")
        except OSError:
            # If the buffer is full, a wake-up is pending. If the socket is closed, there is no loop to wake.
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
