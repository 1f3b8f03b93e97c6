"""Calls that are pickled before the values of the futures among their arguments are known."""

from __future__ import annotations

from concurrent.futures import Future

from dragonfly_executor.errors import CallSerializationError
from dragonfly_executor.serialization import exceptions
from dragonfly_executor.serialization.layout import flat, snapshot
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from dragonfly_executor.serialization.content_registry import ContentRegistry
    from dragonfly_executor.serialization.formats import SerializerFormat
    from dragonfly_executor.serialization.layout import Buffer
    from dragonfly_executor.serialization.main_pickler import MainView, NameTracking
    from dragonfly_executor.serialization.shared_object import SharedContent


class FuturePicklingError(CallSerializationError):
    """A future was pickled in a place where its value cannot replace it."""


class FutureNumbers:
    """The numbers that stand for futures in the pickle of a call.

    Args:
        contents: gives the numbers, which are those of shared objects.

    Attributes:
        futures: the futures that were found, by number.
    """

    def __init__(self, contents: ContentRegistry) -> None:
        self._contents = contents
        self._numbers: dict[int, int] = {}
        self.futures: dict[int, Any] = {}

    def number_of(self, found: Any) -> int | None:
        """Return the number that stands for an object; None if the object is no future. A pickler calls this."""
        if not isinstance(found, Future):
            return None
        number = self._numbers.get(id(found))
        if number is None:
            number = self._numbers[id(found)] = self._contents.next_number()
            self.futures[number] = found
        return number


class PendingCall:
    """The pickle of a call: a snapshot of its arguments, in which numbers stand for the futures.

    Args:
        body: the pickle.
        buffers: the buffers beside it.
        names: the names of ``__main__`` that it needs.
        shared: the shared objects in it, by number.
        futures: the futures in it, by number.
    """

    __slots__ = ("body", "buffers", "futures", "names", "shared")

    def __init__(
        self,
        body: list[Buffer],
        buffers: list[memoryview],
        names: frozenset[str],
        shared: dict[int, SharedContent],
        futures: dict[int, Any],
    ) -> None:
        self.body = body
        self.buffers = buffers
        self.names = names
        self.shared = shared
        self.futures = futures

    def all_shared(self, values: Mapping[int, SharedContent]) -> dict[int, SharedContent]:
        """Return all shared objects that the call needs, by number, once the values of the futures are known."""
        shared = dict(self.shared)
        for content in values.values():
            shared |= content.all_contents()
        return shared


def encode_pending(
    call: tuple[Any, ...], numbers: FutureNumbers, serializer: SerializerFormat, main: MainView
) -> tuple[PendingCall, NameTracking] | None:
    """Encode all parts of a call that do not need the values of the futures in it. The arguments are a snapshot.

    Args:
        call: function, arguments, keyword arguments, and `retry_on` if there is any.
        numbers: gives the futures their numbers.
        serializer: pickles the call.
        main: the parent's ``__main__``.

    Returns:
        The call, and the pickler with what it refers to; None if no part of the call is a future.

    Raises:
        CallSerializationError: another part of the call cannot travel.
    """
    try:
        sink, buffers, pickler = serializer.tracked(call, main, number_of=numbers.number_of)
    except (KeyboardInterrupt, CallSerializationError):
        raise
    except BaseException as exc:  # __reduce__ and __getstate__ are user code
        if not numbers.futures:
            return None
        fn, args, kwargs, *_ = call
        raise CallSerializationError(
            exceptions.call_error_text(
                fn, args, kwargs, exc, lambda part: serializer.tracked(part, main, number_of=numbers.number_of)
            )
        ) from exc
    if not numbers.futures:
        return None
    held = [view if view.readonly else memoryview(bytearray(view)) for view in buffers.views]
    names = frozenset(pickler.hard | pickler.soft)
    return PendingCall(snapshot(flat(sink)), held, names, pickler.shared, numbers.futures), pickler
