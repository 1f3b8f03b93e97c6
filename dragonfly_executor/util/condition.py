"""Locks that Ctrl-C does not leave locked.

Ctrl-C may interrupt between any two bytecodes, inside `threading.Condition.__enter__` too. A lock that an interrupt
leaves locked stays locked, and the engine thread then waits for it for ever.
"""

from __future__ import annotations

import sys
from _thread import allocate_lock, get_ident
from collections.abc import Callable
from contextlib import suppress
from threading import Event

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _thread import LockType
    from typing import TypeVar

    T = TypeVar("T")

    class RLock:
        """A type-only `threading.RLock`, with the methods that `threading.Condition` uses."""

        def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...
        def release(self) -> None: ...
        def __enter__(self) -> bool: ...
        def __exit__(self, kind: object, error: object, traceback: object) -> None: ...
        def _is_owned(self) -> bool: ...
        def _release_save(self) -> tuple[int, int]: ...
        def _acquire_restore(self, state: tuple[int, int]) -> None: ...

else:
    from _thread import RLock

LOOK_AGAIN = 0.01
"""Seconds between checks whether the thread that holds a lock still uses it."""


class Condition(RLock):
    """A replacement for `threading.Condition` as the lock of a `concurrent.futures.Future`.

    It is acquired and released in C. An interrupt cannot come in between, because no Python bytecode runs.
    """

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        self.waiting: tuple[LockType, ...] = ()
        """The locks of the threads that wait."""

    def wait(self, timeout: float | None = None) -> bool:
        """Release the lock until `notify_all`, then acquire it once.

        Args:
            timeout: seconds to wait; None waits without a limit.

        Returns:
            True if notified, False if the timeout expired.
        """
        waiter = allocate_lock()
        waiter.acquire()
        self.waiting += (waiter,)
        try:
            # Release every level of the lock: an earlier interrupt may have left it locked.
            self._release_save()
            if timeout is None:
                came = waiter.acquire()
            else:
                came = waiter.acquire(timeout=timeout) if timeout > 0 else waiter.acquire(blocking=False)
            self._take_back()
        except BaseException:
            self._take_back()
            raise
        finally:
            self.waiting = tuple(each for each in self.waiting if each is not waiter)
        return came

    def wait_unless(self, is_done: Callable[[], bool], timeout: float | None) -> None:
        """Acquire the lock, and wait as `wait` does unless `is_done()`. No interrupt leaves the lock locked.

        This is not in the caller's module: `_is_meant_by` must see that the thread uses the lock.
        """
        try:
            with self:
                if not is_done():
                    self.wait(timeout)
        except KeyboardInterrupt:
            self.release_fully()
            raise

    def _take_back(self) -> None:
        if not self._is_owned():
            # No interrupt ends this wait. The wait is short.
            self._acquire_restore((1, get_ident()))

    def notify_all(self) -> None:
        """Wake all waiting threads. A caller that is interrupted may call it again."""
        for waiter in self.waiting:
            if waiter.locked():
                waiter.release()

    def acquire_surely(self) -> None:
        """Acquire the lock, even if an interrupted thread left it locked.

        `concurrent.futures.wait` and `as_completed` lock all their futures one after another, in Python code. An
        interrupt in between leaves futures locked, and the engine waits for ever to settle one of them.
        """
        while not self.acquire(blocking=False):
            owner = repr(self).partition(" owner=")[2].partition(" ")[0]
            if owner.isdigit() and int(owner) and not self._is_meant_by(int(owner)):
                with suppress(RuntimeError):  # the owner has just released it
                    self._release_save()  # any thread may release it
            if self.acquire(timeout=LOOK_AGAIN):
                return

    def _is_meant_by(self, thread: int) -> bool:
        """Return whether the thread that holds this lock is still in code that locks or releases futures."""
        frame, inner = sys._current_frames().get(thread), None  # noqa: SLF001
        while frame is not None and frame.f_globals.get("__name__") not in (__name__, "concurrent.futures._base"):
            frame, inner = frame.f_back, frame
        if frame is None:
            return False
        if frame.f_code is Condition.wait.__code__:
            return frame.f_locals.get("self") is self
        # In `Event.wait` the thread waits for futures to be done, and has released their locks. In `Event.__init__` it
        # has not: `concurrent.futures.wait` makes its event while it holds them.
        return inner is None or inner.f_code is not Event.wait.__code__

    def release_fully(self) -> None:
        """Release the lock after an interrupt, however often this thread holds it."""
        with suppress(RuntimeError):  # `acquire_surely` released it first
            while self._is_owned():
                self.release()

    def acquire_and_notify_all(self) -> None:
        """Acquire the lock, wake all waiting threads, and release the lock."""
        with self:
            self.notify_all()


def holding(lock: RLock, job: Callable[[], T]) -> T:
    """Run `job` while holding `lock`, and return its result. No interrupt leaves the lock locked."""
    if lock._is_owned():  # noqa: SLF001
        return job()  # a garbage collection called this while the thread holds the lock
    try:
        lock.acquire()
        result = job()
        lock.release()
        return result
    except BaseException:
        # A `with` statement has bytecodes of its own between the end of its block and the release.
        if lock._is_owned():  # noqa: SLF001
            lock.release()
        raise
