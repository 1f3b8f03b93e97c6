"""Shared memory that is not in use: the program gives it back after a while."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from dragonfly_executor.engine.shared_memory import IDLE, SharedSegments
from dragonfly_executor.transport import segment_pool

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="there is no memfd")
SIZE = 1 << 20


class VirtualLoop:
    """The clock and the timers of a loop."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[tuple[float, Callable[[], object]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Any:
        timer = (self.now + seconds, callback)
        self.timers.append(timer)
        return SimpleNamespace(cancel=lambda: self.timers.remove(timer))

    def go_to_next_timer(self) -> None:
        (timer,) = self.timers
        self.timers.clear()
        self.now, callback = timer
        callback()


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> VirtualLoop:
    loop = VirtualLoop()
    monkeypatch.setattr(segment_pool, "monotonic", loop.time)
    return loop


def test_what_is_idle_for_a_while_is_given_back(loop: Any) -> None:
    memory = SharedSegments(64 * SIZE)
    payload = memory.keep([bytes(SIZE)], SIZE)
    assert payload is not None
    memory.watch(loop)
    memory.watch(loop)  # one timer is enough
    loop.now += IDLE - 1
    del payload
    assert memory.account.taken == SIZE
    loop.go_to_next_timer()
    assert memory.account.taken == SIZE
    loop.go_to_next_timer()
    assert memory.account.taken == 0
    assert not loop.timers
    memory.close()


def test_what_is_in_use_stays(loop: Any) -> None:
    memory = SharedSegments(64 * SIZE)
    payload = memory.keep([b"x" * SIZE], SIZE)
    memory.watch(loop)
    for _ in range(3):
        loop.go_to_next_timer()
    assert payload is not None
    assert bytes(payload[0]) == b"x" * SIZE
    assert memory.account.taken == SIZE
    memory.close()
    assert not loop.timers
