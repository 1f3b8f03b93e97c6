"""Arguments of commands that have a number as value."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from math import isfinite
from typing import TypeVar

T = TypeVar("T")


def checked(text: str, convert: Callable[[str], T], what: str, is_good: Callable[[T], bool]) -> T:
    """Return the value of an argument.

    Args:
        text: the argument.
        convert: makes the value of it, or raises `ValueError`.
        what: what it must be, for the text of the error.
        is_good: whether the value may be used.

    Raises:
        argparse.ArgumentTypeError: it has no value, or one that may not be used.
    """
    try:
        value = convert(text)
    except ValueError:
        pass
    else:
        if is_good(value):
            return value
    raise argparse.ArgumentTypeError(f"must be {what}, not {text!r}")


def seconds(text: str) -> float:
    """Return a finite number of seconds above 0."""
    return checked(text, float, "a number of seconds above 0", lambda value: isfinite(value) and value > 0)
