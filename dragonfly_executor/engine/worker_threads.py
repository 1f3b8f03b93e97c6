"""The threads that do what the engine thread must not: block in backends, and run the user's callbacks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from time import monotonic

from dragonfly_executor.engine.latch import Latch

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from typing import Any

Job = Callable[[], object]

IDLE = 10.0
"""Seconds without a job after which a thread ends, unless it is the crew's last one."""


class Crew:
    """Named threads that take jobs in the order in which the jobs come.

    The first thread starts with the crew and stays until `close`: an interpreter that is ending starts no threads.
    `keep` has more threads do so. Each other thread starts when all threads are busy, and ends when it has had no job
    for `IDLE` seconds. If a thread cannot be started, its job waits for one of the threads that exist.

    Threads are daemons, so that a job that blocks for good cannot keep the interpreter from ending. `close` lets the
    threads finish what is queued, and `join` returns the names of the threads that did not end.

    All but `join` belongs on threads that no interrupt comes to, and so not on the main thread.

    Args:
        name: of the threads; each gets a number.
        size: threads at most.
        on_error: gets what a job raised, whatever it was; runs on the crew's thread.

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
        """Those that run, and those that ended since the last one was started."""
        self._started = 0
        self._count = 0
        """Threads that take jobs."""
        self._working = 0
        """Threads that have not ended."""
        self._kept = 1
        """Threads that stay while they have no job."""
        self._unfinished = 0
        self._is_closed = False
        self._all_ended = Latch()
        self.patience: float | None = None
        """Seconds for which the end of its pool waits for the threads, where that is less than for others."""
        self._grow()

    def _grow(self) -> None:
        thread = threading.Thread(target=self._work, name=f"{self._name}-{self._started + 1}", daemon=True)
        # Before it starts: it may end before `start` returns.
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
        """Have so many threads from now on, whether or not there are jobs: at the interpreter's end none can start."""
        with self._lock:
            self._kept = max(self._kept, min(count, self._size))
            try:
                while self._count < self._kept and not self._is_closed:
                    self._grow()
            except (RuntimeError, MemoryError):
                return  # none is to be had; the next one tries again

    def run(self, job: Callable[..., object], *args: Any) -> None:
        """Run ``job(*args)`` on one of the threads, soon."""
        with self._lock:
            self._unfinished += 1
            self._jobs.put(lambda: job(*args))
            if self._unfinished > self._count < self._size and not self._is_closed:
                try:
                    self._grow()
                except (RuntimeError, MemoryError):
                    # No thread is to be had, or the interpreter is ending. The threads that exist do the work.
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
        """Wait for a job; None if this thread is to end."""
        while True:
            try:
                return self._jobs.get(timeout=IDLE if self._count > self._kept else None)
            except Empty:
                with self._lock:
                    # `run` puts a job under this lock, so no job is left to a thread that ends.
                    if self._count > self._kept and self._jobs.empty():
                        self._count -= 1
                        return None

    def close(self) -> None:
        """Let the threads end when what is queued is done. Twice is fine."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                for _ in range(self._count):
                    self._jobs.put(None)

    def join(self, timeout: float | None = None) -> list[str]:
        """Wait until all threads of a crew that is closed have ended, except the calling one.

        Args:
            timeout: seconds for all of them together; None = no limit.

        Returns:
            The names of the threads that still run.
        """
        deadline = None if timeout is None else monotonic() + timeout
        threads = [thread for thread in self._threads if thread is not threading.current_thread()]
        if len(threads) == len(self._threads):
            # Not by `Thread.join`: before 3.13 a thread whose join was interrupted counts as ended.
            self._all_ended.wait(timeout)
        for thread in threads:
            thread.join(None if deadline is None else max(0.0, deadline - monotonic()))
        return [thread.name for thread in threads if thread.is_alive()]


class Crews:
    """All crews of a pool: if one cannot be made, the others end, and at the pool's end all do.

    Args:
        name: of the pool.
        on_error: as for a `Crew`.
    """

    def __init__(self, name: str, on_error: Callable[[BaseException], None]) -> None:
        self._name = name
        self._on_error = on_error
        self._crews: list[Crew] = []

    def make(self, what: str, size: int) -> Crew:
        """A crew of at most `size` threads for this; RuntimeError if its first thread cannot be started."""
        crew = Crew(f"dragonfly-{self._name}-{what}", size, self._on_error)
        self._crews.append(crew)
        return crew

    def close(self) -> None:
        """Let all threads end when what is queued is done."""
        for crew in self._crews:
            crew.close()

    def join(self, timeout: float) -> list[str]:
        """Wait for the threads, for those of each crew `timeout` seconds at most; the names of those that still run."""
        left = []
        for crew in self._crews:
            left += crew.join(timeout if crew.patience is None else crew.patience)
        return left
