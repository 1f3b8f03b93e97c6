"""Threads of a pool: one for the user's callbacks, and one for each iterable that is read ahead."""

from __future__ import annotations

import threading
from _thread import allocate_lock
from collections.abc import Callable
from queue import SimpleQueue

from dragonfly_executor import errors
from dragonfly_executor.engine.latch import Latch
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    Job = Callable[[], object]


def start_thread(name: str, target: Callable[[], object]) -> None:
    """Start a daemon thread.

    Raises:
        StartError: this process can have no more threads.
    """
    try:
        threading.Thread(target=target, name=name, daemon=True).start()
    except (RuntimeError, MemoryError) as error:
        raise errors.StartError(
            f"there is no thread for {name}: {type(error).__name__}: {error}. This process may need more threads "
            "(ulimit -u, pids.max)"
        ) from error


class CallbackThread:
    """A thread that runs a pool's callbacks, one after another, in the order in which the results arrived.

    It must not hold the pool: the pool's end, or its garbage collection, closes it.

    Args:
        name: the thread's name.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._is_taken = allocate_lock()
        self._thread: threading.Thread | None = None
        self._has_ended = Latch()

    def start(self) -> None:
        """Start the thread, unless it runs.

        Raises:
            StartError: this process can have no more threads.
        """
        if self._thread is None:
            # A Ctrl-C may come after the start and before this returns. Then a later call starts a second thread, which
            # ends at once.
            start_thread(self._name, self._work)

    def run(self, job: Job) -> None:
        """Queue a job. Any thread may call this, even during garbage collection."""
        self._jobs.put(job)

    @property
    def is_this_thread(self) -> bool:
        """True on this thread."""
        return self._thread is threading.current_thread()

    def close(self) -> None:
        """Let the thread end after the queued jobs. Calling it twice is fine."""
        self._jobs.put(None)

    def join(self) -> None:
        """Wait until the thread, once closed, has ended. Returns at once on this thread."""
        thread = self._thread
        if thread is not None and not self.is_this_thread:
            # Not `Thread.join`: before Python 3.13 a thread whose join was interrupted counts as ended.
            self._has_ended.wait()
            thread.join()

    def _work(self) -> None:
        if not self._is_taken.acquire(False):
            return
        self._thread = threading.current_thread()
        try:
            while (job := self._jobs.get()) is not None:
                job()
                del job
        finally:
            self._has_ended.open()
