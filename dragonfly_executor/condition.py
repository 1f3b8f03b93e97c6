"""Locks that an interrupt does not leave locked.

A Ctrl-C may come between any two steps of Python code, those of `threading.Condition.__enter__` included. What it
leaves locked stays so, and the engine thread waits at it for good.
"""

from __future__ import annotations

from _thread import allocate_lock, get_ident
from collections.abc import Callable

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from _thread import LockType
    from typing import TypeVar

    T = TypeVar("T")

    class RLock:
        """A `threading.RLock`, with what a `threading.Condition` uses of it."""

        def acquire(self) -> bool: ...
        def release(self) -> None: ...
        def __enter__(self) -> bool: ...
        def __exit__(self, kind: object, error: object, traceback: object) -> None: ...
        def _is_owned(self) -> bool: ...
        def _acquire_restore(self, state: tuple[int, int]) -> None: ...

else:
    from _thread import RLock


class Condition(RLock):
    """What a `threading.Condition` is to a `concurrent.futures.Future`.

    It is a lock that is entered and left without a step of Python, and so without one at which an interrupt could come.
    """

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: tuple[LockType, ...] = ()

    def wait(self, timeout: float | None = None) -> bool:
        """Let go of the lock, which is held once, until `notify_all`; False if that does not come in time."""
        waiter = allocate_lock()
        waiter.acquire()
        self._waiting += (waiter,)
        try:
            self.release()
            if timeout is None:
                came = waiter.acquire()
            else:
                came = waiter.acquire(timeout=timeout) if timeout > 0 else waiter.acquire(blocking=False)
            self._take_back()
        except BaseException:
            self._take_back()
            raise
        finally:
            self._waiting = tuple(each for each in self._waiting if each is not waiter)
        return came

    def _take_back(self) -> None:
        if not self._is_owned():
            # No interrupt ends this wait, and it is short.
            self._acquire_restore((1, get_ident()))

    def notify_all(self) -> None:
        """Wake all that wait. If it is interrupted, it may be done again."""
        for waiter in self._waiting:
            if waiter.locked():
                waiter.release()

    def let_go(self) -> None:
        """After an interrupt: do not hold it, wherever that came."""
        while self._is_owned():
            self.release()


def holding(lock: RLock, job: Callable[[], T]) -> T:
    """Do this with the lock held. No interrupt leaves it locked."""
    if lock._is_owned():  # noqa: SLF001
        return job()  # a garbage collection has come in between
    try:
        lock.acquire()
        result = job()
        lock.release()
        return result
    except BaseException:
        # A with statement has steps of its own between the end of its block and the release.
        if lock._is_owned():  # noqa: SLF001
            lock.release()
        raise
