"""Calls that share a slot's loop: each is answered once, whatever ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from queue import Empty
from typing import Any

import pytest

from dragonfly_executor.protocol.placed_messages import SlotSays
from dragonfly_executor.runner import task_server
from dragonfly_executor.runner.task_server import TaskServer


async def double(number: int) -> int:
    return 2 * number


class ScriptedChannel:
    """Gives calls of `double` in order, then the end.

    Attributes:
        on_take: called with the number of each call before it begins.
    """

    def __init__(self, *numbers: int, error: Exception | None = None) -> None:
        self._due: list[int] = [*numbers, 0]
        self._error = error
        self.on_end_task: Callable[[int], object] | None = None
        self.on_take: Callable[[int], object] = lambda number: None
        self.said: list[tuple[Any, ...]] = []
        self.answers: dict[int, tuple[object, type | None]] = {}

    def run_coroutine(self, coroutine: Any) -> Any:
        return asyncio.run(coroutine)

    def say(self, what: str, *args: Any) -> None:
        self.said.append((what, *args))

    def when_due(self, callback: Callable[[], object]) -> None:
        self.callback = callback

    def take(self, *, wait: bool) -> Any:
        if not self._due:
            raise Empty
        return self._due.pop(0) or None

    def decode(self, message: int) -> tuple[int, tuple[Any, ...], float]:
        self.on_take(message)
        return message, (double, (message,), {}, ()), 0.0

    def finish(self, number: int, since: float, value: Any, error: BaseException | None, retryable: bool) -> None:
        if self._error is not None:
            raise self._error
        assert number not in self.answers
        self.answers[number] = value, None if error is None else type(error)


def serve(channel: ScriptedChannel) -> None:
    channel.run_coroutine(TaskServer(channel, 2).serve())


def test_each_call_is_answered() -> None:
    channel = ScriptedChannel(1, 2, 3)
    serve(channel)
    assert channel.said[0] == (SlotSays.READY,)
    assert channel.answers == {1: (2, None), 2: (4, None), 3: (6, None)}


def test_a_task_that_is_cancelled_before_its_first_step_is_answered() -> None:
    channel = ScriptedChannel(1, 2)
    # As the reading thread does: the loop runs the cancel ahead of the first step of the task.
    channel.on_take = lambda number: channel.on_end_task and number == 1 and channel.on_end_task(number)
    serve(channel)
    assert channel.answers == {1: (None, asyncio.CancelledError), 2: (4, None)}
    assert (SlotSays.CANCELLED, 1) in channel.said


def test_a_slot_whose_agent_is_gone_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    statuses: list[int] = []
    monkeypatch.setattr(task_server.os, "_exit", statuses.append)
    serve(ScriptedChannel(1, error=BrokenPipeError()))
    assert statuses == [1]
