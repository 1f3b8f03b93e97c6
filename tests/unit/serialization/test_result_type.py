"""What a result is can be told without opening it, and nothing of the user's runs for that."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import os
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dragonfly_executor.serialization import result_type
from tests.support import importable
from tests.support.codec_pair import CodecPair
from tests.support.helpers import without_addresses


class Color(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Point:
    x: int


class Loud:
    """Says when it is opened."""

    opened = 0

    def __reduce__(self) -> Any:
        return _open_loudly, ()


def _open_loudly() -> Loud:
    Loud.opened += 1
    return Loud()


def told(value: Any) -> str | None:
    return result_type.result_type(bytearray(b"".join(CodecPair().slot.encode_result(value))))


@pytest.mark.parametrize(
    "value",
    [
        None, True, 1, 10**50, 1.5, 1j, "text", b"bytes", bytearray(b"x"), [1], [], (), (1,), (1, 2, 3, 4), {}, {1},
        frozenset({1}), range(3), datetime.date(2026, 1, 1), decimal.Decimal(1), Path(), Color.RED, Point(1),
        [Point(1)], {"a": 1}, (Point(1),), {"a": Point(1)}, importable.Thing(1), ValueError(1),
    ],
    ids=without_addresses,
)  # fmt: skip
def test_the_type_of_a_small_value_is_told(value: Any) -> None:
    assert told(value) == type(value).__name__


def test_arrays_are_told() -> None:
    assert told(np.arange(3)) == "ndarray"
    assert told(np.arange(10**6)) == "ndarray"
    assert told(np.arange(12).reshape(3, 4)[:, ::2]) == "ndarray"


def test_large_texts_are_told() -> None:
    assert told("x" * 10**6) == "str"
    assert told("é" * 10**6) == "str"


def test_what_is_not_known_is_not_guessed() -> None:
    assert told(lambda: 1) is None
    assert told(Loud()) is None
    assert told(Point) is None
    assert told(["é" * result_type.MOST]) is None
    assert result_type.result_type(b"") is None
    assert result_type.result_type(b"\x80") is None
    assert result_type.result_type(b"nonsense") is None


def test_with_a_serializer_of_the_users_nothing_is_known() -> None:
    near = CodecPair(pickle)
    assert result_type.result_type(bytearray(b"".join(near.slot.encode_result(1)))) in ("int", None)


def test_nothing_is_run_for_it(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "made"),)

    assert result_type.result_type(pickle.dumps([Evil()], 5)) == "list"
    assert result_type.error_type(pickle.dumps(("ValueError", "", "", Evil()), 5)) == "ValueError"
    assert not (tmp_path / "made").exists()
    assert told([Loud()]) == "list"
    assert Loud.opened == 0


def _raise(error: BaseException) -> None:
    raise error


def _raise_what_stays(_: object) -> None:
    error = ValueError("held")
    error.held = threading.Lock()  # type: ignore[attr-defined]
    raise error


@pytest.mark.parametrize(
    ("fn", "argument"), [(_raise, ValueError(1)), (_raise, importable.NeedsTwo(1, 2)), (_raise_what_stays, 1), (len, 3)]
)
def test_the_type_of_an_error_is_the_one_that_it_is_opened_as(fn: Any, argument: Any) -> None:
    near = CodecPair()
    failed, _, data = near.perform(fn, argument)
    assert failed
    assert result_type.error_type(bytes(data)) == type(near.codec.decode_error(data)).__name__


def test_an_error_that_nobody_can_read_has_no_type() -> None:
    assert result_type.error_type(b"nonsense") is None
    assert result_type.error_type(bytes(2**21)) is None
