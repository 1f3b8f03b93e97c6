"""Links that go wrong: cut anywhere, spoiled, or with a peer at the other end that is no runner at all."""

from __future__ import annotations

import json
import os
import random
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import Pool
from dragonfly_executor.backends.base import BootRequest, Node
from dragonfly_executor.errors import (
    BootError,
    CallDeserializationError,
    CallTimeoutError,
    ProtocolError,
    ResultDeserializationError,
    RunnerLostError,
)
from dragonfly_executor.protocol.frames import HEADER, HEADER_SIZE, MAX_FRAME, Decoder, Kind, encode
from tests.processes.conftest import Make
from tests.support import payloads
from tests.support.helpers import (
    PATIENCE,
    SOON,
    ByteFilter,
    CutLink,
    ScriptedBackend,
    Stall,
    TamperingBackend,
    error_of,
    first_call,
    frames_from,
    kill_and_wait,
    say_hello,
    unchanged,
    until_stop,
    values,
)

# -- peers that are no runners -----------------------------------------------------------------------------------------

LIES: dict[str, bytes] = {
    "a frame over the limit": HEADER.pack(Kind.RESULT, 0, 1, 0, 1, MAX_FRAME + 1),
    "a length of 2**63": HEADER.pack(Kind.RESULT, 0, 1, 0, 1, 2**63),
    "all ones": b"\xff" * 4096,
    "an unknown kind": HEADER.pack(200, 0, 1, 0, 1, 4) + b"what",
    "zeros": bytes(4096),
    "text": b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10,
}


@pytest.mark.parametrize("lie", LIES)
def test_a_runner_that_breaks_the_rules_is_dropped_and_its_calls_are_lost(lie: str, make: Make) -> None:
    """Checklist 42, 43, 44. The next runner, which keeps them, gets the next call."""

    def script(sock: socket.socket, number: int) -> None:
        say_hello(sock)
        frames = frames_from(sock)
        call = first_call(frames)
        if number == 1:
            sock.sendall(LIES[lie])
        else:
            sock.sendall(encode(Kind.RESULT, call.call_id, _pickled("real"), attempt=call.attempt))
        until_stop(frames)

    ex = make(1, backend=ScriptedBackend(script))
    error = error_of(ex.submit(payloads.echo, 1), SOON)
    assert isinstance(error, RunnerLostError)
    assert error.may_have_started
    assert isinstance(error.__cause__, ProtocolError)
    assert ex.submit(payloads.echo, 2).result(SOON) == "real"


@pytest.mark.parametrize("lie", [*LIES, "a result first", "a hello that is none", "nothing", "a long hello"])
def test_a_peer_that_does_not_say_hello_fails_the_boot(lie: str, make: Make) -> None:
    """Checklist 43, 44. Nothing of what it says is opened, and calls that wait hear why after some tries."""
    first = {
        "a result first": encode(Kind.RESULT, 1, b"\x80\x04cposix\nsystem\n", attempt=1),
        "a hello that is none": encode(Kind.HELLO, payload=b"{}"),
        "nothing": b"",
        "a long hello": encode(Kind.HELLO, payload=b" " * 5000),
    }

    def script(sock: socket.socket, _number: int) -> None:
        sock.sendall(LIES.get(lie) or first[lie])

    ex = make(1, backend=ScriptedBackend(script), boot_wait=lambda _: 0.0)
    error = error_of(ex.submit(payloads.echo, 1), SOON)
    assert isinstance(error, BootError)
    assert error.attempts == 3
    assert isinstance(error.__cause__, (ProtocolError, ConnectionError))


def test_a_peer_that_never_says_anything_fails_the_boot_in_time(make: Make) -> None:
    """Checklist 44. A boot that hangs is a boot that failed."""

    def script(sock: socket.socket, _number: int) -> None:
        for _ in frames_from(sock):
            continue

    ex = make(1, backend=ScriptedBackend(script), boot_timeout=0.2, boot_wait=lambda _: 0.0)
    assert isinstance(error_of(ex.submit(payloads.echo, 1), SOON), BootError)


def test_messages_about_calls_that_are_not_there_are_ignored(make: Make) -> None:
    """Checklist 44. Late, doubled, unknown: they are counted, and nothing else."""

    def script(sock: socket.socket, _number: int) -> None:
        say_hello(sock)
        frames = frames_from(sock)
        call = first_call(frames)
        ref = {"call_id": call.call_id, "attempt": call.attempt}
        for kind in (Kind.STARTED, Kind.RETURNED, Kind.TIMED_OUT, Kind.GONE, Kind.PULL, Kind.CHUNK):
            sock.sendall(encode(kind, call.call_id + 1000, attempt=1))
            sock.sendall(encode(kind, call.call_id, attempt=call.attempt + 1))
        sock.sendall(encode(Kind.LOST, 77, json.dumps({"code": 1, "signal": None, "pid": 1, "started": True}).encode()))
        sock.sendall(encode(Kind.RESULT, payload=_pickled("wrong"), call_id=call.call_id, attempt=9))
        for _ in range(3):
            sock.sendall(encode(Kind.RESULT, payload=_pickled("right"), **ref))
        until_stop(frames)

    ex = make(1, backend=ScriptedBackend(script))
    assert ex.submit(payloads.echo, 1).result(SOON) == "right"
    assert ex.pool.stats().stale > 0
    assert ex.pool.stats().boots_attempted == 1


@pytest.mark.parametrize("broken", [b"not json", b"{}", b"[]", b'{"code": 1}'])
def test_a_report_that_cannot_be_read_loses_the_runner_and_not_the_pool(broken: bytes, make: Make) -> None:
    """Checklist 44. A peer's JSON is the peer's, too."""

    def script(sock: socket.socket, number: int) -> None:
        say_hello(sock)
        frames = frames_from(sock)
        call = first_call(frames)
        if number == 1:
            sock.sendall(encode(Kind.LOST, call.call_id, broken, attempt=call.attempt))
        else:
            sock.sendall(encode(Kind.RESULT, call.call_id, _pickled("real"), attempt=call.attempt))
        until_stop(frames)

    ex = make(1, backend=ScriptedBackend(script))
    assert isinstance(error_of(ex.submit(payloads.echo, 1), SOON), RunnerLostError)
    assert ex.submit(payloads.echo, 2).result(SOON) == "real"


def _pickled(value: Any) -> bytes:
    import pickle

    return pickle.dumps(value, 5)


# -- real runners on links that go wrong -------------------------------------------------------------------------------


def cut_after(size: int) -> Callable[[], ByteFilter]:
    """The first runner's link ends within the first call, after so many bytes of it; those of later runners do not."""
    runners = iter([True])

    def make_meddle() -> ByteFilter:
        decoder = Decoder()

        def tamper(data: bytes) -> bytes:
            for position in range(len(data)):
                if decoder.pending == 0 and data[position] == Kind.CALL:
                    raise CutLink(data[: position + size])
                decoder.feed(data[position : position + 1])
            return data

        return tamper if next(runners, False) else unchanged

    return make_meddle


class ElsewhereBackend(TamperingBackend):
    """Its runners have no memory in common with this process, as those on other machines have none."""

    def boot(self, request: BootRequest) -> Node:
        node = super().boot(request)
        assert node.starts is not None
        node.starts.settle(0.0)
        node.starts = None
        return node


SIZES = [*range(0, HEADER_SIZE + 2, 5), 40, 80, 120]
"""Bytes of a call that pass; it has more."""


@pytest.mark.parametrize("size", SIZES)
def test_a_link_cut_within_a_call_to_another_machine_loses_it(size: int, make: Make, log: Path) -> None:
    """Checklist 23, 21. What was cut off on the way is not known here to be unread; nothing runs twice."""
    backend = ElsewhereBackend(to_runner=cut_after(size))
    ex = make(1, backend=backend)
    end = ex.submit(payloads.log_run, str(log), "call").exception(SOON)
    assert isinstance(end, RunnerLostError)
    assert ex.submit(payloads.echo, 1).result(SOON) == 1
    assert not log.exists()
    assert backend.boots == 2


@pytest.mark.parametrize("size", SIZES)
def test_a_call_within_which_the_link_was_cut_runs_on_the_next_runner(size: int, make: Make, log: Path) -> None:
    """On this machine it is known that it never began."""
    backend = TamperingBackend(to_runner=cut_after(size))
    ex = make(1, backend=backend)
    ex.submit(payloads.log_run, str(log), "call").result(SOON)
    assert len(log.read_text().splitlines()) == 1
    assert backend.boots == 2


def test_calls_that_never_left_go_to_the_next_runner(log: Path) -> None:
    """Checklist 23, 21. The link is full when its runner dies: what was not written provably did not start.

    No retry is spent on it, since there is none.
    """
    stall = Stall()
    backend = TamperingBackend(to_runner=lambda: stall)
    with Pool("full", min=0, max=1, max_concurrency=100, timeout=None, backend=backend) as pool:
        agent = pool.submit(payloads.agent_pid).result(SOON)
        stall.after(1)
        filler = bytes(60_000)
        futures = [pool.submit(payloads.log_filled, str(log), n, filler) for n in range(60)]
        assert stall.stalled.wait(SOON)
        pool.stats()
        kill_and_wait(agent)
        stall.go_on.set()
        ends = [future.exception(PATIENCE) for future in futures]
    lost = [n for n, end in enumerate(ends) if end is not None]
    assert all(isinstance(ends[n], RunnerLostError) for n in lost)
    assert lost == list(range(len(lost)))
    assert len(lost) < 30
    runs = Counter(int(line.split()[0]) for line in log.read_text().splitlines())
    assert runs == Counter(range(len(lost), 60))


def test_a_large_call_whose_bytes_had_not_all_left_goes_to_the_next_runner(make: Make) -> None:
    """Checklist 23. Its slot cannot have begun."""
    stall = Stall()
    ex = make(1, backend=TamperingBackend(to_runner=lambda: stall))
    agent = ex.submit(payloads.agent_pid).result(SOON)
    data = os.urandom(32 << 20)
    stall.after(1 << 20)
    future = ex.submit(payloads.digest, data)
    assert stall.stalled.wait(SOON)
    kill_and_wait(agent)
    stall.go_on.set()
    import hashlib

    assert future.result(PATIENCE) == hashlib.sha256(data).hexdigest()


class FlipOne:
    """Makes one bit of what passes another one, once it is armed."""

    def __init__(self, seed: int) -> None:
        self._numbers = random.Random(seed)
        self._left: int | None = None

    def arm(self) -> None:
        """Flip a bit among the next bytes."""
        self._left = self._numbers.randrange(2000)

    def __call__(self, data: bytes) -> bytes:
        before, self._left = self._left, None if self._left is None else self._left - len(data)
        if before is None or before >= len(data):
            return data
        self._left = None
        flipped = bytearray(data)
        flipped[before] ^= 1 << self._numbers.randrange(8)
        return bytes(flipped)


SEEDS = [*range(5), *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(5, 100))]


@pytest.mark.parametrize("way", ["to_runner", "to_parent"])
@pytest.mark.parametrize("seed", SEEDS)
def test_after_a_flipped_bit_every_call_ends_and_the_pool_goes_on(seed: int, way: str, make: Make) -> None:
    """Checklist 44. Links carry what was sent; where one does not, its calls may come to harm, and nobody else."""
    flip = FlipOne(seed)
    ex = make(2, backend=TamperingBackend(**{way: lambda: flip}), heartbeat=0.1, dead_after=0.2)
    ex.submit(payloads.echo, 1).result(SOON)
    flip.arm()
    futures = [ex.options(timeout=1).submit(payloads.echo, n) for n in range(120)]
    for _ in range(2):
        # The harm may be found only in the second round: a link may be silent about it until then.
        ends = [future.exception(PATIENCE) for future in futures]
        futures = [ex.submit(payloads.echo, n) for n in range(20)]
    harmed = (RunnerLostError, CallTimeoutError, ResultDeserializationError, CallDeserializationError)
    assert all(end is None or isinstance(end, harmed) for end in ends)
    assert values(futures) == list(range(20))


def test_a_runner_whose_bytes_make_no_frame_is_given_up(make: Make) -> None:
    """Checklist 44. It announced a frame that swallows all it says from then on, its heartbeats among that."""

    def script(sock: socket.socket, number: int) -> None:
        say_hello(sock)
        frames = frames_from(sock)
        call = first_call(frames)
        if number == 1:
            sock.sendall(HEADER.pack(Kind.RESULT, 0, call.attempt, 0, call.call_id, MAX_FRAME))
        else:
            sock.sendall(encode(Kind.RESULT, call.call_id, _pickled("real"), attempt=call.attempt))
        for frame in frames:
            if frame.kind == Kind.PING:
                sock.sendall(encode(Kind.PONG, detail=frame.detail))
            elif frame.kind == Kind.STOP:
                return

    ex = make(1, backend=ScriptedBackend(script), heartbeat=0.05, dead_after=0.2)
    error = error_of(ex.submit(payloads.echo, 1), SOON)
    assert isinstance(error, RunnerLostError)
    assert "no complete frame" in str(error)
    assert ex.submit(payloads.echo, 2).result(SOON) == "real"
