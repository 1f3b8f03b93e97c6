"""Refuses functions whose call returns a coroutine or a generator: those cannot leave a slot."""

from __future__ import annotations

from functools import lru_cache, partial
from types import MethodType

# Type checkers take this name for true, and typing is slow to import.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

GENERATOR, COROUTINE, ITERABLE_COROUTINE, ASYNC_GENERATOR = 0x20, 0x80, 0x100, 0x200
SUSPENDS = GENERATOR | COROUTINE | ITERABLE_COROUTINE | ASYNC_GENERATOR
"""Flags of code that does not run when its function is called (``inspect.CO_...``; that module is slow to import)."""

_CACHED = type(lru_cache(len))
_DEPTH = 16  # wrappers in wrappers; one may wrap itself


def refuse(fn: Any) -> None:
    """Raise if a call of `fn` runs nothing, and returns what would run.

    Partials, bound methods, caches and objects with a ``__call__`` count as the function that they call.

    Raises:
        TypeError: it is an ``async def`` or a generator function.
    """
    flags = _flags(fn)
    if not flags & SUSPENDS:
        return
    if flags & GENERATOR and not flags & ITERABLE_COROUTINE:
        raise TypeError(
            f"{_named(fn)} is a generator function: what it returns cannot leave the runner. Send a function that "
            "returns a list of what it yields"
        )
    if flags & ASYNC_GENERATOR:
        raise TypeError(
            f"{_named(fn)} is an asynchronous generator function, which cannot run on a runner yet. Send a function "
            "that collects what it yields in a list, with asyncio.run()"
        )
    raise TypeError(
        f"{_named(fn)} is an `async def` function, which cannot run on a runner yet. Send a function that calls "
        "asyncio.run() with what it returns"
    )


def suspends(fn: Any) -> bool:
    """Return whether a call of `fn` runs nothing, and returns a coroutine or a generator."""
    return bool(_flags(fn) & SUSPENDS)


def _flags(fn: Any) -> int:
    """Return the flags of the code that a call of `fn` runs; 0 if that is not Python's, or not known."""
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
