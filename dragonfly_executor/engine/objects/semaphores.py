"""Multiprocessing's semaphores, acquired on behalf of threads of slots.

multiprocessing's other classes are made of these, so its own algorithms run on what is here.
"""

from __future__ import annotations

import os
import threading
import time
import weakref

from dragonfly_executor.engine.objects.request import Cancelled
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from dragonfly_executor.engine.objects.request import Owner, Request, Session

STEP = 0.2
"""Seconds of one wait in the kernel. No event interrupts such a wait, so it is this long at most."""
NANOSECONDS = 10**9
POLL = 0.005
"""Seconds between two attempts on systems without ``sem_clockwait`` (macOS, glibc before 2.30)."""


class RawSemaphore(Protocol):
    """A semaphore of the operating system."""

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Acquire it."""
        ...

    def release(self) -> None:
        """Release it."""

    def _get_value(self) -> int: ...

    def _is_zero(self) -> bool: ...


class SharedMutex:
    """The semaphore inside an `RLock`, without the rule that the thread that acquired it must release it.

    That rule is for threads of this process. Here the owners are threads of slots, and `HeldSemaphores` has the rule.

    Args:
        handle: the address of the C library's semaphore.
    """

    def __init__(self, handle: int) -> None:
        import ctypes

        self._ctypes = ctypes
        self._library = ctypes.CDLL(None, use_errno=True)
        self._handle = ctypes.c_void_p(handle)

        class TimeSpec(ctypes.Structure):
            """C's ``struct timespec``."""

            _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))

        self._time_spec = TimeSpec
        # Not sem_timedwait, which waits by the wall clock: it would wait for a day if that clock was set back by a day.
        self._clock_wait = getattr(self._library, "sem_clockwait", None)

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Acquire it. `timeout` is in seconds, and given if `block` is True."""
        if self._library.sem_trywait(self._handle) == 0:
            return True
        if not block:
            return False
        deadline = time.monotonic() + (STEP if timeout is None else timeout)
        if self._clock_wait is None:
            while time.monotonic() < deadline:
                time.sleep(POLL)
                if self._library.sem_trywait(self._handle) == 0:
                    return True
            return False
        seconds, rest = divmod(int(deadline * NANOSECONDS), NANOSECONDS)
        until = self._ctypes.byref(self._time_spec(seconds, rest))
        return bool(self._clock_wait(self._handle, time.CLOCK_MONOTONIC, until) == 0)

    def release(self) -> None:
        """Release it."""
        if self._library.sem_post(self._handle):
            raise OSError(self._ctypes.get_errno(), os.strerror(self._ctypes.get_errno()))

    def _get_value(self) -> int:
        value = self._ctypes.c_int()
        self._library.sem_getvalue(self._handle, self._ctypes.byref(value))
        return value.value

    def _is_zero(self) -> bool:
        return self._get_value() == 0


def raw(lock: Any) -> RawSemaphore:
    """Return the semaphore of a `Lock`, `RLock`, `Semaphore` or `BoundedSemaphore`."""
    semaphore = lock._semlock  # noqa: SLF001
    return SharedMutex(semaphore.handle) if is_recursive(lock) else semaphore


def is_recursive(lock: Any) -> bool:
    """Return whether this is an `RLock`."""
    return bool(lock._semlock.kind == 0)  # noqa: SLF001  # RECURSIVE_MUTEX


def acquire_in_steps(
    semaphore: RawSemaphore, check: Callable[[], object], block: bool = True, timeout: float | None = None
) -> bool:
    """Acquire a semaphore. `check` is called now and then, and may raise."""
    if semaphore.acquire(False):
        return True
    if not block:
        return False
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        check()
        left = STEP if deadline is None else min(STEP, deadline - time.monotonic())
        if left <= 0:
            return False
        if semaphore.acquire(True, left):
            return True


class HeldSemaphore:
    """A semaphore that threads of slots hold. Any thread may use it.

    Args:
        lock: the `Lock`, `RLock`, `Semaphore` or `BoundedSemaphore`.
    """

    def __init__(self, lock: Any) -> None:
        self._real = lock  # the semaphore lives as long as this object
        self.raw = raw(lock)
        self._is_recursive = is_recursive(lock)
        self._holds: dict[Owner, int] = {}
        """For each thread of a slot, how often it has acquired it. The thread that was first to do so comes first."""
        self._lock = threading.Lock()

    def try_acquire(self, owner: Owner) -> bool:
        """Acquire the semaphore if that is possible now."""
        if self._again(owner):
            return True
        if not self.raw.acquire(False):
            return False
        self._note(owner)
        return True

    def acquire(self, request: Request, block: bool = True, timeout: float | None = None) -> bool:
        """Acquire the semaphore, and wait for it.

        Raises:
            Cancelled: nothing waits for the outcome any more.
        """
        if self._again(request.owner):
            return True
        if not acquire_in_steps(self.raw, request.check, block, timeout):
            return False
        self._note(request.owner)
        if request.is_cancelled:
            self.release(request.owner)
            raise Cancelled
        return True

    def acquire_again(self, request: Request) -> bool:
        """Acquire the semaphore at the end of a wait in a condition, also if the slot has given the wait up.

        Raises:
            Cancelled: the slot has ended.
        """
        acquire_in_steps(self.raw, request.session.check)
        self._note(request.owner)
        return True

    def _again(self, owner: Owner) -> bool:
        if self._is_recursive:
            with self._lock:
                if owner in self._holds:
                    self._holds[owner] += 1
                    return True
        return False

    def _note(self, owner: Owner) -> None:
        """Note that the semaphore was acquired.

        Raises:
            Cancelled: the slot has ended meanwhile. The semaphore is released.
        """
        with self._lock:
            # The slot's end is told after it is noted in the session. So either it sees this hold, or this sees it.
            if not owner[0].is_gone:
                self._holds[owner] = self._holds.get(owner, 0) + 1
                owner[0].held.add(self)
                return
        self.raw.release()
        raise Cancelled

    def release(self, owner: Owner) -> None:
        """Release the semaphore.

        Raises:
            AssertionError: it is an `RLock` that this thread does not own.
            ValueError: it was released too often.
        """
        with self._lock:
            if self._is_recursive and owner not in self._holds:
                raise AssertionError("attempt to release recursive lock not owned by thread")
            if self._is_recursive and self._holds[owner] > 1:
                self._holds[owner] -= 1
                return
            self.raw.release()
            # A lock may be released by another thread than the one that acquired it.
            held = owner if owner in self._holds else next(iter(self._holds), None)
            if held is not None:
                self._drop(held)

    def _drop(self, owner: Owner) -> None:
        self._holds[owner] -= 1
        if not self._holds[owner]:
            del self._holds[owner]
            if not any(other[0] is owner[0] for other in self._holds):
                owner[0].held.discard(self)

    def count(self, owner: Owner) -> int:
        """Return how often this thread has acquired the semaphore and not released it."""
        return self._holds.get(owner, 0)

    def slot_is_gone(self, session: Session) -> None:
        """Release what the slot held."""
        with self._lock:
            for owner in [owner for owner in self._holds if owner[0] is session]:
                count = self._holds.pop(owner)
                for _ in range(1 if self._is_recursive else count):
                    try:
                        self.raw.release()
                    except ValueError:
                        break  # this program has released it


class HeldSemaphores:
    """The semaphores that threads of slots hold: one for each of the operating system's, whatever object has it."""

    def __init__(self) -> None:
        self._by_handle: weakref.WeakValueDictionary[int, HeldSemaphore] = weakref.WeakValueDictionary()

    def of(self, lock: Any) -> HeldSemaphore:
        """Return the one of a `Lock`, `RLock`, `Semaphore` or `BoundedSemaphore`."""
        handle = lock._semlock.handle  # noqa: SLF001
        found = self._by_handle.get(handle)
        if found is None:
            found = self._by_handle[handle] = HeldSemaphore(lock)
        return found


class InnerSemaphore:
    """Stands for a semaphore in multiprocessing's own algorithms, for one request.

    Args:
        lock: the real one.
        check: called while it waits, and may raise.
    """

    def __init__(self, lock: Any, check: Callable[[], object]) -> None:
        self._real = lock
        self._raw = raw(lock)
        self._check = check
        self._depth = 0

    @property
    def _semlock(self) -> InnerSemaphore:
        return self

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Acquire it."""
        if (self._depth and is_recursive(self._real)) or acquire_in_steps(self._raw, self._check, block, timeout):
            self._depth += 1
            return True
        return False

    def release(self) -> None:
        """Release it."""
        self._depth -= 1
        if self._depth <= 0 or not is_recursive(self._real):
            self._raw.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *args: object) -> None:
        self.release()

    def _is_mine(self) -> bool:
        return self._depth > 0

    def _count(self) -> int:
        return self._depth

    def _get_value(self) -> int:
        return self._raw._get_value()  # noqa: SLF001

    def _is_zero(self) -> bool:
        return self._raw._is_zero()  # noqa: SLF001


class LentSemaphore:
    """Stands for the lock of a `Condition` in multiprocessing's own algorithms: the thread of a slot holds the lock.

    Args:
        held: the lock.
        request: the request of that thread.
    """

    def __init__(self, held: HeldSemaphore, request: Request) -> None:
        self._held = held
        self._request = request

    @property
    def _semlock(self) -> LentSemaphore:
        return self

    def acquire(self) -> bool:
        """Acquire it, as a `Condition` does at the end of a wait."""
        if self._held.count(self._request.owner):
            return self._held.acquire(self._request)
        return self._held.acquire_again(self._request)

    def release(self) -> None:
        """Release it."""
        self._held.release(self._request.owner)

    def _is_mine(self) -> bool:
        return self._held.count(self._request.owner) > 0

    def _count(self) -> int:
        return self._held.count(self._request.owner)
