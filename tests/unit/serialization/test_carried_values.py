"""Large bytes and texts that a function carries: beside the pickle, and made once of memory that never changes."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable
from functools import partial
from mmap import ACCESS_READ
from typing import Any

import pytest

from dragonfly_executor.serialization import SlotCodec
from dragonfly_executor.serialization.carried_values import STAND_INS, bytes_of, made_once
from dragonfly_executor.serialization.parent_codec import CallCodec
from dragonfly_executor.serialization.payload_parts import LEAST, PayloadParts, source_of, stand_in
from dragonfly_executor.util.constant_memory import ConstantMemory

VALUES: dict[str, Any] = {
    "bytes": b"\1" * LEAST,
    "bytearray": bytearray(b"\1") * LEAST,
    "ascii": "a" * LEAST,
    "text": "é" * LEAST,
    "surrogates": "\ud800" * LEAST,
}


@pytest.fixture(params=VALUES)
def value(request: pytest.FixtureRequest) -> Any:
    return VALUES[request.param]


def constant(data: bytes) -> ConstantMemory:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        return ConstantMemory(file.fileno(), len(data), access=ACCESS_READ)


def with_default(value: Any) -> Callable[[], Any]:
    return lambda held=value: held


def with_keyword(value: Any) -> Callable[[], Any]:
    return lambda *, held=value: held


def with_variable(value: Any) -> Callable[[], Any]:
    return lambda: value


def inside(value: Any) -> Callable[[], Any]:
    """A function whose captured function carries the value."""
    inner = with_variable(value)
    return lambda: inner()


CARRIERS = [with_default, with_keyword, with_variable, inside]


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("copies", [True, False])
def test_a_function_carries_it_beside_the_pickle(value: Any, carrier: Any, copies: bool) -> None:
    codec = CallCodec(copies=copies)
    parts = codec.encode_call(carrier(value), (), {})
    assert isinstance(parts, PayloadParts)
    assert 0 < parts.buffers_from < len(parts)
    assert len(parts.pieces) == (1 if copies else 0)
    fn, args, kwargs, _ = SlotCodec(codec.setup()).decode_call(b"".join(parts))
    found = fn(*args, **kwargs)
    assert type(found) is type(value)
    assert found == value


def test_a_snapshot_is_taken_when_the_call_is_encoded() -> None:
    data = bytearray(b"\1") * LEAST
    codec = CallCodec()
    first = codec.encode_call(with_variable(data), (), {})
    data[5] = 2
    second = codec.encode_call(with_variable(data), (), {})
    slot = SlotCodec(codec.setup())
    assert [slot.decode_call(b"".join(parts))[0]()[5] for parts in (first, second)] == [1, 2]


def test_what_is_small_or_of_a_class_of_its_own_travels_as_it_is() -> None:
    class Own(bytes):
        pass

    for small in (b"x" * (LEAST - 1), "x" * (LEAST - 1), Own(LEAST), None, [b"x" * LEAST]):
        assert stand_in(small) is small
    assert set(STAND_INS) == {bytes, bytearray, str}


def test_an_object_is_made_of_constant_memory_once() -> None:
    data = constant(b"abc" * 10)
    view = memoryview(data)
    one, two = (made_once(bytes_of, memoryview(data)) for _ in range(2))
    assert one == b"abc" * 10
    assert one is two
    assert made_once(partial(str, encoding="ascii"), view) == "abc" * 10
    assert made_once(bytes_of, memoryview(bytearray(b"x"))) == b"x"
    own = b"own"
    assert made_once(bytes_of, own) is own


def test_objects_that_were_made_go_with_the_memory() -> None:
    """They refer to nothing of it."""
    data = constant(b"abc" * 10)
    made = data.once(bytes_of, memoryview(data))
    data.close()
    assert made == b"abc" * 10


def test_the_object_behind_a_piece_is_known() -> None:
    """So the content of a piece that comes again is not compared."""
    texts, buffers = ["a" * LEAST, "é" * LEAST], []
    pickle.dumps([stand_in(text) for text in texts], 5, buffer_callback=lambda buffer: buffers.append(buffer.raw()))
    assert source_of(buffers[0]) is texts[0]
    assert source_of(buffers[1]) == texts[1].encode()
    data = b"x" * LEAST
    assert source_of(data) is data
    assert source_of(memoryview(data)) is data
    assert source_of(memoryview(data)[1:]) is None
    assert source_of(memoryview(bytearray(data))) is None
