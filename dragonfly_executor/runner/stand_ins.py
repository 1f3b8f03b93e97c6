"""The stand-ins of multiprocessing's objects in a slot: each method is a request to the parent.

They have the methods, arguments and errors of multiprocessing's classes, and count as instances of these.
"""

from __future__ import annotations

import sys
import time
from _thread import get_ident
from importlib import import_module

from dragonfly_executor.errors.base import MultiprocessingObjectError
from dragonfly_executor.util import plain_pickle as pickle
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ClassVar, NoReturn

    from dragonfly_executor.runner.reply_reader import ReplyTarget


class Requests(Protocol):
    """Sends the requests of stand-ins."""

    def call(self, stand_in: StandIn, method: str, *args: Any) -> Any:
        """Call a method of the real object."""

    def tell(self, number: int, method: str, *args: Any) -> None:
        """Send a request that has no reply."""

    def begin(self, waiter: ReplyTarget, number: int, method: str, *args: Any) -> int:
        """Send a request whose reply goes to `waiter`, and return the number of the request."""
        ...

    def forget(self, token: int) -> bool:
        """Drop the reply to a request of `begin`. Returns False if it has come."""
        ...

    def drop(self, number: int, method: str = "drop") -> None:
        """Note that a stand-in is gone, or a request."""

    def flush(self) -> None:
        """Tell the parent what is gone."""


class StandIn:
    """A stand-in of one object.

    Args:
        client: sends requests.
        number: the object's number.
        detail: values of built-in types, which depend on the kind.

    Attributes:
        ORIGINAL: module and name of multiprocessing's class.
        number: the object's number.
    """

    ORIGINAL: ClassVar[tuple[str, str]]

    def __init__(self, client: Requests, number: int, detail: Any) -> None:
        self._client = client
        self.number = number
        client.tell(number, "adopt")

    def _call(self, method: str, *args: Any) -> Any:
        return self._client.call(self, method, *args)

    @property
    def __class__(self) -> type:
        """Return multiprocessing's class, for ``isinstance``."""
        return getattr(import_module(self.ORIGINAL[0]), self.ORIGINAL[1])  # type: ignore[no-any-return]

    @__class__.setter
    def __class__(self, kind: type) -> NoReturn:
        raise TypeError("the class of a stand-in cannot be changed")

    def __del__(self) -> None:
        self._client.drop(self.number)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise MultiprocessingObjectError(
            f"a {self.ORIGINAL[1]} cannot be pickled in a call: it travels from the parent to its calls only"
        )

    def __repr__(self) -> str:
        return f"<{self.ORIGINAL[1]} {self.number} of the parent>"


class LockableStandIn(StandIn):
    """The base of stand-ins with `acquire` and `release`."""

    def is_held_here(self) -> bool:
        """Return whether this thread is known to have it."""
        return False

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Acquire it. Return False if that was not possible within `timeout` seconds."""
        return self._call("acquire", bool(block), timeout)  # type: ignore[no-any-return]

    def release(self) -> None:
        """Release it."""
        self._call("release")

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *args: object) -> None:
        self.release()


class LockStandIn(LockableStandIn):
    """Stands for a `Lock`."""

    ORIGINAL = ("multiprocessing.synchronize", "Lock")


class RLockStandIn(LockableStandIn):
    """Stands for an `RLock`."""

    ORIGINAL = ("multiprocessing.synchronize", "RLock")
    _holder = _depth = 0

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Acquire it, once more if this thread has it."""
        if not super().acquire(block, timeout):
            return False
        self._holder = get_ident()
        self._depth += 1
        return True

    def release(self) -> None:
        """Release it."""
        if self.is_held_here():
            # First: another thread may have it as soon as the parent knows.
            self._depth -= 1
        super().release()

    def is_held_here(self) -> bool:
        """Return whether this thread has it."""
        return self._depth > 0 and self._holder == get_ident()


class SemaphoreStandIn(LockableStandIn):
    """Stands for a `Semaphore`."""

    ORIGINAL = ("multiprocessing.synchronize", "Semaphore")

    def get_value(self) -> int:
        """Return the value."""
        return self._call("get_value")  # type: ignore[no-any-return]


class BoundedSemaphoreStandIn(SemaphoreStandIn):
    """Stands for a `BoundedSemaphore`."""

    ORIGINAL = ("multiprocessing.synchronize", "BoundedSemaphore")


class ConditionStandIn(LockableStandIn):
    """Stands for a `Condition`."""

    ORIGINAL = ("multiprocessing.synchronize", "Condition")

    def wait(self, timeout: float | None = None) -> bool:
        """Release the lock, wait for a notification, and acquire the lock again. False after `timeout` seconds."""
        return self._call("wait", timeout)  # type: ignore[no-any-return]

    def notify(self, n: int = 1) -> None:
        """Wake `n` waiters."""
        self._call("notify", n)

    def notify_all(self) -> None:
        """Wake all that wait."""
        self.notify(sys.maxsize)

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        """Wait until `predicate` returns a true value. Return its last value."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not (result := predicate()):
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                break
            self.wait(left)
        return result


class EventStandIn(StandIn):
    """Stands for an `Event`."""

    ORIGINAL = ("multiprocessing.synchronize", "Event")

    def is_set(self) -> bool:
        """Return whether it is set."""
        return self._call("is_set")  # type: ignore[no-any-return]

    def set(self) -> None:
        """Set it."""
        self._call("set")

    def clear(self) -> None:
        """Clear it."""
        self._call("clear")

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set. False after `timeout` seconds."""
        return self._call("wait", timeout)  # type: ignore[no-any-return]


class BarrierStandIn(StandIn):
    """Stands for a `Barrier`."""

    ORIGINAL = ("multiprocessing.synchronize", "Barrier")

    def wait(self, timeout: float | None = None) -> int:
        """Wait until all parties have come. Return the place in which this one came."""
        return self._call("wait", timeout)  # type: ignore[no-any-return]

    def reset(self) -> None:
        """Break the waits, and reset the barrier to its first state."""
        self._call("reset")

    def abort(self) -> None:
        """Break the barrier."""
        self._call("abort")

    @property
    def parties(self) -> int:
        """Return the number of parties."""
        return self._call("parties")  # type: ignore[no-any-return]

    @property
    def n_waiting(self) -> int:
        """Return the number of waiters."""
        return self._call("n_waiting")  # type: ignore[no-any-return]

    @property
    def broken(self) -> bool:
        """Return whether it is broken."""
        return self._call("broken")  # type: ignore[no-any-return]


class SimpleQueueStandIn(StandIn):
    """Stands for a `SimpleQueue`."""

    ORIGINAL = ("multiprocessing.queues", "SimpleQueue")

    def put(self, obj: Any) -> None:
        """Put an object into the queue."""
        self._call("put", pickle.dumps(obj, 5))

    def get(self) -> Any:
        """Wait for an object, and take it from the queue."""
        return pickle.loads(self._call("get"))

    def empty(self) -> bool:
        """Return whether it is empty."""
        return self._call("empty")  # type: ignore[no-any-return]

    def close(self) -> None:
        """Do nothing: the parent has the queue."""


class QueueStandIn(StandIn):
    """Stands for a `Queue`."""

    ORIGINAL = ("multiprocessing.queues", "Queue")
    _closed = False

    def put(self, obj: Any, block: bool = True, timeout: float | None = None) -> None:
        """Put an object into the queue. When this returns, the parent has the object.

        Raises:
            queue.Full: there was no room within `timeout` seconds.
            ValueError: the queue is closed.
        """
        self._check_open()
        self._call("put", pickle.dumps(obj, 5), bool(block), timeout)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take an object from the queue.

        Raises:
            queue.Empty: none came within `timeout` seconds.
            ValueError: the queue is closed.
        """
        self._check_open()
        return pickle.loads(self._call("get", bool(block), timeout))

    def put_nowait(self, obj: Any) -> None:
        """Put an object into the queue if there is room."""
        self.put(obj, False)

    def get_nowait(self) -> Any:
        """Take an object from the queue if there is one."""
        return self.get(False)

    def qsize(self) -> int:
        """Return about how many objects are in the queue."""
        return self._call("qsize")  # type: ignore[no-any-return]

    def empty(self) -> bool:
        """Return whether it is empty."""
        return self._call("empty")  # type: ignore[no-any-return]

    def full(self) -> bool:
        """Return whether it is full."""
        return self._call("full")  # type: ignore[no-any-return]

    def close(self) -> None:
        """Use the queue no more in this slot."""
        self._closed = True

    def join_thread(self) -> None:
        """Return at once: what was put is in the parent."""
        if not self._closed:
            raise AssertionError(f"Queue {self!r} not closed")

    def cancel_join_thread(self) -> None:
        """Do nothing: what was put is in the parent."""

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"Queue {self!r} is closed")


class JoinableQueueStandIn(QueueStandIn):
    """Stands for a `JoinableQueue`."""

    ORIGINAL = ("multiprocessing.queues", "JoinableQueue")

    def task_done(self) -> None:
        """Say that a task from the queue is done."""
        self._call("task_done")

    def join(self) -> None:
        """Wait until all tasks are done."""
        self._call("join")


STAND_INS: dict[str, type[StandIn]] = {
    kind.ORIGINAL[1]: kind
    for kind in (
        LockStandIn,
        RLockStandIn,
        SemaphoreStandIn,
        BoundedSemaphoreStandIn,
        ConditionStandIn,
        EventStandIn,
        BarrierStandIn,
        QueueStandIn,
        JoinableQueueStandIn,
        SimpleQueueStandIn,
    )
}
"""By kind: the name of multiprocessing's class."""
