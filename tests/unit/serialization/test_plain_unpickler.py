"""A pickle that the agent opens runs no code."""

from __future__ import annotations

import pickle
from pathlib import PurePosixPath
from typing import Any

import pytest

from dragonfly_executor.serialization.plain_unpickler import load_plain

ran: list[str] = []


def note(what: str) -> None:
    ran.append(what)


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return note, ("code ran",)


class Text(str):
    """A string, and yet a class that has to be imported."""

    __slots__ = ()


@pytest.mark.parametrize(
    "value", [None, {"path": ["/a", "b"], "argv": ("x",), "key": b"\0\xff", "nested": {"n": 1.5, "s": {1, 2}}}, [True]]
)
def test_values_of_builtin_types_are_opened(value: object) -> None:
    assert load_plain(pickle.dumps(value, 5)) == value


@pytest.mark.parametrize("value", [Harmful(), [Text("x")], {"path": PurePosixPath("/a")}, print, str])
def test_all_that_has_to_be_imported_is_refused(value: object) -> None:
    with pytest.raises(pickle.UnpicklingError, match="the pickle refers to"):
        load_plain(pickle.dumps(value))
    assert ran == []
