"""Calls that look at random numbers, context variables, warnings and loggers. A slot imports this module."""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from typing import Any

REQUEST: ContextVar[str] = ContextVar("REQUEST", default="none")
UNSET: ContextVar[str] = ContextVar("UNSET")


def numbers(*_: object) -> tuple[float, float]:
    """Draw from `random` and from NumPy's legacy generator, which is imported here."""
    import numpy

    return random.random(), float(numpy.random.random())


async def numbers_later(*_: object) -> tuple[float, float]:
    """Draw after a pause."""
    import asyncio

    await asyncio.sleep(0)
    return numbers()


def state() -> Any:
    """Return the state of `random`."""
    return random.getstate()


def context(*_: object) -> tuple[str, str]:
    """Return the context variables, and change one."""
    found = REQUEST.get(), UNSET.get("unset")
    REQUEST.set("changed by a call")
    return found


async def context_later() -> tuple[str, str]:
    return context()


def warned() -> str:
    """Return what becomes of warnings."""
    found = []
    for category in (UserWarning, DeprecationWarning):
        try:
            warnings.warn("from a call", category, stacklevel=1)
            found.append("shown or ignored")
        except Warning as warning:
            found.append(type(warning).__name__)
    return " ".join(found)


def levels(*names: str) -> list[int]:
    return [logging.getLogger(name).level for name in names]


def stream_of(count: int) -> Iterator[tuple[tuple[float, float], tuple[str, str]]]:
    """Yield random numbers and context variables, from several steps of one generator."""
    for _ in range(count):
        yield numbers(), (REQUEST.get(), UNSET.get("unset"))


async def later_stream_of(count: int) -> AsyncIterator[tuple[tuple[float, float], tuple[str, str]]]:
    """Yield the same, after a pause before each item."""
    import asyncio

    for item in stream_of(count):
        await asyncio.sleep(0)
        yield item
