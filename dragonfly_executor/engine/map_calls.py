"""The calls of a `map`: only the map's iterator waits for them, so they need no futures."""

from __future__ import annotations

import time
from _thread import TIMEOUT_MAX, allocate_lock
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError

from dragonfly_executor.core.actions import CANCELLED
from dragonfly_executor.core.calls import Call, CallLimits
from dragonfly_executor.engine.outcome import Outcome
from dragonfly_executor.errors import ForkedExecutorError
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, ClassVar, TypeAlias

    from dragonfly_executor.core.calls import Payload
    from dragonfly_executor.engine.context import MapContext
    from dragonfly_executor.engine.options import CallOptions
    from dragonfly_executor.engine.progress_relay import ProgressRelay
    from dragonfly_executor.protocol.call_progress import CallProgress
    from dragonfly_executor.serialization.layout import Buffer

    Batch: TypeAlias = list[tuple[tuple[Any, ...], int, int]]
    """For each call its arguments, the number of its first item, and the number of its items."""
    Split: TypeAlias = Callable[[tuple[Any, ...], int, int], Batch]

CANCELLED_AT_ONCE = 1000
"""Number of calls that the engine cancels in one step."""


class MapCall(Call):
    """One call of a map: the core's record of it and the receiver of its outcome in one object.

    Attributes:
        outcome: its outcome, once it is settled: as `CallToken.settle` gets it.
        is_settled: whether it has its outcome.
        owner: the map.
        first, size: the number of its first item in the map, and how many items it has. 0 items: it has the error of an
            iterable.
        arguments: its arguments, if the map may have to send some of them again.
    """

    __slots__ = ("arguments", "first", "is_settled", "outcome", "owner", "size")
    is_item = True

    def __init__(
        self,
        id: int,  # noqa: A002
        payload: Payload,
        limits: CallLimits,
        owner: MapCalls,
        first: int,
        size: int,
    ) -> None:
        super().__init__(id, payload, self, limits, limits.kind)
        self.owner = owner
        self.first = first
        self.size = size
        self.arguments: tuple[Any, ...] = ()
        self.outcome: object = None
        self.is_settled = False

    def hand_over(self) -> bool:
        """Accept that the call is sent to a runner."""
        return True

    def settle(self, outcome: object) -> None:
        """Keep the outcome, and wake the thread that waits for it. Runs on the engine thread."""
        self.outcome = outcome
        self.is_settled = True
        owner = self.owner
        owner.settled += 1
        if owner.awaited is self or owner.settled == owner.refill_at:
            owner.wake()

    def progressed(self, progress: CallProgress) -> None:
        """Have the callback called with a report of the call. Runs on the engine thread."""
        self.owner.progressed(progress._replace(item=self.first))

    def cancel(self) -> None:
        """Cancel the call, and stop it if it runs."""
        self.owner.cancel((self,))

    def take(self) -> Any:
        """Return the value of a settled call, and forget it, or raise its exception."""
        outcome = self.outcome
        # Without `take_outcome`, because this is the hot path.
        value, error = outcome.open() if type(outcome) is Outcome else self.take_outcome()
        self.outcome = None
        if error is None:
            return value
        try:
            raise error from error.__cause__
        finally:
            del error, outcome  # as in `Future.result`

    def take_outcome(self) -> tuple[Any, BaseException | None]:
        """Return the value and None, or None and the exception, of a settled call, and forget it."""
        try:
            return self.open_outcome()
        finally:
            self.outcome = None

    def open_outcome(self) -> tuple[Any, BaseException | None]:
        """Return the same, and keep the outcome."""
        outcome = self.outcome
        if type(outcome) is Outcome:
            return outcome.open()
        return None, CancelledError() if outcome is CANCELLED else outcome  # type: ignore[return-value]  # an exception


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

    def __init__(
        self,
        engine: MapContext,
        options: CallOptions,
        encode: Callable[[tuple[Any, ...]], list[Buffer]],
        is_delayed: tuple[type[Exception], ...],
        split: Split | None = None,
    ) -> None:
        self._engine = engine
        self._options = options
        self._encode = encode
        self._is_delayed = is_delayed
        self._split = split
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
            except self._is_delayed as error:
                if split is not None and size > 1:
                    calls += self._encoded(split(arguments, first, size))
                else:
                    calls.append(self._failed(error, first, size))
                continue
            call = new_call(next(ids), payload, options.limits(), self, first, size)
            call.name = name
            if split is not None:
                call.arguments = arguments
            calls.append(call)
        return calls

    def _accept(self, calls: Sequence[MapCall]) -> None:
        unsettled = [call for call in calls if not call.is_settled]
        if unsettled:
            self.submitted += len(unsettled)
            self._engine.accept(unsettled)

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
