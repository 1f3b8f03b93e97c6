"""A runner that sends items beyond a stream's window, or without a stream, is lost, it alone."""

from __future__ import annotations

import pickle
import socket
from collections.abc import Callable, Iterator

import pytest

from dragonfly_executor import DragonflyExecutor, ProtocolError, ResultDeserializationError, RunnerLostError
from dragonfly_executor.protocol.frames import CHUNK_SIZE, Flag, Frame, Kind, encode
from dragonfly_executor.protocol.memory_bounds import BATCH_ROOM
from tests.support.helpers import PATIENCE, ScriptedBackend, frames_from, say_hello
from tests.support.payloads import echo


def batch(call: Frame, items: list[int], claimed: int | None = None, flags: int = 0) -> bytes:
    data = pickle.dumps((items, []))
    return encode(Kind.ITEMS, call.call_id, data, attempt=call.attempt, detail=claimed or len(items), flags=flags)


def piece(call: Frame) -> bytes:
    return encode(Kind.ITEMS, call.call_id, bytes(CHUNK_SIZE), attempt=call.attempt, detail=1, flags=Flag.MORE)


class LyingRunner:
    """A runner that sends these bytes for its first call, and answers None to the others."""

    def __init__(self, lie: Callable[[Frame], bytes]) -> None:
        self._lie = lie

    def __call__(self, sock: socket.socket, number: int) -> None:
        say_hello(sock)
        for frame in frames_from(sock):
            if frame.kind == Kind.CALL and number == 1:
                sock.sendall(self._lie(frame))
            elif frame.kind == Kind.CALL:
                sock.sendall(encode(Kind.RESULT, frame.call_id, b"\x80\x05N.", attempt=frame.attempt))
            elif frame.kind == Kind.STOP:
                return


@pytest.fixture
def make_liar() -> Iterator[Callable[..., DragonflyExecutor]]:
    made: list[DragonflyExecutor] = []

    def make(lie: Callable[[Frame], bytes], **options: object) -> DragonflyExecutor:
        made.append(DragonflyExecutor(backend=ScriptedBackend(LyingRunner(lie)), **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for executor in made:
        executor.kill_workers()
        executor.shutdown()


@pytest.mark.parametrize(
    ("lie", "text"),
    [
        (lambda call: batch(call, [1, 2, 3]), "its window is 2"),
        (lambda call: batch(call, [1]) * 3, "its window is 2"),
        (lambda call: encode(Kind.ITEMS, call.call_id, b"", attempt=call.attempt), "its window is 2"),
        (lambda call: piece(call) * (1 + (1000 + BATCH_ROOM) // CHUNK_SIZE), "a batch of more than 1000 bytes"),
        (lambda call: encode(Kind.ITEMS, 4711, b"", attempt=1, detail=1), "items of call 4711, which is not on"),
    ],
    ids=["too many at once", "too many", "no items", "too large", "an unknown call"],
)
def test_items_beyond_the_window(
    make_liar: Callable[..., DragonflyExecutor], lie: Callable[[Frame], bytes], text: str
) -> None:
    executor = make_liar(lie, max_payload=1000)
    with pytest.raises(RunnerLostError, match=text) as caught:
        for _ in executor.options(stream_buffersize=2).stream(range, 1):
            executor.pool.stats()  # items that were taken make room: the runner is lost before that, or never
    assert isinstance(caught.value.__cause__, ProtocolError)
    assert executor.submit(echo, 2).result(PATIENCE) is None


def test_items_of_a_call_that_is_no_stream(make_liar: Callable[..., DragonflyExecutor]) -> None:
    executor = make_liar(lambda call: batch(call, [1]))
    error = executor.submit(echo, 1).exception(PATIENCE)
    assert isinstance(error, RunnerLostError)
    assert "which is no stream" in str(error)
    assert executor.submit(echo, 2).result(PATIENCE) is None


@pytest.mark.parametrize(
    "lie",
    [
        lambda call: batch(call, [1, 2], claimed=1),
        lambda call: encode(Kind.ITEMS, call.call_id, b"garbage", attempt=call.attempt, detail=1),
        lambda call: encode(Kind.ITEMS, call.call_id, pickle.dumps(5), attempt=call.attempt, detail=1),
    ],
    ids=["another number", "garbage", "no batch"],
)
def test_a_batch_that_cannot_be_opened(
    make_liar: Callable[..., DragonflyExecutor], lie: Callable[[Frame], bytes]
) -> None:
    executor = make_liar(lie)
    with pytest.raises(ResultDeserializationError, match="items of a stream cannot be opened"):
        next(executor.stream(range, 1))
