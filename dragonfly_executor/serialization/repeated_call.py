"""Encodes many calls of one function, such as those of a `map`: the function is pickled once."""

from __future__ import annotations

from dragonfly_executor.errors import CallSerializationError
from dragonfly_executor.serialization.chunk_reference import ChunkReference
from dragonfly_executor.serialization.function_reference import FunctionReference
from dragonfly_executor.serialization.map_chunk import run_chunk, run_items
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from dragonfly_executor.serialization.layout import Buffer
    from dragonfly_executor.serialization.parent_codec import CallCodec
    from dragonfly_executor.serialization.pending_call import PendingCall


class RepeatedCall:
    """The encoder of the calls of one function, without keyword arguments.

    Args:
        codec: encodes the first call, and each call that needs more than plain pickle.
        fn: the function.
        retry_on: see `CallCodec.encode_call`.
    """

    def __init__(
        self, codec: CallCodec, fn: Callable[..., Any], retry_on: tuple[type[BaseException], ...] = ()
    ) -> None:
        self._codec = codec
        self._fn = fn
        self._retry_on = retry_on
        self._reference = None if retry_on else FunctionReference(fn)
        self._runs_chunks = fn is run_chunk or fn is run_items
        self._chunks: ChunkReference | None = None

    def encode(self, args: tuple[Any, ...]) -> list[Buffer]:
        """Encode a call, as `CallCodec.encode_call` does."""
        reference = self._reference
        if reference is not None:
            if self._runs_chunks:
                data = self._chunk(args)
            else:
                data = reference.encode(args) if self._codec.references.is_enough(reference) else None
            if data is not None:
                return [data]
        try:
            return self._codec.encode_call(self._fn, args, {}, self._retry_on)
        except CallSerializationError as error:
            from dragonfly_executor.serialization.pending_call import FuturePicklingError

            if not isinstance(error, FuturePicklingError):
                raise
            raise self._codec.call_error(error, self._fn, args, {}) from error

    def encode_pending(self, args: tuple[Any, ...]) -> PendingCall | None:
        """Encode a call up to the values of the futures in it; see `CallCodec.encode_pending`."""
        return self._codec.encode_pending(self._fn, args, {}, self._retry_on)

    def _chunk(self, args: tuple[Any, ...]) -> bytes | None:
        chunks = self._chunks
        if chunks is None or chunks.function.fn is not args[0]:
            chunks = self._chunks = ChunkReference(self._fn, args[0])
        return chunks.encode(args) if self._codec.references.is_enough(chunks.function) else None
