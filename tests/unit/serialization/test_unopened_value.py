"""Results that other slots can open as they are."""

from __future__ import annotations

import multiprocessing.queues
import pickle
from collections import OrderedDict
from typing import Any

import pytest

from dragonfly_executor.serialization import CallCodec, SlotCodec
from dragonfly_executor.serialization.layout import join
from dragonfly_executor.serialization.unopened_value import is_portable


class Local:
    """A class of this module, which slots can import."""


@pytest.fixture
def slot() -> SlotCodec:
    return SlotCodec(CallCodec().setup())


PLAIN: list[Any] = [
    1, None, "text", [1, 2], {"a": (1.5, b"x")}, b"__main__" * 20_000, bytearray(b"multiprocessing" * 20_000),
    OrderedDict(a=1), "x" * 2_000_000, b"x" * 2_000_000, [b"x" * 100_000, "y" * 100_000],
]  # fmt: skip


@pytest.mark.parametrize("value", PLAIN, ids=lambda value: type(value).__name__)
def test_another_slot_opens_what_is_plain(slot: SlotCodec, value: Any) -> None:
    data = join(slot.encode_result(value))
    assert is_portable(data)
    assert slot.open_shared(bytearray(data)) == value
    encoded = CallCodec().forwarded(data)
    assert encoded is not None
    assert join(encoded.parts) == data


def test_an_array_is_opened_in_place(slot: SlotCodec) -> None:
    numpy = pytest.importorskip("numpy")
    data = bytearray(join(slot.encode_result(numpy.arange(100_000))))
    assert is_portable(data)
    array = slot.open_shared(data)
    array[0] = 7
    assert array.sum() == sum(range(100_000)) + 7


@pytest.mark.parametrize(
    "value",
    [
        ["__main__"],
        multiprocessing.queues.Empty,
        [multiprocessing.queues.Queue],
        is_portable,
        lambda: 1,
    ],
)
def test_what_may_mean_something_else_in_the_parent_is_opened_there(slot: SlotCodec, value: Any) -> None:
    found = is_portable(join(slot.encode_result(value)))
    # An exception of `queue` is none of multiprocessing's objects.
    assert found is (value is multiprocessing.queues.Empty)


def test_pools_whose_arguments_are_special_open_all_values() -> None:
    data = pickle.dumps([1], 5)
    assert CallCodec().forwarded(data) is not None
    assert CallCodec(read_only=True).forwarded(data) is None
    assert CallCodec(pickle).forwarded(data) is None
    for cut in (b"\x80", b"\x80\x05", pickle.dumps(b"x" * 300, 5)[:-1]):
        assert is_portable(cut), "the slot says what is wrong with it"
