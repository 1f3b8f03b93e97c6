"""Checks of arguments: numbers, durations, amounts, and functions.

A function whose call returns a generator is refused: a generator cannot leave a slot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from importlib import import_module
from types import MethodType

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import timedelta
    from typing import Any, Final, TypeAlias, TypeVar

    Seconds: TypeAlias = float | int | timedelta
    Wait: TypeAlias = Callable[[Any], float]

    F = TypeVar("F", bound=Callable[..., Any])

GENERATOR, COROUTINE, ITERABLE_COROUTINE, ASYNC_GENERATOR = 0x20, 0x80, 0x100, 0x200
SUSPENDS = GENERATOR | COROUTINE | ITERABLE_COROUTINE | ASYNC_GENERATOR
"""Code flags of functions whose body does not run when they are called.

They equal ``inspect.CO_...``. The module `inspect` is slow to import.
"""
GENERATES = GENERATOR | ASYNC_GENERATOR
"""Code flags of generator functions."""
MOST: Final = 1.7976931348623157e308
"""The largest finite float."""

_CACHED = type(lru_cache(len))
_DEPTH = 16  # wrappers in wrappers; a wrapper may wrap itself


def duration(value: Seconds, name: str, *, positive: bool = False) -> float:
    """Return a duration in seconds.

    Args:
        value: a number of seconds, or a `timedelta`.
        name: the argument's name, for error texts.
        positive: refuse zero.

    Raises:
        TypeError: `value` is neither a number nor a `timedelta`.
        ValueError: `value` is negative, or zero with `positive`.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        total_seconds = getattr(value, "total_seconds", None)
        if total_seconds is None and not _is_number(value, "Real"):
            raise TypeError(f"{name} must be a number of seconds or a timedelta, not {type(value).__name__}")
        number: Any = value if total_seconds is None else total_seconds()
        value = float(number)
    if not value >= 0 or (positive and value == 0):
        raise ValueError(f"{name} must be {'greater than' if positive else 'at least'} 0, not {value!r}")
    return float(value)


def whole(value: int, name: str, least: int) -> int:
    """Return a whole number of at least `least`.

    Raises:
        TypeError: `value` is not a whole number.
        ValueError: `value` is less than `least`.
    """
    if isinstance(value, bool) or not (isinstance(value, int) or _is_number(value, "Integral")):
        raise TypeError(f"{name} must be a whole number, not {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")
    return int(value)


def finite_number(value: float, name: str) -> float:
    """Return a finite number.

    Raises:
        TypeError: `value` is not a real number.
        ValueError: `value` is infinite, or is not a number (NaN).
    """
    if isinstance(value, bool) or not (isinstance(value, (int, float)) or _is_number(value, "Real")):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    # An integer may be too large for a float.
    if not -MOST <= value <= MOST:
        raise ValueError(f"{name} must be finite, not {value!r:.50}")
    return value if isinstance(value, int) else float(value)


def hook(value: F | None, name: str) -> F | None:
    """Return a callable, or None if `value` is None.

    Raises:
        TypeError: `value` is not callable, or its call only returns a coroutine or a generator.
    """
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be a callable")
    if suspends(value):
        raise TypeError(
            f"{name} must be a plain function: a call of an `async def` or a generator function runs nothing"
        )
    return value


def initializer(value: F | None, name: str) -> F | None:
    """Return a function that slots run, or None if `value` is None. It may be an ``async def``.

    Raises:
        TypeError: `value` is not callable, or its call only returns a generator.
    """
    return value if callable(value) and is_async(value) else hook(value, name)


def dollars(value: float | None, name: str, *, positive: bool = False) -> float | None:
    """Return an amount of US dollars, or None if `value` is None.

    Raises:
        TypeError: `value` is not a number.
        ValueError: `value` is negative or not finite, or zero with `positive`.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of US dollars, not {type(value).__name__}")
    # An integer may be too large for a float.
    if not 0 <= value <= MOST or (positive and value == 0):
        raise ValueError(f"{name} must be finite and {'greater than' if positive else 'at least'} 0, not {value!r:.50}")
    return float(value)


def labels(value: Iterable[str] | None, name: str) -> frozenset[str]:
    """Return labels: texts that are not empty.

    Raises:
        TypeError: `value` is no collection of texts.
        ValueError: a label is empty or cannot be printed.
    """
    if isinstance(value, str) or (value is not None and not isinstance(value, Iterable)):
        raise TypeError(f"{name} must be several texts, such as {{'eu', 'big'}}, not {value!r:.50}")
    found = frozenset(value or ())
    for label in found:
        if not isinstance(label, str):
            raise TypeError(f"{name} must be texts, not {type(label).__name__}")
        if not label or not label.isprintable():
            raise ValueError(f"{name} must be texts that are not empty and can be printed, not {label!r:.50}")
    return found


def _is_number(value: object, kind: str) -> bool:
    """Return whether `value` is a number of this kind from the module `numbers`.

    Numbers of other packages count, such as numpy's. Their truth values do not.
    """
    return not isinstance(value, bool) and isinstance(value, getattr(import_module("numbers"), kind))


def refuse(fn: Any) -> None:
    """Raise if a call of `fn` runs nothing and only returns a generator.

    Partials, bound methods, caches and objects with a ``__call__`` count as the function that they call. An
    ``async def`` is fine: the slot runs its coroutine.

    Raises:
        TypeError: `fn` is a generator function.
    """
    flags = _flags(fn)
    if not flags & SUSPENDS or flags & COROUTINE:
        return
    if flags & ITERABLE_COROUTINE:
        raise TypeError(f"{_named(fn)} is a generator that `types.coroutine` wraps: make it an `async def` function")
    if flags & GENERATOR:
        raise TypeError(
            f"{_named(fn)} is a generator function: a generator cannot leave the runner. Take its items by stream(), "
            "or submit a function that returns a list of the items"
        )
    raise TypeError(
        f"{_named(fn)} is an asynchronous generator function, which cannot leave the runner. Take its items by "
        "stream(), or submit an `async def` function that returns a list of the items"
    )


def refuse_stream(fn: Any) -> None:
    """Raise if `fn` cannot be the function of a stream.

    Raises:
        TypeError: it cannot be called, or is an ``async def`` that yields nothing.
    """
    if not callable(fn):
        raise TypeError(f"a stream needs a function, not {type(fn).__name__}")
    if _flags(fn) & (COROUTINE | ITERABLE_COROUTINE):
        raise TypeError(f"{_named(fn)} is a coroutine function, which yields no items: submit() it")


def is_async(fn: Any) -> bool:
    """Return whether a call of `fn` returns a coroutine, because `fn` is an ``async def`` function."""
    return bool(_flags(fn) & COROUTINE)


def suspends(fn: Any) -> bool:
    """Return whether a call of `fn` runs nothing and returns a coroutine or a generator."""
    return bool(_flags(fn) & SUSPENDS)


def _flags(fn: Any) -> int:
    """Return the flags of the code that a call of `fn` runs; 0 if that code is not Python code, or is unknown."""
    try:
        for _ in range(_DEPTH):
            if isinstance(fn, partial):
                fn = fn.func
            elif isinstance(fn, (MethodType, staticmethod)):
                fn = fn.__func__
            elif isinstance(fn, _CACHED):
                fn = fn.__wrapped__
            elif isinstance(fn, type):
                return 0
            else:
                break
        code = getattr(fn, "__code__", None)
        if code is None:
            called = type(fn).__call__
            code = getattr(called.__func__ if isinstance(called, MethodType) else called, "__code__", None)
        flags = getattr(code, "co_flags", 0)
        return flags if isinstance(flags, int) else 0
    except Exception:  # __getattr__ is the user's code
        return 0


def _named(fn: Any) -> str:
    for _ in range(_DEPTH):
        name = getattr(fn, "__qualname__", None)
        if isinstance(name, str):
            return f"{name}()"
        if not isinstance(fn, partial):
            break
        fn = fn.func
    return f"{type(fn).__qualname__}.__call__()"
