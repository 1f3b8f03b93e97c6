"""Maps in pools with tracing: function and calls have the context of the map's caller."""

from __future__ import annotations

from collections.abc import Callable

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, TypeVar

    from dragonfly_executor.engine.map_calls import MapCalls
    from dragonfly_executor.engine.observing.call_carrier import CallCarrier

    Calls = TypeVar("Calls", bound=MapCalls)


def traced(
    carrier: CallCarrier, fn: Callable[..., Any], make_calls: Callable[..., Calls]
) -> tuple[Callable[..., Any], Callable[..., Calls]]:
    """Return the function that travels in the place of `fn`, and what makes the map's calls.

    Args:
        carrier: carries the context.
        fn: the map's function.
        make_calls: makes the map's calls.
    """
    carried = carrier.carried(fn)

    def make_traced(*arguments: Any) -> Calls:
        """Make calls whose events name the caller."""
        calls = make_calls(*arguments)
        calls.caller = carried.headers
        return calls

    return carried, make_traced
