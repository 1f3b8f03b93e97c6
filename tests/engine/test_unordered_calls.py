"""`UnorderedMapCalls`: the calls of a map whose results are taken as they come."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from dragonfly_executor.engine.options import CallOptions
from dragonfly_executor.engine.unordered_calls import UnorderedMapCalls
from dragonfly_executor.errors import FrameTooLargeError
from tests.engine.test_map_calls import RecordingEngine, end, value
from tests.support.helpers import PATIENCE


class WatchedCalls(UnorderedMapCalls):
    """Calls that tell when a thread waits for one of them."""

    def __init__(self, *args: Any) -> None:
        self.waits = threading.Event()
        super().__init__(*args)

    def wait(self, *args: Any) -> None:
        self.waits.set()
        super().wait(*args)


@pytest.fixture
def engine() -> RecordingEngine:
    return RecordingEngine()


def made(engine: RecordingEngine, sizes: list[int]) -> WatchedCalls:
    calls = WatchedCalls(engine, CallOptions(), lambda args: [args[0]], (FrameTooLargeError,))
    calls.submit([((bytes(size),), number, 1) for number, size in enumerate(sizes)])
    return calls


def take(calls: UnorderedMapCalls) -> int:
    """Take the next call, and return the number of its item."""
    call = calls.next_settled(None)
    assert call is not None
    calls.remove_next()
    return call.first


def test_calls_are_taken_in_the_order_in_which_they_are_settled(engine: RecordingEngine) -> None:
    calls = made(engine, [1, 1, 1])
    first, second, third = engine.accepted[0]
    for call in (third, first, second):
        end(call, value(1))  # type: ignore[arg-type]
    assert [take(calls) for _ in range(3)] == [2, 0, 1]
    assert len(calls.pending) == calls.unsettled == 0


def test_a_call_that_cannot_be_sent_is_there_at_once_and_an_error_of_the_iterable_last(engine: RecordingEngine) -> None:
    calls = made(engine, [1, 1000])
    calls.fail(KeyError("iterable"))
    assert len(calls.pending) == 3
    assert take(calls) == 1
    end(engine.accepted[0][0], value(1))  # type: ignore[arg-type]
    assert take(calls) == 0
    last = calls.next_settled(None)
    assert last is not None
    with pytest.raises(KeyError):
        last.take()
    calls.remove_next()
    assert len(calls.pending) == 0


def test_a_thread_that_waits_is_woken_by_whichever_call_is_first(engine: RecordingEngine) -> None:
    calls = made(engine, [1, 1])
    taken: list[int] = []
    taker = threading.Thread(target=lambda: taken.append(take(calls)))
    taker.start()
    assert calls.waits.wait(PATIENCE)
    end(engine.accepted[0][1], value(1))  # type: ignore[arg-type]
    taker.join(PATIENCE)
    assert taken == [1]


def test_a_timeout_leaves_the_calls_where_they_are(engine: RecordingEngine) -> None:
    calls = made(engine, [1])
    with pytest.raises(TimeoutError):
        calls.next_settled(0.0)
    assert len(calls.pending) == 1


def test_calls_replace_the_one_that_was_next(engine: RecordingEngine) -> None:
    calls = made(engine, [1, 1])
    end(engine.accepted[0][0], value(1))  # type: ignore[arg-type]
    assert calls.next_settled(None) is not None
    calls.replace_next([((b"x",), 7, 1)])
    end(engine.accepted[1][0], value(1))  # type: ignore[arg-type]
    assert take(calls) == 7
    assert len(calls.pending) == 1


def test_closing_cancels_what_is_unsettled(engine: RecordingEngine) -> None:
    calls = made(engine, [1, 1, 1])
    end(engine.accepted[0][1], value(1))  # type: ignore[arg-type]
    calls.close()
    assert sorted(engine.cancelled[0][0]) == [1, 3]
    assert len(calls.pending) == 0
    calls.close()
    assert len(engine.cancelled) == 1
