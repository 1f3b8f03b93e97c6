"""`MapCalls`: the calls of a map, and the thread that waits for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from dragonfly_executor.core.actions import CANCELLED, Settle
from dragonfly_executor.core.calls import Call
from dragonfly_executor.engine.action_runner import settle
from dragonfly_executor.engine.map_call import MapCall
from dragonfly_executor.engine.map_calls import MapCalls
from dragonfly_executor.engine.options import CallOptions
from dragonfly_executor.engine.outcome import Outcome
from dragonfly_executor.engine.payload_store import PayloadStore
from dragonfly_executor.errors import ForkedExecutorError, FrameTooLargeError
from tests.support.codec_pair import CodecPair
from tests.support.helpers import PATIENCE

if TYPE_CHECKING:
    from dragonfly_executor.engine.map_calls import Batch

pair = CodecPair()


class RecordingEngine:
    """An engine that notes what it is handed. The test settles."""

    def __init__(self) -> None:
        self.options: Any = type("Options", (), {"max_payload": 100})
        self.codec = pair.codec
        self.payloads = PayloadStore(pair.codec, 100, ())
        self.ids: Iterator[int] = count(1)
        self.forked = False
        self.accepted: list[list[Call]] = []
        self.cancelled: list[tuple[list[int], bool]] = []
        self.refusal: Exception | None = None

    def accept(self, calls: Sequence[Call]) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.accepted.append([*calls])

    def cancel(self, calls: Sequence[Call], *, running: bool) -> None:
        self.cancelled.append(([call.id for call in calls], running))


def value(what: object) -> Outcome:
    return Outcome(pair.codec, b"".join(pair.slot.encode_result(what)), is_error=False)


def end(call: MapCall, outcome: object) -> None:
    settle(Settle([(call, outcome)]))


@pytest.fixture
def engine() -> RecordingEngine:
    return RecordingEngine()


class WatchedCalls(MapCalls):
    """Calls that tell when a thread waits for one of them, and count how often it was woken."""

    def __init__(self, *args: Any) -> None:
        self.waits, self.woken = threading.Event(), 0
        super().__init__(*args)

    @property
    def awaited(self) -> MapCall | None:
        return self._awaited

    @awaited.setter
    def awaited(self, call: MapCall | None) -> None:
        self._awaited = call
        if call is not None:
            self.waits.set()

    def wake(self) -> None:
        self.woken += 1
        super().wake()


def made(engine: RecordingEngine, count: int, **options: Any) -> WatchedCalls:
    calls = WatchedCalls(engine, CallOptions(**options), lambda args: [args[0]], (FrameTooLargeError,))
    calls.submit([((b"x",), number, 1) for number in range(count)])
    return calls


def test_calls_are_accepted_in_one_step_in_order(engine: RecordingEngine) -> None:
    calls = made(engine, 3)
    assert engine.accepted == [[*calls.pending]]
    assert [call.id for call in calls.pending] == [1, 2, 3]


def test_an_error_of_one_call_waits_for_its_turn(engine: RecordingEngine) -> None:
    calls = MapCalls(engine, CallOptions(), lambda args: [args[0]], (FrameTooLargeError,))
    calls.submit([((bytes(size),), number, 1) for number, size in enumerate([1, 101, 2])])
    assert [call.size for call in calls.pending] == [1, 1, 1]
    assert len(engine.accepted[0]) == 2
    with pytest.raises(FrameTooLargeError):
        calls.pending[1].take()
    with pytest.raises(FrameTooLargeError):
        MapCalls(engine, CallOptions(), lambda args: [args[0]], ()).submit([((bytes(101),), 0, 1)])


def test_calls_that_were_refused_are_there_to_be_cancelled(engine: RecordingEngine) -> None:
    """An interrupt may come after the engine has accepted them."""
    engine.refusal = KeyboardInterrupt()  # type: ignore[assignment]
    calls = MapCalls(engine, CallOptions(), lambda args: [args[0]], ())
    with pytest.raises(KeyboardInterrupt):
        calls.submit([((b"x",), 0, 1)])
    calls.close()
    assert engine.cancelled == [([1], True)]


def test_a_settled_call_keeps_neither_itself_nor_its_value(engine: RecordingEngine) -> None:
    (call,) = made(engine, 1).pending
    assert call.token is call
    end(call, value([1, 2]))
    assert call.token is None
    assert call.take() == [1, 2]
    assert call.outcome is None


@pytest.mark.parametrize("outcome", [CANCELLED, KeyError(1), Outcome.failed(KeyError(2))], ids=["cancelled", "a", "b"])
def test_an_error_is_raised(outcome: object, engine: RecordingEngine) -> None:
    (call,) = made(engine, 1).pending
    end(call, outcome)
    with pytest.raises(BaseException) as caught:
        call.take()
    assert type(caught.value).__name__ == ("CancelledError" if outcome is CANCELLED else "KeyError")


def test_the_thread_that_waits_is_woken_by_its_call_alone(engine: RecordingEngine) -> None:
    calls = made(engine, 50)
    last = calls.pending[-1]
    waits = threading.Thread(target=calls.wait, args=(last, None))
    waits.start()
    assert calls.waits.wait(PATIENCE)
    for call in calls.pending:
        end(call, value(call.first))
    waits.join(PATIENCE)
    assert not waits.is_alive()
    assert calls.woken == 1
    assert [call.take() for call in calls.pending] == [*range(50)]


def test_an_early_wake_up_does_not_end_a_later_wait(engine: RecordingEngine) -> None:
    """The call was settled between the two looks of the thread that waits: its wake-up is left over."""
    calls = made(engine, 2)
    first, second = calls.pending
    calls.awaited = first
    end(first, value(1))
    with pytest.raises(TimeoutError):
        calls.wait(second, time.monotonic() + 0.05)
    assert calls.awaited is None


def test_a_deadline_that_is_over_does_not_hide_a_result(engine: RecordingEngine) -> None:
    (call,) = (calls := made(engine, 1)).pending
    with pytest.raises(TimeoutError):
        calls.wait(call, time.monotonic() - 1)
    end(call, value(1))
    calls.wait(call, time.monotonic() - 1)
    assert call.take() == 1


def test_the_farthest_deadline(engine: RecordingEngine) -> None:
    (call,) = (calls := made(engine, 1)).pending
    timer = threading.Timer(0.01, end, (call, value(1)))
    timer.start()
    calls.wait(call, 1e300)
    timer.join()
    assert call.take() == 1


def test_a_forked_child_is_refused(engine: RecordingEngine) -> None:
    calls = made(engine, 1)
    engine.forked = True
    with pytest.raises(ForkedExecutorError, match="forked"):
        calls.wait(calls.pending[0], None)


@pytest.mark.parametrize("cancel_running", [True, False])
def test_closing_cancels_what_is_unsettled_some_at_a_time(cancel_running: bool, engine: RecordingEngine) -> None:
    calls = made(engine, 2500, cancel_running=cancel_running)
    end(calls.pending[1], value(1))
    calls.close()
    assert [len(ids) for ids, _ in engine.cancelled] == [1000, 1000, 499]
    assert {running for _, running in engine.cancelled} == {cancel_running}
    assert 2 not in engine.cancelled[0][0]
    assert not calls.pending
    calls.close()
    assert len(engine.cancelled) == 3


def halves(arguments: tuple[Any, ...], first: int, size: int) -> Batch:
    return [((arguments[0][n : n + 1],), first + n, 1) for n in range(size)]


def test_a_chunk_that_cannot_be_encoded_is_submitted_item_by_item(engine: RecordingEngine) -> None:
    def encode(args: tuple[Any, ...]) -> list[Any]:
        if b"bad" in args[0]:
            raise KeyError("bad")
        return [b"x"]

    calls = MapCalls(engine, CallOptions(), encode, (KeyError,), halves)
    calls.submit([(([b"a", b"bad", b"b"],), 7, 3), (([b"c", b"d"],), 10, 2)])
    assert [(call.first, call.size, call.is_settled) for call in calls.pending] == [
        (7, 1, False),
        (8, 1, True),
        (9, 1, False),
        (10, 2, False),
    ]
    assert [call.first for call in engine.accepted[0] if isinstance(call, MapCall)] == [7, 9, 10]
    assert calls.pending[3].arguments == ([b"c", b"d"],)


def test_calls_that_replace_the_first_one_come_in_its_place(engine: RecordingEngine) -> None:
    calls = made(engine, 2)
    calls.replace_next([((b"x",), 10, 1), ((b"x",), 11, 1)])
    assert [call.first for call in calls.pending] == [10, 11, 1]
    assert [call.id for call in engine.accepted[1]] == [3, 4]


def test_the_thread_that_waits_is_woken_to_submit_more(engine: RecordingEngine) -> None:
    calls = made(engine, 10)
    first, *others = calls.pending
    waits = threading.Thread(target=calls.wait, args=(first, None, 4))
    waits.start()
    assert calls.waits.wait(PATIENCE)
    for call in others[:6]:
        end(call, value(1))
        assert calls.awaited is first
    end(others[6], value(1))
    waits.join(PATIENCE)
    assert not waits.is_alive()
    assert not first.is_settled
    assert calls.unsettled == 3
    # Enough has ended already: this does not wait.
    calls.wait(first, None, 4)
