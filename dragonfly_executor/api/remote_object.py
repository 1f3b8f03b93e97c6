"""`RemoteObject`: the handle of an object that stays in the slot of a placed worker."""

from __future__ import annotations

from collections.abc import Callable

from dragonfly_executor.api.remote_methods import RemoteMethods
from dragonfly_executor.serialization.remote_object import call_held, held_object, opened_with
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.engine.future import Future


class RemoteLease:
    """Keeps the objects of one result in their slot, and the worker in its slot, while a handle of them lives.

    It also opens the result: it takes the place of the codec.

    Args:
        worker: the worker.
        call_id: the number of the worker's call.
        numbers: the numbers of the objects.
        codec: opens the result.
        release: lets go of the objects.
    """

    def __init__(
        self, worker: Any, call_id: int, numbers: tuple[int, ...], codec: Any, release: Callable[..., object]
    ) -> None:
        self.worker = worker
        self.call_id = call_id
        self._numbers = numbers
        self._codec = codec
        self._release = release

    def decode_result(self, data: Any) -> Any:
        """See `CallCodec.decode_result`."""
        return opened_with(lambda number, kind: RemoteObject(self, number, kind), self._codec.decode_result, data)

    def __del__(self) -> None:
        self._release(self.call_id, self._numbers)


class RemoteObject(RemoteMethods):
    """An object in the slot of a placed worker. ``handle.method(*args)`` calls it there, and returns a `Future`.

    Its calls are calls of the worker: they run in the order of all calls of the worker, under the worker's options. The
    worker lives while a handle does. Once no handle of a result is left, the slot lets go of its objects.

    A handle in the arguments of calls of the same worker stands for the object itself.
    """

    def __init__(self, lease: RemoteLease, number: int, kind: str) -> None:
        self._lease = lease
        self._number = number
        self._kind = kind

    def _check_method(self, name: str) -> None:
        if name.startswith("_"):
            raise AttributeError(f"a RemoteObject has no attribute {name!r}; call_method({name!r}) calls such a method")

    def call_method(self, name: str, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit a call of the method `name`, and return its future. Raises as `PlacedWorker.call_method` does."""
        future: Future[Any] = self._lease.worker.submit_call(call_held, name, (self, name, *args), kwargs)
        return future

    def __reduce__(self) -> Any:
        return held_object, (self._lease.call_id, self._number, self._kind)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._kind} of {self._lease.worker!r}>"
