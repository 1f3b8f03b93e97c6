"""`FunctionCalls`: makes the calls of a map, and other calls of one function that take their own outcomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dragonfly_executor.engine.call_name import call_name
from dragonfly_executor.errors import CallSerializationError, FrameTooLargeError
from dragonfly_executor.serialization.repeated_call import RepeatedCall
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, TypeVar

    from dragonfly_executor.engine.context import MapContext
    from dragonfly_executor.engine.map_calls import MapCalls, Split
    from dragonfly_executor.engine.options import CallOptions

    T = TypeVar("T")
    M = TypeVar("M", bound=MapCalls)


class FunctionCalls:
    """The maker of calls that have one function, of which only the arguments differ.

    Args:
        engine: runs the calls.
    """

    def __init__(self, engine: MapContext) -> None:
        self._engine = engine

    def of_map(
        self,
        options: CallOptions,
        fn: Callable[..., object],
        is_delayed: tuple[type[Exception], ...],
        split: Split | None,
        calls_type: type[M],
    ) -> M:
        """Return the calls of a new map, which are calls of `fn` with these options; see `MapCalls` for the rest."""
        engine = self._engine
        call = RepeatedCall(engine.codec, fn, options.retry_on)
        calls = calls_type(engine, options, call.encode, is_delayed, split, call.encode_pending)
        calls.name = call_name(fn)
        return calls

    def taken_by(
        self,
        make: Callable[..., T],
        options: CallOptions,
        fn: Callable[..., object],
        kwargs: Mapping[str, Any] | None = None,
    ) -> T:
        """Return what `make` makes: calls of `fn` that take their own outcomes.

        Args:
            make: gets the first four arguments of `MapCalls`.
            options: the options of each call.
            fn: the function.
            kwargs: its keyword arguments in every call; None for calls that are many and have none.
        """
        codec, retry_on = self._engine.codec, options.retry_on
        return make(
            self._engine,
            options,
            RepeatedCall(codec, fn, retry_on).encode
            if kwargs is None
            else lambda args: codec.encode_call(fn, args, kwargs, retry_on),
            (CallSerializationError, FrameTooLargeError),
        )
