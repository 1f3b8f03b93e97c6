"""Messages about what is not there (any more) are normal: they are counted, and disturb nothing."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator

import pytest

from dragonfly_executor import DragonflyExecutor, Node
from dragonfly_executor.core import events
from dragonfly_executor.engine.outcome import Outcome
from dragonfly_executor.engine.runner_messages import RunnerMessages, events_of
from dragonfly_executor.protocol.frames import Flag, Frame, Kind, encode
from tests.support.helpers import PATIENCE, ScriptedBackend, frames_from, say_hello
from tests.support.payloads import echo

LOST = json.dumps({"code": 1, "signal": None, "pid": 1, "started": True}).encode()
STRANGE = {
    "a result": encode(Kind.RESULT, 999, b"\x80\x05N.", attempt=1),
    "a result of another attempt": encode(Kind.RESULT, 1, b"\x80\x05N.", attempt=7),
    "an error": encode(Kind.RESULT, 999, b"not even a pickle", attempt=1, flags=Flag.ERROR),
    "a chunk": encode(Kind.CHUNK, 999, b"x" * 100, attempt=1),
    "the end of a large result": encode(Kind.CHUNK, 999, b"", attempt=1),
    "a start": encode(Kind.STARTED, 999, attempt=1),
    "a call given back": encode(Kind.RETURNED, 999, attempt=1),
    "a lost call": encode(Kind.LOST, 999, LOST, attempt=1),
    "a call out of time": encode(Kind.TIMED_OUT, 999, attempt=1),
    "a stopped call": encode(Kind.GONE, 999, attempt=1),
    "a pull": encode(Kind.PULL, 999, attempt=1, detail=5),
    "an idle runner": encode(Kind.IDLE, detail=1),
    "a slot": encode(Kind.SLOT_UP, detail=12345),
    "a slot's end": encode(Kind.SLOT_DOWN, detail=54321),
    "a pong": encode(Kind.PONG, detail=77),
    "a bye": encode(Kind.BYE),
    "a second hello": encode(Kind.HELLO, payload=b"{}"),
    "what only a parent says": encode(Kind.WELCOME, payload=b"{}"),
}


def answer(sock: socket.socket, call: Frame) -> None:
    """A result of None."""
    sock.sendall(encode(Kind.RESULT, call.call_id, b"\x80\x05N.", attempt=call.attempt))


def calls(sock: socket.socket) -> Iterator[Frame]:
    """The calls that come, until the parent says that the runner is to go."""
    say_hello(sock)
    for frame in frames_from(sock):
        if frame.kind == Kind.CALL:
            yield frame
        elif frame.kind == Kind.STOP:
            return


@pytest.mark.parametrize("name", STRANGE)
def test_a_message_about_nothing_that_is_there_changes_nothing(name: str) -> None:
    """Checklist 65: before a call, while it runs, and after it."""

    def script(sock: socket.socket, number: int) -> None:
        for call in calls(sock):
            sock.sendall(STRANGE[name])
            answer(sock, call)
            sock.sendall(STRANGE[name])

    backend = ScriptedBackend(script)
    with DragonflyExecutor(backend=backend) as executor:
        for _ in range(5):
            assert executor.submit(echo, 1).result(PATIENCE) is None
        assert executor.pool.stats().boots_attempted == 1
        assert executor.pool.stats().calls_done == 5


def test_a_result_that_comes_twice_counts_once() -> None:
    """Checklist 65."""

    def script(sock: socket.socket, number: int) -> None:
        for call in calls(sock):
            answer(sock, call)
            answer(sock, call)
            sock.sendall(encode(Kind.LOST, call.call_id, LOST, attempt=call.attempt))

    with DragonflyExecutor(backend=ScriptedBackend(script)) as executor:
        for _ in range(5):
            assert executor.submit(echo, 1).result(PATIENCE) is None
        executor.shutdown()
        stats = executor.pool.stats()
    assert (stats.calls_done, stats.calls_failed) == (5, 0)
    assert stats.stale >= 8


def test_what_a_runner_says_about_a_cancelled_call_is_too_late() -> None:
    """Checklist 65: the result and the cancellation cross each other."""
    received = threading.Event()

    def script(sock: socket.socket, number: int) -> None:
        say_hello(sock)
        held: Frame | None = None
        for frame in frames_from(sock):
            if frame.kind == Kind.CALL and held is None:
                held = frame
                received.set()
            elif frame.kind == Kind.KILL and held is not None:
                answer(sock, held)
                sock.sendall(encode(Kind.GONE, held.call_id, attempt=held.attempt))
            elif frame.kind == Kind.CALL:
                answer(sock, frame)
            elif frame.kind == Kind.STOP:
                return

    with DragonflyExecutor(backend=ScriptedBackend(script)) as executor:
        future = executor.submit(echo, 1)
        assert received.wait(PATIENCE)
        assert future.cancel()
        assert executor.submit(echo, 2).result(PATIENCE) is None
        assert future.cancelled()
        assert executor.pool.stats().calls_cancelled == 1


def test_calls_that_come_back_are_queued_again_before_results_free_their_slots() -> None:
    """They came before the calls that wait, and one read may bring both."""
    said = RunnerMessages([(2, 1, 0.0, Outcome.failed(ValueError()), False)])
    said.returned.append((1, 1))
    assert [type(event) for event in events_of(1, said, Node())] == [events.CallsReturned, events.ResultsArrived]
