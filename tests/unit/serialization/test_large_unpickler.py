"""Payloads with large objects in them are unpickled as `pickle.loads` does."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly_executor.serialization import large_unpickler
from dragonfly_executor.serialization.large_unpickler import LARGE, PayloadFile
from dragonfly_executor.util import large_pages

VALUES = [
    b"x" * LARGE,
    b"x" * large_pages.LARGE,
    bytearray(b"y" * (LARGE + 3)),
    "é" * LARGE,
    [b"a" * LARGE, "b", {"c": b"d" * LARGE}],
]


@pytest.mark.parametrize("value", VALUES, ids=["bytes", "larger bytes", "bytearray", "str", "several"])
def test_large_objects_are_as_they_were(value: object) -> None:
    assert large_unpickler.loads(pickle.dumps(value, 5)) == value


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_is_read(protocol: int) -> None:
    value = {"key": [1, 2.5, None, ("text", b"bytes")], "large": "x" * LARGE}
    assert pickle.Unpickler(PayloadFile(pickle.dumps(value, protocol))).load() == value


def test_buffers_are_views_of_what_was_given() -> None:
    memory = bytearray(8)
    data = pickle.dumps((b"x" * LARGE, pickle.PickleBuffer(memory)), 5, buffer_callback=[].append)
    _, opened = large_unpickler.loads(memoryview(data), [memory])
    assert opened is memory


@given(st.integers(1, LARGE + 64))
def test_a_pickle_that_is_cut_short_is_an_error(cut: int) -> None:
    data = memoryview(pickle.dumps([b"x" * LARGE, 1], 5))
    with pytest.raises((EOFError, pickle.UnpicklingError)):
        pickle.Unpickler(PayloadFile(data[: len(data) - min(cut, len(data))])).load()
