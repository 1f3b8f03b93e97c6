"""The interface of an observer that takes part in submits: it carries the caller's context into calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from typing import Any, TypeVar

    from dragonfly_executor.core.calls import Call
    from dragonfly_executor.engine.future import Future

    T = TypeVar("T")
    S = TypeVar("S", bound="HasCall")


class HasCall(Protocol):
    """The result of a submit: the future of a call, or its stream.

    Attributes:
        call: the core's record of the call; None if it was not accepted.
    """

    @property
    def call(self) -> Call | None:
        """The core's record of the call; None if it was not accepted."""


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
        self,
        pool: str,
        name: str,
        fn: Callable[..., Any],
        submit: Callable[[Callable[..., Any]], S],
        *,
        is_stream: bool = False,
    ) -> S:
        """Submit a call by `submit`, which gets the function that travels in the place of `fn`."""
        ...

    def submit_method(
        self, pool: str, name: str, fn: Callable[..., Any], submit: Callable[[Callable[..., Any]], Future[T]]
    ) -> Future[T]:
        """Submit a method call of a placed worker by `submit`, which gets what travels in the place of `fn`."""
        ...

    def carried(self, fn: Callable[..., Any]) -> CarriedCall:
        """Return a function that runs `fn` in the context of the caller: of a map."""
        ...
