"""`Future.running`: True from when a slot has begun a call until that has ended, and at no other time."""

from __future__ import annotations

import os
import signal
import socket

from dragonfly_executor.protocol.frames import Kind, encode
from tests.processes.conftest import Make
from tests.support import payloads
from tests.support.helpers import (
    PATIENCE,
    Gate,
    Mailbox,
    ScriptedBackend,
    becomes_true,
    first_call,
    frames_from,
    say_hello,
)


def test_a_call_is_running_while_a_slot_runs_it(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    ex = make(1)
    held = ex.submit(payloads.hold, mailbox.path, gate.path, "held")
    behind = ex.submit(payloads.hold, mailbox.path, gate.path, "behind")
    mailbox.read()
    assert becomes_true(ex.pool, held.running)
    assert not behind.running()
    assert ex.pool.stats().calls_running == 1
    gate.open()
    assert held.result(PATIENCE) == "held"
    assert not held.running()
    mailbox.read()
    assert becomes_true(ex.pool, behind.running)
    assert not held.running()
    gate.open()
    assert behind.result(PATIENCE) == "behind"
    assert not behind.running()


def test_a_call_that_is_to_be_tried_again_is_not_running_until_it_is(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    """Its slot has died under it, and all runners are busy with others."""
    ex = make(1)
    twice = ex.options(retries=1).submit(payloads.hold, mailbox.path, gate.path, "twice")
    slot = int(mailbox.read())
    assert becomes_true(ex.pool, twice.running)
    os.kill(slot, signal.SIGKILL)
    assert int(mailbox.read()) != slot
    assert becomes_true(ex.pool, lambda: twice.running() and ex.pool.stats().calls_retried == 1)
    assert twice.cancel()
    assert not twice.running()


def test_a_call_is_running_when_its_runner_says_so_and_is_not_once_it_came_back(make: Make) -> None:
    """It is the runner's word that counts: a call that was sent may wait there, and one that waits may be returned."""

    def script(sock: socket.socket, number: int) -> None:
        say_hello(sock)
        frames = frames_from(sock)
        call = first_call(frames)
        for kind in (Kind.STARTED, Kind.RETURNED):
            next(frame for frame in frames if frame.kind == Kind.PING)
            sock.sendall(encode(kind, call.call_id, attempt=call.attempt))
        call = first_call(frames)
        next(frame for frame in frames if frame.kind == Kind.KILL)
        sock.sendall(encode(Kind.GONE, call.call_id, attempt=call.attempt))
        next((frame for frame in frames if frame.kind == Kind.STOP), None)

    ex = make(1, backend=ScriptedBackend(script), heartbeat=0.05)
    future = ex.submit(payloads.echo, 1)
    assert not future.running()
    assert becomes_true(ex.pool, future.running)
    assert becomes_true(ex.pool, lambda: not future.running())
    assert future.cancel()
