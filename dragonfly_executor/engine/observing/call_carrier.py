"""The interface of an observer that takes part in submits: it carries the caller's context into calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from typing import Any, TypeVar

    from dragonfly_executor.engine.future import Future

    T = TypeVar("T")


class CarriedCall(Protocol):
    """A function in the context of its caller.

    Attributes:
        headers: the context, as the W3C's headers.
    """

    headers: Mapping[str, str]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function."""
        ...


class CallCarrier(Protocol):
    """An observer with the methods of `integrations.opentelemetry.OpenTelemetryTracing`."""

    def submit(
        self, pool: str, name: str, fn: Callable[..., T], submit: Callable[[Callable[..., T]], Future[T]]
    ) -> Future[T]:
        """Submit a call by `submit`, which gets the function that travels in the place of `fn`."""
        ...

    def carried(self, fn: Callable[..., Any]) -> CarriedCall:
        """Return a function that runs `fn` in the context of the caller: of a map."""
        ...
