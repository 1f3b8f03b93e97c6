"""Dispatches the frames of one runner, and checks that the runner keeps to the bounds in `protocol.memory_bounds`."""

from __future__ import annotations

from dragonfly_executor.core import events
from dragonfly_executor.engine.large_payloads import no_memory_for
from dragonfly_executor.engine.outcome import Outcome
from dragonfly_executor.engine.runner_messages import Ref, RunnerMessages, read_end
from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.protocol import memory_bounds
from dragonfly_executor.protocol.frames import MAX_DETAIL, SHARED, Flag, Frame, Kind, encode
from dragonfly_executor.protocol.output_window import weight
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.core.call_table import Call
    from dragonfly_executor.engine.context import EngineContext
    from dragonfly_executor.engine.large_payloads import LargePayloads
    from dragonfly_executor.engine.objects.server import ObjectServer
    from dragonfly_executor.engine.runner_messages import Result
    from dragonfly_executor.engine.shared_uploads import SharedUploads
    from dragonfly_executor.transport.call_start_table import CallStartTable
    from dragonfly_executor.transport.link import Link


MAX_GONE = 1024
"""Maximum number of killed calls that are remembered after the runner's GONE."""


class Peer(Protocol):
    """The link of the runner whose frames are dispatched."""

    id: int

    @property
    def name(self) -> str:
        """The runner's name in errors."""
        ...

    def reply(self, frame: bytes) -> None:
        """Send an answer to a request of the runner."""

    def say_bulk(self, header: bytes, piece: bytes = b"") -> None:
        """Send a frame behind the large payloads."""

    def output_consumed(self, slot: int, amount: int) -> None:
        """Count output of a slot as consumed, and tell the agent."""

    def output_forgotten(self, amount: int) -> None:
        """Count `amount` bytes of output of ended slots as consumed."""

    def microseconds(self) -> int:
        """Return the time in microseconds, as a PING carries it."""
        ...

    def has_call(self, ref: Ref) -> bool | None:
        """Return whether the call is on this runner; None if the runner was told to stop: its calls are not tracked."""

    def call(self, call_id: int) -> Call | None:
        """Return a call that is on this runner."""
        ...


class FrameHandler:
    """A dispatcher of one runner's frames. It belongs to the engine thread.

    Args:
        peer: the runner.
        transfers: its large calls and results.
        shared: the shared objects that it asks for.
        engine: the pool's, for the output of its calls, and their results in shared memory.
        starts: which of its calls have begun; None if that cannot be known.

    Attributes:
        account: its slots, and the bytes of their output that are not consumed yet.
        sessions: the process ids of its slots.
        has_memory: whether a slot of it has connected to share memory.
        is_asked: whether an idle check was sent and is not answered.
        unwritten: while the link is blocked, the calls that may still wait to be written, with their places in its
            first lane.
    """

    def __init__(
        self,
        peer: Peer,
        transfers: LargePayloads,
        shared: SharedUploads,
        engine: EngineContext,
        starts: CallStartTable | None,
    ) -> None:
        self.account = memory_bounds.OutputAccount()
        self.sessions: set[int] = set()
        self.is_asked = False
        self.has_memory = False
        self.unwritten: dict[Ref, int] = {}
        self._gone: dict[Ref, None] = {}
        self._peer = peer
        self._transfers = transfers
        self._shared = shared
        self._engine = engine
        self._outputs = engine.outputs
        self._starts = starts
        self._objects: ObjectServer | None = None
        """Serves multiprocessing's objects; None until a slot has requested one."""

    def on_frame(self, frame: Frame, said: RunnerMessages) -> None:
        """Handle one frame that is not a small result.

        Raises:
            ProtocolError: the runner went beyond a bound.
        """
        if frame.kind == Kind.OUTPUT:
            self._on_output(frame)
        elif frame.kind == Kind.SHARED_WANT:
            self._shared.requested(frame)
        elif frame.kind == Kind.OBJECT_REQUEST:
            self._on_object_request(frame)
        elif frame.kind == Kind.ITEMS:
            self._on_items((frame.call_id, frame.attempt), frame)
        elif frame.kind == Kind.PROGRESS:
            self._on_progress((frame.call_id, frame.attempt), frame)
        elif frame.call_id:
            self._on_call_frame((frame.call_id, frame.attempt), frame, said)
        else:
            self._on_runner_frame(frame, said)

    def check_written(self, said: RunnerMessages, link: Link | None) -> None:
        """Check that the runner answered no call before the call was written to the link.

        Otherwise a runner that guesses the ids of calls and never reads makes the link's queue grow without end.

        Raises:
            ProtocolError: the runner answered such a call.
        """
        if link is None or not link.is_blocked:
            self.unwritten.clear()
            return
        for ref in said.ended():
            if self.unwritten.pop(ref, -1) >= link.first_place:
                raise ProtocolError(f"an answer to call {ref[0]}, which was not sent yet")

    def _on_object_request(self, frame: Frame) -> None:
        if frame.detail in self.sessions:  # otherwise the slot has ended: its long requests come behind its end
            self._objects = self._objects or self._engine.object_server()
            self._objects.requested(self._peer, frame)

    def _on_output(self, frame: Frame) -> None:
        self.account.arrived(frame.detail, weight(frame.raw))
        is_here = None if not frame.call_id else self._is_here((frame.call_id, frame.attempt), "output")
        self._outputs.arrived(self._peer, frame, bool(is_here))

    def _is_here(self, ref: Ref, what: str) -> bool | None:
        """Return whether the call is on the runner; None if that does not matter any more.

        Raises:
            ProtocolError: the call is not on the runner.
        """
        is_here = self._peer.has_call(ref)
        if is_here is False and ref in self._gone:
            # The GONE of a call that had just ended overtakes the call's frames in the agent's second lane.
            return None
        if is_here is False:
            raise ProtocolError(f"{what} of call {ref[0]}, which is not on {self._peer.name}")
        return is_here

    def _on_call_frame(self, ref: Ref, frame: Frame, said: RunnerMessages) -> None:
        """Handle a frame about one call."""
        match frame.kind:
            case Kind.RESULT if frame.flags & Flag.SHARED:
                said.results.append(self._shared_result(frame))
            case Kind.RESULT:
                if self._is_here(ref, "the result"):
                    self._transfers.expect(ref, frame)
            case Kind.CHUNK:
                result = self._transfers.chunk_arrived(ref, frame)
                if result is not None:
                    self._shared.result_arrived(ref, result[3].size)
                    said.results.append(result)
            case Kind.PULL if frame.flags & Flag.PIECES:
                self._shared.sent_whole(ref)
                self._transfers.upload_whole(ref, frame.detail)
            case Kind.PULL:
                self._transfers.upload(ref, frame.detail)
            case Kind.STARTED:
                said.started.append(ref)
                said.started_in.append(frame.detail)
            case Kind.WAIT:
                said.waits.append((*ref, not frame.flags & Flag.END))
            case Kind.RETURNED:
                self._forget(ref)
                said.returned.append(ref)
            case Kind.LOST:
                self._forget(ref)
                said.lost.append((ref, read_end(frame)))
            case Kind.TIMED_OUT:
                self._forget(ref)
                said.timed_out.append((ref, frame.detail / 1000))
            case Kind.GONE:
                self._forget(ref)
                self._gone[ref] = None
                if len(self._gone) > MAX_GONE:
                    del self._gone[next(iter(self._gone))]
                said.gone.append(ref)

    def _on_items(self, ref: Ref, frame: Frame) -> None:
        call = self._peer.call(ref[0]) if self._is_here(ref, "items") else None
        if call is None:
            return
        if not call.is_stream:
            raise ProtocolError(f"items of call {ref[0]}, which is no stream")
        stream: Any = call
        stream.items_arrived(frame, self._peer.reply)

    def _on_progress(self, ref: Ref, frame: Frame) -> None:
        # A thread that a call has left behind may report after its call.
        call = self._peer.call(ref[0]) if self._peer.has_call(ref) else None
        progressed = getattr(None if call is None else call.token, "progressed", None)
        if progressed is not None:
            from dragonfly_executor.protocol.call_progress import read_progress

            progressed(read_progress(frame.payload))

    def _shared_result(self, frame: Frame) -> Result:
        """Return a result whose payload is in shared memory.

        Raises:
            ProtocolError: it is not there, or is larger than it may be.
        """
        if len(frame.payload) != SHARED.size:
            raise ProtocolError(f"the place of a result has {len(frame.payload)} bytes, not {SHARED.size}")
        number, index, length = SHARED.unpack(frame.payload)
        if length > (most := memory_bounds.max_result_bytes(self._engine.options.max_payload, frame.flags)):
            raise ProtocolError(f"a result of {length} bytes in shared memory, more than {most}")
        memory = self._engine.payloads.shared_memory()
        if memory is None:
            raise ProtocolError("a result in shared memory, which this pool does not use")
        try:
            data = memory.result(number, index, length)
            outcome = Outcome(self._engine.codec, data, bool(frame.flags & Flag.ERROR))
        except MemoryError:
            outcome = Outcome.failed(no_memory_for(length))
        return frame.call_id, frame.attempt, frame.detail * 1e-6, outcome, bool(frame.flags & Flag.RETRYABLE)

    def close(self) -> None:
        """Give up what the runner's slots shared, because the link has ended."""
        if self._objects is not None:
            self._objects.runner_is_gone(self._peer.id)
        if self.has_memory:
            memory = self._engine.payloads.shared_memory()
            if memory is not None:
                memory.runner_is_gone(self._peer.id)

    def _forget(self, ref: Ref) -> None:
        """Release the state of a call that has left the runner without a result."""
        self._transfers.forget(ref)
        if self._starts is not None:
            self._starts.release(ref)

    def _on_runner_frame(self, frame: Frame, said: RunnerMessages) -> None:
        """Handle a frame about the runner as a whole."""
        match frame.kind:
            case Kind.IDLE:
                said.latest[events.IdleChecked] = events.IdleChecked(self._peer.id, bool(frame.detail))
                if self.is_asked:
                    said.warning = bytes(frame.payload).decode(errors="replace")
                self.is_asked = False
            case Kind.SETUP_FAILED:
                said.setup_failure = (bytes(frame.payload), bool(frame.flags & Flag.ERROR))
            case Kind.SLOT_UP:
                self.account.slot_is_up(frame.detail)
                self.sessions.add(frame.detail)
            case Kind.SLOT_DOWN:
                self.sessions.discard(frame.detail)
                if self.has_memory and (memory := self._engine.payloads.shared_memory()) is not None:
                    memory.slot_is_down(frame.detail)
                if self._objects is not None:
                    self._objects.slot_is_down(self._peer.id, frame.detail)
                if self.account.slot_is_down(frame.detail):
                    self._outputs.slot_is_down(self._peer, frame.detail)
            case Kind.PING:
                self._peer.reply(encode(Kind.PONG, detail=frame.detail))
            case Kind.PONG:
                seconds = ((self._peer.microseconds() - frame.detail) & MAX_DETAIL) / 1e6
                said.latest[events.RoundTrip] = events.RoundTrip(self._peer.id, seconds)
            case Kind.SYNC_HAVE | Kind.SYNC_END:
                said.synced.append(frame)
            case Kind.STOP:
                said.leaving = True
            case Kind.BYE:
                said.bye = True
