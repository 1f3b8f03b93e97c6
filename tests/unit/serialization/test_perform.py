"""One call in a slot: what it answers, and what it leaves behind."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from dragonfly_executor.errors import CallDeserializationError
from dragonfly_executor.serialization import perform
from tests.support import importable
from tests.support.codec_pair import CodecPair


class Tracked:
    """Can be referred to weakly; the last one made says whether it is still there."""

    last: Any = None

    def __init__(self) -> None:
        Tracked.last = weakref.ref(self)

    def __reduce__(self) -> Any:
        return Tracked, ()


class Unpicklable(Tracked):
    def __reduce__(self) -> Any:
        raise TypeError("never")


class Holder(Exception):
    def __init__(self, held: Any = None) -> None:
        super().__init__("holder")
        self.held = held


def take(thing: Any) -> int:
    return 1


def give() -> Any:
    return Tracked()


def give_unpicklable() -> Any:
    return Unpicklable()


def fail_with(thing: Any) -> None:
    raise ValueError("text")


def fail_holding(thing: Any) -> None:
    raise Holder(thing)


def fail_keeping_itself(thing: Any) -> None:
    try:
        raise KeyError("inner")
    except KeyError as exc:
        kept = exc
        raise ValueError("outer") from kept


def fail_in_a_group(thing: Any) -> None:
    try:
        raise KeyError("inner")
    except KeyError as exc:
        raise ExceptionGroup("group", [exc])  # noqa: B904


@pytest.fixture
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("fn", [take, fail_with, fail_holding, fail_keeping_itself, fail_in_a_group])
def test_arguments_are_let_go(fn: Any, without_collector: None) -> None:
    near = CodecPair()
    payload = near.encode(fn, Tracked())
    perform(near.slot, payload)
    assert Tracked.last() is None


@pytest.mark.parametrize("fn", [give, give_unpicklable])
def test_results_are_let_go(fn: Any, without_collector: None) -> None:
    near = CodecPair()
    failed, _, pieces = perform(near.slot, near.encode(fn))
    assert failed is (fn is give_unpicklable)
    assert pieces
    assert Tracked.last() is None


def test_exceptions_are_let_go(without_collector: None) -> None:
    near = CodecPair()
    perform(near.slot, near.encode(fail_holding, Tracked()))
    assert sys.exc_info() == (None, None, None)
    assert Tracked.last() is None


@pytest.mark.parametrize(
    ("retry_on", "retryable"),
    [((), False), ((ValueError,), True), ((KeyError, ValueError), True), ((Exception,), True), ((KeyError,), False)],
)
def test_retryable_is_what_the_call_itself_raised(retry_on: tuple[type[BaseException], ...], retryable: bool) -> None:
    near = CodecPair()
    data = b"".join(near.codec.encode_call(fail_with, (1,), {}, retry_on))
    assert perform(near.slot, data)[:2] == (True, retryable)


def test_errors_around_the_call_are_not_retryable() -> None:
    near = CodecPair()
    data = b"".join(near.codec.encode_call(give_unpicklable, (), {}, (Exception,)))
    assert perform(near.slot, data)[:2] == (True, False)
    assert perform(near.slot, b"\x80\x05garbage")[:2] == (True, False)
    data = b"".join(near.codec.encode_call(take, (), {}, (ValueError,)))
    assert perform(near.slot, data)[:2] == (True, False)


def test_value() -> None:
    near = CodecPair()
    failed, retryable, pieces = perform(near.slot, near.encode(importable.add, 1, y=2))
    assert (failed, retryable) == (False, False)
    assert near.codec.decode_result(b"".join(pieces)) == 3


@pytest.mark.parametrize("value", [None, 0, True, "text", b"bytes", (), [], {}, 1.5, ...])
def test_plain_values(value: Any) -> None:
    assert CodecPair()(importable.same, value) == value


def test_an_interrupt_of_the_call_is_its_error() -> None:
    near = CodecPair()
    failed, _, pieces = perform(near.slot, near.encode(interrupt))
    assert failed
    assert type(near.codec.decode_error(b"".join(pieces))) is KeyboardInterrupt


def interrupt() -> None:
    raise KeyboardInterrupt


def test_garbage() -> None:
    near = CodecPair()
    failed, _, pieces = perform(near.slot, b"\x80garbage")
    assert failed
    assert isinstance(near.codec.decode_error(b"".join(pieces)), CallDeserializationError)


class Looks:
    """Says, while it is pickled, whether the argument of its call is still there."""

    def __reduce__(self) -> Any:
        return bool, (Tracked.last() is not None,)


def look(thing: Any) -> Any:
    return Looks()


def test_arguments_are_let_go_before_the_result_is_pickled(without_collector: None) -> None:
    assert CodecPair()(look, Tracked()) is False
