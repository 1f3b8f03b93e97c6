"""The agent of a fake runner: the runner's end of the protocol, on threads."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from types import CoroutineType
from typing import Any

from dragonfly_executor import errors
from dragonfly_executor.protocol import handshake
from dragonfly_executor.protocol.call_progress import pack_progress
from dragonfly_executor.protocol.frames import (
    CALL_OPTIONS,
    HEADER_SIZE,
    MAX_INLINE,
    SETUP_HEAD,
    TOTAL,
    Decoder,
    Flag,
    Frame,
    Kind,
    encode,
    split_bulk,
)
from dragonfly_executor.protocol.handshake import Versions
from dragonfly_executor.protocol.memory_bounds import max_result_bytes
from dragonfly_executor.protocol.parent import PARENT_OF_FAKE, POOL_OF_FAKE, Parent
from dragonfly_executor.runner.progress_reports import REPORT_OF_FAKE
from dragonfly_executor.serialization import SlotCodec, perform
from dragonfly_executor.serialization.rebuild import OBJECT_SOURCE
from dragonfly_executor.serialization.slot_loop import SlotLoop
from dragonfly_executor.testing.fake_items import FakeItems
from dragonfly_executor.testing.fake_shared import FakeShared
from dragonfly_executor.testing.fake_slot import FakeSlot

Ref = tuple[int, int]
Buffer = bytes | memoryview
Received = bytes | bytearray | memoryview
EVERYTHING = 2**31
"""Number of chunks to request at once. A fake runner has memory for all."""


class LoopOfEachCall(SlotLoop):
    """A loop for each coroutine, because each call has a thread of its own."""

    def run(self, coroutine: CoroutineType[Any, Any, Any]) -> Any:
        """Run a coroutine to its end, and return its value."""
        import asyncio  # few tests need it, and it is slow to import

        return asyncio.run(coroutine)


class FakeAgent(threading.Thread):
    """A thread that reads frames, and runs each call on a thread of its own, as many at once as it has slots.

    Args:
        sock: the runner's end of the link.
        claimed: the versions for HELLO; None to send no HELLO.
        dies_after: number of calls to answer before the link ends at the next call; None for no such end.
        parent: the result of `Parent.get` in the calls, with the slot.
    """

    def __init__(self, sock: socket.socket, claimed: Versions | None, dies_after: int | None, parent: Parent) -> None:
        super().__init__(name="fake-agent", daemon=True)
        self._parent = parent
        self._sock = sock
        self._claimed = claimed
        self._calls_left = dies_after
        self._speaking = threading.Lock()
        self._frozen = False
        self._codec: SlotCodec
        self._shared: FakeShared
        self._slots = 0
        self._setup = b""
        self._max_payload = 0
        self._live: dict[Ref, int] = {}  # each with the number of its slot
        self._calls: dict[Ref, FakeSlot] = {}  # of those that run
        self._by_number: dict[int, FakeSlot] = {}  # the same, by the number in their requests
        self._numbers = count(1)
        self._uploads: dict[Ref, bytearray] = {}
        self._streams: dict[Ref, FakeItems] = {}
        self._changed = threading.Condition()
        self._on: dict[int, Callable[[Frame], None]] = {
            Kind.WELCOME: self._on_welcome,
            Kind.SETUP: self._on_setup,
            Kind.PING: lambda frame: self._say(Kind.PONG, detail=frame.detail),
            Kind.CALL: self._on_call,
            Kind.CHUNK: self._on_chunk,
            Kind.KILL: self._on_kill,
            Kind.ITEMS: self._on_items,
            Kind.CHECK_IDLE: self._on_check_idle,
            Kind.STOP: self._on_stop,
            Kind.OBJECT_REPLY: self._on_reply,
            Kind.SHARED_DATA: self._on_shared,
            Kind.SHARED_FORGET: self._on_shared,
        }

    # -- for tests ----------------------------------------------------------------------------------------------------

    def cut(self) -> None:
        """End the link, in both directions."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it has ended

    def freeze(self) -> None:
        """Stop sending, and ignore everything except the end of the link."""
        self._frozen = True

    # -- the thread ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Handle frames until the link ends."""
        # The initializer and the idle check run on this thread.
        PARENT_OF_FAKE.set(self._parent._replace(slot=0))
        decoder = Decoder()
        with self._sock:
            if self._claimed is not None:
                self._say(Kind.HELLO, payload=handshake.hello("fake", self._claimed))
            while data := self._receive():
                for frame in decoder.feed(data):
                    if self._frozen:
                        continue  # ignore the frame
                    self._on.get(frame.kind, self._on_other)(frame)
            with self._speaking:
                self._frozen = True
        with self._changed:
            self._live.clear()
            self._changed.notify_all()
        for slot in list(self._by_number.values()):
            slot.end()
        for stream in list(self._streams.values()):
            stream.close()

    def _receive(self) -> bytes:
        try:
            return self._sock.recv(64 * 1024)
        except OSError:
            return b""

    def _say(self, kind: int, ref: Ref = (0, 0), payload: bytes = b"", *, flags: int = 0, detail: int = 0) -> None:
        self._send(encode(kind, ref[0], payload, flags=flags, attempt=ref[1], detail=detail))

    def _send(self, *pieces: Buffer) -> None:
        with self._speaking:
            if self._frozen:
                return
            try:
                for piece in pieces:
                    self._sock.sendall(piece)
            except OSError:
                return  # the parent has gone: the reading side ends the thread

    # -- frames of the parent -----------------------------------------------------------------------------------------

    def _on_other(self, frame: Frame) -> None:
        if frame.kind == Kind.REFUSE:
            self.cut()

    def _on_welcome(self, frame: Frame) -> None:
        self._slots = handshake.read_welcome(bytes(frame.payload))["slots"]

    def _on_setup(self, frame: Frame) -> None:
        self._setup += frame.payload
        if frame.flags & Flag.MORE:
            return
        self._max_payload, size, _, _ = SETUP_HEAD.unpack_from(self._setup)
        own = self._setup[SETUP_HEAD.size :]
        # Do not call `prepare`: it sets the process up like the parent, and this process is the parent.
        self._codec = SlotCodec(own[:size])
        self._codec.loop = LoopOfEachCall()
        self._shared = FakeShared(self._say, self._codec.open_shared)
        self._codec.shared = self._shared.load
        if initializer := own[size:]:
            is_error, _, parts = perform(self._codec, initializer)
            if is_error:
                self._say(Kind.SETUP_FAILED, payload=b"".join(parts), flags=Flag.ERROR)
                self._on[Kind.CALL] = lambda frame: None  # no slot, no answer: the pool breaks

    def _on_call(self, frame: Frame) -> None:
        ref = (frame.call_id, frame.attempt)
        lent = sum(slot.is_waiting for slot in list(self._calls.values()))
        if len(self._live) - lent >= self._slots:
            # The call was prefetched. A call that waits here may start at once on another runner.
            self._say(Kind.RETURNED, ref)
            return
        if self._calls_left is not None:
            if not self._calls_left:
                self.cut()
                return
            self._calls_left -= 1
        with self._changed:
            taken = {*self._live.values()}
            self._live[ref] = next(number for number in count() if number not in taken)
        if frame.flags & (Flag.LARGE | Flag.PIECES):
            self._uploads[ref] = bytearray()
            # A fake runner keeps no pieces: it asks for the whole payload.
            self._say(Kind.PULL, ref, flags=frame.flags & Flag.PIECES, detail=EVERYTHING)
            return
        start = HEADER_SIZE + (CALL_OPTIONS.size if frame.flags & Flag.OPTIONS else 0)
        self._run_in_slot(ref, memoryview(frame.raw)[start:])

    def _on_chunk(self, frame: Frame) -> None:
        ref = (frame.call_id, frame.attempt)
        data = self._uploads.get(ref)
        if data is None:
            return
        data += frame.payload
        if not frame.flags & Flag.MORE:
            self._run_in_slot(ref, self._uploads.pop(ref))

    def _on_items(self, frame: Frame) -> None:
        stream = self._streams.get((frame.call_id, frame.attempt))
        if stream is not None:
            stream.told(frame)

    def _on_shared(self, frame: Frame) -> None:
        if frame.kind == Kind.SHARED_DATA:
            self._shared.arrived(frame)
        else:
            self._shared.forget(frame)

    def _on_kill(self, frame: Frame) -> None:
        ref = (frame.call_id, frame.attempt)
        self._uploads.pop(ref, None)
        # Answer even if the call never was here, as the real agent does: the parent counts the call here until GONE.
        slot = self._calls.get(ref)
        self._settle(ref)
        if slot is not None:
            self._end_slot(slot)
        self._say(Kind.GONE, ref)

    def _on_check_idle(self, frame: Frame) -> None:
        try:
            check, args, kwargs, _ = self._codec.decode_call(frame.payload)
            may_go = bool(check(*args, **kwargs))
        except BaseException as error:  # the user's own code
            sys.excepthook(type(error), error, error.__traceback__)
            may_go = False
        self._say(Kind.IDLE, detail=int(may_go))

    def _on_reply(self, frame: Frame) -> None:
        slot = self._by_number.get(frame.detail)
        if slot is not None:
            slot.replied(frame)

    def _on_stop(self, frame: Frame) -> None:
        # On a thread of its own, because the calls that have begun may wait for replies.
        leave = threading.Thread(target=self._leave, args=(frame.detail / 1000,), name="fake-agent-stop", daemon=True)
        with suppress(RuntimeError):  # at the exit of the interpreter no thread starts any more
            leave.start()

    def _leave(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._live, seconds)
        self._say(Kind.BYE)
        self.cut()

    # -- calls --------------------------------------------------------------------------------------------------------

    def _run_in_slot(self, ref: Ref, data: Received) -> None:
        self._shared.when_here(data, lambda: self._start_slot(ref, data))

    def _start_slot(self, ref: Ref, data: Received) -> None:
        threading.Thread(target=self._run, args=(ref, data), name="fake-slot", daemon=True).start()

    def _run(self, ref: Ref, data: Received) -> None:
        """Run a call on a slot's thread."""
        PARENT_OF_FAKE.set(self._parent._replace(slot=self._live.get(ref, 0)))
        REPORT_OF_FAKE.set(lambda *report: self._say(Kind.PROGRESS, ref, pack_progress(*report)))
        slot = FakeSlot(next(self._numbers), ref, self._codec, self._max_payload, self._send)
        self._calls[ref] = self._by_number[slot.number] = slot
        OBJECT_SOURCE.set(slot.stand_in)
        POOL_OF_FAKE.set(slot.pool)
        self._say(Kind.STARTED, ref)
        is_error, retryable, parts = perform(self._codec, data, open_sink=lambda window: self._stream(ref, window))
        slot.call_ended()
        flags = (Flag.ERROR if is_error else 0) | (Flag.RETRYABLE if retryable else 0)
        size = sum(map(len, parts))
        if size > max_result_bytes(self._max_payload, flags):
            text = f"the call's result takes {size} bytes, and max_payload is {self._max_payload}"
            flags, parts = Flag.ERROR, self._codec.encode_error(errors.FrameTooLargeError(text))
        if self._settle(ref):
            self._say_result(ref, flags, parts)
        self._end_slot(slot)

    def _end_slot(self, slot: FakeSlot) -> None:
        """End the slot of a call: the parent releases what the call holds."""
        self._by_number.pop(slot.number, None)
        if slot.end():
            self._say(Kind.SLOT_DOWN, detail=slot.number)

    def _stream(self, ref: Ref, window: int) -> FakeItems:
        stream = self._streams[ref] = FakeItems(self._codec, ref, window, self._send)
        return stream

    def _settle(self, ref: Ref) -> bool:
        """Mark this call as answered. Return whether it was still unanswered."""
        stream = self._streams.pop(ref, None)
        if stream is not None:
            stream.close()
        with self._changed:
            number = self._live.pop(ref, None)
            self._calls.pop(ref, None)
            self._changed.notify_all()
            return number is not None

    def _say_result(self, ref: Ref, flags: int, parts: Sequence[Buffer]) -> None:
        size = sum(map(len, parts))
        if size <= MAX_INLINE:
            self._say(Kind.RESULT, ref, b"".join(parts), flags=flags)
            return
        head = encode(Kind.RESULT, ref[0], TOTAL.pack(size), flags=flags | Flag.LARGE | Flag.MORE, attempt=ref[1])
        self._send(head, *(piece for chunk in split_bulk(*ref, list(parts)) for piece in chunk))
