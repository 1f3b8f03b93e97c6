"""Large texts travel as UTF-8 beside the pickle, and arrive as the same texts."""

from __future__ import annotations

import gc
import pickle
import sys
import weakref
from typing import Any

import pytest

from dragonfly_executor.serialization import large_text
from dragonfly_executor.serialization.large_text import LargeText, text_of
from dragonfly_executor.serialization.layout import BOX, PICKLE, has_buffers
from dragonfly_executor.serialization.parent_codec import CallCodec
from dragonfly_executor.serialization.small_values import LEAST_TEXT
from dragonfly_executor.util import large_pages, plain_pickle
from tests.support import importable
from tests.support.codec_pair import CodecPair

TEXT = "0123456789abcdef" * (LEAST_TEXT // 16)
SIZES = [LEAST_TEXT - 1, LEAST_TEXT, large_pages.LARGE, large_pages.LARGE + 5]


class Text(str):
    __slots__ = ()


def pair_of(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def address(data: Any) -> int:
    import numpy as np

    return int(np.frombuffer(data, "u1").__array_interface__["data"][0])


@pytest.mark.parametrize("serializer", ["cloudpickle", "dill", "pickle"])
@pytest.mark.parametrize("size", SIZES)
def test_a_text_goes_there_and_back(size: int, serializer: str) -> None:
    text = (TEXT * (size // len(TEXT) + 1))[:size]
    back = CodecPair(serializer)(importable.same, text)
    assert back == text
    assert type(back) is str
    assert back.isascii()
    assert hash(back) == hash(text)
    assert sys.getsizeof(back) == sys.getsizeof(text)


@pytest.mark.parametrize("text", ["é" * LEAST_TEXT, "\ud800" * LEAST_TEXT, "€" + TEXT], ids=["é", "surrogates", "€"])
def test_other_texts_are_encoded_beside_the_pickle(text: str) -> None:
    parts = CallCodec(copies=False).encode_call(importable.same, (text,), {})
    assert has_buffers(b"".join(parts))
    assert text.encode("utf-8", "surrogatepass") in [bytes(part) for part in parts]
    assert CodecPair()(importable.same, text) == text


def test_a_text_of_a_subclass_goes_inside_the_pickle() -> None:
    assert not has_buffers(b"".join(CallCodec(copies=False).encode_call(importable.same, (Text(TEXT),), {})))
    back = CodecPair()(importable.same, Text(TEXT))
    assert (back, type(back)) == (TEXT, Text)


@pytest.mark.parametrize("calls_before", [0, 3])
def test_a_text_is_not_copied_before_it_is_kept(calls_before: int, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = CallCodec(copies=False)
    for number in range(calls_before):
        codec.encode_call(importable.same, (number,), {})
    copied: list[Any] = []
    monkeypatch.setattr(plain_pickle, "dumps", lambda value, _protocol: copied.append(value) or b"")
    parts = codec.encode_call(importable.same, (TEXT,), {})
    assert (TEXT,) not in copied
    assert parts[0][0] == BOX
    assert has_buffers(b"".join(parts))
    (large,) = [part for part in parts if len(part) == len(TEXT)]
    assert isinstance(large, memoryview)
    assert large.readonly
    assert address(large) == address(large_text._memory_of(TEXT))


def test_a_small_text_is_a_single_pickle() -> None:
    (part,) = CallCodec(copies=False).encode_call(importable.same, (TEXT[1:], "x"), {})
    assert part[0] == PICKLE


def test_every_place_among_the_arguments_and_one_object_for_one_text() -> None:
    other = TEXT[::-1]
    args, kwargs = CodecPair()(pair_of, TEXT, 1, other, TEXT, key=other, more=[TEXT])
    assert args == (TEXT, 1, other, TEXT)
    assert kwargs == {"key": other, "more": [TEXT]}
    assert args[0] is args[3]
    assert args[2] is kwargs["key"]


def test_the_name_of_the_main_module_in_a_text_refers_to_nothing() -> None:
    codec = CallCodec(copies=False)
    codec.encode_call(importable.same, ("__main__" * LEAST_TEXT,), {})
    assert not codec.needs_script


def test_a_view_keeps_the_text_alive() -> None:
    buffers: list[Any] = []
    data = pickle.dumps(LargeText("".join(["ab"] * LEAST_TEXT)), 5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    del buffers
    gc.collect()
    assert bytes(views[0]) == b"ab" * LEAST_TEXT
    kept = weakref.ref(views[0])
    opened = pickle.loads(data, buffers=views)
    assert opened == "ab" * LEAST_TEXT
    del views
    gc.collect()
    assert kept() is None


def test_the_text_does_not_keep_the_payload() -> None:
    data = bytearray(TEXT.encode() * 65)
    text = text_of(memoryview(data))
    data.extend(b"x")  # an error while a view of it is left
    assert text == TEXT * 65


def test_without_ctypes_texts_still_travel(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Any:
        raise OSError("no descriptor left")

    monkeypatch.setattr(large_text, "_functions", fail)
    text = TEXT * 65
    assert CodecPair()(importable.same, text) == text
