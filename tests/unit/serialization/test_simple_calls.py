"""Calls and results of simple values take a shorter way, which must arrive at the same place."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest

from dragonfly_executor.serialization import parent_codec
from dragonfly_executor.serialization.layout import IN_BAND_BELOW, PICKLE
from dragonfly_executor.serialization.parent_codec import CallCodec
from dragonfly_executor.util import validation
from tests.support import importable
from tests.support.codec_pair import CodecPair

VALUES = [
    *(None, True, 0, -(10**30), 1.5, float("inf"), "", "text", "é\ud800", "x" * 200_000, "__main__"),
    *(b"", b"x" * IN_BAND_BELOW, b"x" * (IN_BAND_BELOW + 1), b"x" * 200_000, b"__main__"),
]


class Text(str):
    __slots__ = ("more",)
    more: int


class Number(int):
    pass


class Octets(bytes):
    more: int


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("serializer", ["cloudpickle", "pickle"])
def test_a_simple_value_goes_there_and_back(value: object, serializer: str) -> None:
    back = CodecPair(serializer)(importable.same, value)
    assert back == value
    assert type(back) is type(value)


def test_values_of_subclasses_keep_their_type_and_state() -> None:
    text = Text("text")
    text.more = 3
    back = CodecPair()(importable.same, text)
    assert type(back) is Text
    assert back.more == 3
    assert type(CodecPair()(importable.same, Number(3))) is Number
    octets = Octets(b"octets")
    octets.more = 4
    back = CodecPair()(importable.same, octets)
    assert type(back) is Octets
    assert back.more == 4


@pytest.mark.parametrize("arguments", [(1, "text", None), (1, b"bytes"), (b"x" * IN_BAND_BELOW,) * 3])
def test_a_call_of_simple_values_is_a_single_pickle(
    arguments: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No `Pickler` is made for it, which takes twice as long."""
    monkeypatch.delattr(parent_codec, "Pickler")
    (payload,) = CallCodec().encode_call(importable.same, arguments, {})
    assert payload[0] == PICKLE


def test_large_bytes_are_not_copied_into_the_pickle() -> None:
    data = bytes(1 << 20)
    assert any(piece is data for piece in CallCodec().encode_call(importable.same, (data,), {}))


def test_builtin_functions_are_not_searched_for_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def searched(fn: Any) -> None:
        raise AssertionError(fn)

    monkeypatch.setattr(validation, "refuse", searched)
    assert CallCodec().encode_call(math.floor, (1.5,), {})
    assert CallCodec().encode_call([1].count, (1,), {})


@pytest.mark.parametrize("fn", [math.floor, [1].count, len])
def test_a_builtin_function_inside_a_wrapper_goes(fn: Any) -> None:
    validation.refuse(fn)  # what encode_call leaves out has nothing to say
    assert CallCodec().encode_call(functools.partial(fn), (), {})
