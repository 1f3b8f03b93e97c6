"""A module that runners can import: its functions are pickled by reference."""

from __future__ import annotations

import threading
from typing import Any

LOCK = threading.Lock()
state = "the module's"


def add(x: Any, y: Any = 1) -> Any:
    return x + y


def same(x: Any) -> Any:
    return x


def set_state(value: Any) -> None:
    global state
    state = value


def reader() -> Any:
    """Return a function that is pickled by value and uses this module's globals."""
    return lambda: (state, LOCK is not None)


class Thing:
    def __init__(self, x: Any) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Thing) and self.x == other.x

    __hash__ = None  # type: ignore[assignment]

    def double(self) -> Any:
        return self.x * 2


class NeedsTwo(Exception):
    """An object that can be pickled but not unpickled."""

    def __init__(self, one: Any, two: Any) -> None:
        super().__init__(f"{one} and {two}")


class WithState(Exception):
    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code
