"""The pieces of a pickle, and the search in them for names."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from typing import Any

import pytest

from dragonfly_executor.serialization.layout import Sink

NAME = b"collections"
LARGE = 1 << 20
FILLERS = {
    "nothing": None,
    "bytes": b"x" * LARGE,
    "bytes that begin like a frame": b"\x95" * LARGE,
    "str": "x" * LARGE,
    "bytearray": bytearray(LARGE),
    "an int": 1 << 8 * LARGE,
    "frames": [str(n) for n in range(LARGE // 8)],
    "almost a frame": b"x" * (64 * 1024 - 1),
    "a frame": b"x" * (64 * 1024),
}


def pieces_of(value: Any) -> Sink:
    sink = Sink()
    pickle.Pickler(sink, 5).dump(value)
    return sink


@pytest.mark.parametrize("filler", FILLERS.values(), ids=FILLERS)
def test_a_reference_is_found_wherever_it_stands(filler: Any) -> None:
    for value in (
        [OrderedDict, filler],
        [filler, OrderedDict],
        [filler, OrderedDict, filler],
        [[filler, 1], {OrderedDict: filler}],
    ):
        assert pieces_of(value).mentions((b"absent", NAME))
        assert not pieces_of(value).mentions((b"absent",))
    assert not pieces_of([filler, filler, 1]).mentions((NAME,))


@pytest.mark.parametrize("kind", [bytes, bytearray, bytes.decode])
def test_a_name_in_the_content_of_a_large_object_is_none(kind: Any) -> None:
    assert not pieces_of(["a", kind(NAME * LARGE), "b"]).mentions((NAME,))
