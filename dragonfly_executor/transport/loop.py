"""The loop that one thread runs: readiness of descriptors, timers, and calls from other threads.

Both ends of a link run it, the parent's engine thread and the runner's agent. It is asyncio's loop cut down to what they
need, because importing asyncio takes longer than booting a local runner does, and pulls in ssl, which a runner never
needs. For the same reason nothing here imports logging.
"""

from __future__ import annotations

import heapq
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable
from itertools import count

Callback = Callable[[], None]


class Timer:
    """A callback that is due at a moment; `cancel` takes it back."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callback) -> None:
        self.when = when
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        """Do not call back. Twice is fine, and so is too late."""
        self.callback = None


class Loop:
    """Calls back when descriptors are ready, when timers are due, and when other threads ask for it.

    Everything but `call_soon_threadsafe` belongs to the thread that calls `run`. An exception that leaves a callback
    leaves `run`: what it means is for the owner to say.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._readers: dict[int, Callback] = {}
        self._writers: dict[int, Callback] = {}
        self._soon: deque[Callback] = deque()
        self._from_threads: deque[Callback] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = count()
        self._running = False
        self._wake_is_sent = False
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._wake_receiver.setblocking(False)
        self._wake_sender.setblocking(False)
        self.add_reader(self._wake_receiver.fileno(), self._on_wake)

    @staticmethod
    def time() -> float:
        """Seconds on the clock of the timers; it only ever goes forward."""
        return time.monotonic()

    def add_reader(self, fd: int, callback: Callback) -> None:
        """Call back, again and again, while `fd` has something to read."""
        self._readers[fd] = callback
        self._watch(fd)

    def add_writer(self, fd: int, callback: Callback) -> None:
        """Call back, again and again, while `fd` takes something."""
        self._writers[fd] = callback
        self._watch(fd)

    def remove_reader(self, fd: int) -> None:
        """No more callbacks for reading `fd`; fine if there were none."""
        if self._readers.pop(fd, None) is not None:
            self._watch(fd)

    def remove_writer(self, fd: int) -> None:
        """No more callbacks for writing `fd`; fine if there were none."""
        if self._writers.pop(fd, None) is not None:
            self._watch(fd)

    def _watch(self, fd: int) -> None:
        events = (selectors.EVENT_READ if fd in self._readers else 0) | (
            selectors.EVENT_WRITE if fd in self._writers else 0
        )
        known = fd in self._selector.get_map()
        if not events:
            if known:
                self._selector.unregister(fd)
        elif known:
            self._selector.modify(fd, events)
        else:
            self._selector.register(fd, events)

    def call_soon(self, callback: Callback) -> None:
        """Call back in the next pass."""
        self._soon.append(callback)

    def call_later(self, delay: float, callback: Callback) -> Timer:
        """Call back in `delay` seconds."""
        return self.call_at(self.time() + delay, callback)

    def call_at(self, when: float, callback: Callback) -> Timer:
        """Call back when the clock shows `when`."""
        timer = Timer(when, callback)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def call_soon_threadsafe(self, callback: Callback) -> None:
        """Call back in the next pass; from any thread, also from a garbage collection in any thread."""
        self._from_threads.append(callback)
        self.wake()

    def wake(self) -> None:
        """Make the loop take a pass. Wakes are coalesced: however many come, at most one byte waits in the pipe."""
        if self._wake_is_sent:
            return
        self._wake_is_sent = True
        try:
            self._wake_sender.send(b"w")
        except OSError:
            # Full (then a wake is under way) or closed (then there is nobody to wake).
            return

    def _on_wake(self) -> None:
        # The flag falls before the queue is read: what is added after that sends a wake of its own.
        self._wake_is_sent = False
        try:
            self._wake_receiver.recv(64)
        except BlockingIOError:
            return

    def run(self) -> None:
        """Run until `stop`."""
        self._running = True
        while self._running:
            self._run_once()

    def stop(self) -> None:
        """Make `run` return after this pass."""
        self._running = False

    def _run_once(self) -> None:
        for key, events in self._selector.select(self._patience()):
            fd = key.fd
            if events & selectors.EVENT_READ and (reader := self._readers.get(fd)) is not None:
                reader()
            if events & selectors.EVENT_WRITE and (writer := self._writers.get(fd)) is not None:
                writer()
        self._run_due_timers()
        for queue in (self._from_threads, self._soon):
            # Only what is there now: a callback that adds another must not starve the descriptors.
            for _ in range(len(queue)):
                queue.popleft()()

    def _patience(self) -> float | None:
        if self._soon or self._from_threads:
            return 0.0
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return None
        return max(0.0, self._timers[0][0] - self.time())

    def _run_due_timers(self) -> None:
        if not self._timers:
            return
        now = self.time()
        while self._timers and self._timers[0][0] <= now:
            callback = heapq.heappop(self._timers)[2].callback
            if callback is not None:
                callback()

    def descriptors(self) -> tuple[int, ...]:
        """The descriptors that are the loop's own: a forked child closes them."""
        own = [self._wake_receiver.fileno(), self._wake_sender.fileno()]
        fileno = getattr(self._selector, "fileno", None)
        return (*own, fileno()) if fileno is not None else tuple(own)

    def close(self) -> None:
        """Give the loop's descriptors back."""
        self._selector.close()
        self._wake_receiver.close()
        self._wake_sender.close()
