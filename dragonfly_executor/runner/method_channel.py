"""The messages between a placed worker, in its slot, and its parent, and the methods that it runs one at a time.

A thread of the slot reads what the parent says (`runner/reply_reader.py`). The main thread makes the object, and runs
its methods in the order in which they were sent. Before it runs one it claims the call, so that the reading thread can
drop a call that has not begun.
"""

from __future__ import annotations

import os
from _queue import Empty, SimpleQueue  # `queue` imports threading
from time import perf_counter
from types import CoroutineType

from dragonfly_executor.errors.base import FrameTooLargeError, UnopenedCallError
from dragonfly_executor.protocol.frames import MAX_INLINE, Flag
from dragonfly_executor.protocol.memory_bounds import max_result_bytes
from dragonfly_executor.protocol.placed_messages import METHOD, NUMBER, EndFlag, MethodFlag, ParentSays, SlotSays
from dragonfly_executor.runner import slot_shutdown
from dragonfly_executor.runner.slot_payloads import MEMORY_IDLE
from dragonfly_executor.serialization.layout import BOX, NOTHING, WITH_SHARED
from dragonfly_executor.serialization.remote_object import RemoteStore
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from dragonfly_executor.protocol.frames import Frame
    from dragonfly_executor.runner.object_client import ObjectClient
    from dragonfly_executor.runner.slot_payloads import SlotPayloads
    from dragonfly_executor.runner.slot_shared import SlotShared
    from dragonfly_executor.serialization import SlotCodec
    from dragonfly_executor.serialization.layout import Buffer, BufferSource


class SlotParts:
    """The parts of a slot that a worker uses.

    Attributes:
        codec: opens method calls, and encodes their results.
        payloads: the slot's large payloads.
        shared: the slot's shared objects.
        max_payload: maximum size of a result in bytes.
        running: id and attempt of the worker's call.
    """

    __slots__ = ("codec", "max_payload", "payloads", "running", "shared")

    def __init__(
        self, codec: SlotCodec, payloads: SlotPayloads, shared: SlotShared, max_payload: int, running: tuple[int, int]
    ) -> None:
        self.codec = codec
        self.payloads = payloads
        self.shared = shared
        self.max_payload = max_payload
        self.running = running


class MethodMessage:
    """A method call that has arrived, and has not begun."""

    __slots__ = ("body", "flags", "number")

    def __init__(self, number: int, flags: int, body: Buffer) -> None:
        self.number = number
        self.flags = flags
        self.body = body


class MethodChannel:
    """The slot's end of the messages of one worker.

    Args:
        client: sends what the slot says.
        number: the number of the parent's side.
        slot: what it uses of the slot.
    """

    def __init__(self, client: ObjectClient, number: int, slot: SlotParts) -> None:
        self._client = client
        self._number = number
        self._codec = slot.codec
        self._payloads = slot.payloads
        self._shared = slot.shared
        self._max_payload = slot.max_payload
        self._call = slot.running
        self._due: SimpleQueue[int] = SimpleQueue()
        """The numbers of the calls that have arrived, in order; 0 for the end."""
        self._arrived: dict[int, MethodMessage] = {}
        """The calls that have not begun. The thread that takes one out owns it: the main one, or one that drops it."""
        self._early: dict[int, MethodMessage] = {}
        """Calls that have overtaken a longer one."""
        self._dropped: set[int] = set()
        """Calls to drop that have not arrived yet."""
        self._next = 1
        self._partial = bytearray()
        self._on_due: Callable[[], object] | None = None
        self._store = RemoteStore(self._call[0])
        self._again: SimpleQueue[MethodMessage] = SimpleQueue()
        """The bytes of calls that could not be opened in shared memory."""
        self.on_signal: Callable[[int], object] | None = None
        """Gets the signals that the parent sends, on the reading thread."""
        self.on_stop: Callable[[], object] | None = None
        """Called on the reading thread when the parent stops the worker."""
        self.on_end_task: Callable[[int], object] | None = None
        """Gets the numbers of calls that have begun and are to end, on the reading thread."""

    # -- the parent's messages, on the reading thread ------------------------------------------------------------------

    def open(self) -> None:
        """See `WorkerChannel`."""
        RemoteStore.of_worker.set(self._store)
        self._client.tell(self._number, "adopt")
        self._token = self._client.listen(self._on_frame)
        self.say(SlotSays.OPEN, self._token, self._call[0])

    def close(self) -> None:
        """See `WorkerChannel`."""
        RemoteStore.of_worker.set(None)
        self._client.stop_listening(self._token)
        self._client.tell(self._number, "drop")

    def _on_frame(self, frame: Frame) -> None:
        kind = frame.attempt
        if kind == ParentSays.METHOD:
            self._on_method(frame)
        elif kind == ParentSays.CANCEL:
            self._drop(NUMBER.unpack(frame.payload)[0])
        elif kind == ParentSays.END_TASK:
            number = NUMBER.unpack(frame.payload)[0]
            if not self._drop(number) and self.on_end_task is not None:
                self.on_end_task(number)
        elif kind == ParentSays.SIGNAL and self.on_signal is not None:
            self.on_signal(NUMBER.unpack(frame.payload)[0])
        elif kind == ParentSays.STOP and self.on_stop is not None:
            self.on_stop()
        elif kind == ParentSays.STOP:
            self._put(0)

    def _on_method(self, frame: Frame) -> None:
        data: Buffer = frame.payload
        if frame.flags & Flag.LARGE:
            self._partial += data
            if frame.flags & Flag.MORE:
                return
            data, self._partial = memoryview(self._partial), bytearray()
        number, flags = METHOD.unpack_from(data)
        message = MethodMessage(number, flags, data[METHOD.size :])
        if number < self._next:
            self._again.put(message)
            return
        self._early[number] = message
        while (following := self._early.pop(self._next, None)) is not None:
            number, self._next = self._next, self._next + 1
            if number in self._dropped:
                self._dropped.discard(number)
                self._say_dropped(number)
                continue
            self._arrived[number] = following
            self._put(number)

    def _put(self, number: int) -> None:
        self._due.put(number)
        if self._on_due is not None:
            self._on_due()

    def _drop(self, number: int) -> bool:
        """Drop a call. Returns False if it has begun."""
        if number >= self._next:
            self._dropped.add(number)
        elif self._arrived.pop(number, None) is not None:
            self._say_dropped(number)
        else:
            return False
        return True

    def _say_dropped(self, number: int) -> None:
        self.say(SlotSays.DONE, number, EndFlag.DROPPED, 0, b"")

    # -- the methods ---------------------------------------------------------------------------------------------------

    def say(self, what: str, *args: Any) -> None:
        """Tell the parent something. Any thread may call this."""
        self._client.tell(self._number, what, *args)

    def run_coroutine(self, coroutine: Any) -> Any:
        """See `WorkerChannel`."""
        return self._codec.run_coroutine(coroutine)

    def run_process(self, argv: list[str], settings: Mapping[str, Any]) -> Any:
        """See `WorkerChannel`."""
        # Imported only in slots that run one.
        from dragonfly_executor.runner.placed_process import SupervisedProcess

        return SupervisedProcess(self, argv, settings).run()

    def when_due(self, callback: Callable[[], object]) -> None:
        """Call `callback`, on the reading thread, when `take` may have another call."""
        self._on_due = callback

    def take(self, *, wait: bool = True) -> MethodMessage | None:
        """Claim the next call; None for the end. It is a call that no other thread can drop any more.

        Raises:
            Empty: there is none, and `wait` is False.
        """
        while number := self._next_number() if wait else self._due.get(False):
            message = self._arrived.pop(number, None)
            if message is not None:
                return message
        return None

    def _next_number(self) -> int:
        if self._payloads.share_memory:
            try:
                return self._due.get(True, MEMORY_IDLE)
            except Empty:
                self._payloads.trim()
        return self._due.get()

    def serve(self, target: Any, concurrency: int) -> None:
        """See `WorkerChannel`."""
        self.say(SlotSays.READY)
        if concurrency > 1:
            # Imported only if methods run at once.
            from dragonfly_executor.runner.concurrent_methods import serve_many

            serve_many(self, target, concurrency)
            return
        while (message := self.take()) is not None:
            started = self.decode(message)
            if started is None:
                continue
            number, call, since = started
            del message, started
            self.finish(number, since, *self._run(target, *call))
            del call
            slot_shutdown.flush_standard_streams()

    def serve_tasks(self, concurrency: int) -> None:
        """See `WorkerChannel`."""
        # Imported only in slots that share their loop among calls.
        from dragonfly_executor.runner.task_server import serve_tasks

        serve_tasks(self, concurrency)

    def _run(
        self, target: Any, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], retry_on: Any
    ) -> tuple[Any, BaseException | None, bool]:
        """Run one method. Returns its value and None, or None and its exception; and whether it may be retried."""
        try:
            value = fn(target, *args, **kwargs)
            if type(value) is CoroutineType:
                value = self._codec.run_coroutine(value)
        except BaseException as error:
            return None, error, bool(retry_on) and isinstance(error, retry_on)
        return value, None, False

    def decode(self, message: MethodMessage) -> tuple[int, tuple[Any, ...], float] | None:
        """Open a call. If that fails, answer it, and return None. Only the main thread may call this.

        Returns:
            Its number, what `SlotCodec.decode_call` returns, and the time at which it begins.
        """
        number, flags = message.number, message.flags
        try:
            data, beside = self._payload(message)
            del message
            if data[0] == BOX and data[1] & WITH_SHARED:
                absent = self._shared.fetch(data, *self._call)
                if absent is not None:
                    raise absent
            call = self._codec.decode_call(data, beside)
        except BaseException as error:
            failure = error if isinstance(error, UnopenedCallError) else _unopened(error)
            self.finish(number, perf_counter(), None, failure, False)
            return None
        if flags & MethodFlag.REPORTS:
            self.say(SlotSays.BEGAN, number)
        return number, call, perf_counter()

    def _payload(self, message: MethodMessage) -> tuple[Any, Mapping[int, BufferSource]]:
        """Return the payload of a call, and its buffers that lie elsewhere."""
        if message.flags & MethodFlag.SHARED:
            opened = self._payloads.open_shared(message.body)
            if opened is not None:
                return opened
            self.say(SlotSays.AGAIN, message.number)
            message = self._again.get()
        # Arrays in the call may be views of its bytes, and those of a small one are read faster than a view.
        return bytes(message.body) if len(message.body) <= MAX_INLINE else message.body, NOTHING

    def finish(self, number: int, since: float, value: Any, error: BaseException | None, retryable: bool) -> None:
        """Answer a call. One thread at a time may call this.

        Args:
            number: the call.
            since: the time at which it began.
            value, error: its value, or its exception.
            retryable: whether the caller wants the exception retried.
        """
        if not self._codec.mark.is_here():
            # The method forked, and its child returned here. Only the original process may answer.
            os._exit(0)
        microseconds = int((perf_counter() - since) * 1e6)
        flags = 0
        try:
            if error is not None:
                raise error
            parts = self._codec.encode_result(value)
        except BaseException as failure:
            flags = EndFlag.ERROR | (EndFlag.RETRYABLE if retryable else 0)
            parts = self._codec.encode_error(failure)
        del value, error
        total = sum(map(len, parts))
        if total > (most := max_result_bytes(self._max_payload, flags & EndFlag.ERROR)):
            what = "error" if flags else "result"
            text = f"the method's {what} takes {total} bytes, more than max_payload={most}"
            flags, parts = EndFlag.ERROR, self._codec.encode_error(FrameTooLargeError(text))
            total = sum(map(len, parts))
        self._send_end(number, flags, microseconds, parts, total)

    def _send_end(self, number: int, flags: int, microseconds: int, parts: list[Any], total: int) -> None:
        stay: tuple[int, ...] = ()
        if self._store.fresh:
            stay = self._store.take_fresh()
            if flags & EndFlag.ERROR:
                self._store.release(stay)
                stay = ()
        if total > MAX_INLINE:
            place = self._payloads.put_shared(parts, total)
            if place is not None:
                # The parent may use the arguments' memory again as soon as it has the result.
                parts.clear()
                self.say(SlotSays.DONE, number, flags | EndFlag.SHARED, microseconds, (*place, total), *stay)
                return
            self.say(SlotSays.LEAVING, number)
        self.say(SlotSays.DONE, number, flags, microseconds, b"".join(parts), *stay)


def _unopened(error: BaseException) -> UnopenedCallError:
    """Return the error of a call that cannot be opened."""
    failure = UnopenedCallError(f"{type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure
