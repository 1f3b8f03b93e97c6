"""`CallStream`: the items of a stream, for a thread or for a task."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import CancelledError

from dragonfly_executor import errors
from dragonfly_executor.engine.stream_consumers import current_consumer
from dragonfly_executor.util import plain_pickle as pickle
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, Final, Self, TypeVar

    from dragonfly_executor.engine.stream_call import Batch, StreamCall
    from dragonfly_executor.protocol.call_progress import CallProgress

    T = TypeVar("T")
else:
    T = object

NOTHING: Final = object()


class CallStream(Iterator[T], AsyncIterator[T]):
    """The items of a call that still runs: ``for item in ...``, or ``async for item in ...`` in a task.

    One thread or one task at a time takes items. Closing the stream, or dropping it, stops the call: its generator gets
    ``GeneratorExit`` where it is suspended, as by `close` of a generator. If it does not reach a ``yield`` within a
    second, its slot is killed. The stream is a context manager too, also an asynchronous one, which closes it at its
    end.

    Made by `DragonflyExecutor.stream`.
    """

    def __init__(self, call: StreamCall, decode: Callable[[bytes], Any]) -> None:
        self._call = call
        self._decode = decode
        self._batch: Batch | None = None
        """The batch whose items are in the lists below."""
        self._values: list[Any] = []
        """Items that can be taken now, the next one last."""
        self._encoded: list[bytes] = []
        """Encoded items, which follow `_values`, the next one last."""
        self._is_taking = False
        self._has_ended = False
        self._is_closed = False

    @property
    def call(self) -> StreamCall:
        """The core's record of the call."""
        return self._call

    def progress(self) -> CallProgress | None:
        """Return how far the call is, as it has reported last by `dragonfly_executor.progress`; None before that."""
        return self._call.progress

    # -- a thread ------------------------------------------------------------------------------------------------------

    def __next__(self) -> T:
        """Return the next item. Raises StopIteration after the last one, with the value that the generator returns.

        An error of the call is raised after the items before it. If the wait is interrupted, the stream is closed.
        """
        values = self._values
        if len(values) > 1:
            item: T = values.pop()
            return item
        self._check_free()
        try:
            self._begin()
            while not self._is_closed:
                # First: the outcome follows the last batch.
                is_settled = self._call.is_settled
                found = self._next_item()
                if found is not NOTHING:
                    return found  # type: ignore[no-any-return]
                if is_settled:
                    break
                self._call.wait()
            raise StopIteration(self._end())
        except StopIteration:
            raise
        except BaseException:
            self._close()
            raise
        finally:
            self._is_taking = False

    def close(self) -> None:
        """Stop the call. There are no more items. Returns at once."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    # -- a task --------------------------------------------------------------------------------------------------------

    async def __anext__(self) -> T:
        """Return the next item, as `__next__` does. Raises StopAsyncIteration after the last one."""
        values = self._values
        if len(values) > 1:
            item: T = values.pop()
            return item
        from asyncio import sleep

        from dragonfly_executor.engine.awaiting import running_loop

        running_loop()
        self._check_free()
        try:
            self._begin()
            while not self._is_closed:
                is_settled = self._call.is_settled
                found = self._next_item()
                if found is not NOTHING:
                    if self._batch is None:
                        await sleep(0)  # the other tasks have their turn after each batch
                    return found  # type: ignore[no-any-return]
                if is_settled:
                    break
                await self._call.wait_async()
            self._end()
            raise StopAsyncIteration
        except StopAsyncIteration:
            raise
        except BaseException:
            self._close()
            raise
        finally:
            self._is_taking = False

    async def aclose(self) -> None:
        """Stop the call. There are no more items."""
        self._close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    # -- both ----------------------------------------------------------------------------------------------------------

    def _check_free(self) -> None:
        if self._is_taking:
            raise RuntimeError("another thread or task takes the next item of this stream")

    def _begin(self) -> None:
        self._is_taking = True
        self._call.consumer = current_consumer()

    def _next_item(self) -> Any:
        """Return the next item; `NOTHING` if it is not there.

        Raises:
            ResultDeserializationError: it cannot be opened here.
        """
        while True:
            if len(self._values) + len(self._encoded) == 1 and self._batch is not None:
                # The function may go on while the last item is in use.
                self._call.taken(self._batch)
                self._batch = None
            if self._values:
                return self._values.pop()
            if self._encoded:
                return self._decode(self._encoded.pop())
            if not self._call.batches:
                return NOTHING
            self._open(self._call.batches.popleft())

    def _open(self, batch: Batch) -> None:
        data, count = batch
        try:
            values, encoded = pickle.loads(data)
            if len(values) + len(encoded) != count:
                raise ValueError(f"a batch of {count} items has {len(values) + len(encoded)}")
        except Exception as error:
            raise errors.ResultDeserializationError(
                f"items of a stream cannot be opened: {type(error).__name__}: {error}", len(data)
            ) from error
        values.reverse()
        encoded.reverse()
        self._values, self._encoded, self._batch = values, encoded, batch

    def _end(self) -> Any:
        """Return the value of the call, or raise its error, the first time; None after that."""
        if self._has_ended or self._is_closed:
            return None
        self._has_ended = True
        value, error = self._call.end()
        if error is None and self._call.is_closed:
            error = CancelledError("the pool was shut down by the thread or task that took the items of this stream")
        if error is None:
            return value
        try:
            raise error from error.__cause__
        finally:
            del error  # the traceback holds this frame

    def _close(self) -> None:
        self._is_closed = True
        self._values, self._encoded, self._batch = [], [], None
        self._call.close()

    def __del__(self) -> None:
        # `__init__` may have been interrupted.
        call = getattr(self, "_call", None)
        if call is not None:
            call.close()

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "ended" if self._has_ended else "open"
        return f"<{type(self).__name__} at {id(self):#x} state={state}>"
