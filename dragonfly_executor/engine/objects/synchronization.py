"""Serves multiprocessing's locks, semaphores, conditions, events and barriers.

Waits are done by multiprocessing's own code, on objects that have `InnerSemaphore` in place of their semaphores.
"""

from __future__ import annotations

import sys

from dragonfly_executor.engine.objects.request import LATER, Cancelled, ServedObject
from dragonfly_executor.engine.objects.semaphores import HeldSemaphore, HeldSemaphores, InnerSemaphore, LentSemaphore
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from dragonfly_executor.engine.objects.request import Request


def seconds(timeout: Any) -> float | None:
    """Return a timeout as multiprocessing takes it: None for no limit, never less than 0.

    Raises:
        TypeError: it is no number.
    """
    return None if timeout is None else max(0.0, timeout + 0.0)


def condition_on(real: Any, lock: Any, check: Callable[[], object], shielded: Callable[[], object]) -> Any:
    """Return a `Condition` of multiprocessing on the semaphores of another one.

    Args:
        real: the other one.
        lock: what takes the place of its lock.
        check: called while a thread waits for a notification, and may raise.
        shielded: called while a thread waits for others to wake.
    """
    from multiprocessing.synchronize import Condition

    made = Condition.__new__(Condition)
    made.__setstate__(  # type: ignore[attr-defined]
        (
            lock,
            InnerSemaphore(real._sleeping_count, shielded),  # noqa: SLF001
            InnerSemaphore(real._woken_count, shielded),  # noqa: SLF001
            InnerSemaphore(real._wait_semaphore, check),  # noqa: SLF001
        )
    )
    return made


def inner_condition(real: Any, check: Callable[[], object], shielded: Callable[[], object]) -> Any:
    """Return a `Condition` like one inside another object, whose lock is held for moments only."""
    return condition_on(real, InnerSemaphore(real._lock, shielded), check, shielded)  # noqa: SLF001


class ServedSemaphore(ServedObject):
    """Serves a `Lock`, `RLock`, `Semaphore` or `BoundedSemaphore`."""

    METHODS = frozenset({"acquire", "release", "get_value", "count"})
    WAITING = frozenset({"acquire"})

    def __init__(self, value: Any, semaphores: HeldSemaphores, shielded: Callable[[], object]) -> None:
        self.held: HeldSemaphore = semaphores.of(value)

    def now(self, request: Request) -> Any:
        """See `ServedObject`."""
        if request.method == "acquire":
            block, timeout = request.args
            timeout = seconds(timeout)
            if self.held.try_acquire(request.owner):
                return True
            return LATER if block and timeout != 0 else False
        if request.method == "release":
            return self.held.release(request.owner)
        if request.method == "count":
            return self.held.count(request.owner)
        return self.held.raw._get_value()  # noqa: SLF001

    def run(self, request: Request) -> Any:
        """See `ServedObject`."""
        return self.held.acquire(request, True, seconds(request.args[1]))


class ServedCondition(ServedSemaphore):
    """Serves a `Condition`. Slots hold its lock as they hold others."""

    METHODS = ServedSemaphore.METHODS | {"wait", "notify"}
    WAITING = ServedSemaphore.WAITING | {"wait"}

    def __init__(self, value: Any, semaphores: HeldSemaphores, shielded: Callable[[], object]) -> None:
        super().__init__(value._lock, semaphores, shielded)  # noqa: SLF001
        self._real = value
        self._shielded = shielded

    def now(self, request: Request) -> Any:
        """See `ServedObject`."""
        return super().now(request) if request.method in ServedSemaphore.METHODS else LATER

    def run(self, request: Request) -> Any:
        """See `ServedObject`."""
        if request.method == "acquire":
            return super().run(request)
        condition = condition_on(self._real, LentSemaphore(self.held, request), request.check, self._shielded)
        if request.method == "wait":
            return condition.wait(seconds(request.args[0]))
        return condition.notify(min(int(request.args[0]), sys.maxsize))


class ServedEvent(ServedObject):
    """Serves an `Event`."""

    METHODS = frozenset({"is_set", "set", "clear", "wait"})
    WAITING = frozenset({"wait"})

    def __init__(self, value: Any, semaphores: HeldSemaphores, shielded: Callable[[], object]) -> None:
        self._real = value
        self._shielded = shielded

    def now(self, request: Request) -> Any:
        """See `ServedObject`."""
        if request.method not in ("is_set", "wait"):
            return LATER
        lock, flag = self._real._cond._lock, self._real._flag  # noqa: SLF001
        if not lock.acquire(False):
            return LATER
        try:
            is_set = flag.acquire(False)
            if is_set:
                flag.release()
        finally:
            lock.release()
        return is_set if is_set or request.method == "is_set" else LATER

    def run(self, request: Request) -> Any:
        """See `ServedObject`."""
        from multiprocessing.synchronize import Event

        event: Any = Event.__new__(Event)
        event._cond = inner_condition(self._real._cond, request.check, self._shielded)  # noqa: SLF001
        event._flag = InnerSemaphore(self._real._flag, self._shielded)  # noqa: SLF001
        if request.method == "wait":
            return event.wait(seconds(request.args[0]))
        return getattr(event, request.method)()


class ServedBarrier(ServedObject):
    """Serves a `Barrier`. If a slot ends while it waits there, the barrier is broken."""

    METHODS = frozenset({"wait", "reset", "abort", "parties", "n_waiting", "broken"})
    WAITING = frozenset({"wait"})

    def __init__(self, value: Any, semaphores: HeldSemaphores, shielded: Callable[[], object]) -> None:
        self._real = value
        self._shielded = shielded

    def run(self, request: Request) -> Any:
        """See `ServedObject`."""
        if request.method in ("parties", "n_waiting", "broken"):
            return getattr(self._real, request.method)
        if request.method != "wait":
            return getattr(self._barrier(self._shielded), request.method)()
        try:
            return self._barrier(request.check).wait(seconds(request.args[0]))
        except Cancelled:
            self._barrier(self._shielded).abort()
            raise

    def _barrier(self, check: Callable[[], object]) -> Any:
        from multiprocessing.synchronize import Barrier

        real, made = self._real, Barrier.__new__(Barrier)
        condition = inner_condition(real._cond, check, self._shielded)  # noqa: SLF001
        made.__setstate__(  # type: ignore[attr-defined]
            (real._parties, real._action, real._timeout, condition, real._wrapper)  # noqa: SLF001
        )
        return made


SERVED = {
    "Lock": ServedSemaphore,
    "RLock": ServedSemaphore,
    "Semaphore": ServedSemaphore,
    "BoundedSemaphore": ServedSemaphore,
    "Condition": ServedCondition,
    "Event": ServedEvent,
    "Barrier": ServedBarrier,
}
