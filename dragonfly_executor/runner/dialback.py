"""Connects a runner to its parent and authenticates it with the boot's token.

All functions block: there is no event loop yet, and no other work.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import time

from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.protocol import handshake
from dragonfly_executor.protocol.dialback_auth import SECRET_SIZE, RefusedError, RunnerHandshake
from dragonfly_executor.protocol.frames import MAX_HANDSHAKE_FRAME, Decoder
from dragonfly_executor.protocol.parent import VARIABLE, Parent
from dragonfly_executor.protocol.versions import versions
from dragonfly_executor.runner import exit_codes
from dragonfly_executor.transport.tcp import split_address

PAUSE = 0.1
"""Seconds between two attempts: the parent may be late, or its table of connections may have been full."""
CLOCKS_APART = 300.0
"""Seconds that the clocks of parent and runner may differ."""
STARTED_AGAIN = (
    "this machine was restarted, for example after a reboot of its host; the parent has given up the runner on it, "
    "and its calls go to other runners"
)
ATTEMPT = 10.0
"""Maximum seconds for each step of an attempt."""


class NotAdmittedError(Exception):
    """The error of a runner that could not connect to its parent, and ends.

    Attributes:
        phase: the phase that failed, as in the boot's error: "connect" or "handshake".
        status: the runner's exit status.
    """

    def __init__(self, reason: str, phase: str, status: int = 1) -> None:
        super().__init__(reason)
        self.phase = phase
        self.status = status


def take_parent() -> Parent:
    """Return the parent's description, and remove its token from the environment.

    Afterwards the token exists only in the result. `Parent.get` returns the rest of the description to calls.

    Raises:
        NotAdmittedError: the description is missing or invalid; or the boot ended long ago, so the machine was started
            again.
    """
    text = os.environ.get(VARIABLE, "")
    try:
        parent = Parent.decode(text)
    except ValueError as error:
        reason = str(error) if text else f"the parent is unknown: {VARIABLE} is not set"
        raise NotAdmittedError(reason, "connect") from None
    _overwrite(VARIABLE)
    os.environ[VARIABLE] = parent._replace(token=None).encode()
    if parent.until is not None and time.time() > parent.until + CLOCKS_APART:
        late = time.time() - parent.until
        reason = f"{STARTED_AGAIN} (its boot ended {late:.0f} s ago)"
        raise NotAdmittedError(reason, "connect", exit_codes.STARTED_AGAIN)
    return parent


def drop(*names: str) -> None:
    """Remove these variables from the environment, also from the kernel's view of it."""
    for name in names:
        if name in os.environ:
            _overwrite(name)
            del os.environ[name]


def _overwrite(name: str) -> None:
    """Overwrite a variable's value in /proc/PID/environ.

    Changing or unsetting a variable leaves the old value there, and every forked slot inherits it.
    """
    import ctypes

    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_void_p
    place = libc.getenv(name.encode())
    if place:
        ctypes.memset(place, ord("-"), len(ctypes.string_at(place)))


def dial_back(parent: Parent, failsafe: float, sure_after: float | None = None) -> tuple[socket.socket, str, float]:
    """Connect to the parent, and retry until it admits this runner.

    Args:
        parent: the parent's description, with the token.
        failsafe: seconds within which the runner must be admitted.
        sure_after: seconds after which a definite refusal ends the attempts. The default is `failsafe`, because the
            parent may be late, or the network of a machine that has just started.

    Returns:
        The connection, this runner's number, and the seconds within which WELCOME must arrive.

    Raises:
        NotAdmittedError: the parent refused, could not be reached, or the time is over.
    """
    if not (parent.address and parent.fingerprint and parent.token):
        raise NotAdmittedError(f"{VARIABLE} lacks the parent's address or the token", "connect")
    try:
        host, port = split_address(parent.address)
        fingerprint, token = bytes.fromhex(parent.fingerprint), bytes.fromhex(parent.token)
    except ValueError as error:
        reason = f"{VARIABLE} does not hold a parent's description: {type(error).__name__}"
        raise NotAdmittedError(reason, "connect") from None
    runner_id = str(parent.runner_id)
    began = time.monotonic()
    end = began + failsafe
    trouble: Exception | None = None
    while True:
        left = max(0.001, end - time.monotonic())
        try:
            sock, greeting = _attempt(host, port, fingerprint, runner_id, token, min(left, ATTEMPT))
        except RefusedError as error:
            raise NotAdmittedError(str(error), "handshake", exit_codes.REFUSED) from None
        except (OSError, ProtocolError) as error:
            # The last attempt may have been cut short by the deadline, so an earlier error says more.
            trouble = trouble if trouble is not None and isinstance(error, TimeoutError) else error
            until = began + sure_after if sure_after is not None and _is_definite(error) else end
            left = min(until, end) - time.monotonic()
            if left <= 0:
                seconds = min(until, end) - began
                reason = f"could not reach the parent at {parent.address} within {seconds:g} s: {trouble}"
                phase = "handshake" if isinstance(trouble, ProtocolError) else "connect"
                raise NotAdmittedError(reason, phase, exit_codes.UNREACHABLE) from None
            time.sleep(min(PAUSE, left))
        else:
            _compare(greeting)
            return sock, runner_id, greeting.timeout


def _is_definite(error: Exception) -> bool:
    """Return True if the error is a definite answer that the parent is not there; False if there was no answer."""
    return isinstance(error, ProtocolError | ConnectionRefusedError | socket.gaierror) or (
        isinstance(error, OSError) and error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH)
    )


def _attempt(
    host: str, port: int, fingerprint: bytes, runner_id: str, token: bytes, seconds: float
) -> tuple[socket.socket, handshake.Greeting]:
    """Connect, and run the handshake up to the parent's greeting."""
    from dragonfly_executor.transport.tls import connect

    sock = connect(host, port, fingerprint, seconds)
    try:
        side = RunnerHandshake(runner_id, token, fingerprint, os.urandom(SECRET_SIZE))
        decoder = Decoder(MAX_HANDSHAKE_FRAME, one_by_one=True)
        sock.send(side.dial())
        while side.greeting is None:
            frames = decoder.feed(b"") if decoder.pending else []
            if not frames:
                data = sock.recv(MAX_HANDSHAKE_FRAME)
                if not data:
                    raise ConnectionError("the parent ended the connection")
                frames = decoder.feed(data)
            for frame in frames:
                answer = side.receive(frame)
                if answer:
                    sock.send(answer)
        if decoder.pending:
            raise ProtocolError("the parent sent more before it was answered")
    except BaseException:
        sock.close()
        raise
    return sock, side.greeting


def _compare(greeting: handshake.Greeting) -> None:
    """Write a version mismatch to stderr, for the machine's log. The parent compares too, and refuses."""
    reason = handshake.mismatch(greeting.versions, versions())
    if reason is not None:
        sys.stderr.write(f"dragonfly runner: versions do not match: {reason}\n")
