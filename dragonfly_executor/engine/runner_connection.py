"""The parent's side of one runner: its node, its link, and the frames on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from dragonfly_executor import errors
from dragonfly_executor.core.call_table import Call
from dragonfly_executor.core.events import ResultsArrived
from dragonfly_executor.engine.call_frames import call_frame, without_pieces
from dragonfly_executor.engine.file_updates import FileUpdates
from dragonfly_executor.engine.frame_handler import FrameHandler
from dragonfly_executor.engine.large_payloads import LargePayloads, SharedPayload
from dragonfly_executor.engine.outcome import Outcome
from dragonfly_executor.engine.runner_messages import Ref, Result, RunnerMessages, read_hello
from dragonfly_executor.engine.shared_uploads import SharedUploads
from dragonfly_executor.protocol import handshake, memory_bounds
from dragonfly_executor.protocol.frames import CHUNK_SIZE, HEADER, HEADER_SIZE, MAX_DETAIL, Flag, Frame, Kind, encode
from dragonfly_executor.protocol.stdlib_json import json
from dragonfly_executor.protocol.versions import versions_like
from dragonfly_executor.serialization.payload_parts import PayloadParts
from dragonfly_executor.transport.codecs import Codecs
from dragonfly_executor.transport.link import Link
from dragonfly_executor.transport.streams import as_socket
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from dragonfly_executor.backends.base import Node, Stream
    from dragonfly_executor.engine.context import EngineContext
    from dragonfly_executor.transport.loop import Loop
    from dragonfly_executor.transport.pump import Pump

PUMP_TIMEOUT = 5.0
"""Seconds to wait for the threads of a pump, after the link has ended, before an error is logged."""
VIEWED_FROM = 4096
"""Size in bytes from which the payload of a result is a view of its frame."""
dumps = json.dumps
"""Json is loaded at its first use, so here: a pool loads this module while it still has memory and descriptors."""
# As plain module names, because an enum lookup takes longer than the comparison.
CALL, RESULT, ERROR, RETRYABLE, ITEM = int(Kind.CALL), int(Kind.RESULT), Flag.ERROR, Flag.RETRYABLE, Flag.ITEM
NOT_INLINE = Flag.LARGE | Flag.SHARED


class RunnerHandler(Protocol):
    """The receiver of a runner's events, except HELLO: the engine."""

    def runner_broke(self, runner: RunnerLink, error: Exception) -> None:
        """Handle the end of a link, or an error that must end it."""

    def runner_answered(self, runner: RunnerLink, said: RunnerMessages) -> None:
        """Handle a read that brought more than small results."""

    def make_room(self) -> bool:
        """Free memory, on any link, because memory is short. Returns False if there is none to free."""
        ...


class RunnerLink:
    """A connection to one runner. It belongs to the engine thread.

    Args:
        runner_id: the runner's number.
        backend: the name of the node's tier.
        node: the runner's node.
        loop, engine: the pool's.
        handler: gets the runner's events.
        on_hello: gets the HELLO of a runner whose versions fit.
    """

    def __init__(
        self,
        runner_id: int,
        backend: str,
        node: Node,
        loop: Loop,
        engine: EngineContext,
        handler: RunnerHandler,
        on_hello: Callable[[RunnerLink, handshake.Hello], object],
    ) -> None:
        self.id = runner_id
        self.backend = backend
        self.node = node
        self.pid: int | None = None
        self.reported: tuple[float, int, int] | None = None
        """CPUs, GPUs and bytes of memory that the runner has, as it says itself; None if unknown."""
        self.never_left: set[Ref] = set()
        """Set when the link has ended: the calls that were not sent completely, so that they cannot have started."""
        self.last_frame = loop.time()
        """The time of the last whole frame."""
        self.is_leaving = False
        """True if the runner has said that it was told to stop from outside the pool."""
        self._welcomed = False
        self._log_level: int | None = None
        """The level of log records that the agent was told last; None if it sends none."""
        self.file_updates = FileUpdates()
        self._loop = loop
        self._engine = engine
        max_payload = engine.options.max_payload
        self._inline_size = HEADER_SIZE + memory_bounds.max_inline_bytes(max_payload)
        self._handler = handler
        self._on_hello = on_hello
        self._transfers = LargePayloads(engine.codec, max_payload, loop.call_soon)
        self._starts = node.starts
        self.shared = SharedUploads(engine.codec.contents, self.has_call, loop.call_soon)
        self._frame_handler = FrameHandler(self, self._transfers, self.shared, engine, node.starts)
        if node.memory is not None:
            # For slots with large payloads, which connect at this socket.
            loop.add_reader(node.memory.fileno(), self._on_connections)
        # Each slot leads a session of its own. If the agent is killed, the node finds the slots' processes by these
        # sessions.
        node.sessions = self._frame_handler.sessions
        self._link: Link | None = None
        self._pump: Pump | None = None
        if node.stream is not None:
            self.attach(node.stream)

    def attach(self, stream: Stream) -> None:
        """Use this stream from now on."""
        sock, self._pump = as_socket(stream)
        self._link = Link(self._loop, sock, self._on_frames, self._on_closed, handshake=True)
        self._link.on_shortage = self._handler.make_room
        self._transfers.attach(self._link)
        self.shared.attach(self._link)

    @property
    def slots(self) -> int:
        """The number of calls that the runner runs at once."""
        return self._frame_handler.account.slots

    @property
    def name(self) -> str:
        """The runner's name in errors."""
        return f"runner {self.id} on {self.node.host}" if self.node.host else f"runner {self.id}"

    # -- sending -------------------------------------------------------------------------------------------------------

    def welcome(self, session: bytes, setup: bytes, slots: int, log_level: int | None) -> None:
        """Admit the runner: send WELCOME, and SETUP with everything that its slots need to start.

        Args:
            session: the content of WELCOME.
            setup: the content of SETUP.
            slots: the number of calls that the runner runs at once.
            log_level: the lowest level of log records that it sends; None if it sends none.
        """
        self._welcomed = True
        self._log_level = log_level
        self._frame_handler.account.slots = slots
        if self._link is not None:
            self._link.end_handshake()
        self.say(encode(Kind.WELCOME, payload=session))
        for start in range(0, len(setup), CHUNK_SIZE):
            more = Flag.MORE if start + CHUNK_SIZE < len(setup) else 0
            self.say(encode(Kind.SETUP, payload=setup[start : start + CHUNK_SIZE], flags=more))

    def compress_by(self, codecs: Iterable[str]) -> None:
        """Compress large payloads by these codecs, where it pays, and accept results that are compressed by them."""
        self._transfers.codecs = self.shared.codecs = Codecs(codecs)

    def refuse(self, reason: str) -> None:
        """Send REFUSE with the reason. The runner then ends by itself."""
        self.say(encode(Kind.REFUSE, payload=dumps({"reason": reason}).encode()))
        if self._link is not None:
            self._link.flush()

    def send_call(self, call: Call, now: float) -> None:
        """Queue a call until `flush` sends it. Of a large call, only the head: its slot asks for the chunks."""
        payload, limits, link, starts = call.payload, call.limits, self._link, self._starts
        if link is None or link.closed:
            return
        if link.is_blocked:
            self._frame_handler.unwritten[call.id, call.attempt] = link.next_place
        number = 0 if starts is None else starts.assign((call.id, call.attempt))
        if type(payload) is bytes:
            if not limits.concern_runner:
                link.queue(
                    HEADER.pack(CALL, ITEM if call.is_item else 0, call.attempt, number, call.id, len(payload))
                    + payload
                )
                return
        elif type(payload) is SharedPayload and self.node.memory is not None:
            self._transfers.share((call.id, call.attempt), payload)
            link.queue(call_frame(call, number, now, (Flag.SHARED, payload.location())))
            return
        else:
            self._send_special(call, number, now, link)
            return
        link.queue(call_frame(call, number, now))

    def _send_special(self, call: Call, number: int, now: float, link: Link) -> None:
        """Queue a call that is large, or that needs contents which its runner gets once."""
        ref, payload, special = (call.id, call.attempt), call.payload, None
        self.shared.call_sent(ref, payload)
        if isinstance(payload, PayloadParts) and payload.pieces:
            flags, body, rest = without_pieces(payload)
            special = flags, body
            self._transfers.whole[ref] = payload
            if rest:
                self._transfers.offer(ref, rest)
        elif not isinstance(payload, bytes):
            self._transfers.offer(ref, payload)
        link.queue(call_frame(call, number, now, special))

    def follow_log_level(self, level: int) -> None:
        """Set the lowest level of log records that later calls send."""
        if level != self._log_level:
            self._log_level = level
            self.say(encode(Kind.LOG_LEVEL, detail=level))

    def keep_results(self) -> None:
        """Have a runner that does not share this machine's memory keep its large results from now on."""
        if self.node.memory is None and not self.shared.keeps_results:
            self.shared.keeps_results = True
            self.say(encode(Kind.KEEP_RESULTS))

    def flush(self) -> None:
        """Write all queued frames now, before the end of the loop's pass."""
        if self._link is not None:
            self._link.flush()

    def kill_call(self, call: Call) -> None:
        """Send KILL for a call."""
        self._transfers.stop_upload((call.id, call.attempt))
        self.say(encode(Kind.KILL, call.id, attempt=call.attempt))

    def check_idle(self, payload: bytes) -> None:
        """Send the user's idle check to the runner."""
        self._frame_handler.is_asked = True
        self.say(encode(Kind.CHECK_IDLE, payload=payload))

    def ping(self) -> None:
        """Send PING with the send time, which PONG returns. It also tells the agent that the parent is alive."""
        self.say(encode(Kind.PING, detail=self.microseconds()))

    def output_consumed(self, slot: int, amount: int) -> None:
        """Grant the agent `amount` more bytes of output of this slot."""
        if self._frame_handler.account.consumed(slot, amount):
            self.reply(encode(Kind.OUTPUT, amount, detail=slot))

    def output_forgotten(self, amount: int) -> None:
        """Count `amount` bytes of output of ended slots as consumed."""
        self._frame_handler.account.forgotten(amount)

    def microseconds(self) -> int:
        """Return the time in microseconds, as a PING carries it."""
        return int(self._loop.time() * 1e6) & MAX_DETAIL

    def stop(self, grace: float) -> None:
        """Tell the runner to stop. Its running calls have `grace` seconds to end."""
        self.say(encode(Kind.STOP, detail=min(int(grace * 1000), MAX_DETAIL)))

    def drain(self, seconds: float) -> None:
        """Tell the runner that it ends in `seconds`. It returns the calls that it has not started."""
        self.say(encode(Kind.DRAIN, detail=min(int(seconds * 1000), MAX_DETAIL)))

    def say(self, frame: bytes) -> None:
        """Send a frame ahead of all large payloads."""
        if self._link is not None and not self._link.closed:
            self._link.send(frame)

    def reply(self, frame: bytes) -> None:
        """Answer a request of the runner. A runner that sends requests and never reads breaks the protocol."""
        if self._link is not None and not self._link.closed:
            self._link.reply(frame)

    def say_bulk(self, header: bytes, piece: bytes = b"") -> None:
        """Send a frame behind the large payloads."""
        if self._link is not None and not self._link.closed:
            self._link.send_bulk(header, piece)

    def when_drained(self, callback: Callable[[], None]) -> None:
        """Call `callback` each time that the queue of large payloads is nearly empty."""
        if self._link is not None:
            self._link.on_drained = callback

    # -- receiving -----------------------------------------------------------------------------------------------------

    @property
    def last_heard(self) -> float:
        """The time of the last byte."""
        return self._link.last_heard if self._link is not None else 0.0

    def reset_silence_timer(self, now: float) -> None:
        """Reset the silence timers: this process did not read."""
        self.last_frame = now
        if self._link is not None:
            self._link.last_heard = now

    @property
    def most_held(self) -> int:
        """Bytes of the largest result that is being received."""
        return self._transfers.most_held

    def drop_largest(self) -> None:
        """Drop the largest result that is being received."""
        self._transfers.drop_largest()

    def _on_connections(self) -> None:
        sock, memory = self.node.memory, self._engine.payloads.shared_memory()
        self._frame_handler.has_memory = True
        if sock is not None and (memory is None or not memory.connect(self._loop, sock, self.id)):
            self._loop.remove_reader(sock.fileno())

    def close(self) -> None:
        """Close the link."""
        if self.node.memory is not None and self.node.memory.fileno() >= 0:
            self._loop.remove_reader(self.node.memory.fileno())
            self.node.memory.close()
        self._frame_handler.close()
        if self._link is not None:
            self._link.close()
            self.never_left |= self._link.unwritten
        self.never_left |= self._transfers.close()
        if self._starts is None:
            self.never_left |= self.shared.waiting_calls()
        self._engine.outputs.runner_is_gone(self)

    def descriptor(self) -> int:
        """Return the link's file descriptor, or -1."""
        return -1 if self._link is None or self._link.closed else self._link.fileno()

    def descriptors(self) -> list[int]:
        """Return the descriptors of the link and its node. A forked child must close them."""
        pumped = -1 if self._pump is None else self._pump.fileno()
        return [fd for fd in (self.descriptor(), pumped, *self.node.descriptors()) if fd >= 0]

    def give_back(self) -> list[str]:
        """Stop the node, and wait for the threads of the pump. Blocks. Returns the names of threads that do not end."""
        self.node.stop()
        return [] if self._pump is None else self._pump.join(PUMP_TIMEOUT)

    def has_call(self, ref: Ref) -> bool | None:
        """Return whether this call is on the runner; None if its calls are not tracked any more."""
        return self._engine.ask(lambda machine: machine.has_call(self.id, *ref))

    def call(self, call_id: int) -> Call | None:
        """Return a call that is on the runner."""
        return self._engine.ask(lambda machine: machine.call_on(self.id, call_id))

    def _on_closed(self, reason: Exception | None) -> None:
        how = "ended" if reason is None else f"broke: {reason}"
        text = f"the link to {self.name} {how}"
        self._handler.runner_broke(self, reason if isinstance(reason, errors.ProtocolError) else ConnectionError(text))

    def _on_frames(self, frames: Sequence[Frame]) -> None:
        if not self._welcomed:
            self._on_first_frame(frames[0])
            return
        self.last_frame = self.last_heard
        results: list[Result] = []
        codec, inline_size, said = self._engine.codec, self._inline_size, None
        for frame in frames:
            kind, flags, attempt, detail, call_id, raw = frame
            if kind == RESULT and not flags & NOT_INLINE:
                if len(raw) > inline_size:
                    memory_bounds.check_inline(frame, inline_size - HEADER_SIZE)
                # A copy of a few bytes takes less time and memory than a view.
                data = raw[HEADER_SIZE:] if len(raw) < VIEWED_FROM else memoryview(raw)[HEADER_SIZE:]
                outcome = Outcome(codec, data, bool(flags & ERROR))
                results.append((call_id, attempt, detail * 1e-6, outcome, bool(flags & RETRYABLE)))
            else:
                said = said or RunnerMessages(results)
                self._frame_handler.on_frame(frame, said)
        if self._starts is not None:
            self._starts.release_results(results)
        if self._transfers.whole:
            for result in results:
                self._transfers.answered((result[0], result[1]))
        if self._frame_handler.unwritten:
            self._frame_handler.check_written(said or RunnerMessages(results), self._link)
        # Nearly all reads bring only small results, so these take a short path.
        if said is None:
            self._engine.handle(ResultsArrived(self.id, results))
        else:
            self.is_leaving = self.is_leaving or said.leaving
            self._handler.runner_answered(self, said)

    def _on_first_frame(self, frame: Frame) -> None:
        try:
            hello = read_hello(frame, self.name)
        except (errors.BootError, errors.ProtocolError) as error:
            self._handler.runner_broke(self, error)
            return
        reason = handshake.mismatch(versions_like(hello.versions), hello.versions)
        if reason is not None:
            self.refuse(reason)
            self._handler.runner_broke(self, errors.VersionMismatchError(f"{self.name}: {reason}", "handshake"))
            return
        self.pid, self.reported = hello.versions.pid, hello.capacity
        self._on_hello(self, hello)
