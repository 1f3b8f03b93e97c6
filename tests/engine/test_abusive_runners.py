"""A runner that does not keep to what was agreed is lost, it alone, and fills no memory of its parent's before that."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from dragonfly_executor import DragonflyExecutor, Pool
from dragonfly_executor.engine.output.printer import OutputSource, Printer
from dragonfly_executor.errors import BootError, ProtocolError, RunnerLostError
from dragonfly_executor.protocol import handshake
from dragonfly_executor.protocol.frames import CHUNK_SIZE, HEADER, MAX_FRAME, TOTAL, Decoder, Flag, Frame, Kind, encode
from dragonfly_executor.protocol.memory_bounds import MAX_SLOTS, OUTPUT_SLACK
from dragonfly_executor.protocol.output_window import WINDOW
from dragonfly_executor.protocol.versions import versions
from dragonfly_executor.testing import FakeBackend
from dragonfly_executor.transport.codecs import load
from dragonfly_executor.transport.link import MAX_REPLIES
from tests.support.helpers import PATIENCE, Events, ScriptedBackend, error_of, frames_from, say_hello
from tests.support.payloads import echo, nothing

Lie = Callable[[socket.socket, Frame], None]
MEBIBYTE = b"x" * (1024 * 1024)
SLOT = 4711


class Blocking:
    """Consumes output, but not before it is told to."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def __call__(self, line: object) -> None:
        self.go_on.wait()


@pytest.fixture
def blocking() -> Iterator[Blocking]:
    blocking = Blocking()
    yield blocking
    blocking.go_on.set()


@pytest.fixture
def make_lines() -> Callable[[object], None]:
    return lambda line: None


def result(call: Frame, payload: bytes = b"\x80\x05N.", flags: int = 0) -> bytes:
    return encode(Kind.RESULT, call.call_id, payload, attempt=call.attempt, flags=flags)


def head(call: Frame, total: int, call_id: int | None = None) -> bytes:
    number = call.call_id if call_id is None else call_id
    return encode(Kind.RESULT, number, TOTAL.pack(total), attempt=call.attempt, flags=Flag.LARGE | Flag.MORE)


def chunk(call: Frame, size: int, *, more: bool) -> bytes:
    return encode(Kind.CHUNK, call.call_id, b"x" * size, attempt=call.attempt, flags=Flag.MORE if more else 0)


def output(call: Frame, size: int, slot: int = SLOT, call_id: int | None = None) -> bytes:
    number = call.call_id if call_id is None else call_id
    return encode(Kind.OUTPUT, number, b"x" * size, attempt=call.attempt, detail=slot)


class Abused:
    """A pool whose first runner lies once it has a call; all that follow answer None."""

    def __init__(self, lie: Lie, *, codecs: object = (), **options: object) -> None:
        self._codecs = codecs
        self.backend = ScriptedBackend(self._play)
        self._lie = lie
        self.executor = DragonflyExecutor(backend=self.backend, **options)  # type: ignore[arg-type]

    def _play(self, sock: socket.socket, number: int) -> None:
        said = json.loads(handshake.hello("", versions())) | {"codecs": self._codecs}
        sock.sendall(encode(Kind.HELLO, payload=json.dumps(said).encode()))
        for frame in frames_from(sock):
            if frame.kind == Kind.CALL and number == 1:
                self._lie(sock, frame)
            elif frame.kind == Kind.CALL:
                sock.sendall(result(frame))
            elif frame.kind == Kind.STOP:
                return

    def check(self, text: str, then: Callable[[], object] = lambda: None) -> None:
        """The call of the first runner is lost with it, for this reason; after `then` the pool goes on."""
        with self.executor as executor:
            error = error_of(executor.submit(echo, 1))
            assert isinstance(error, RunnerLostError)
            assert isinstance(error.__cause__, ProtocolError)
            assert text in str(error)
            then()
            assert executor.submit(echo, 2).result(PATIENCE) is None
            assert executor.pool.stats().boots_attempted == 2


# -- results -----------------------------------------------------------------------------------------------------------


def announce(total: int) -> Lie:
    return lambda sock, call: sock.sendall(head(call, total))


def test_a_result_is_not_announced_larger_than_max_payload() -> None:
    Abused(announce(100_001), max_payload=100_000).check("100001 bytes was announced, more than 100000")


def test_a_result_in_one_frame_is_held_to_max_payload() -> None:
    Abused(lambda sock, call: sock.sendall(result(call, b"x" * 1001)), max_payload=1000).check("1001 bytes in one")


def test_a_result_in_one_frame_is_no_larger_than_frames_for_that_are() -> None:
    lie: Lie = lambda sock, call: sock.sendall(result(call, b"x" * MAX_FRAME))  # noqa: E731
    Abused(lie).check(f"{MAX_FRAME} bytes in one frame")


def test_an_error_has_room_beside_a_small_max_payload_but_no_more_than_that() -> None:
    def lie(sock: socket.socket, call: Frame) -> None:
        flags = Flag.LARGE | Flag.MORE | Flag.ERROR
        sock.sendall(encode(Kind.RESULT, call.call_id, TOTAL.pack(2**21), attempt=call.attempt, flags=flags))

    Abused(lie, max_payload=1000).check("2097152 bytes was announced, more than 1048576")


@pytest.mark.parametrize(
    "sizes", [(CHUNK_SIZE, 1), (CHUNK_SIZE, CHUNK_SIZE), (CHUNK_SIZE - 1,), (0,)], ids=lambda sizes: str(sizes)
)
def test_a_result_is_as_long_as_was_announced(sizes: tuple[int, ...]) -> None:
    def lie(sock: socket.socket, call: Frame) -> None:
        sock.sendall(head(call, CHUNK_SIZE))
        for number, size in enumerate(sizes, 1):
            sock.sendall(chunk(call, size, more=number < len(sizes) or size == CHUNK_SIZE))

    Abused(lie).check(f"{CHUNK_SIZE} bytes was announced")


def test_chunks_without_end_end_with_what_was_announced() -> None:
    def lie(sock: socket.socket, call: Frame) -> None:
        sock.sendall(head(call, 3 * CHUNK_SIZE))
        while True:
            sock.sendall(chunk(call, CHUNK_SIZE, more=True))

    Abused(lie).check(f"{3 * CHUNK_SIZE} bytes was announced, but {4 * CHUNK_SIZE} arrived")


def compressed(call: Frame, payload: bytes, size: int, flags: int = Flag.LZ4) -> bytes:
    return encode(Kind.CHUNK, call.call_id, payload, attempt=call.attempt, flags=flags | Flag.MORE, detail=size)


@pytest.mark.parametrize(
    ("payload", "size", "flags", "text"),
    [
        (b"\xff" * 9, CHUNK_SIZE, Flag.LZ4, "cannot be opened"),
        (b"garbage", CHUNK_SIZE, Flag.ZSTD, "cannot be opened"),
        (b"", 0, Flag.LZ4, "a compressed chunk of 0 bytes"),
        (b"x", CHUNK_SIZE + 1, Flag.ZSTD, f"a compressed chunk of {CHUNK_SIZE + 1} bytes"),
        (b"x", 2**32 - 1, Flag.LZ4, "a compressed chunk of 4294967295 bytes"),
        (load("lz4").compress(bytes(2**26)), CHUNK_SIZE, Flag.LZ4, "cannot be opened"),
        (load("zstd").compress(bytes(2**26)), CHUNK_SIZE, Flag.ZSTD, "cannot be opened"),
        (load("lz4").compress(bytes(1000)), CHUNK_SIZE, Flag.LZ4, f"1000 bytes that claims {CHUNK_SIZE}"),
    ],
)
def test_a_compressed_chunk_is_what_it_claims(payload: bytes, size: int, flags: int, text: str) -> None:
    def lie(sock: socket.socket, call: Frame) -> None:
        sock.sendall(head(call, 3 * CHUNK_SIZE) + compressed(call, payload, size, flags))

    codecs = ["lz4", "zstd", "unknown", 1]
    Abused(lie, compression="auto", codecs=codecs).check(text)


def test_compressed_chunks_are_held_to_max_payload() -> None:
    """After decompression: few bytes of them may stand for many."""

    def lie(sock: socket.socket, call: Frame) -> None:
        packed = load("lz4").compress(bytes(CHUNK_SIZE))
        sock.sendall(head(call, CHUNK_SIZE) + 2 * compressed(call, packed, CHUNK_SIZE))

    Abused(lie, compression="auto", codecs=["lz4"], max_payload=CHUNK_SIZE).check(
        f"{CHUNK_SIZE} bytes was announced, but {2 * CHUNK_SIZE}"
    )


@pytest.mark.parametrize("options", [{}, {"compression": "auto"}, {"codecs": ["lz4"]}])
def test_no_chunk_is_compressed_unless_both_ends_agree(options: dict[str, object]) -> None:
    def lie(sock: socket.socket, call: Frame) -> None:
        packed = load("lz4").compress(bytes(CHUNK_SIZE))
        sock.sendall(head(call, 2 * CHUNK_SIZE) + compressed(call, packed, CHUNK_SIZE))

    Abused(lie, **options).check("a codec that was not agreed on")


@pytest.mark.parametrize("payload", [b"", b"x", TOTAL.pack(9) + b"x", b"x" * 5000])
def test_a_head_that_says_no_length_is_none(payload: bytes) -> None:
    def lie(sock: socket.socket, call: Frame) -> None:
        flags = Flag.LARGE | Flag.MORE
        sock.sendall(encode(Kind.RESULT, call.call_id, payload, attempt=call.attempt, flags=flags))

    Abused(lie).check("the head of a large result")


def test_a_result_begins_once() -> None:
    Abused(lambda sock, call: sock.sendall(2 * head(call, 100_000))).check("begins twice")


def test_results_begin_of_calls_that_are_there_alone() -> None:
    """Else each head would be kept for a call that never comes."""

    def lie(sock: socket.socket, call: Frame) -> None:
        for number in count(call.call_id + 1):
            sock.sendall(head(call, 100_000, number))

    Abused(lie).check("the result of call 2, which is not on runner 1")


def test_nothing_can_be_said_about_a_call_of_another_runner() -> None:
    """A runner that guesses the numbers of calls elsewhere changes nothing about those."""
    held = threading.Event()
    lied = threading.Event()

    def script(sock: socket.socket, number: int) -> None:
        say_hello(sock)
        for frame in frames_from(sock):
            if frame.kind == Kind.STOP:
                return
            if frame.kind != Kind.CALL:
                continue
            if number == 1:
                assert held.wait(PATIENCE)
                for call_id in range(1, 9):
                    if call_id != frame.call_id:
                        strange = frame._replace(call_id=call_id)
                        sock.sendall(result(strange, b"stolen"))
                        sock.sendall(encode(Kind.RETURNED, call_id, attempt=1) + encode(Kind.GONE, call_id, attempt=1))
                sock.sendall(result(frame))
                lied.set()
            else:
                held.set()
                assert lied.wait(PATIENCE)
                sock.sendall(result(frame))

    events = Events()
    backend = ScriptedBackend(script)
    with Pool("abused", min=2, max=2, max_concurrency=1, backend=backend, timeout=None, on_event=events) as pool:
        for _ in range(2):
            events.wait("up")
        futures = [pool.submit(echo, number) for number in range(2)]
        assert [future.result(PATIENCE) for future in futures] == [None, None]
        assert pool.stats().stale == 21


# -- output ------------------------------------------------------------------------------------------------------------


def test_output_stays_within_its_window(blocking: Blocking) -> None:
    """The function that would consume it blocks: without a bound the parent would keep all of it."""
    sent = 0

    def lie(sock: socket.socket, call: Frame) -> None:
        nonlocal sent
        sock.sendall(encode(Kind.SLOT_UP, detail=SLOT))
        while True:
            sock.sendall(output(call, 100_000))
            sent += 100_000

    Abused(lie, output=blocking).check(f"output beyond the window of slot {SLOT}", blocking.go_on.set)
    assert sent <= WINDOW + OUTPUT_SLACK + MAX_FRAME


def test_single_bytes_of_output_weigh_what_they_take(blocking: Blocking) -> None:
    def lie(sock: socket.socket, call: Frame) -> None:
        sock.sendall(encode(Kind.SLOT_UP, detail=SLOT))
        while True:
            sock.sendall(1000 * output(call, 1))

    Abused(lie, output=blocking).check(f"output beyond the window of slot {SLOT}", blocking.go_on.set)


def test_a_slot_that_ends_does_not_free_its_window(blocking: Blocking) -> None:
    """Slots that come and go: each has a window, but what nobody has consumed is still there."""

    def lie(sock: socket.socket, call: Frame) -> None:
        while True:
            sock.sendall(encode(Kind.SLOT_UP, detail=SLOT))
            sock.sendall(output(call, MAX_FRAME // 2))
            sock.sendall(encode(Kind.SLOT_DOWN, detail=SLOT))

    Abused(lie, output=blocking).check("output far beyond the windows of all slots", blocking.go_on.set)


def test_output_comes_from_slots_that_are_there() -> None:
    Abused(lambda sock, call: sock.sendall(output(call, 1)), output="capture").check("an unknown slot: 4711")


def test_slots_are_counted() -> None:
    def lie(sock: socket.socket, call: Frame) -> None:
        for pid in count(1):
            sock.sendall(encode(Kind.SLOT_UP, detail=pid))

    Abused(lie).check("more than 1004 slots, although the parent set 2")


def test_output_belongs_to_calls_that_are_there() -> None:
    """Else a runner could write into what calls elsewhere have captured."""

    def lie(sock: socket.socket, call: Frame) -> None:
        sock.sendall(encode(Kind.SLOT_UP, detail=SLOT) + output(call, 1, call_id=call.call_id + 1))

    Abused(lie, output="capture").check("output of call 2, which is not on runner 1")


def test_output_that_is_consumed_may_go_on_for_ever(make_lines: Callable[[object], None]) -> None:
    """The window is no total: far more than it passes, if the runner keeps to it."""
    total = 8 * (WINDOW + OUTPUT_SLACK)

    def script(sock: socket.socket, number: int) -> None:
        say_hello(sock)
        frames = frames_from(sock)
        call = next(frame for frame in frames if frame.kind == Kind.CALL)
        sock.sendall(encode(Kind.SLOT_UP, detail=SLOT))
        sent = waiting = 0
        while sent < total:
            while waiting < WINDOW:
                sock.sendall(output(call, 50_000))
                sent, waiting = sent + 50_000, waiting + len(output(call, 50_000)) + 256
            waiting -= next(frame.call_id for frame in frames if frame.kind == Kind.OUTPUT)
        sock.sendall(result(call))
        next(frame for frame in frames if frame.kind == Kind.STOP)

    with DragonflyExecutor(backend=ScriptedBackend(script), output=make_lines) as executor:
        assert executor.submit(echo, 1).result(PATIENCE) is None


def tagged(*frames: bytes) -> DragonflyExecutor:
    """A pool whose runner sends this of its first call's output."""

    def script(sock: socket.socket, number: int) -> None:
        say_hello(sock)
        for frame in frames_from(sock):
            if frame.kind == Kind.CALL:
                sock.sendall(encode(Kind.SLOT_UP, detail=SLOT))
                for piece in frames:
                    header = HEADER.pack(Kind.OUTPUT, piece[0], frame.attempt, SLOT, frame.call_id, len(piece) - 1)
                    sock.sendall(header + piece[1:])
                sock.sendall(output(frame, 0)[:1] + bytes([Flag.END]) + output(frame, 0)[2:] + result(frame))
            elif frame.kind == Kind.STOP:
                return

    return DragonflyExecutor(backend=ScriptedBackend(script), output="tag")


STDOUT, LOG = b"\0", bytes([Flag.LOG])


def test_what_a_terminal_would_obey_is_shown_in_tagged_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """However it is cut into pieces: the tag stays, and what stands above it."""
    text = "\x1b[2J\x1b[1;1H\x1b]0;owned\x07safe\rEVIL\b\b\x9b2K\x1b[31mred\nnext\r\n".encode()
    with tagged(*(STDOUT + text[place : place + 1] for place in range(len(text)))) as executor:
        assert executor.submit(echo, 1).result(PATIENCE) is None
    assert capsys.readouterr().out.splitlines() == [
        "[runner 1, call 1] \\x1b[2J\\x1b[1;1H\\x1b]0;owned\\x07safe",
        "[runner 1, call 1] EVIL\\x08\\x08\\x9b2K\x1b[31mred\x1b[0m",
        "[runner 1, call 1] next",
    ]


RECORD = {
    "name": "elsewhere.made.up", "levelno": 40, "levelname": "ERROR", "created": 1.7e9, "msecs": 1.0,
    "pathname": "/x", "filename": "x", "module": "x", "lineno": 1, "funcName": "f", "process": 1,
    "processName": "p", "thread": 1, "threadName": "t", "stack_info": None, "exc_text": None, "message": "m",
}  # fmt: skip


def test_records_are_harmless_too_and_make_no_loggers(caplog: pytest.LogCaptureFixture) -> None:
    record = RECORD | {"message": "one\n\x1b]0;owned\x07two", "exc_text": "\x1b[1A", "funcName": "\x9bf"}
    with tagged(LOG + json.dumps(record).encode()) as executor:
        assert executor.submit(echo, 1).result(PATIENCE) is None
    (found,) = [found for found in caplog.records if found.name == "elsewhere.made.up"]
    assert found.getMessage() == "one\n\\x1b]0;owned\\x07two"
    assert (found.exc_text, found.funcName) == ("\\x1b[1A", "\\x9bf")
    assert "elsewhere.made" not in logging.root.manager.loggerDict


STRANGE_RECORDS = [
    b"", b"{}", b"[]", b"[" * 50_000, json.dumps(RECORD | {"levelno": "high"}).encode(),
    json.dumps(RECORD | {"created": 1e300}).encode(), json.dumps(RECORD | {"lineno": float("inf")}).encode(),
]  # fmt: skip


@pytest.mark.parametrize("record", STRANGE_RECORDS, ids=lambda record: record[:20].decode())
def test_a_record_that_cannot_be_read_is_left_out(record: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A call can write to the pipe of its records: it costs neither the call nor its runner."""
    with tagged(LOG + record, STDOUT + b"more\n") as executor:
        assert executor.submit(echo, 1).result(PATIENCE) is None
        assert executor.pool.stats().boots_attempted == 1
    assert [found.exc_info[0] for found in caplog.records if found.exc_info] == [ProtocolError]


def test_lines_that_calls_leave_unfinished_are_not_kept_for_ever() -> None:
    """A slot runs one call at a time: what the one before has not ended ends with the first word of the next."""
    shown: list[str] = []
    printer = Printer(lambda line: shown.append(line.text), lambda error: None)
    for number in range(1, 1001):
        (frame,) = Decoder().feed(encode(Kind.OUTPUT, number, b"unfinished", attempt=1, detail=SLOT))
        printer.print(OutputSource(1, SLOT, number, 1), frame)
    assert len(shown) == 999
    printer.end(1, SLOT)
    assert len(shown) == 1000


# -- what waits to be written to it ------------------------------------------------------------------------------------


def test_answers_to_a_runner_that_never_reads_are_bounded() -> None:
    def lie(sock: socket.socket, call: Frame) -> None:
        while True:
            sock.sendall(1000 * encode(Kind.PING))

    Abused(lie).check(f"{MAX_REPLIES} answers wait for a peer that does not read them")


def test_calls_that_were_not_sent_yet_cannot_be_answered() -> None:
    """A runner that guesses their numbers, and reads none, would have the parent keep all that it sends."""
    calls = 400

    def script(sock: socket.socket, number: int) -> None:
        say_hello(sock)
        while number == 1:
            for call_id in range(1, calls + 1):
                sock.sendall(encode(Kind.RESULT, call_id, b"\x80\x05N.", attempt=1))
        for frame in frames_from(sock):
            if frame.kind == Kind.CALL:
                sock.sendall(result(frame))
            elif frame.kind == Kind.STOP:
                return

    with DragonflyExecutor(backend=ScriptedBackend(script)) as executor:
        futures = [executor.submit(echo, b"x" * 60_000) for _ in range(calls)]
        for future in futures:
            assert isinstance(future.exception(PATIENCE), RunnerLostError | None)
        assert executor.submit(echo, 2).result(PATIENCE) is None
        assert executor.pool.stats().boots_attempted == 2


# -- what it says of itself --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cpus", [0, -1, MAX_SLOTS + 1, 2**63])
def test_a_runner_with_more_processors_than_there_are_does_not_boot(cpus: int) -> None:
    """It would be sent every call that waits."""

    def script(sock: socket.socket, number: int) -> None:
        said = json.loads(handshake.hello("", versions()))
        said["versions"]["cpus"] = cpus
        sock.sendall(encode(Kind.HELLO, payload=json.dumps(said).encode()))
        sock.recv(1)

    with DragonflyExecutor(backend=ScriptedBackend(script), max_boot_failures=1) as executor:
        error = error_of(executor.submit(nothing))
        assert isinstance(error, BootError)
        assert "processors" in str(error)


@pytest.mark.parametrize("field", ["python", "package", "release"])
def test_versions_with_control_characters_are_none(field: str, caplog: pytest.LogCaptureFixture) -> None:
    """They would stand in errors and log lines."""

    def script(sock: socket.socket, number: int) -> None:
        said = json.loads(handshake.hello("", versions()))
        said["versions"][field] = "3.1\x1b]0;owned\x07"
        sock.sendall(encode(Kind.HELLO, payload=json.dumps(said).encode()))
        sock.recv(1)

    with DragonflyExecutor(backend=ScriptedBackend(script), max_boot_failures=1) as executor:
        error = error_of(executor.submit(nothing))
        assert isinstance(error, BootError)
        assert "\x1b" not in f"{error}{caplog.text}"
        assert "not a HELLO: versions with control characters" in str(error)


LOST = {"code": 1, "signal": None, "pid": 1, "started": True}
STRANGE_ENDS = [
    b"", b"[]", b"{}", b"null", b"[" * 100_000, json.dumps(LOST | {"code": float("inf")}).encode(),
    json.dumps(LOST | {"pid": float("nan")}).encode(), json.dumps(LOST | {"signal": "9" * 5000}).encode(),
    json.dumps(LOST | {"memory_limit": []}).encode(), json.dumps(LOST | {"required_memory": "much"}).encode(),
]  # fmt: skip


@pytest.mark.parametrize("payload", STRANGE_ENDS, ids=lambda payload: payload[:40].decode())
def test_an_end_of_a_slot_that_makes_no_sense_costs_its_runner(payload: bytes) -> None:
    lie: Lie = lambda sock, call: sock.sendall(  # noqa: E731
        encode(Kind.LOST, call.call_id, payload, attempt=call.attempt)
    )
    Abused(lie).check("a LOST that cannot be read")


def test_warnings_are_short_harmless_and_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    """A runner has a warning for the log only when its idle check was asked."""
    warning = encode(Kind.IDLE, payload=b"\x1b]0;owned\x07" + MEBIBYTE[:900_000])

    def script(sock: socket.socket, number: int) -> None:
        say_hello(sock)
        for frame in frames_from(sock):
            if frame.kind == Kind.CALL:
                sock.sendall(50 * warning + result(frame))
            elif frame.kind == Kind.CHECK_IDLE:
                sock.sendall(warning + encode(Kind.STOP))
            elif frame.kind == Kind.STOP:
                return

    idle = (0.05, nothing)
    with DragonflyExecutor(
        backend=ScriptedBackend(script), idle_shutdown_after=idle, on_event=(events := Events())
    ) as ex:
        assert ex.submit(echo, 1).result(PATIENCE) is None
        events.wait("down")
    (record,) = [record for record in caplog.records if "owned" in record.getMessage()]
    assert "\x1b" not in record.getMessage()
    assert len(record.getMessage()) < 5000


# -- who keeps to it ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["tag", "capture"])
def test_what_a_gone_overtakes_is_no_lie(mode: str) -> None:
    """A call is cancelled as it ends: its flood of output, and its large result, still wait in the second lane."""
    received, answered = threading.Event(), threading.Event()

    def script(sock: socket.socket, number: int) -> None:
        say_hello(sock)
        sock.sendall(encode(Kind.SLOT_UP, detail=SLOT))
        late = b""
        for frame in frames_from(sock):
            if frame.kind == Kind.CALL and not late:
                end = encode(Kind.OUTPUT, frame.call_id, attempt=frame.attempt, detail=SLOT, flags=Flag.END)
                rest = head(frame, 300_000) + chunk(frame, 200_000, more=True) + chunk(frame, 100_000, more=False)
                late = output(frame, 1000) + end + rest
                received.set()
            elif frame.kind == Kind.KILL:
                sock.sendall(encode(Kind.GONE, frame.call_id, attempt=frame.attempt) + encode(Kind.PING))
            elif frame.kind == Kind.PONG:
                # The parent has taken the GONE in, and reads what follows by itself.
                sock.sendall(late)
                answered.set()
            elif frame.kind == Kind.CALL:
                sock.sendall(result(frame))
            elif frame.kind == Kind.STOP:
                return

    with DragonflyExecutor(backend=ScriptedBackend(script), output=mode) as executor:
        future = executor.submit(echo, 1)
        assert received.wait(PATIENCE)
        assert future.cancel()
        assert answered.wait(PATIENCE)
        assert executor.submit(echo, 2).result(PATIENCE) is None
        assert executor.pool.stats().boots_attempted == 1


def test_a_fake_runner_keeps_to_max_payload() -> None:
    with DragonflyExecutor(backend=FakeBackend(), max_payload=100_000) as executor:
        error = error_of(executor.submit(bytes, 200_000))
        assert "max_payload is 100000" in str(error)
        assert executor.submit(echo, 2).result(PATIENCE) == 2


def test_a_slot_keeps_errors_within_their_room() -> None:
    """An error has room beside max_payload, but what it carries may be of any size."""
    with DragonflyExecutor(1, max_payload=100_000) as executor:
        error = error_of(executor.submit(fail_with, 500_000))
        assert len(error.args[0]) == 500_000
        error = error_of(executor.submit(fail_with, 3_000_000))
        assert "the call's error takes" in str(error)
        assert executor.submit(echo, 2).result(PATIENCE) == 2


def fail_with(size: int) -> None:
    raise ValueError("x" * size)
