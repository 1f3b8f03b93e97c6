"""A runner that somebody else wants to go (SIGTERM), heard word by word, by a parent that is none."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor.protocol import handshake
from dragonfly_executor.protocol.file_manifest import Difference, Step, a_directory
from dragonfly_executor.protocol.frames import SETUP_HEAD, Decoder, Frame, Kind, encode
from dragonfly_executor.serialization import CallCodec
from tests.support import payloads
from tests.support.helpers import PATIENCE, Gate, Mailbox
from tests.support.trees import file_of

AGENT = """
import socket, sys
from dragonfly_executor.runner.agent import run
fd, grace = int(sys.argv[1]), float(sys.argv[2])
run(socket.socket(fileno=fd), prepare=lambda agent: agent.be_watched(lambda has_worked: None, 60.0, grace))
"""
LONG = 3600.0
"""Seconds that nobody here will wait."""


class Talk:
    """With an agent that gives calls so many seconds when it is told to go."""

    def __init__(self, grace: float) -> None:
        self._sock, theirs = socket.socketpair()
        self._sock.settimeout(PATIENCE)
        with theirs:
            fd = theirs.fileno()
            command = [sys.executable, "-c", AGENT, str(fd), str(grace)]
            self.process = subprocess.Popen(command, pass_fds=[fd])
        self._decoder = Decoder()
        self._frames: list[Frame] = []
        self._codec = CallCodec()

    def hear(self, kind: Kind) -> Frame:
        """The next frame of this kind, and none of those that tell what became of a call before it."""
        while (frame := self._next()).kind != kind:
            assert frame.kind in (Kind.SLOT_UP, Kind.SLOT_DOWN, Kind.STARTED, Kind.PONG), f"{Kind(frame.kind)!r} came"
        return frame

    def _next(self) -> Frame:
        while not self._frames:
            assert self._receive(), "the link has ended"
        return self._frames.pop(0)

    def _receive(self) -> bool:
        try:
            data = self._sock.recv(65536)
        except ConnectionResetError:  # it has gone without reading all that was said
            return False
        self._frames += self._decoder.feed(data)
        return bool(data)

    def say(self, kind: Kind, payload: bytes = b"", **more: Any) -> None:
        with suppress(BrokenPipeError):  # it may have gone by now
            self._sock.sendall(encode(kind, payload=payload, **more))

    def welcome(self) -> None:
        session = handshake.welcome(lease=LONG, setup_timeout=LONG, slots=1, calls_per_slot=0)
        self.say(Kind.WELCOME, session)
        setup = self._codec.setup()
        self.say(Kind.SETUP, SETUP_HEAD.pack(1 << 20, len(setup), 0) + setup)

    def call(self, call_id: int, function: Callable[..., Any], *args: Any) -> None:
        self.say(Kind.CALL, b"".join(self._codec.encode_call(function, args, {})), call_id=call_id, attempt=1)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def says_bye(self) -> None:
        self.hear(Kind.BYE)
        while self._receive():
            continue
        assert self._frames == []
        assert self.process.wait(PATIENCE) == 0

    def close(self) -> None:
        self._sock.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture
def talk() -> Iterator[Callable[[float], Talk]]:
    made: list[Talk] = []

    def make(grace: float) -> Talk:
        made.append(Talk(grace))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_one_that_its_parent_has_just_let_in_gives_back_what_comes(talk: Callable[[float], Talk]) -> None:
    """It may have said so, and have sent calls, though nothing of it has been read here."""
    agent = talk(LONG)
    agent.hear(Kind.HELLO)
    agent.terminate()
    agent.hear(Kind.STOP)
    agent.welcome()
    agent.call(1, payloads.pid)
    assert agent.hear(Kind.RETURNED).call_id == 1
    agent.terminate()  # once more is nothing new
    agent.say(Kind.STOP, detail=int(LONG * 1000))
    agent.says_bye()


def test_one_that_nobody_lets_in_goes_soon(talk: Callable[[float], Talk]) -> None:
    agent = talk(LONG)
    agent.hear(Kind.HELLO)
    agent.terminate()
    agent.hear(Kind.STOP)
    agent.says_bye()


@pytest.mark.parametrize("first", ["whoever is in a hurry", "the parent"])
def test_of_two_that_want_it_to_go_the_one_counts_that_waits_the_least(
    talk: Callable[[float], Talk], mailbox: Mailbox, first: str
) -> None:
    """Who sends a SIGTERM kills later, whatever a parent's `shutdown_timeout` is."""
    agent = talk(0.2)
    agent.hear(Kind.HELLO)
    agent.welcome()
    agent.call(1, payloads.hold_for_good, mailbox.path)
    mailbox.numbers(1)
    if first == "the parent":
        agent.say(Kind.STOP, detail=int(LONG * 1000))
        agent.say(Kind.PING)
        agent.hear(Kind.PONG)
        agent.terminate()
    else:
        agent.terminate()
        agent.hear(Kind.STOP)
        agent.say(Kind.STOP, detail=int(LONG * 1000))
    if first == "the parent":
        agent.hear(Kind.STOP)
    assert agent.hear(Kind.LOST).call_id == 1
    agent.says_bye()


def test_a_parents_grace_holds_where_it_is_the_shorter_one(talk: Callable[[float], Talk], mailbox: Mailbox) -> None:
    agent = talk(LONG)
    agent.hear(Kind.HELLO)
    agent.welcome()
    agent.call(1, payloads.hold_for_good, mailbox.path)
    mailbox.numbers(1)
    agent.terminate()
    agent.hear(Kind.STOP)
    agent.say(Kind.STOP, detail=100)
    assert agent.hear(Kind.LOST).call_id == 1
    agent.says_bye()


def test_what_comes_amid_files_that_change_is_given_back_at_once(
    talk: Callable[[float], Talk], mailbox: Mailbox, gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sync may take longer than there is time."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    agent = talk(LONG)
    agent.hear(Kind.HELLO)
    agent.welcome()
    agent.call(1, payloads.hold, mailbox.path, gate.path)
    mailbox.numbers(1)
    agent.terminate()
    agent.hear(Kind.STOP)
    difference = Difference({"cwd": a_directory(), "cwd/f": file_of(b"never sent")}, [])
    agent.say(Kind.SYNC_BEGIN, Step(difference, [], False, []).dump(), detail=1)
    agent.call(2, payloads.pid)
    agent.hear(Kind.SYNC_HAVE)
    assert agent.hear(Kind.RETURNED).call_id == 2
    gate.open()
    assert agent.hear(Kind.RESULT).call_id == 1
    agent.say(Kind.STOP, detail=int(LONG * 1000))
    agent.says_bye()
