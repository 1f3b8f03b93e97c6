"""Calls that carry the trace context of their caller, in W3C headers. A slot attaches it while the call runs."""

from __future__ import annotations

import sys
from types import CoroutineType

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, ClassVar


class ContextCall:
    """A function with the trace context of its caller, which travels to a slot in the function's place.

    If the runner has no OpenTelemetry, the function runs without the context.

    Args:
        headers: the context, as the W3C's ``traceparent``, ``tracestate`` and ``baggage``.
        func: the function.
    """

    __slots__ = ("func", "headers")
    keywords: ClassVar[Mapping[str, Any]] = {}
    """Keyword arguments as a `functools.partial` has them, so that the function's name is found."""

    def __init__(self, headers: Mapping[str, str], func: Callable[..., Any]) -> None:
        self.headers = headers
        self.func = func

    def __reduce__(self) -> Any:
        return type(self), (self.headers, self.func)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function in its caller's context."""
        return in_context(self.headers, lambda: self.func(*args, **kwargs))


class AsyncContextCall(ContextCall):
    """A `ContextCall` of an ``async def``."""

    __slots__ = ()

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the coroutine in its caller's context."""
        detach = attach(self.headers)
        try:
            return await self.func(*args, **kwargs)
        finally:
            detach()


def carried(fn: Callable[..., Any], headers: Mapping[str, str]) -> ContextCall:
    """Return a function that runs `fn` in the context in these headers.

    Raises:
        TypeError: `fn` is a generator function.
    """
    # Imported for the first call with a context.
    from dragonfly_executor.util import validation

    validation.refuse(fn)
    return (AsyncContextCall if validation.is_async(fn) else ContextCall)(headers, fn)


def in_context(headers: Mapping[str, str], run: Callable[[], Any]) -> Any:
    """Call `run` in a caller's context. If it returns a coroutine, that runs in the context too."""
    detach = attach(headers)
    try:
        result = run()
    finally:
        detach()
    return _later(headers, result) if type(result) is CoroutineType else result


async def _later(headers: Mapping[str, str], coroutine: CoroutineType[Any, Any, Any]) -> Any:
    detach = attach(headers)
    try:
        return await coroutine
    finally:
        detach()


def headers_of_caller() -> dict[str, str] | None:
    """Return the trace context of the code that runs in this slot, as W3C headers; None if there is none.

    A context is attached by OpenTelemetry alone, so this does not import it.
    """
    propagate = sys.modules.get("opentelemetry.propagate")
    if propagate is None:
        return None
    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers if "traceparent" in headers else None


def attach(headers: Mapping[str, str]) -> Callable[[], object]:
    """Attach the context in these headers, and return what detaches it again."""
    try:
        from opentelemetry import context, propagate
    except ImportError:
        return _nothing
    token = context.attach(propagate.extract(headers))
    return lambda: context.detach(token)


def _nothing() -> None:
    """Do nothing: there was no context to attach."""
