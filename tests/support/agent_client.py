"""A real agent whose frames a test reads one by one, in place of a parent."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from dragonfly_executor.protocol import handshake
from dragonfly_executor.protocol.frames import SETUP_HEAD, Decoder, Frame, Kind, encode
from dragonfly_executor.serialization import CallCodec
from tests.support.helpers import PATIENCE

AGENT = """
import socket, sys
from dragonfly_executor.runner.agent import run
fd, grace = int(sys.argv[1]), float(sys.argv[2])
run(socket.socket(fileno=fd), prepare=lambda agent: agent.start_heartbeat(lambda has_worked: None, 60.0, grace))
"""
LONG = 3600.0
"""Seconds that no test here waits for."""


class AgentClient:
    """Start an agent that gives running calls `grace` seconds when it receives STOP."""

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
        """Return the next frame of this kind. Fail if a frame that ends a call comes first."""
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
        except ConnectionResetError:  # the agent has exited before it read all frames
            return False
        self._frames += self._decoder.feed(data)
        return bool(data)

    def say(self, kind: Kind, payload: bytes = b"", **more: Any) -> None:
        with suppress(BrokenPipeError):  # the agent may have exited
            self._sock.sendall(encode(kind, payload=payload, **more))

    def welcome(self) -> None:
        session = handshake.welcome(lease=LONG, setup_timeout=LONG, slots=1, calls_per_slot=0)
        self.say(Kind.WELCOME, session)
        setup = self._codec.setup()
        self.say(Kind.SETUP, SETUP_HEAD.pack(1 << 20, len(setup), 0, 0) + setup)

    def call(self, call_id: int, function: Callable[..., Any], *args: Any) -> None:
        self.say(Kind.CALL, b"".join(self._codec.encode_call(function, args, {})), call_id=call_id, attempt=1)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def exit_status_after_bye(self) -> int:
        """Return the agent's exit status. Fail unless BYE is its last frame."""
        self.hear(Kind.BYE)
        while self._receive():
            continue
        assert self._frames == [], "frames came after BYE"
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        self._sock.close()
        self.process.kill()
        self.process.wait()
