"""How a runner that was told where its parent is gets there, and proves that it is the one that is waited for.

All of it blocks: there is no loop yet, and nothing else to do.
"""

from __future__ import annotations

import os
import socket
import sys
import time

from dragonfly_executor.core import handshake
from dragonfly_executor.core.dialback import SECRET_SIZE, RefusedError, RunnerSide
from dragonfly_executor.core.wire import MAX_HANDSHAKE_FRAME, Decoder
from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.parent import VARIABLE, Parent
from dragonfly_executor.runner import exits
from dragonfly_executor.transport.tcp import split_address
from dragonfly_executor.versions import versions

# A runner imports this, and importing typing would take as long as all the rest. Type checkers take the name for true.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

PAUSE = 0.1
"""Seconds between two attempts: the parent may be late, or may have had no room."""
ATTEMPT = 10.0
"""Seconds that the steps of one attempt may take each."""


def take_parent(*, on_stdin: bool) -> Parent:
    """Who the parent is. The token is nowhere else from then on, and `Parent.get` tells the calls the rest."""
    text = sys.stdin.readline().strip() if on_stdin else os.environ.get(VARIABLE, "")
    if on_stdin:
        _let_go_of_stdin()
    try:
        parent = Parent.decode(text)
    except ValueError as error:
        _give_up(str(error) if text else f"nobody said who the parent is: {VARIABLE} is not set")
    _overwrite_variable()
    os.environ[VARIABLE] = parent._replace(token=None).encode()
    return parent


def _let_go_of_stdin() -> None:
    """What calls read is not the parent's pipe."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


def _overwrite_variable() -> None:
    """Blot out the token where the kernel shows it, in /proc/PID/environ.

    To change or unset a variable leaves it there, and every slot that is forked would have it.
    """
    import ctypes

    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_void_p
    place = libc.getenv(VARIABLE.encode())
    if place:
        ctypes.memset(place, ord("-"), len(ctypes.string_at(place)))


def dial_back(parent: Parent, failsafe: float) -> tuple[socket.socket, str, float]:
    """The connection to the parent, this runner's number, and the seconds until it is welcomed at the latest.

    It tries for `failsafe` seconds to be let in. A runner that is refused, or too late, ends.
    """
    if not (parent.address and parent.fingerprint and parent.token):
        _give_up(f"{VARIABLE} does not say where to dial, or not with which token")
    try:
        host, port = split_address(parent.address)
        fingerprint, token = bytes.fromhex(parent.fingerprint), bytes.fromhex(parent.token)
    except ValueError as error:
        _give_up(f"{VARIABLE} does not hold a parent's description: {type(error).__name__}")
    runner_id = str(parent.runner_id)
    end = time.monotonic() + failsafe
    trouble: Exception | None = None
    while True:
        left = max(0.001, end - time.monotonic())
        try:
            sock, greeting = _attempt(host, port, fingerprint, runner_id, token, min(left, ATTEMPT))
        except RefusedError as error:
            _give_up(str(error), exits.REFUSED)
        except (OSError, ProtocolError) as error:
            # The last attempt may have been cut short: then the one before it says more.
            trouble = trouble if trouble is not None and isinstance(error, TimeoutError) else error
            left = end - time.monotonic()
            if left <= 0:
                text = f"could not reach the parent at {parent.address} within {failsafe:g} s: {trouble}"
                _give_up(text, exits.UNREACHABLE)
            time.sleep(min(PAUSE, left))
        else:
            _compare(greeting)
            return sock, runner_id, greeting.patience


def _attempt(
    host: str, port: int, fingerprint: bytes, runner_id: str, token: bytes, seconds: float
) -> tuple[socket.socket, handshake.Greeting]:
    """Connect and shake hands."""
    from dragonfly_executor.transport.tls import connect

    sock = connect(host, port, fingerprint, seconds)
    try:
        side = RunnerSide(runner_id, token, fingerprint, os.urandom(SECRET_SIZE))
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
                answer = side.hear(frame)
                if answer:
                    sock.send(answer)
        if decoder.pending:
            raise ProtocolError("the parent went on before it was answered")
    except BaseException:
        sock.close()
        raise
    return sock, side.greeting


def _compare(greeting: handshake.Greeting) -> None:
    """The parent compares as well, and will say no; whoever looks at this machine learns why."""
    reason = handshake.mismatch(greeting.versions, versions())
    if reason is not None:
        sys.stderr.write(f"dragonfly runner: does not fit the parent: {reason}\n")


def _give_up(reason: str, status: int = 1) -> NoReturn:
    sys.stderr.write(f"dragonfly runner: {reason}\n")
    sys.exit(status)
