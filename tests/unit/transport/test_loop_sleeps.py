"""How long a loop sleeps: until what is due next, and a poller may not be able to count that far."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from dragonfly_executor.transport import loop as loops
from dragonfly_executor.transport.loop import Loop
from dragonfly_executor.transport.poller import EpollPoller, Poller, SelectorPoller

DAY = 24 * 3600.0


@pytest.mark.parametrize("make_poller", [EpollPoller, SelectorPoller])
@pytest.mark.parametrize("away", [30 * DAY, 400 * 365 * DAY, 1e300, float("inf")])
def test_what_is_due_in_a_very_long_time_harms_nobody(
    away: float, make_poller: Callable[[], Poller], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A budget of a thousand hours, or a timeout that is to mean "never", is no reason to break the pool."""
    monkeypatch.setattr(loops, "make_poller", make_poller)
    loop = Loop()
    ours, theirs = socket.socketpair()
    rang: list[float] = []
    try:
        loop.call_at(loop.time() + away, lambda: rang.append(away))
        loop.add_reader(ours.fileno(), loop.stop)
        theirs.send(b"!")
        loop.run()
    finally:
        ours.close()
        theirs.close()
        loop.close()
    assert rang == []


def test_timers_that_were_taken_back_do_not_pile_up() -> None:
    """One that is due in months, set anew whenever something nearer is over, would be there thousands of times."""
    loop = Loop()
    rang: list[str] = []
    try:
        loop.call_at(loop.time(), lambda: rang.append("due"))
        for _ in range(10_000):
            loop.call_at(loop.time() + 30 * DAY, lambda: rang.append("never")).cancel()
        assert len(loop._timers) < 200
        kept = [loop.call_at(loop.time() + 30 * DAY, lambda: rang.append("never")) for _ in range(1000)]
        loop.call_soon(loop.stop)
        loop.run()
        assert rang == ["due"]
        assert {id(timer) for timer in kept} <= {id(timer) for _, _, timer in loop._timers}
    finally:
        loop.close()
