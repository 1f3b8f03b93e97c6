"""The name of a call, for people."""

from __future__ import annotations

from types import BuiltinFunctionType, FunctionType

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

MAX_NAME = 200
"""Maximum number of characters."""
MAX_PARTIALS = 10
"""Maximum number of `functools.partial` objects around a function that are looked through."""


def call_name(fn: Any) -> str:
    """Return the qualified name of a function, or of what a `functools.partial` calls, or of an object's class.

    It never raises, although the attributes of a callable object are the user's code.
    """
    if type(fn) is FunctionType or type(fn) is BuiltinFunctionType:
        return fn.__qualname__
    try:
        for _ in range(MAX_PARTIALS):
            inner = getattr(fn, "func", None)
            if not callable(inner) or not hasattr(fn, "keywords"):
                break
            fn = inner
        name = getattr(fn, "__qualname__", None)
        return (name if isinstance(name, str) else type(fn).__qualname__)[:MAX_NAME]
    except Exception:
        return type(fn).__name__[:MAX_NAME]
