"""A runner elsewhere is lost: nobody can tell which calls it had begun, so that few may be on it at a time.

All that is in flight there fails. That is one call a slot, and beyond these what a slot runs in some milliseconds.
"""

from __future__ import annotations

import socket
import threading

import pytest

from dragonfly_executor import RunnerLostError
from dragonfly_executor.core import placement, scaling
from dragonfly_executor.core.scaling import MAX_AHEAD
from dragonfly_executor.protocol.frames import MAX_DETAIL, Frame, Kind, encode
from tests.engine.conftest import MakeExecutor
from tests.support.helpers import PATIENCE, ScriptedBackend, frames_from, say_hello
from tests.support.payloads import echo

SLOTS = 2
ANSWERED = 400
"""Calls that the runner answers, so that the pool knows what they cost."""
CALLS = 4000
SPAN = 0.005
"""Seconds of work that may wait in a slot of a runner that is near."""


class Elsewhere:
    """A runner of which the first one is lost, with all that is on it; the next one answers everything.

    Args:
        cost: seconds that each call is said to take.
        distance: seconds that a ping is said to take.
    """

    def __init__(self, cost: float, distance: float) -> None:
        self._cost = round(cost * 1e6)
        self._distance = round(distance * 1e6)
        self.outstanding: set[int] = set()
        self.ran = threading.Event()

    def __call__(self, sock: socket.socket, number: int) -> None:
        say_hello(sock)
        answered, silent_pings = 0, 0
        for frame in frames_from(sock):
            if frame.kind == Kind.STOP:
                return
            if frame.kind == Kind.PING:
                detail = (frame.detail - self._distance) & MAX_DETAIL
                sock.sendall(encode(Kind.PONG, detail=detail))
                # What is sent ahead was sent before the next ping.
                silent_pings += number == 1 and answered == ANSWERED
                if silent_pings == 2:
                    return
            elif frame.kind == Kind.CALL:
                if number > 1 or answered < ANSWERED:
                    answered += 1
                    self._answer(sock, frame)
                else:
                    self.outstanding.add(frame.call_id)

    def _answer(self, sock: socket.socket, call: Frame) -> None:
        sock.sendall(encode(Kind.RESULT, call.call_id, b"\x80\x05N.", attempt=call.attempt, detail=self._cost))


@pytest.mark.parametrize("distance", [0.0, 0.02, 0.2], ids=lambda seconds: f"{seconds * 1000:g} ms away")
@pytest.mark.parametrize(
    "cost", [0.000_02, 0.000_5, 0.002, 0.02, 1.0], ids=lambda seconds: f"calls of {seconds * 1000:g} ms"
)
def test_what_is_lost_with_a_runner_elsewhere_is_bounded_in_time(
    make: MakeExecutor, monkeypatch: pytest.MonkeyPatch, cost: float, distance: float
) -> None:
    measured: list[float] = []

    def note(cost: float | None, slots: int, round_trip: float) -> int:
        measured.append(round_trip)
        return scaling.prefetch(cost, slots, round_trip)

    monkeypatch.setattr(placement, "prefetch", note)
    runner = Elsewhere(cost, distance)
    ex = make(SLOTS, backend=ScriptedBackend(runner), heartbeat=0.02)
    futures = [ex.submit(echo, n) for n in range(CALLS)]
    errors = [future.exception(PATIENCE) for future in futures]
    lost = [error for error in errors if error is not None]
    assert all(type(error) is RunnerLostError for error in lost)
    # What it had read, and what was on its way to it; those that it had not been sent went on elsewhere.
    assert len(runner.outstanding) <= len(lost) < CALLS - ANSWERED
    ahead = max(0, len(lost) - SLOTS) / SLOTS
    # The way through this machine is part of a round trip, so it is not the distance that counts but what was measured.
    assert max(measured) >= distance
    # A call more, since a part of one cannot be sent.
    assert (ahead - 1) * cost <= max(SPAN, 2 * max(measured))
    assert ahead <= MAX_AHEAD


def test_calls_of_which_nothing_is_known_yet_are_sent_ahead_one_by_one(make: MakeExecutor) -> None:
    runner = Elsewhere(1.0, 0.0)
    ex = make(SLOTS, backend=ScriptedBackend(runner), heartbeat=0.02)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.engine.test_lost_elsewhere.ANSWERED", 0)
        futures = [ex.submit(echo, n) for n in range(100)]
        errors = [future.exception(PATIENCE) for future in futures]
    assert len(runner.outstanding) <= sum(error is not None for error in errors) <= 2 * SLOTS
