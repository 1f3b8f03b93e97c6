"""`LateJob`: a thread of a slot that does what the call's own thread has put off."""

from __future__ import annotations

from _thread import allocate_lock, start_new_thread

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class LateJob:
    """A job that is done some time after `arm`, and again until it returns False.

    Its thread starts with the first `arm`, so a call that puts off nothing has no second thread.

    Args:
        job: the job. Before it returns False, it sets `is_armed` to False and then looks once more for work: what is
            put off after that calls `arm` again.
        delay: seconds from `arm` to the job, and between its runs.
    """

    def __init__(self, job: Callable[[], bool], delay: float) -> None:
        self.is_armed = False
        self._job = job
        self._delay = delay
        self._bell, self._done = allocate_lock(), allocate_lock()
        self._has_thread = self._has_ended = False

    def arm(self) -> bool:
        """Have the job done, after the delay. One thread at a time may call this, and only if it is not armed.

        Returns:
            False if there is no room for a thread.
        """
        if not self._has_thread:
            self._has_ended = False
            self._bell, self._done = allocate_lock(), allocate_lock()
            self._bell.acquire()
            self._done.acquire()
            self.is_armed = True
            try:
                start_new_thread(self._run, ())
            except RuntimeError:
                self.is_armed = False
                return False
            self._has_thread = True
            return True
        self.is_armed = True
        if self._bell.locked():
            self._bell.release()
        return True

    def end(self) -> None:
        """End the thread, and wait until it has ended."""
        if self._has_thread:
            self._has_ended = True
            if self._bell.locked():
                self._bell.release()
            self._done.acquire()
            self._has_thread = self.is_armed = False

    def _run(self) -> None:
        try:
            while not self._has_ended:
                # While it is armed, only `end` rings.
                if self._bell.acquire(timeout=self._delay) or self._job():
                    continue
                self._bell.acquire()
        finally:
            self._done.release()
