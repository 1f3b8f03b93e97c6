"""Module-level functions and plain data: the hot path, buffers, and the form of the payload."""

from __future__ import annotations

import importlib.util
import math
import operator
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly_executor.errors import ResultDeserializationError
from dragonfly_executor.errors.base import UnopenedCallError
from dragonfly_executor.serialization import CallCodec, layout
from tests.support import importable
from tests.support.codec_pair import CodecPair
from tests.support.codec_process import CodecProcess

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=5), inner, max_size=4)
        | st.frozensets(st.integers(), max_size=4)
    ),
    max_leaves=20,
)
LARGE = 1 << 20


@given(args=st.lists(PLAIN, max_size=3), kwargs=st.dictionaries(st.sampled_from("abc"), PLAIN))
def test_plain_data_comes_through(args: list[Any], kwargs: dict[str, Any]) -> None:
    near = CodecPair()
    fn, there, named, retry_on = near.slot.decode_call(near.encode(importable.same, *args, **kwargs))
    assert (fn, there, named, retry_on) == (importable.same, tuple(args), kwargs, ())
    assert near(importable.same, (args, kwargs)) == (args, kwargs)


@given(text=st.sampled_from(["__main__", "__mp_main__", "x__main__y"]), value=PLAIN)
def test_data_that_looks_like_a_reference_to_main(text: str, value: Any) -> None:
    assert CodecPair()(importable.same, [text, value]) == [text, value]


def test_plain_call_is_the_bare_pickle() -> None:
    codec = CallCodec()
    (data,) = codec.encode_call(importable.add, (1,), {"y": 2})
    assert data == pickle.dumps((importable.add, (1,), {"y": 2}), 5)
    (data,) = codec.encode_call(importable.add, (1,), {}, (ValueError,))
    assert pickle.loads(data) == (importable.add, (1,), {}, (ValueError,))


@pytest.mark.parametrize("fn", [math.sqrt, operator.itemgetter(0), len, importable.add, importable.Thing, str.upper])
def test_callables_by_reference(fn: Any) -> None:
    near = CodecPair()
    there, *_ = near.slot.decode_call(near.encode(fn))
    assert there == fn or there([5]) == fn([5])


def test_bound_method_by_reference() -> None:
    assert CodecPair()(importable.Thing(4).double) == 8


def test_module_made_by_hand_travels_by_value() -> None:
    module = types.ModuleType("made_by_hand")
    exec("factor = 3\ndef scale(x): return x * factor\nclass Thing: pass", vars(module))
    sys.modules["made_by_hand"] = module
    try:
        with CodecProcess() as far:
            assert far(module.scale, 2) == 6
            assert far(lambda: module.scale(3)) == 9
            assert far(module.Thing).__class__ is module.Thing
    finally:
        del sys.modules["made_by_hand"]


def test_large_bytes_are_not_copied() -> None:
    codec, data = CallCodec(), bytes(LARGE)
    pieces = codec.encode_call(importable.same, (data,), {})
    assert any(piece is data for piece in pieces)
    slot = CodecPair().slot
    assert any(piece is data for piece in slot.encode_result([data]))
    assert slot.decode_call(b"".join(pieces))[1] == (data,)


def test_arguments_are_a_snapshot() -> None:
    codec, data = CallCodec(), bytearray(LARGE)
    small = bytearray(10)
    pieces = codec.encode_call(importable.same, (data, small), {})
    data[:] = b"x" * LARGE
    small[0] = 1
    assert CodecPair().slot.decode_call(b"".join(pieces))[1] == (bytearray(LARGE), bytearray(10))


@pytest.mark.parametrize("size", [10, layout.IN_BAND_BELOW, LARGE])
@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize("received", [bytes, bytearray])
def test_buffers_keep_their_contents_and_whether_they_can_be_written(size: int, readonly: bool, received: type) -> None:
    source: Any = bytes(range(10)) * (size // 10) if readonly else bytearray(bytes(range(10)) * (size // 10))
    near = CodecPair()
    data = received(b"".join(near.codec.encode_call(importable.same, (Buffered(source), 5), {})))
    _, (there, five), _, _ = near.slot.decode_call(data)
    assert five == 5
    assert bytes(there.buffer) == bytes(source)
    assert memoryview(there.buffer).readonly is readonly


def test_writable_buffers_are_copied_once_and_read_only_ones_not_at_all() -> None:
    codec = CallCodec()
    writable, constant = bytearray(LARGE), bytes(LARGE)
    pieces = codec.encode_call(importable.same, (Buffered(writable), Buffered(constant)), {})
    writable[0] = 1
    large = [piece for piece in pieces if len(piece) == LARGE]
    assert [bytes(piece[:1]) for piece in large] == [b"\0", b"\0"]
    assert memoryview(large[1]).obj is constant
    result = CodecPair().slot.encode_result(Buffered(writable))
    assert any(isinstance(piece, memoryview) and piece.obj is writable for piece in result)


def test_buffers_are_aligned() -> None:
    pieces = CallCodec().encode_call(importable.same, ([Buffered(bytes(5001)) for _ in range(3)],), {})
    position, places = 0, []
    for piece in pieces:
        if len(piece) == 5001:
            places.append(position)
        position += len(piece)
    assert len(places) == 3
    assert all(place % 64 == 0 for place in places)


class Buffered:
    """Has its bytes travel beside the pickle, as numpy's arrays do."""

    def __init__(self, buffer: Any) -> None:
        self.buffer = buffer

    def __reduce_ex__(self, protocol: int) -> Any:
        return Buffered, (pickle.PickleBuffer(self.buffer),)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(2, 3), (300, 400)])
def test_arrays(order: Any, shape: tuple[int, int]) -> None:
    numpy = pytest.importorskip("numpy", reason="numpy is not needed, only served well")
    array = numpy.arange(shape[0] * shape[1], dtype="f8").reshape(shape, order=order)
    constant = array.copy(order)
    constant.flags.writeable = False
    near = CodecPair()
    there, fixed = near(importable.same, [array, constant])
    assert (there == array).all()
    assert there.flags.writeable
    assert (fixed == constant).all()
    assert not fixed.flags.writeable
    assert not numpy.shares_memory(there, array)
    strided = array[::2, ::2]
    assert (near(importable.same, strided) == strided).all()


@pytest.mark.parametrize("cut", [1, 7, 9, 30, 5000])
def test_payload_that_is_cut_short(cut: int) -> None:
    near = CodecPair()
    data = near.encode(importable.same, Buffered(bytes(LARGE)))
    with pytest.raises(UnopenedCallError):
        near.slot.decode_call(data[:-cut])
    with pytest.raises(UnopenedCallError):
        near.slot.decode_call(data[:cut])
    with pytest.raises(ResultDeserializationError):
        near.codec.decode_result(data[:cut])


@given(st.binary(max_size=60).map(lambda tail: b"\x01" + tail))
def test_garbage_in_a_box_is_an_error_of_that_call(data: bytes) -> None:
    near = CodecPair()
    with pytest.raises(UnopenedCallError):
        near.slot.decode_call(data)


def test_empty_payload() -> None:
    with pytest.raises(UnopenedCallError):
        CodecPair().slot.decode_call(b"")
    with pytest.raises(ResultDeserializationError):
        CallCodec().decode_result(b"")


def test_module_that_no_finder_knows_travels_by_value(tmp_path: Path) -> None:
    """Loaded from a path under a name of the user's choice: a runner could not import it."""
    (tmp_path / "file.py").write_text("FACTOR = 2\ndef helper(x): return x * FACTOR\ndef work(x): return helper(x)\n")
    spec = importlib.util.spec_from_file_location("a_plugin", tmp_path / "file.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["a_plugin"] = module
    spec.loader.exec_module(module)
    try:
        with CodecProcess() as far:
            assert far(module.work, 2) == 4
    finally:
        del sys.modules["a_plugin"]
