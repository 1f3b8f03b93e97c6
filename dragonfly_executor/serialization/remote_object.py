"""`Remote`: a part of a method's result that stays in the slot of its worker. The parent gets a `RemoteObject`."""

from __future__ import annotations

from contextvars import ContextVar

from dragonfly_executor.errors.base import MultiprocessingObjectError
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    class MakeHandle(Protocol):
        """Makes the handle of an object that stays in a slot."""

        def __call__(self, number: int, kind: str) -> Any: ...


class RemoteStore:
    """The objects that stay in the slot of one worker.

    Args:
        call_id: the number of the worker's call, which tells a worker that has begun again from the one before.

    Attributes:
        fresh: the `Remote`s in the result that is being pickled, and the numbers of their objects.
    """

    of_worker: ContextVar[RemoteStore | None] = ContextVar("of_worker", default=None)

    def __init__(self, call_id: int) -> None:
        self.call_id = call_id
        self.fresh: dict[Remote, int] = {}
        self._count = 0
        self._objects: dict[int, Any] = {}

    def keep(self, remote: Remote, value: Any) -> int:
        """Keep an object for the result that is being pickled, and return its number.

        Each result has a number of its own for the object, because each lets go of it on its own.
        """
        # Pickling may begin again: a result that plain pickle refuses is pickled by another pickler.
        number = self.fresh.get(remote)
        if number is None:
            number = self._count = self._count + 1
            self._objects[number] = value
            self.fresh[remote] = number
        return number

    def take_fresh(self) -> tuple[int, ...]:
        """Return the numbers of the objects in the last result."""
        fresh = tuple(self.fresh.values())
        self.fresh.clear()
        return fresh

    def find(self, number: int) -> Any:
        """Return an object."""
        return self._objects[number]

    def release(self, numbers: Iterable[int]) -> None:
        """Let go of objects."""
        for number in numbers:
            self._objects.pop(number, None)

    def __len__(self) -> int:
        return len(self._objects)


class Remote:
    """Return ``Remote(obj)`` from a method of a placed worker, at any depth of the result: `obj` stays there.

    The caller gets a `RemoteObject` in its place. docs/workers.md has the rules.

    Args:
        value: the object.
    """

    def __init__(self, value: Any) -> None:
        self._value = value

    def __reduce__(self) -> Any:
        store = RemoteStore.of_worker.get()
        if store is None:
            raise TypeError("only a method of a placed worker can return a Remote: place() the function that makes it")
        kind = type(self._value)
        return remote_handle, (store.keep(self, self._value), f"{kind.__module__}.{kind.__qualname__}")


MAKE_HANDLE: ContextVar[MakeHandle | None] = ContextVar("MAKE_HANDLE", default=None)
"""Makes the handles in the result that is being opened, in the parent."""


def remote_handle(number: int, kind: str) -> Any:
    """Return the handle of an object that stays in the slot of a worker. The pickle of a `Remote` refers to this."""
    make = MAKE_HANDLE.get()
    if make is None:
        raise MultiprocessingObjectError(
            f"a Remote of type {kind} can be opened only as the result of a worker's method"
        )
    return make(number, kind)


def held_object(call_id: int, number: int, kind: str) -> Any:
    """Return an object of this slot's worker. The pickle of a handle refers to this.

    Raises:
        MultiprocessingObjectError: it is not in this slot, or not any more.
    """
    store = RemoteStore.of_worker.get()
    if store is None or store.call_id != call_id:
        raise MultiprocessingObjectError(
            f"the RemoteObject of type {kind} lives in the slot of its worker, and can be an argument of that worker's "
            "methods alone, as long as the worker has not begun again"
        )
    return store.find(number)


def current_store() -> RemoteStore | None:
    """Return the store of this slot's worker."""
    return RemoteStore.of_worker.get()


class StoreReference:
    """Stands for the store of the slot in the arguments of a method call."""

    def __reduce__(self) -> Any:
        return current_store, ()


def call_held(_: Any, held: Any, name: str, *args: Any, **kwargs: Any) -> Any:
    """Call a method of an object that stays in the slot. This is the function of a method call."""
    return getattr(held, name)(*args, **kwargs)


def release_held(_: Any, store: RemoteStore, numbers: tuple[int, ...]) -> None:
    """Let go of objects. This is the function of a method call, so it comes after the calls before it."""
    store.release(numbers)


def opened_with(make: MakeHandle, decode: Callable[[Any], Any], data: Any) -> Any:
    """Open a result that has handles."""
    token = MAKE_HANDLE.set(make)
    try:
        return decode(data)
    finally:
        MAKE_HANDLE.reset(token)
