"""The end of a pool after a Ctrl-C, which cancels what is not settled."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from dragonfly_executor import DragonflyExecutor
from dragonfly_executor.testing import FakeBackend
from tests.support.helpers import becomes_true


def test_a_call_that_is_settled_before_it_is_cancelled_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine goes on while the thread that ends the pool looks at the calls."""
    executor = DragonflyExecutor(2, backend=FakeBackend())
    engine = executor.pool._engine
    streams = [executor.stream(count), executor.stream(count)]
    assert [next(stream) for stream in streams] == [0, 0]
    ask = engine.ask

    def ask_and_settle(question: Any) -> Any:
        answer = ask(question)
        if answer == [stream._call for stream in streams]:
            streams[0].close()
            assert becomes_true(executor.pool, lambda: streams[0]._call.is_settled)
            assert answer[0].token is None
        return answer

    monkeypatch.setattr(engine, "ask", ask_and_settle)
    executor.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert [stream._call.is_settled for stream in streams] == [True, True]
