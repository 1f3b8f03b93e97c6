"""Locks that an interrupt does not leave locked.

A Ctrl-C may come between any two steps of Python code, those of `threading.Condition.__enter__` included. What it
leaves locked stays so, and the engine thread waits at it for good.
"""

from __future__ import annotations

import sys
from _thread import allocate_lock, get_ident
from collections.abc import Callable
from contextlib import suppress

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from _thread import LockType
    from typing import TypeVar

    T = TypeVar("T")

    class RLock:
        """A `threading.RLock`, with what a `threading.Condition` uses of it."""

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
"""Seconds after which it is asked again whether the thread that holds a lock still means to."""


class Condition(RLock):
    """What a `threading.Condition` is to a `concurrent.futures.Future`.

    It is a lock that is entered and left without a step of Python, and so without one at which an interrupt could come.
    """

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: tuple[LockType, ...] = ()

    def wait(self, timeout: float | None = None) -> bool:
        """Let go of the lock until `notify_all`, and hold it once then; False if that does not come in time."""
        waiter = allocate_lock()
        waiter.acquire()
        self._waiting += (waiter,)
        try:
            # As often as it is held: an interrupt may have left it locked before.
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

    def enter_surely(self) -> None:
        """Enter it, even if a thread holds it that has forgotten that.

        `concurrent.futures.wait` and `as_completed` lock all their futures, one after another, in steps of Python. An
        interrupt between two of them leaves futures locked, and the engine would wait for ever to settle one.
        """
        while True:
            owner = repr(self).partition(" owner=")[2].partition(" ")[0]
            if owner.isdigit() and int(owner) and not self._is_meant_by(int(owner)):
                with suppress(RuntimeError):  # it has let go just now
                    self._release_save()  # any thread may
            if self.acquire(timeout=LOOK_AGAIN):
                return

    def _is_meant_by(self, thread: int) -> bool:
        """Return whether the thread that holds this is still where it locks futures, or lets go of them."""
        frame, inner = sys._current_frames().get(thread), None  # noqa: SLF001
        while frame is not None and frame.f_globals.get("__name__") not in (__name__, "concurrent.futures._base"):
            frame, inner = frame.f_back, frame
        if frame is None:
            return False
        if frame.f_code is Condition.wait.__code__:
            return frame.f_locals.get("self") is self
        # In `Event.wait` it waits for futures to be done, and has let go of them.
        return inner is None or inner.f_globals.get("__name__") != "threading"

    def let_go(self) -> None:
        """After an interrupt: do not hold it, wherever that came."""
        with suppress(RuntimeError):  # `enter_surely` was faster
            while self._is_owned():
                self.release()

    def tell_all(self) -> None:
        """Enter it, wake all that wait, and leave it."""
        with self:
            self.notify_all()


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
