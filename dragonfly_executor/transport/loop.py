"""The loop that one thread runs: readiness of descriptors, timers, and calls from other threads.

Both ends of a link run it, the parent's engine thread and the runner's agent. It is asyncio's loop cut down to what
they need, because importing asyncio takes longer than booting a local runner does, and pulls in ssl, which a runner
never needs. For the same reason nothing here imports logging.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Collection
from itertools import count
from time import monotonic

from dragonfly_executor.transport.poller import READABLE, WRITABLE, make_poller
from dragonfly_executor.transport.waker import make_waker

Callback = Callable[[], object]
LINGER = 0.0003
"""Seconds for which a loop that expects news goes on looking before it sleeps.

On a virtual machine it takes 30 to 50 us until a processor that has gone idle runs the thread that was woken, and all
caches are cold then. The round trip of a call that costs nothing was mostly that.
"""
PASS = 200
"""Calls from other threads that one pass runs at most."""
SLACK = 64
"""How many timers there may be before sweeping is worth looking at."""
LONGEST_WAIT = 24 * 3600.0
"""Seconds for which a loop sleeps at most. Pollers refuse a number that their system cannot count to, and epoll's is 25
days; waking for nothing once a day is nothing."""
MAX_ABSTENTION = 2
"""Waits, at most, for which a loop that lingered in vain does not: where others need the processors, it is only in the
way. The first time it is one, and each further time in a row twice as many, so that most waits are free of it there."""


def _nothing() -> None:
    """What a loop without a queue takes from it."""


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
        self._poller = make_poller()
        self._readers: dict[int, Callback] = {}
        self._writers: dict[int, Callback] = {}
        self._soon: deque[Callback] = deque()
        self._from_threads: deque[Callback] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._crowded = SLACK
        """How many timers it takes until a sweep is worth it."""
        self._order = count()
        self._running = False
        self.expects_news = False
        """Whether something is likely to come at once. The owner says so, and only while a processor is free for it."""
        self._was_short = False
        self._abstains = 0
        self._next_abstention = 1
        self._queue: Collection[object] = ()
        self._take: Callback = _nothing
        self.is_asleep = True
        """Whether it may have to be woken to see what other threads have handed over. Only the loop changes it."""
        try:
            self._waker = make_waker()
        except BaseException:
            self._poller.close()
            raise
        try:
            self.add_reader(self._waker.fd, self._on_wake)
        except BaseException:
            self.close()
            raise

    time = staticmethod(monotonic)
    """Seconds on the clock of the timers; it only ever goes forward."""

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
        self._poller.watch(fd, fd in self._readers, fd in self._writers)

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
        if len(self._timers) > self._crowded:
            self._sweep()
        return timer

    def _sweep(self) -> None:
        """Drop the timers that were taken back: one that is due in months would stay for so long."""
        timers = self._timers
        timers[:] = [entry for entry in timers if entry[2].callback is not None]
        heapq.heapify(timers)
        self._crowded = 2 * len(timers) + SLACK

    def feed(self, queue: Collection[object], take: Callback) -> None:
        """In each pass that finds something in `queue`, call `take`, ahead of the calls from other threads.

        So what a thread has put there comes before what the same thread has called back after it. Whoever adds to the
        queue asks for a pass if the loop `is_asleep`.
        """
        self._queue, self._take = queue, take

    def call_soon_threadsafe(self, callback: Callback) -> None:
        """Call back in the next pass; from any thread, also from a garbage collection in any thread.

        If an interrupt leaves it, the callback may be run or not.
        """
        try:
            self._from_threads.append(callback)
            # The loop says that it sleeps before it looks at this queue for the last time. So either it sees what was
            # added, or the one who has added it sees that it sleeps. Nothing is written down here that an interrupt
            # could leave wrong.
            if self.is_asleep:
                self._waker.wake()
        except BaseException:  # a Ctrl-C, before the wake or after it
            self._waker.wake()
            raise

    def _on_wake(self) -> None:
        # Ahead of the look at what was handed over: what comes after that sends a wake of its own.
        self._waker.clear()

    def run(self) -> None:
        """Run until `stop`."""
        self._running = True
        readers, writers = self._readers, self._writers
        from_threads, soon = self._from_threads, self._soon
        while self._running:
            self.is_asleep = True
            ready = self._wait()
            self.is_asleep = False
            for fd, events in ready:
                # Errors and hang-ups are told by the read or write that meets them.
                if events & ~WRITABLE and (reader := readers.get(fd)) is not None:
                    reader()
                if events & ~READABLE and (writer := writers.get(fd)) is not None:
                    writer()
            if self._timers:
                self._run_due_timers()
            # Only what is there now: a callback that adds another must not starve the descriptors. And no more than so
            # many: threads that add them faster than they are run would make each pass longer than the one before.
            count = min(len(from_threads), PASS)
            if self._queue:
                self._take()
            for _ in range(count):
                from_threads.popleft()()
            for _ in range(len(soon)):
                soon.popleft()()

    def stop(self) -> None:
        """Make `run` return after this pass."""
        self._running = False

    def _wait(self) -> list[tuple[int, int]]:
        """The descriptors that are ready, as soon as there are any or a callback is due."""
        poll = self._poller.poll
        if self._soon or self._from_threads or self._queue:
            return poll(0.0)
        if not self.expects_news:
            return poll(self._patience())
        began = monotonic()
        ready: list[tuple[int, int]] = []
        if self._abstains:
            self._abstains -= 1
        elif self._was_short:
            ready = self._linger(began + LINGER)
        if not ready:
            ready = poll(self._patience())
        self._was_short = monotonic() - began < LINGER
        return ready

    def _linger(self, until: float) -> list[tuple[int, int]]:
        """Look again and again, and learn from how that went."""
        poll = self._poller.poll
        while not (ready := poll(0.0)):
            if monotonic() >= until:
                self._abstains = self._next_abstention
                self._next_abstention = min(2 * self._next_abstention, MAX_ABSTENTION)
                return []
        self._next_abstention = 1
        return ready

    def _patience(self) -> float | None:
        timers = self._timers
        while timers and timers[0][2].callback is None:
            heapq.heappop(timers)
        if not timers:
            return None
        left = timers[0][0] - monotonic()
        if left > LONGEST_WAIT:
            return LONGEST_WAIT
        return max(0.0, left)

    def _run_due_timers(self) -> None:
        now = monotonic()
        while self._timers and self._timers[0][0] <= now:
            callback = heapq.heappop(self._timers)[2].callback
            if callback is not None:
                callback()

    def descriptors(self) -> tuple[int, ...]:
        """The descriptors that are the loop's own: a forked child closes them. None of a loop that is closed."""
        if self._waker.fd < 0:
            return ()
        return (*self._waker.descriptors(), self._poller.fileno())

    def abandon(self) -> None:
        """Close the descriptors in a forked child, as the loop's own: nothing closes the same numbers later."""
        self._waker.abandon()
        self._poller.close()

    def close(self) -> None:
        """Give the loop's descriptors back."""
        # The waker first: whether it is open tells `descriptors`, in a child forked meanwhile, whether the rest is.
        self._waker.close()
        self._poller.close()
