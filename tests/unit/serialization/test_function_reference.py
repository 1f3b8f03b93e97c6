"""Single calls of one function in a row: from the third on, only the arguments are pickled."""

from __future__ import annotations

import pickle
import sys
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly_executor.serialization import CallCodec, function_reference
from dragonfly_executor.serialization.formats import MARKS
from dragonfly_executor.serialization.layout import IN_BAND_BELOW, PICKLE
from tests.support import importable
from tests.support.codec_pair import CodecPair

pair = CodecPair()
ATOMS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=20)


CONTAINERS = st.recursive(
    ATOMS,
    lambda values: (
        st.lists(values, max_size=3)
        | st.tuples(values, values)
        | st.dictionaries(st.text(max_size=3), values, max_size=2)
    ),
    max_leaves=6,
)


def encoded(codec: CallCodec, fn: Any, *args: Any, **kwargs: Any) -> bytes:
    return b"".join(codec.encode_call(fn, args, kwargs))


@given(st.lists(st.lists(ATOMS | st.lists(ATOMS), max_size=5), min_size=4, max_size=6))
def test_each_call_arrives_as_it_was_made(items: list[list[Any]]) -> None:
    for args in items:
        data = encoded(pair.codec, importable.add, *args)
        assert pair.slot.decode_call(data) == (importable.add, tuple(args), {}, ())


@given(
    st.lists(
        st.tuples(st.lists(CONTAINERS, max_size=3), st.dictionaries(st.text(max_size=2), CONTAINERS, max_size=2)),
        min_size=4,
        max_size=5,
    )
)
def test_containers_and_keyword_arguments_arrive_as_they_were(calls: list[tuple[list[Any], dict[str, Any]]]) -> None:
    for args, kwargs in calls:
        data = encoded(pair.codec, importable.add, *args, **kwargs)
        assert pair.slot.decode_call(data) == (importable.add, tuple(args), kwargs, ())
        if data[0] == PICKLE:  # Python's own unpickler checks frames more strictly than the one in C
            assert pickle._loads(data)[1:] == (tuple(args), kwargs)  # type: ignore[attr-defined]


@given(CONTAINERS)
def test_a_result_arrives_as_it_was(value: Any) -> None:
    assert pair.codec.decode_result(b"".join(pair.slot.encode_result(value))) == value


def test_one_object_in_several_places_arrives_as_one_object() -> None:
    part, recursive = [1], [2]
    recursive.append(recursive)  # type: ignore[arg-type]
    for _ in range(4):
        data = encoded(pair.codec, importable.add, part, (part, recursive), again=part)
        _, (first, (second, own)), kwargs, _ = pair.slot.decode_call(data)
        assert first is second is kwargs["again"]
        assert own[1] is own


def test_an_argument_that_changes_while_it_is_read_takes_the_longer_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def changing(*_: Any) -> bool:
        raise RuntimeError("dictionary changed size during iteration")

    for _ in range(3):
        encoded(pair.codec, importable.add, {})
    monkeypatch.setattr(function_reference, "are_small", changing)
    data = encoded(pair.codec, importable.add, {})
    assert pair.slot.decode_call(data)[1] == ({},)


def test_keyword_arguments_and_exceptions_to_retry_on_travel() -> None:
    for _ in range(3):
        encoded(pair.codec, importable.add, 1, 2)
    data = encoded(pair.codec, importable.add, 1, b=2)
    assert pair.slot.decode_call(data) == (importable.add, (1,), {"b": 2}, ())
    data = b"".join(pair.codec.encode_call(importable.add, (1, 2), {}, (KeyError,)))
    assert pair.slot.decode_call(data)[3] == (KeyError,)


@pytest.mark.parametrize("size", [0, IN_BAND_BELOW, IN_BAND_BELOW + 1, 65_000, 1_000_000])
def test_bytes_of_any_length(size: int) -> None:
    for _ in range(4):
        data = encoded(pair.codec, importable.same, b"x" * size)
        assert pair.slot.decode_call(data)[1] == (b"x" * size,)


def test_the_function_is_pickled_until_it_was_called_twice_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    codec, (one, other) = CallCodec(), (importable.add, importable.same)
    plain = [pickle.dumps((fn, (1,), {}), 5) for fn in (one, other)]
    encoded(codec, other, 1)
    # Test runners load modules that no slot can find, and then a call takes the longer way.
    monkeypatch.setattr(codec._environment, "marks", MARKS)
    assert [encoded(codec, fn, 1) for fn in (one, other) * 3] == plain * 3
    assert encoded(codec, other, 1) == plain[1]
    short = encoded(codec, other, 1)
    assert len(short) < len(plain[1])
    assert pickle.loads(short) == (other, (1,), {})


def test_a_function_that_its_module_has_no_more_does_not_travel_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("replaced_functions")
    module.__file__ = importable.__file__
    monkeypatch.setitem(sys.modules, "replaced_functions", module)
    exec("def made(value):\n    return 'old'", module.__dict__)
    old: Any = module.made
    codec = CallCodec("pickle")
    codec._environment.refresh()
    codec._environment.importable.add("replaced_functions")
    monkeypatch.setattr(codec._environment, "marks", MARKS)
    for _ in range(4):
        encoded(codec, old, 1)
    assert codec.references.reference is not None
    exec("def made(value):\n    return 'new'", module.__dict__)
    with pytest.raises(Exception, match="made"):
        encoded(codec, old, 1)
