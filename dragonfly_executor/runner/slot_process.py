"""A slot: the process that runs the user's calls, one at a time, on its main thread.

It claims each call with a number that it reads from a pipe whose reading end its agent holds too. So the kernel decides
which side gets a call. The agent can take back a call that the slot has not claimed, and such a call provably never
started. Each result is sent at once, so that it does not wait for a longer call.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from _thread import get_ident
from collections.abc import Callable

from dragonfly_executor import errors
from dragonfly_executor.errors.base import UnopenedCallError
from dragonfly_executor.protocol.frames import (
    CALL_OPTIONS,
    HEADER,
    HEADER_SIZE,
    MAX_DETAIL,
    MAX_FRAME,
    MAX_INLINE,
    Flag,
    Kind,
    ScriptImport,
    encode,
)
from dragonfly_executor.protocol.memory_bounds import max_result_bytes
from dragonfly_executor.protocol.parent import CallPoolSource
from dragonfly_executor.runner import process_tree, slot_shutdown
from dragonfly_executor.runner import slot_progress as phases
from dragonfly_executor.runner.agent_stream import NO_CALL, AgentStream
from dragonfly_executor.runner.memory_limit import MemoryLimit
from dragonfly_executor.runner.slot_calls import CallReceiver
from dragonfly_executor.runner.slot_payloads import NOT_INLINE, SlotPayloads
from dragonfly_executor.runner.slot_shared import SlotShared
from dragonfly_executor.serialization import perform
from dragonfly_executor.serialization.layout import BOX, NOTHING, PICKLE, WITH_SHARED
from dragonfly_executor.serialization.rebuild import OBJECT_SOURCE
from dragonfly_executor.transport.sockets import Socket
from dragonfly_executor.util import plain_signal as signal
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from dragonfly_executor.runner.child_calls import ChildCalls
    from dragonfly_executor.runner.child_executor import ChildExecutor
    from dragonfly_executor.runner.object_client import ObjectClient
    from dragonfly_executor.runner.result_ring import ResultRing
    from dragonfly_executor.runner.slot_calls import SlotQueue
    from dragonfly_executor.runner.slot_output import SlotStreams
    from dragonfly_executor.runner.slot_progress import Progress
    from dragonfly_executor.runner.slot_template import SlotTemplate
    from dragonfly_executor.serialization.layout import BufferSource
    from dragonfly_executor.serialization.stream_run import ItemSink
    from dragonfly_executor.transport.sockets import Buffer

CALL = int(Kind.CALL)
CHECK_IDLE = int(Kind.CHECK_IDLE)
RESULT = int(Kind.RESULT)
# Plain module names, because an enum lookup takes longer than the comparison.
PLACED_WORKER = "PlacedWorker"
"""The kind of object that stands for the parent's side of a placed worker."""
OVER_THE_STREAM = -1
"""A value of `_Slot._sent` with which the next result goes over the stream."""
DEFAULT_SIGNALS = tuple(map(int, (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP)))
"""The signals that have their default action in slots."""
FAILED = 70
"""Exit status (EX_SOFTWARE) of a slot whose initializer failed."""


def main(
    queue: SlotQueue,
    results: Socket,
    ring: ResultRing | None,
    *,
    template: SlotTemplate,
    rendezvous: Socket | None,
    agent_pid: int,
    take_over_output: Callable[[AgentStream], SlotStreams | None],
    progress: Progress,
) -> None:
    """Run calls until the agent closes its side of `queue`. Runs in a forked child of the agent and does not return.

    Args:
        queue: the queue of calls.
        results: the slot's end of the link to the agent.
        ring: the ring for small results; None if there is none.
        template: what the slot has in common with others.
        rendezvous: the socket at which slots connect to share memory with the parent; None if there is none.
        agent_pid: the process id of the agent.
        take_over_output: makes the object that sends the output of calls to the agent; returns None if none is sent.
        progress: the page that tells the agent what the slot is doing.
    """
    status = 1
    try:
        become_session_leader(agent_pid)
        slot_shutdown.forget_inherited_handlers()
        template.codec.mark.move_here()
        template.identity.set(progress.number, agent_pid)
        stream = AgentStream.of_process = AgentStream(results, template.codec.mark.is_here)
        slot = _Slot(CallReceiver(queue), stream, ring, take_over_output(stream), progress, rendezvous, template)
        status = slot.serve()
        slot_shutdown.end_in_order()
        slot_shutdown.flush_standard_streams()
    except OSError:
        # The agent is gone, or a call closed a descriptor of the slot. The agent reports the end of that call.
        return
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        os._exit(status)


def become_session_leader(agent_pid: int) -> None:
    """Make this child of the agent the leader of its own session, without the agent's signal handlers."""
    os.setsid()
    process_tree.die_with_parent(agent_pid)
    process_tree.become_subreaper()
    signal.set_wakeup_fd(-1)
    for number in DEFAULT_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # A garbage collection here that visits the agent's objects copies each page of them.
    gc.freeze()
    gc.enable()


class _Slot:
    def __init__(
        self,
        calls: CallReceiver,
        agent: AgentStream,
        ring: ResultRing | None,
        output: SlotStreams | None,
        progress: Progress,
        rendezvous: Socket | None,
        template: SlotTemplate,
    ) -> None:
        self._calls = calls
        self._agent = agent
        self._ring = ring
        self._sent = 0
        """Number of frames on the stream when the last call ended."""
        self._output = output
        self._progress = progress
        self._script, self._initializer = template.script, template.initializer
        self._max_payload, self._max_inline = template.max_payload, template.max_inline
        self._loaded = template.loaded
        self._codec = template.codec
        self._thread = get_ident()
        self._mark = template.codec.mark
        self._payloads = SlotPayloads(agent, template.codecs, calls.sock, rendezvous)
        self._shared = SlotShared(agent, template.codec)
        self._objects: ObjectClient | None = None
        """Makes the stand-ins of multiprocessing's objects; None until a call has one, or submits a call."""
        OBJECT_SOURCE.set(self._stand_in)
        self._children: ChildCalls | None = None
        """Submits calls to the pool; None until a call does."""
        CallPoolSource.of_process = self._pool
        self._memory_limit: MemoryLimit | None = None
        self._ref: tuple[int, int] | None = None
        """The call whose limits the agent watches; None if it has no limits."""
        self._open_sink: Callable[[int], ItemSink] = self._make_sink
        self._modules = 0
        self._since = 0.0
        self._ended = 0.0

    def serve(self) -> int:
        """Prepare the process, then run calls. Return the exit status."""
        if self._ring is not None:
            self._ring.begin_to_write()
        shadowed = self._codec.prepare()
        if shadowed and self._loaded is not None:
            self._loaded.forget(shadowed)
        self._take_script(self._script)
        if self._initializer and not self._initialize(self._initializer):
            return FAILED
        if self._loaded is not None:
            self._loaded.note()
        self._progress.phase = phases.READY
        if self._output is not None:
            self._output.end_call(0, 0)
        self._agent.send(encode(Kind.READY))
        self._sent = self._agent.sent
        if self._output is not None:
            self._output.wait_for_agent()
        while self._run_calls():
            # There was no call for a while.
            self._payloads.trim()
        return 0

    def _run_calls(self) -> bool:
        """Run calls until the agent closes the queue, or until this slot declines one.

        Returns:
            True if the slot shares memory, and no call came for a while.
        """
        packet, clock, loaded, run = self._calls.packet, time.perf_counter, self._loaded, self._run
        try:
            for start, end in self._calls.calls():
                self._since = clock()
                if loaded is not None and loaded.are_stale(self._since, self._ended) and self._declines(packet, start):
                    break
                run(packet, start, end)
        except BlockingIOError:
            # The timeout that `SlotPayloads` sets, unless a call has made the socket a non-blocking one.
            if not self._payloads.share_memory or not os.get_blocking(self._calls.sock.fileno()):
                raise
            return True
        return False

    def _declines(self, packet: memoryview, start: int) -> bool:
        """Give a call back, so that a slot with the current files runs it. This slot then ends."""
        kind, _, attempt, _, call_id, _ = HEADER.unpack_from(packet, start)
        if kind != CALL:
            return False
        self._agent.send(encode(Kind.RETURNED, call_id, attempt=attempt))
        return True

    def _take_script(self, script: int) -> None:
        if script == ScriptImport.IMPORT:
            self._progress.phase = phases.IMPORTING_SCRIPT
            self._codec.import_script()
        elif script == ScriptImport.LATE:
            self._codec.give_up_script(
                "another slot of this runner did not import the script within boot_timeout: move slow statements under"
                ' the script\'s `if __name__ == "__main__"` guard, or raise boot_timeout='
            )

    def _initialize(self, initializer: bytes) -> bool:
        self._progress.phase = phases.INITIALIZING
        is_error, _, parts = perform(self._codec, initializer)
        if not is_error:
            return True
        payload = b"".join(parts)
        self._agent.send(encode(Kind.SETUP_FAILED, payload=payload[: MAX_FRAME // 2], flags=Flag.ERROR))
        return False

    def _run(self, packet: memoryview, place: int, end: int) -> None:
        kind, flags, attempt, number, call_id, _ = HEADER.unpack_from(packet, place)
        start = place + HEADER_SIZE + CALL_OPTIONS.size if flags & Flag.OPTIONS else place + HEADER_SIZE
        data: Buffer = packet[start:end]
        beside: Mapping[int, BufferSource] = NOTHING
        if end == start or packet[start] != PICKLE:
            # The next packet overwrites this one, and arrays in the call may be views of its bytes.
            data = bytes(data)
        if flags & NOT_INLINE:
            try:
                data, beside = self._payloads.receive(flags, call_id, attempt, data)
            except (MemoryError, ValueError, errors.ProtocolError) as error:
                self._send_error(call_id, attempt, UnopenedCallError(f"{type(error).__name__}: {error}"))
                return
            # The time that bytes travel does not count into the cost of such calls.
            self._since = time.perf_counter()
        if kind != CALL:
            self._on_notice(kind, data)
            return
        if data[0] == BOX and data[1] & WITH_SHARED and not self._fetch_shared(call_id, attempt, data):
            return
        # Mark before any user code runs: an unmarked call has not started, and may be sent to another slot.
        self._progress.mark(number)
        self._ref, self._memory_limit = None, None
        agent = self._agent
        agent.running = call_id, attempt
        if flags & Flag.OPTIONS:
            self._ref = agent.running
            memory = CALL_OPTIONS.unpack_from(packet, place + HEADER_SIZE)[3]
            self._memory_limit = MemoryLimit(memory) if memory else None
        self._modules = len(sys.modules)
        if self._output is not None:
            self._output.begin_call(self._progress.log_level)
        is_item = flags & Flag.ITEM != 0
        is_error, retryable, parts = perform(
            self._codec, data, self._begin, self._failed, beside, self._open_sink, is_item=is_item
        )
        if not self._mark.is_here():
            # The call forked, and its child returned here. Only the original process may send the result.
            os._exit(0)
        agent.running = NO_CALL
        if agent.reports is not None:
            agent.reports.end_call()
        if self._memory_limit is not None:
            self._memory_limit.end()
        if self._loaded is not None:
            self._loaded.note()
        if self._objects is not None:
            self._objects.end_call()
        self._ended = time.perf_counter()
        microseconds = int((self._ended - self._since) * 1e6)
        if self._output is not None and self._output.end_call(call_id, attempt):
            self._sent = OVER_THE_STREAM
        result_flags = (Flag.ERROR if is_error else 0) | (Flag.RETRYABLE if retryable else 0)
        del data, beside
        self._send_result(call_id, attempt, min(microseconds, MAX_DETAIL), result_flags, parts)
        # Flush now, so that the call's output appears now and not when the slot ends.
        slot_shutdown.flush_standard_streams()

    def _stand_in(self, kind: str, number: int, detail: Any) -> Any:
        """Return the stand-in of an object of multiprocessing. See `served_object`."""
        client = self._object_client()
        if kind == PLACED_WORKER:
            from dragonfly_executor.runner.method_channel import MethodChannel, SlotParts

            parts = SlotParts(self._codec, self._payloads, self._shared, self._max_payload, self._agent.running)
            return MethodChannel(client, number, parts)
        return client.stand_in(kind, number, detail)

    def _object_client(self) -> ObjectClient:
        if self._objects is None:
            # Imported for the first request.
            from dragonfly_executor.runner.object_client import ObjectClient

            self._objects = ObjectClient(self._agent, self._max_payload)
        return self._objects

    def _pool(self) -> ChildExecutor:
        """Return an executor for the pool that runs this slot's calls. See `Parent.pool`."""
        if self._children is None:
            if get_ident() != self._thread or self._agent.running == NO_CALL:
                raise RuntimeError(
                    "the first Parent.pool() in a slot must be called by a call, on the call's own thread: call it"
                    " there, and hand the executor to other threads"
                )
            # Imported for the first call that submits a call.
            from dragonfly_executor.runner.child_calls import ChildCalls

            self._children = ChildCalls(self._agent, self._object_client(), self._codec.child_codec())
        from dragonfly_executor.runner.child_executor import ChildExecutor

        return ChildExecutor(self._children)

    def _fetch_shared(self, call_id: int, attempt: int, data: Buffer) -> bool:
        """Get the shared objects of a call. If that is impossible, fail the call and return False."""
        absent = self._shared.fetch(data, call_id, attempt)
        if absent is not None:
            self._send_error(call_id, attempt, absent)
            return False
        self._since = time.perf_counter()
        return True

    def _on_notice(self, kind: int, data: Buffer) -> None:
        """Handle a packet that is no call."""
        if kind == CHECK_IDLE:
            self._answer_idle_check(data)
        elif kind == Kind.SHARED_FORGET:
            from dragonfly_executor.protocol.shared_entries import read_numbers

            numbers = read_numbers(data)
            self._shared.forget(numbers)
            self._payloads.forget(numbers)

    def _begin(self) -> None:
        """Note that the call is decoded and its function starts."""
        if len(sys.modules) != self._modules:
            if self._loaded is not None:
                self._loaded.note()
            # Modules are imported once, so the time for imports does not count into the cost of such calls.
            self._since = time.perf_counter()
        if self._ref is not None:
            self._progress.begin(*self._ref)
        if self._memory_limit is not None:
            self._memory_limit.begin()

    def _failed(self, error: BaseException) -> None:
        """Note that the call raised an exception, which is encoded next."""
        if self._memory_limit is not None and self._mark.is_here():
            self._memory_limit.end(error)

    def _make_sink(self, window: int) -> ItemSink:
        """Return what sends the items of the running call, which is a stream."""
        # Imported for the first stream.
        from dragonfly_executor.runner.item_sender import ItemSender

        return ItemSender(self._agent, self._codec, self._agent.running, window, self._max_payload)

    def _answer_idle_check(self, data: Buffer) -> None:
        try:
            check, args, kwargs, _ = self._codec.decode_call(data)
            may_go = bool(check(*args, **kwargs))
        except BaseException as error:
            # User code: a failing check must not end a runner that is in use.
            sys.excepthook(type(error), error, error.__traceback__)
            may_go = False
        if not self._mark.is_here():
            os._exit(0)
        if self._output is not None:
            self._output.end_call(0, 0)
        self._agent.send(encode(Kind.IDLE, detail=int(may_go)))

    def _send_error(self, call_id: int, attempt: int, error: Exception) -> None:
        """Send an error that the slot itself raises for a call."""
        self._send_result(call_id, attempt, 0, Flag.ERROR, self._codec.encode_error(error))

    def _send_result(
        self, call_id: int, attempt: int, microseconds: int, flags: int, parts: list[bytes | memoryview]
    ) -> None:
        if len(parts) == 1 and len(parts[0]) <= self._max_inline:
            # Nearly all results come here.
            part = parts[0]
            self._send_small(HEADER.pack(RESULT, flags, attempt, microseconds, call_id, len(part)) + part)
            return
        total = sum(map(len, parts))
        if total > max_result_bytes(self._max_payload, flags):
            what = "error" if flags & Flag.ERROR else "result"
            text = f"the call's {what} takes {total} bytes, more than max_payload={self._max_payload}"
            self._send_error(call_id, attempt, errors.FrameTooLargeError(text))
            return
        if total <= MAX_INLINE:
            header = HEADER.pack(RESULT, flags, attempt, microseconds, call_id, total)
            self._send_small(b"".join((header, *parts)))
            return
        self._payloads.send(call_id, attempt, microseconds, flags, parts, total)
        self._sent = self._agent.sent

    def _send_small(self, frame: bytes) -> None:
        """Send a result through the ring, unless the slot has sent other frames during the call, which go first."""
        if self._ring is None or self._agent.sent != self._sent or not self._ring.put(frame):
            self._agent.send(frame)
            self._sent = self._agent.sent
