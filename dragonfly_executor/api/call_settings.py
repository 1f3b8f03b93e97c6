"""Calls of views with the options `seed` and `context_vars`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from dragonfly_executor.serialization.call_setting import (
    AsyncCallSetting,
    AsyncItemSetting,
    CallSetting,
    ItemSetting,
)
from dragonfly_executor.util import validation
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contextvars import ContextVar
    from typing import Any

    from dragonfly_executor.engine.options import CallOptions


def with_setting(fn: Callable[..., Any], options: CallOptions, *, of_stream: bool = False) -> Callable[..., Any]:
    """Return a function that calls `fn` with the seed, and with the values that the context variables have now.

    Args:
        fn: the function.
        options: have the seed and the context variables.
        of_stream: whether the call is a stream. If not, a generator function is refused.
    """
    if not of_stream:
        validation.refuse(fn)
    kind = AsyncCallSetting if options.slot_concurrency > 1 and validation.is_async(fn) else CallSetting
    return kind(fn, options.seed, _values(options))


def items_with_setting(
    fn: Callable[..., Any], iterables: Sequence[Any], options: CallOptions
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return function and iterables of a map whose items have a seed each, and context variables."""
    validation.refuse(fn)
    # It has a length, as other iterables may have, and is longer than each of them.
    kind = AsyncItemSetting if options.slot_concurrency > 1 and validation.is_async(fn) else ItemSetting
    return kind(fn, options.seed, _values(options)), (range(sys.maxsize), *iterables)


def _values(options: CallOptions) -> dict[ContextVar[Any], Any]:
    """Return the values of the context variables. Those without a value are left out."""
    absent = object()
    values = {variable: variable.get(absent) for variable in options.context_vars}
    return {variable: value for variable, value in values.items() if value is not absent}
