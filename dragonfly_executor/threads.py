"""The threads that do what the engine thread must not: block in backends, and run the user's callbacks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from typing import Any

Job = Callable[[], object]


class Crew:
    """Named threads that run jobs in the order they come.

    Threads are daemons, so that a job that blocks for good cannot keep the interpreter from ending; `close` lets them
    finish what is queued, and `join` tells which of them did not.

    Args:
        name: of the threads; each gets a number.
        size: threads at most. The first is started at once, the others when all are busy.
        on_error: gets what a job raised, whatever it was; runs on the crew's thread.
    """

    def __init__(self, name: str, size: int, on_error: Callable[[BaseException], None]) -> None:
        self._name = name
        self._size = size
        self._on_error = on_error
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._unfinished = 0
        self._grow()

    def _grow(self) -> None:
        number = len(self._threads) + 1
        thread = threading.Thread(target=self._work, name=f"{self._name}-{number}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # The interpreter is ending and starts no more threads: the ones that are there do the work.
            if not self._threads:
                raise
            return
        self._threads.append(thread)

    def run(self, job: Callable[..., object], *args: Any) -> None:
        """Run ``job(*args)`` on one of the threads, soon."""
        with self._lock:
            self._unfinished += 1
            if self._unfinished > len(self._threads) < self._size:
                self._grow()
        self._jobs.put(lambda: job(*args))

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except BaseException as error:  # a job is the user's code, and may even call sys.exit()
                self._on_error(error)
            finally:
                del job
                with self._lock:
                    self._unfinished -= 1

    def close(self) -> None:
        """Let the threads end when what is queued is done."""
        with self._lock:
            for _ in self._threads:
                self._jobs.put(None)

    def join(self, timeout: float | None = None) -> list[str]:
        """Wait for the threads, but not for the one that calls; names of those that are still there."""
        me = threading.current_thread()
        for thread in self._threads:
            if thread is not me:
                thread.join(timeout)
        return [thread.name for thread in self._threads if thread.is_alive() and thread is not me]
