"""Threads for the work that the engine thread must not do: backends that block, and the user's callbacks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from time import monotonic

from dragonfly_executor.engine.latch import Latch
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

Job = Callable[[], object]

IDLE = 10.0
"""Seconds without a job after which a thread ends, unless `keep` makes it stay."""


class WorkerThreads:
    """A group of named threads that take jobs from a queue, first in, first out.

    The first thread starts with the group and stays until `close`, because no thread can start at interpreter exit.
    `keep` raises the number of threads that stay. Each other thread starts when all threads are busy, and ends after
    `IDLE` seconds without a job. If a thread cannot be started, its job waits for an existing thread.

    Threads are daemons, so that a job that blocks without end cannot keep the interpreter from ending. `close` lets the
    threads finish the queued jobs, and `join` returns the names of the threads that did not end.

    Only threads that get no interrupt may call these methods, so the main thread may not. `join` is the exception.

    Args:
        name: prefix of the threads' names; each thread adds a number.
        size: maximum number of threads.
        on_error: gets any exception of a job, on the group's thread.

    Raises:
        RuntimeError: the first thread cannot be started.
    """

    def __init__(self, name: str, size: int, on_error: Callable[[BaseException], None]) -> None:
        self._name = name
        self._size = size
        self._on_error = on_error
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        """The running threads, and the threads that ended since the last start."""
        self._started = 0
        self._count = 0
        """Number of threads that take jobs."""
        self._working = 0
        """Number of threads that have not ended."""
        self._kept = 1
        """Number of threads that stay without a job."""
        self._unfinished = 0
        self._is_closed = False
        self._all_ended = Latch()
        self.join_timeout: float | None = None
        """Seconds that the end of the pool waits for these threads, if that is less than for the other groups."""
        self._grow()

    def _grow(self) -> None:
        thread = threading.Thread(target=self._work, name=f"{self._name}-{self._started + 1}", daemon=True)
        # Before the start, because the thread may end before `start` returns.
        self._count += 1
        self._working += 1
        try:
            thread.start()
        except BaseException:
            self._count -= 1
            self._working -= 1
            raise
        self._started += 1
        self._threads = [*(each for each in self._threads if each.is_alive()), thread]

    def keep(self, count: int) -> None:
        """Have at least `count` threads from now on, even without jobs: at interpreter exit no thread can start."""
        with self._lock:
            self._kept = max(self._kept, min(count, self._size))
            try:
                while self._count < self._kept and not self._is_closed:
                    self._grow()
            except (RuntimeError, MemoryError):
                return  # no thread can be started now; the next call tries again

    def run(self, job: Callable[..., object], *args: Any) -> None:
        """Queue ``job(*args)`` for one of the threads."""
        with self._lock:
            self._unfinished += 1
            self._jobs.put(lambda: job(*args))
            if self._unfinished > self._count < self._size and not self._is_closed:
                try:
                    self._grow()
                except (RuntimeError, MemoryError):
                    # No thread can be started, or the interpreter is ending. The existing threads do the work.
                    return

    def _work(self) -> None:
        try:
            self._work_on()
        finally:
            with self._lock:
                self._working -= 1
                if self._is_closed and not self._working:
                    self._all_ended.open()

    def _work_on(self) -> None:
        while (job := self._next()) is not None:
            try:
                job()
            except BaseException as error:  # a job is the user's code, and may even call sys.exit()
                with suppress(BaseException):  # a log handler is the user's code, too: stderr may be closed
                    self._on_error(error)
            finally:
                del job
                with self._lock:
                    self._unfinished -= 1

    def _next(self) -> Job | None:
        """Wait for a job; return None if this thread must end."""
        while True:
            try:
                return self._jobs.get(timeout=IDLE if self._count > self._kept else None)
            except Empty:
                with self._lock:
                    # `run` adds a job under this lock, so a thread that ends leaves no job behind.
                    if self._count > self._kept and self._jobs.empty():
                        self._count -= 1
                        return None

    def close(self) -> None:
        """Let the threads end after the queued jobs. Calling it twice is fine."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                for _ in range(self._count):
                    self._jobs.put(None)

    def join(self, timeout: float | None = None) -> list[str]:
        """Wait until all threads of a closed group have ended, except the calling thread.

        Args:
            timeout: seconds for all threads together; None for no limit.

        Returns:
            The names of the threads that still run.
        """
        deadline = None if timeout is None else monotonic() + timeout
        threads = [thread for thread in self._threads if thread is not threading.current_thread()]
        if len(threads) == len(self._threads):
            # Not `Thread.join`: before Python 3.13 a thread whose join was interrupted counts as ended.
            self._all_ended.wait(timeout)
        for thread in threads:
            thread.join(None if deadline is None else max(0.0, deadline - monotonic()))
        return [thread.name for thread in threads if thread.is_alive()]


class WorkerThreadGroups:
    """The worker thread groups of a pool. The pool closes all of them together, at its end or if one cannot be made.

    Args:
        name: the pool's name.
        on_error: as for `WorkerThreads`.
    """

    def __init__(self, name: str, on_error: Callable[[BaseException], None]) -> None:
        self._name = name
        self._on_error = on_error
        self._groups: list[WorkerThreads] = []

    def make(self, what: str, size: int) -> WorkerThreads:
        """Make a group of at most `size` threads. `what` is part of their names.

        Raises:
            RuntimeError: its first thread cannot be started.
        """
        workers = WorkerThreads(f"dragonfly-{self._name}-{what}", size, self._on_error)
        self._groups.append(workers)
        return workers

    def close(self) -> None:
        """Let all threads end after the queued jobs."""
        for workers in self._groups:
            workers.close()

    def join(self, timeout: float) -> list[str]:
        """Wait at most `timeout` seconds for each group. Returns the names of the threads that still run."""
        left = []
        for workers in self._groups:
            left += workers.join(timeout if workers.join_timeout is None else workers.join_timeout)
        return left
