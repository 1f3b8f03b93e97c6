"""What there is no memory for fails its own call, and says how large it was; the stream stays in step."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from typing import Any

import pytest

from dragonfly_executor import CallDeserializationError, LocalBackend, ResultDeserializationError
from dragonfly_executor.engine import large_payloads
from dragonfly_executor.protocol.frames import CHUNK_SIZE, TOTAL, Flag, Kind, encode
from tests.processes.conftest import Make
from tests.processes.crashes.short_of_memory import TOO_MUCH, TWICE_TOO_MUCH
from tests.support import payloads
from tests.support.helpers import PATIENCE, SOON, ScriptedBackend, error_of, first_call, frames_from, say_hello


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux holds a process to RLIMIT_AS")
@pytest.mark.parametrize("shared", ["1GiB", "0"])
def test_a_parent_that_is_short_of_memory_loses_only_what_does_not_fit(shared: str) -> None:
    # glibc would set 64 MiB aside for each thread that runs out of memory.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, "-m", "tests.processes.crashes.short_of_memory", shared]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    told: dict[str, Any] = json.loads(done.stdout)
    for one in (*told["too much"], *told["two at once"], told["raised"], told["not unpickled"], told["out of band"]):
        assert (one["type"], one["cause"]) == ("ResultDeserializationError", "MemoryError")
        assert f"{one['size']} bytes" in one["text"]
    assert all(one["size"] > TOO_MUCH for one in (*told["too much"], told["raised"], told["out of band"]))
    assert told["not unpickled"]["size"] > TWICE_TOO_MUCH
    for one in (told["argument"], told["copied argument"]):
        assert (one["type"], one["cause"]) == ("CallSerializationError", "MemoryError")
    assert told["small"] == {"type": "fine"}
    assert told["neighbours"] == [{"type": "fine"}] * 6
    assert (told["large"], told["memory is back"], told["boots"]) == (1 << 20, TOO_MUCH, 1)


def test_a_result_that_leaves_no_memory_for_anything_else_is_dropped(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    ex = make(1, backend=LocalBackend(shared_memory=0))
    ex.submit(payloads.echo, 1).result(SOON)
    asked: list[int] = []

    def refuse(size: int) -> bool:
        asked.append(size)
        return False

    with monkeypatch.context() as patch:
        patch.setattr(large_payloads, "has_memory", refuse)
        error = error_of(ex.submit(bytes, 8 << 20))
        # A small one is no danger to anything.
        assert ex.submit(bytes, 1000).result(SOON) == bytes(1000)
    assert isinstance(error, ResultDeserializationError)
    assert error.size is not None
    assert error.size > 8 << 20
    assert f"{error.size} bytes" in str(error)
    assert max(asked) <= large_payloads.MOST_HEADROOM
    assert len(ex.submit(bytes, 8 << 20).result(SOON)) == 8 << 20


def test_memory_is_made_by_dropping_the_largest_result_that_comes_in(make: Make) -> None:
    """Whatever the engine needs memory for when there is none."""
    half = threading.Event()
    go_on = threading.Event()

    def script(sock: socket.socket, number: int) -> None:
        say_hello(sock)
        frames = frames_from(sock)
        for size in (4 * CHUNK_SIZE, 2 * CHUNK_SIZE):
            call = first_call(frames)
            head = TOTAL.pack(size)
            flags = Flag.LARGE | Flag.MORE
            sock.sendall(encode(Kind.RESULT, call.call_id, head, flags=flags, attempt=call.attempt))
            for place in range(size // CHUNK_SIZE):
                if place == 2:
                    half.set()
                    assert go_on.wait(PATIENCE)
                more = Flag.MORE if (place + 1) * CHUNK_SIZE < size else 0
                piece = b"\x80\x05N." + bytes(CHUNK_SIZE - 4) if not place else bytes(CHUNK_SIZE)
                sock.sendall(encode(Kind.CHUNK, call.call_id, piece, flags=more, attempt=call.attempt))
        next((frame for frame in frames if frame.kind == Kind.STOP), None)

    ex = make(1, backend=ScriptedBackend(script))
    dropped = ex.submit(payloads.echo, 1)
    assert half.wait(PATIENCE)
    runners: Any = ex.pool._engine._runner_links
    while not ex.pool._engine.ask(lambda _machine: runners.make_room()):
        pass  # until the chunks that were sent have come
    assert not ex.pool._engine.ask(lambda _machine: runners.make_room())
    go_on.set()
    error = error_of(dropped)
    assert isinstance(error, ResultDeserializationError)
    assert error.size == 4 * CHUNK_SIZE
    assert ex.submit(payloads.echo, 2).result(PATIENCE) is None


@pytest.mark.parametrize("size", [(64 << 20) + 1, 65 << 20, (64 << 20) - 77])
def test_a_slot_drops_what_it_has_no_memory_for_and_goes_on(make: Make, size: int) -> None:
    ex = make(1)
    ex.submit(payloads.limit_memory, 24 << 20).result(SOON)
    slot = ex.submit(payloads.pid).result(SOON)
    error = error_of(ex.submit(len, bytes(size)))
    assert type(error) is CallDeserializationError
    assert "MemoryError" in str(error)
    assert f"{size // 1000}" in str(error)
    assert ex.submit(len, bytes(2 << 20)).result(SOON) == 2 << 20
    assert ex.submit(payloads.pid).result(SOON) == slot


def test_a_call_that_fits_and_cannot_be_opened_for_want_of_memory_says_how_large_it_is(make: Make) -> None:
    ex = make(1)
    ex.submit(payloads.limit_memory, 60 << 20).result(SOON)
    slot = ex.submit(payloads.pid).result(SOON)
    error = error_of(ex.submit(len, bytes(40 << 20)))
    assert type(error) is CallDeserializationError
    assert "MemoryError" in str(error)
    assert "bytes" in str(error)
    assert ex.submit(payloads.pid).result(SOON) == slot
