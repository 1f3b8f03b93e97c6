"""How another thread wakes a loop.

Without a lock: whoever wakes may be interrupted between any two steps, and a lock that it leaves behind would stop the
loop for good.
"""

from __future__ import annotations

import os
import select
import sys

from dragonfly_executor.transport.sockets import socketpair


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

    def abandon(self) -> None:
        """Close them in a forked child, whatever another thread was doing with them as it forked."""
        self.close()


def make_waker() -> Waker:
    """The cheapest one of this platform."""
    return EventWaker() if sys.platform == "linux" else SocketWaker()


class EventWaker(Waker):
    """An eventfd: one descriptor, and no buffer that could be full."""

    def __init__(self) -> None:
        # It closes its descriptor, any one, when nobody refers to it any more: while a wake is under way the number is
        # nobody else's file. That takes no step of Python, as a `__del__` does, into which an interrupt could come.
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
    """A socket pair."""

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
