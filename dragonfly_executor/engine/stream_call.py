"""`StreamCall`: a call whose items come while it runs."""

from __future__ import annotations

from _thread import allocate_lock
from collections import deque
from collections.abc import Callable

from dragonfly_executor.core.actions import CANCELLED
from dragonfly_executor.core.calls import Call
from dragonfly_executor.engine.outcome import Outcome
from dragonfly_executor.engine.stream_consumers import current_consumer
from dragonfly_executor.errors import ForkedExecutorError, ProtocolError
from dragonfly_executor.protocol.frames import HEADER_SIZE, Flag, Kind, encode
from dragonfly_executor.protocol.memory_bounds import BATCH_ROOM, STREAM_BYTES
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, TypeAlias

    from dragonfly_executor.core.calls import Payload
    from dragonfly_executor.engine.context import StreamContext
    from dragonfly_executor.engine.loop_waker import LoopWaker
    from dragonfly_executor.engine.options import CallOptions
    from dragonfly_executor.engine.progress_relay import ProgressRelay
    from dragonfly_executor.protocol.call_progress import CallProgress
    from dragonfly_executor.protocol.frames import Frame

    Batch: TypeAlias = tuple[bytes | bytearray, int]
    """A batch as the slot has encoded it, and the number of its items."""

CLOSE_GRACE = 1.0
"""Seconds in which a function whose stream was closed must reach its next item. Then its slot is killed."""


class StreamCall(Call):
    """The call of a stream: the core's record of it, and the receiver of its items and of its outcome, in one object.

    The engine thread adds items, and one thread or one task at a time takes them.

    Args:
        engine: runs the call.
        payload: the encoded call.
        options: its options.

    Attributes:
        batches: the batches that were not taken, in order.
        outcome: its outcome, once it is settled: as `CallToken.settle` gets it.
        is_settled: whether it has its outcome.
        is_closed: whether no more items are wanted.
        consumer: what took items last.
        progress: what the call has reported last.
    """

    __slots__ = (
        "__weakref__", "_arrived", "_bell", "_engine", "_hook", "_is_awaited", "_kills", "_max_payload", "_partial",
        "_relay", "_resume", "_taken", "_waker", "_window", "batches", "consumer", "has_items", "is_closed",
        "is_settled", "outcome", "progress",
    )  # fmt: skip
    is_stream = True

    def __init__(self, engine: StreamContext, payload: Payload, options: CallOptions) -> None:
        limits = options.limits()
        super().__init__(next(engine.ids), payload, self, limits, limits.kind)
        self._engine = engine
        self._window = options.stream_buffersize
        self._kills = options.cancel_running
        self._hook = options.on_progress
        self._relay: ProgressRelay | None = None
        self._max_payload = engine.options.max_payload
        self.batches: deque[Batch] = deque()
        self.outcome: object = None
        self.progress: CallProgress | None = None
        self.is_settled = self.is_closed = self.has_items = False
        self.consumer = current_consumer()
        self._partial: bytearray | None = None
        self._arrived = [0, 0]  # items and bytes; only the engine thread changes them
        self._taken = [0, 0]  # only what takes the items changes them
        self._is_awaited = False
        self._bell = allocate_lock()
        self._bell.acquire()
        self._waker: LoopWaker | None = None
        self._resume: Callable[[], None] | None = None

    # -- the engine thread ---------------------------------------------------------------------------------------------

    def hand_over(self) -> bool:
        """Accept that the call is sent to a runner, the first time or again."""
        self._partial = None
        return True

    def items_arrived(self, frame: Frame, reply: Callable[[bytes], object]) -> None:
        """Add a batch, or a piece of one.

        Args:
            frame: an ITEMS frame.
            reply: answers the runner.

        Raises:
            ProtocolError: the runner went beyond the window, or beyond the size of an item.
        """
        if self.is_settled:
            return
        if self.limits.retries:
            # The caller may have taken an item by the time the slot is lost, and must not get it twice.
            self.limits = self.limits.without_retries()
        self.has_items = True
        if self.is_closed:
            reply(self._message(flags=Flag.END))
            return
        data: bytes | bytearray = frame.raw[HEADER_SIZE:]
        if self._partial is not None or frame.flags & Flag.MORE:
            whole = self._partial = self._partial or bytearray()
            whole += data
            if len(whole) > self._max_payload + BATCH_ROOM:
                raise ProtocolError(f"a batch of more than {self._max_payload} bytes of stream {self.id}")
            if frame.flags & Flag.MORE:
                reply(self._message(len(data), flags=Flag.MORE))
                return
            data, self._partial = whole, None
        self._check(frame.detail)
        self._arrived[0] += frame.detail
        self._arrived[1] += len(data)
        self.batches.append((data, frame.detail))
        self._wake()

    def _check(self, count: int) -> None:
        ahead = self._arrived[0] - self._taken[0] + count
        if not count or ahead > self._window:
            raise ProtocolError(
                f"{ahead} items of stream {self.id} are not taken yet, and its window is {self._window}"
            )
        size = self._arrived[1] - self._taken[1]
        if size > STREAM_BYTES + self._max_payload + BATCH_ROOM:
            raise ProtocolError(f"{size} bytes of stream {self.id} are not taken yet")

    def progressed(self, progress: CallProgress) -> None:
        """Keep a report of the call, and have the callback called."""
        self.progress = progress
        if self._hook is not None:
            if self._relay is None:
                from dragonfly_executor.engine.progress_relay import ProgressRelay

                self._relay = ProgressRelay(self._hook, self._engine.call_back)
            self._relay.add(progress)

    def settle(self, outcome: object) -> None:
        """Keep the outcome, which follows the items."""
        self._partial = None
        self.outcome = outcome
        self.is_settled = True
        self._engine.streams.discard(self)
        self._wake()

    def _wake(self) -> None:
        """Wake what waits for the next item."""
        # The batch, or the outcome, is there first. So either the consumer sees it, or this sees that it waits.
        if not self._is_awaited:
            return
        self._is_awaited = False
        if self._waker is not None and self._resume is not None:
            self._waker.add(self._resume)
            self._engine.wakers.flush()
        elif self._bell.locked():
            self._bell.release()

    def _message(self, number: int = 0, flags: int = 0) -> bytes:
        return encode(Kind.ITEMS, self.id, flags=flags, attempt=self.attempt, detail=number)

    # -- what takes the items ------------------------------------------------------------------------------------------

    def taken(self, batch: Batch) -> None:
        """Note that the items of a batch were taken, so that more may come."""
        data, count = batch
        self._taken[0] += count
        self._taken[1] += len(data)
        if not self.is_settled:
            self._engine.streams.tell(self, self._message(count))

    def has_changed(self) -> bool:
        """Return whether there is a batch, or the outcome."""
        return bool(self.batches) or self.is_settled

    def wait(self) -> None:
        """Wait until there is a batch, or the outcome.

        Raises:
            ForkedExecutorError: the call belongs to the process that this one was forked from.
        """
        self._check_process()
        self._waker = self._resume = None
        try:
            while True:
                self._is_awaited = True
                if self.has_changed():
                    return
                self._bell.acquire()
        finally:
            self._is_awaited = False

    async def wait_async(self) -> None:
        """Wait in a task until there is a batch, or the outcome. It may return without a reason."""
        from dragonfly_executor.engine.awaiting import resuming, running_loop

        self._check_process()
        loop = running_loop()
        resumed = loop.create_future()
        self._waker, self._resume = self._engine.wakers.of(loop), resuming(resumed)
        try:
            self._is_awaited = True
            if not self.has_changed():
                await resumed
        finally:
            self._is_awaited = False
            self._waker = self._resume = None  # the latter holds the loop

    def _check_process(self) -> None:
        if self._engine.forked:
            raise ForkedExecutorError(
                "this stream belongs to the process that this one was forked from: its items arrive only there"
            )

    def end(self) -> tuple[Any, BaseException | None]:
        """Return the value of a settled call and None, or None and its error, and forget the outcome."""
        outcome, self.outcome = self.outcome, None
        if type(outcome) is Outcome:
            return outcome.open()
        if outcome is CANCELLED:
            from concurrent.futures import CancelledError

            return None, CancelledError()
        return None, outcome  # type: ignore[return-value]  # an exception, or nothing

    # -- any thread ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Want no more items: the function's iterator is closed at its next item, and killed if that takes long."""
        if self.is_closed or self.is_settled:
            return
        self.is_closed = True
        self._engine.streams.close(self)

    def stop(self, tell: Callable[[bytes], object], later: Callable[[float], object]) -> None:
        """Stop the function of a stream that was closed. Runs on the engine thread.

        Args:
            tell: sends a frame to its runner.
            later: cancels the call after a number of seconds.
        """
        if self.is_settled:
            return
        tell(self._message(flags=Flag.END))
        if self._kills:
            later(CLOSE_GRACE if self.has_items else 0.0)

    def cancel(self) -> None:
        """Cancel the call, and stop it if it runs."""
        self.is_closed = True
        self._engine.cancel((self,), running=self._kills)
