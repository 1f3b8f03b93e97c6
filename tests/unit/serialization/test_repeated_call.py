"""The payloads of many calls of one function are those of single calls."""

from __future__ import annotations

import pickle
import sys
import threading
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dragonfly_executor.errors import CallSerializationError
from dragonfly_executor.serialization import CallCodec
from dragonfly_executor.serialization.formats import MARKS
from dragonfly_executor.serialization.layout import PICKLE
from dragonfly_executor.serialization.map_chunk import run_chunk, run_items
from dragonfly_executor.serialization.repeated_call import RepeatedCall
from tests.support import importable
from tests.support.codec_pair import CodecPair

pair = CodecPair()
ATOMS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


def encoded(call: RepeatedCall, *args: Any) -> bytes:
    return b"".join(call.encode(args))


def without_unpickling_in_c(data: bytes) -> Any:
    """Python's own unpickler checks frames more strictly than the one in C."""
    return pickle._loads(data)  # type: ignore[attr-defined]


@example([["x"], ["__main__"], ["_main__"], ["x"]])
@given(st.lists(st.lists(ATOMS | st.lists(ATOMS) | st.binary(max_size=20), max_size=5), min_size=2, max_size=5))
def test_each_payload_is_that_of_a_single_call(items: list[list[Any]]) -> None:
    call = RepeatedCall(pair.codec, importable.add)
    for args in items:
        data = encoded(call, *args)
        assert pair.slot.decode_call(data) == (importable.add, tuple(args), {}, ())
        if data[0] == PICKLE:  # a text with __main__ in it makes a box of the payload
            assert without_unpickling_in_c(data) == (importable.add, tuple(args), {})


@example([[[1, 2]], [["x", "x"]], [["__main__"]], [[b"x" * 20]]])
@given(
    st.lists(st.lists(st.lists(ATOMS | st.lists(ATOMS) | st.binary(max_size=20)), max_size=2), min_size=2, max_size=4)
)
def test_chunks_of_a_map(chunks: list[list[list[Any]]]) -> None:
    plain, alone = RepeatedCall(pair.codec, run_chunk), RepeatedCall(pair.codec, run_items)
    for first, columns in enumerate(chunks):
        args = (importable.add, tuple(columns), first)
        assert pair.slot.decode_call(encoded(plain, *args)) == (run_chunk, args, {}, ())
        assert pair.slot.decode_call(encoded(alone, *args, 0.5)) == (run_items, (*args, 0.5), {}, ())


@pytest.mark.parametrize(
    "columns",
    [
        (range(5),),
        (range(5), [1, 2, 3, 4, 5]),
        ("abc",),
        ([object],),
        ([1.5] * 5000,),
        (["x" * 5000],),
        (["x"] * 70_000,),
    ],
    ids=["range", "range and list", "text", "class", "many", "long texts", "too large for a frame"],
)
def test_columns_of_every_kind(columns: tuple[Any, ...]) -> None:
    call, args = RepeatedCall(pair.codec, run_chunk), (importable.same, columns, 0)
    for _ in range(3):
        assert pair.slot.decode_call(encoded(call, *args))[1] == args


def test_the_references_of_a_chunk_are_pickled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # Test runners load modules that no slot can find, and then a call takes the longer way.
    monkeypatch.setattr(pair.codec._environment, "marks", MARKS)
    call, args = RepeatedCall(pair.codec, run_chunk), (importable.same, ([1, "a", (2,)],), 7)
    data = encoded(call, *args)
    assert len(data) < len(pickle.dumps((run_chunk, args, {}), 5))
    assert without_unpickling_in_c(data) == (run_chunk, args, {})


def test_another_function_in_the_same_calls() -> None:
    call = RepeatedCall(pair.codec, run_chunk)
    for fn in (importable.same, importable.add, len, importable.same):
        assert pair.slot.decode_call(encoded(call, fn, ([1],), 0))[1][0] is fn


def test_one_text_twice_among_the_arguments() -> None:
    """A reference into the memo, which the function must not have shifted."""
    call, text = RepeatedCall(pair.codec, importable.add), "text"
    call.encode((text, text))
    assert pair.slot.decode_call(encoded(call, text, text))[1] == ("text", "text")


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65_000, 65_536, 1_000_000])
def test_a_text_of_any_length(size: int) -> None:
    call = RepeatedCall(pair.codec, importable.same)
    call.encode((1,))
    assert pair.slot.decode_call(encoded(call, "x" * size))[1] == ("x" * size,)


@pytest.mark.parametrize("fn", [pow, "".join, str.upper, partial(importable.add, 3), lambda a, b: a + b, int])
def test_functions_that_travel_in_other_ways(fn: Any) -> None:
    call, single = RepeatedCall(pair.codec, fn), pair.codec.encode_call(fn, (2, 3), {})
    for _ in range(3):
        opened = pair.slot.decode_call(encoded(call, 2, 3))
        assert opened[1:] == pair.slot.decode_call(b"".join(single))[1:]
        assert type(opened[0]) is type(fn)


def test_exceptions_to_retry_on_travel_with_each_call() -> None:
    call = RepeatedCall(pair.codec, importable.add, (KeyError,))
    for _ in range(2):
        assert pair.slot.decode_call(encoded(call, 1, 2))[3] == (KeyError,)


def test_an_argument_that_cannot_travel_fails_its_own_call() -> None:
    call = RepeatedCall(pair.codec, importable.same)
    call.encode((1,))
    with pytest.raises(CallSerializationError, match=r"^argument 1 of same\(\)"):
        call.encode((threading.Lock(),))
    assert pair.slot.decode_call(encoded(call, 2))[1] == (2,)


def test_a_module_that_runners_do_not_find_travels_by_value_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """As single calls do: the function's module is looked at again when modules came or went."""
    fresh = CodecPair()
    module = ModuleType("made_here_for_the_map")
    exec("def twice(x):\n    return 2 * x", module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    call = RepeatedCall(fresh.codec, module.twice)
    for n in range(3):
        data = encoded(call, n)
        assert b"\x8c\x15made_here_for_the_map\x8c" not in data
        opened = fresh.slot.decode_call(data)
        assert opened[0](*opened[1]) == 2 * n


def test_a_changed_import_path_travels_with_the_next_call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    codec = CallCodec(path_travels=True)
    codec.setup()
    call = RepeatedCall(codec, importable.same)
    short = [len(encoded(call, 1)) for _ in range(2)]
    monkeypatch.syspath_prepend(str(tmp_path))
    assert str(tmp_path).encode() in encoded(call, 1)
    assert max(short) < 200
