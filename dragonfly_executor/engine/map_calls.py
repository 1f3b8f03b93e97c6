"""The calls of a `map`: only the map's iterator waits for them, so they need no futures."""

from __future__ import annotations

import time
from _thread import TIMEOUT_MAX, allocate_lock
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from dragonfly_executor.engine.map_call import MapCall
from dragonfly_executor.errors import CallSerializationError, ForkedExecutorError
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, ClassVar, TypeAlias

    from dragonfly_executor.engine.context import MapContext
    from dragonfly_executor.engine.dependent_calls import ArgumentWait
    from dragonfly_executor.engine.options import CallOptions
    from dragonfly_executor.engine.progress_relay import ProgressRelay
    from dragonfly_executor.protocol.call_progress import CallProgress
    from dragonfly_executor.serialization.layout import Buffer
    from dragonfly_executor.serialization.pending_call import PendingCall

    Batch: TypeAlias = list[tuple[tuple[Any, ...], int, int]]
    """For each call its arguments, the number of its first item, and the number of its items."""
    Split: TypeAlias = Callable[[tuple[Any, ...], int, int], Batch]


def single_items(arguments: tuple[Any, ...], first: int, _size: int = 0) -> Batch:
    """Return a chunk as chunks of one item each: one of them cannot be sent, or has to wait.

    Args:
        arguments: of `run_chunk` or `run_items`.
        first: the number of its first item.
    """
    fn, columns, _, *rest = arguments
    numbers = range(len(columns[0]))
    return [((fn, tuple(column[n : n + 1] for column in columns), first + n, *rest), first + n, 1) for n in numbers]


CANCELLED_AT_ONCE = 1000
"""Number of calls that the engine cancels in one step."""


if TYPE_CHECKING:
    from typing import Protocol

    class Awaited(Protocol):
        """Something that a thread waits for: a call, or any of several calls."""

        @property
        def is_settled(self) -> bool:
            """Return whether the wait is over."""
            ...


class MapCalls:
    """The calls of one map in order, and the one thread that waits for their results.

    A subclass may have calls of another type, and wake a task instead of a thread.

    Args:
        engine: runs the calls.
        options: the options of each call.
        encode: encodes a call with these arguments.
        is_delayed: exception types of `encode` and of `PayloadStore.snapshot` that are raised in the call's turn. All
            others are raised by `submit`.
        split: returns a call of several items as calls of one item each, if one of them cannot be encoded. None if such
            a call fails as a whole.
        encode_pending: encodes a call up to the values of futures; returns None if no argument is a future. If it is
            None, calls do not wait for futures.

    Attributes:
        pending: the calls whose results were not taken, in order.
        awaited: the call that the thread waits for; None if it does not wait.
        submitted: number of calls that were submitted. Only the thread that takes the results changes it.
        settled: number of them that were settled. Only the engine thread changes it.
        refill_at: the number of settled calls at which the thread is woken to submit more; -1 for never.
        name: the name of the map's function, for people.
        caller: the trace context of the map's caller, as the W3C's headers; None in pools without tracing.
    """

    call_type: ClassVar[type[MapCall]] = MapCall
    _relay: ProgressRelay | None = None
    caller: Mapping[str, str] | None = None
    _waits: tuple[ArgumentWait, ...] = ()
    """The waits of calls that are about to be submitted."""

    def __init__(
        self,
        engine: MapContext,
        options: CallOptions,
        encode: Callable[[tuple[Any, ...]], list[Buffer]],
        is_delayed: tuple[type[Exception], ...],
        split: Split | None = None,
        encode_pending: Callable[[tuple[Any, ...]], PendingCall | None] | None = None,
    ) -> None:
        self._engine = engine
        self._options = options
        self._encode = encode
        self._is_delayed = is_delayed
        self._split = split
        self._encode_pending = encode_pending
        self.decode_result = engine.codec.decode_result
        self.decode_error = engine.codec.decode_error
        self.pending: deque[MapCall] = deque()
        self.awaited: Awaited | None = None
        self.submitted = self.settled = 0
        self.refill_at = -1
        self.name = ""
        self._bell = allocate_lock()
        self._bell.acquire()

    def submit(self, batch: Batch) -> None:
        """Submit calls, all or none."""
        calls = self._encoded(batch)
        # First, so that an interrupt finds the calls there. Cancelling a call that the engine has not is harmless.
        self.pending.extend(calls)
        self._accept(calls)

    def next_settled(self, deadline: float | None, refill_below: int = 0) -> MapCall | None:
        """Wait for the call whose outcome comes next, and return it. It stays among the pending calls.

        Args:
            deadline, refill_below: see `wait`.

        Returns:
            The call, or None if more calls are to be submitted first.
        """
        first = self.pending[0]
        if not first.is_settled:
            # The call stays in the queue meanwhile, so that an interrupt finds it there.
            self.wait(first, deadline, refill_below)
        return first if first.is_settled else None

    def remove_next(self) -> None:
        """Remove the call that `next_settled` has returned."""
        self.pending.popleft()

    def replace_next(self, batch: Batch) -> None:
        """Remove the call that `next_settled` has returned, and submit these calls in its place."""
        calls = self._encoded(batch)
        self.pending.popleft()
        self.pending.extendleft(reversed(calls))
        self._accept(calls)

    def _encoded(self, batch: Batch) -> list[MapCall]:
        engine, options, encode, split = self._engine, self._options, self._encode, self._split
        ids, snapshot, new_call = engine.ids, engine.payloads.snapshot, self.call_type
        calls: list[MapCall] = []
        name = self.name
        for arguments, first, size in batch:
            try:
                payload = snapshot(encode(arguments))
            except Exception as error:
                calls += self._not_encoded(error, arguments, first, size)
                continue
            call = new_call(next(ids), payload, options.limits(), self, first, size)
            call.name = name
            if split is not None:
                call.arguments = arguments
            calls.append(call)
        return calls

    def _not_encoded(self, error: Exception, arguments: tuple[Any, ...], first: int, size: int) -> list[MapCall]:
        """Return the calls for arguments that cannot be encoded: some wait for futures, and some have failed.

        Raises:
            Exception: the error, if it is not to be raised in the call's turn.
        """
        if self._encode_pending is not None and isinstance(error, CallSerializationError):
            try:
                pending = self._encode_pending(arguments)
            except CallSerializationError as another:
                pending, error = None, another
            if pending is not None and size > 1:
                # An item waits for its own futures alone, and has their errors alone.
                return self._encoded(single_items(arguments, first))
            if pending is not None:
                return [self._dependent(pending, arguments, first, size)]
        if not isinstance(error, self._is_delayed):
            raise error
        if self._split is not None and size > 1:
            return self._encoded(self._split(arguments, first, size))
        return [self._failed(error, first, size)]

    def _dependent(self, pending: PendingCall, arguments: tuple[Any, ...], first: int, size: int) -> MapCall:
        """Return a call that waits for futures, from its submit on."""
        # Imported for the first such call.
        from dragonfly_executor.engine.dependent_items import wait_of_item

        call = self.call_type(next(self._engine.ids), b"", self._options.limits(), self, first, size)
        call.name, call.arguments = self.name, arguments if self._split is not None else ()
        self._waits = (*self._waits, wait_of_item(self._engine, pending, call))
        return call

    def _accept(self, calls: Sequence[MapCall]) -> None:
        waits, self._waits = self._waits, ()
        unsettled = [call for call in calls if not call.is_settled]
        if unsettled:
            self.submitted += len(unsettled)
            self._engine.accept(unsettled)
        for wait in waits:
            wait.begin()

    def fail(self, error: Exception) -> None:
        """Raise an error, which belongs to no item, after the results before it."""
        self.pending.append(self._failed(error, 0, 0))

    def _failed(self, error: Exception, first: int, size: int) -> MapCall:
        call = self.call_type(0, b"", self._options.limits(), self, first, size)
        call.token = None
        call.outcome, call.is_settled = error, True
        return call

    @property
    def unsettled(self) -> int:
        """Return the number of calls that were submitted and are not settled."""
        return self.submitted - self.settled

    def wait(self, call: Awaited, deadline: float | None, refill_below: int = 0) -> None:
        """Wait until a call is settled, or until fewer than `refill_below` calls are unsettled.

        One thread at a time may wait.

        Raises:
            TimeoutError: the monotonic clock has reached `deadline`.
            ForkedExecutorError: the call belongs to the process that this one was forked from.
        """
        self._check_process()
        refill_at = self.submitted - refill_below + 1 if refill_below else -1
        try:
            self.refill_at = refill_at
            while True:
                # The engine sets `is_settled` before it reads `awaited`. So either this thread sees the outcome, or the
                # engine sees that this thread waits.
                self.awaited = call
                if call.is_settled or 0 <= refill_at <= self.settled:
                    return
                if deadline is None:
                    self._bell.acquire()
                else:
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise TimeoutError
                    self._bell.acquire(timeout=min(left, TIMEOUT_MAX))
        finally:
            self.awaited, self.refill_at = None, -1

    def progressed(self, progress: CallProgress) -> None:
        """Have the callback called with a report of a call. Runs on the engine thread."""
        hook = self._options.on_progress
        if hook is not None:
            if self._relay is None:
                from dragonfly_executor.engine.progress_relay import ProgressRelay

                self._relay = ProgressRelay(hook, self._engine.call_back)
            self._relay.add(progress)

    def _check_process(self) -> None:
        if self._engine.forked:
            raise ForkedExecutorError(
                "this map belongs to the process that this one was forked from: its results arrive only there"
            )

    def wake(self) -> None:
        """Wake the thread that waits. Only the engine thread calls this."""
        self.awaited = None
        if self._bell.locked():
            self._bell.release()

    def cancel(self, calls: Sequence[MapCall]) -> None:
        """Cancel calls. Those that run are stopped, unless the option `cancel_running` is False."""
        for start in range(0, len(calls), CANCELLED_AT_ONCE):
            some = calls[start : start + CANCELLED_AT_ONCE]
            self._engine.cancel(some, running=self._options.cancel_running)

    def close(self) -> None:
        """Cancel all calls whose results were not taken."""
        calls = [call for call in self.pending if not call.is_settled]
        try:
            self.cancel(calls)
        except BaseException:  # an interrupt
            self.cancel(calls)
            raise
        finally:
            self.pending.clear()
