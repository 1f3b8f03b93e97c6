"""The event loop of one thread: readiness of descriptors, timers, and calls from other threads.

Both ends of a link run it: the parent's engine thread and the runner's agent. It has only the parts of asyncio's loop
that they need. Importing asyncio takes longer than booting a local runner, and imports ssl, which a runner never needs.
For the same reason nothing here imports logging.
"""

from __future__ import annotations

import heapq
import os
from collections import deque
from collections.abc import Callable, Collection
from itertools import count
from time import monotonic

from dragonfly_executor.transport.poller import READABLE, WRITABLE, make_poller
from dragonfly_executor.transport.waker import make_waker

Callback = Callable[[], object]
LINGER = 0.0005
"""Seconds for which a loop that expects news polls before it sleeps.

On a virtual machine it takes 30 to 50 us until an idle processor runs the thread that was woken, and all caches are
cold then. That made up most of the round trip of a no-op call.
"""
PASS = 200
"""Maximum number of calls from other threads in one pass."""
SLACK = 64
"""Number of timers up to which the timer heap is not swept."""
LONGEST_WAIT = 24 * 3600.0
"""Maximum sleep in seconds. Pollers refuse timeouts beyond their range, which is 25 days for epoll.

A needless wake-up once a day costs nothing.
"""
MAX_ABSTENTION = 64
"""Maximum number of waits for which a loop skips polling after a poll found nothing.

If other threads need the processors, polling only gets in their way: on a machine that is busy otherwise, the news
itself waits for the end of the polling. The first skip is one wait long, and each further skip is twice as long.
A poll that found something halves the next skip.
"""
LOOKS = 8
"""Number of polls after which a loop that polls lets a thread run that waits for the same processor.

The kernel often runs the thread that was woken where it ran last. If a loop polls there, the thread waits
until the polling ends, although the loop polls for that thread's message.
"""
WINDOW = 0.005
"""Seconds of a window in which a loop that expects news polls in any case."""
WINDOW_PERIOD = 8
"""One window out of this number.

News comes soon enough for polling only if the loop at the other end polls too. Two loops that both skip most
waits rarely poll at the same time, and so stay slow. Processes of one machine have the same clock, so they have
the same windows.
"""


def _nothing() -> None:
    """Do nothing: the default for a loop without a queue."""


_let_others_run: Callable[[], object] = getattr(os, "sched_yield", _nothing)
"""Not every system has it."""


class Timer:
    """A callback that is due at a given time; `cancel` cancels it."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callback) -> None:
        self.when = when
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        """Cancel the callback. A second or late call does nothing."""
        self.callback = None


class Loop:
    """An event loop that calls back when descriptors are ready, when timers are due, and when other threads ask for it.

    Only the thread that calls `run` may use it, except for `call_soon_threadsafe`. An exception that leaves a callback
    leaves `run`, and the owner handles it.
    """

    def __init__(self) -> None:
        self._poller = make_poller()
        self._readers: dict[int, Callback] = {}
        self._writers: dict[int, Callback] = {}
        self._soon: deque[Callback] = deque()
        self._from_threads: deque[Callback] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._crowded = SLACK
        """Number of timers above which the timer heap is swept."""
        self._order = count()
        self._running = False
        self.expects_news = False
        """True if an event is likely to come at once.

        The owner sets it, and only while a processor is free for polling.
        """
        self._was_short = False
        self._abstains = 0
        self._next_abstention = 1
        self._queue: Collection[object] = ()
        self._take: Callback = _nothing
        self.is_asleep = True
        """True if the loop may need a wake-up to see the work that other threads hand over.

        Only the loop changes it.
        """
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
    """Return the time of the timers' clock, which is monotonic, in seconds."""

    def add_reader(self, fd: int, callback: Callback) -> None:
        """Call back repeatedly while `fd` is readable."""
        self._readers[fd] = callback
        self._watch(fd)

    def add_writer(self, fd: int, callback: Callback) -> None:
        """Call back repeatedly while `fd` is writable."""
        self._writers[fd] = callback
        self._watch(fd)

    def remove_reader(self, fd: int) -> None:
        """Stop callbacks for reading `fd`. If there are none, nothing changes."""
        if self._readers.pop(fd, None) is not None:
            self._watch(fd)

    def remove_writer(self, fd: int) -> None:
        """Stop callbacks for writing `fd`. If there are none, nothing changes."""
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
        """Call back when the clock reaches `when`."""
        timer = Timer(when, callback)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        if len(self._timers) > self._crowded:
            self._sweep()
        return timer

    def _sweep(self) -> None:
        """Drop cancelled timers. Otherwise a timer that is due in months stays for months."""
        timers = self._timers
        timers[:] = [entry for entry in timers if entry[2].callback is not None]
        heapq.heapify(timers)
        self._crowded = 2 * len(timers) + SLACK

    def feed(self, queue: Collection[object], take: Callback) -> None:
        """Call `take` in each pass that finds `queue` not empty, before the calls from other threads.

        So items that a thread adds to the queue are taken before a later `call_soon_threadsafe` of the same thread. A
        thread that adds an item requests a pass if the loop `is_asleep`.
        """
        self._queue, self._take = queue, take

    def call_soon_threadsafe(self, callback: Callback) -> None:
        """Call back in the next pass. Any thread may call this, even during garbage collection.

        If an interrupt leaves this method, the callback may or may not run.
        """
        try:
            self._from_threads.append(callback)
            # The loop sets `is_asleep` before it reads this queue for the last time. So either the loop sees the new
            # entry, or this thread sees that the loop sleeps. No state is written here that an interrupt could leave
            # wrong.
            if self.is_asleep:
                self._waker.wake()
        except BaseException:  # Ctrl-C, before the wake-up or after it
            self._waker.wake()
            raise

    def _on_wake(self) -> None:
        # Clear first, then read the queues: an entry that is added later sends its own wake-up.
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
                # The read or write that fails by an error or hang-up reports it.
                if events & ~WRITABLE and (reader := readers.get(fd)) is not None:
                    reader()
                if events & ~READABLE and (writer := writers.get(fd)) is not None:
                    writer()
            if self._timers:
                self._run_due_timers()
            # Take only the entries that are there now: a callback that adds another must not starve the descriptors.
            # And take at most `PASS`: threads that add entries faster than they run would make each pass longer than
            # the last.
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
        """Return the ready descriptors, as soon as there are any or a callback is due."""
        poll = self._poller.poll
        if self._soon or self._from_threads or self._queue:
            return poll(0.0)
        if not self.expects_news:
            return poll(self._poll_timeout())
        began = monotonic()
        ready: list[tuple[int, int]] = []
        if int(began / WINDOW) % WINDOW_PERIOD == 0:
            ready = self._spin(began + LINGER)
        elif self._abstains:
            self._abstains -= 1
        elif self._was_short:
            ready = self._spin(began + LINGER)
        if not ready:
            ready = poll(self._poll_timeout())
        self._was_short = monotonic() - began < LINGER
        return ready

    def _spin(self, until: float) -> list[tuple[int, int]]:
        """Poll repeatedly until `until`, and adjust how many waits to skip next time."""
        poll = self._poller.poll
        looks = 0
        while not (ready := poll(0.0)):
            looks += 1
            if looks % LOOKS == 0:
                _let_others_run()
            if monotonic() >= until:
                self._abstains = self._next_abstention
                self._next_abstention = min(2 * self._next_abstention, MAX_ABSTENTION)
                return []
        self._next_abstention = max(1, self._next_abstention // 2)
        self._abstains = 0
        return ready

    def _poll_timeout(self) -> float | None:
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
        """Return the loop's own descriptors, which a forked child closes. Empty if the loop is closed."""
        if self._waker.fd < 0:
            return ()
        return (*self._waker.descriptors(), self._poller.fileno())

    def abandon(self) -> None:
        """Close the descriptors in a forked child. No later `close` closes the same numbers again."""
        self._waker.abandon()
        self._poller.close()

    def close(self) -> None:
        """Close the loop's descriptors."""
        # Close the waker first: a child that is forked meanwhile takes an open waker to mean that the poller is open.
        self._waker.close()
        self._poller.close()
