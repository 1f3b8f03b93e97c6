"""Which values `pickle.dumps` pickles at once: those that hold nothing large, and need no look at each object."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from typing import Any

import pytest

from dragonfly_executor.serialization.layout import IN_BAND_BELOW
from dragonfly_executor.serialization.small_values import LEAST_TEXT, are_small

Pair = namedtuple("Pair", "a b")  # a subclass of tuple, like users' own

SMALL: list[Any] = [
    *(None, 1, 1.5, "x" * (LEAST_TEXT - 1), b"x" * IN_BAND_BELOW, [], (), {}),
    *([0] * 64, [1, "a", b"b"], (1, [2, (3,)]), {"a": {"b": 1}}, {(1, 2): None}),
]
LARGE: list[Any] = [
    *("x" * LEAST_TEXT, b"x" * (IN_BAND_BELOW + 1), bytearray(1), {1}, object(), Pair(1, 2), OrderedDict()),
    *([0] * 65, ["x" * (IN_BAND_BELOW + 1)], [b"x" * (IN_BAND_BELOW + 1)], {"x" * (IN_BAND_BELOW + 1): 1}),
    *([["x", ["y", ["z"]]]], {"a": {"b": {"c": 1}}}, [object()], {"a": object()}, dict.fromkeys(range(65))),
]


@pytest.mark.parametrize("value", SMALL, ids=range(len(SMALL)))
def test_small(value: Any) -> None:
    assert are_small((value,))


@pytest.mark.parametrize("value", LARGE, ids=range(len(LARGE)))
def test_not_small(value: Any) -> None:
    assert not are_small((value,))


def test_a_list_that_holds_itself_is_not_small() -> None:
    endless: list[Any] = [1, "a"]
    endless.append(endless)
    assert not are_small((endless,))
