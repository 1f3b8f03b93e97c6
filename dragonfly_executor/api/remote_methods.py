"""`RemoteMethods`: calls methods of an object in a slot as if the handle were the object."""

from __future__ import annotations

from collections.abc import Callable

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.engine.future import Future


class RemoteMethods:
    """The handle of an object in a slot. A subclass says how a method is called, and which names are methods."""

    def call_method(self, name: str, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit a call of the method `name`, and return its future."""
        raise NotImplementedError

    def __getattr__(self, name: str) -> Callable[..., Future[Any]]:
        self._check_method(name)

        def method(*args: Any, **kwargs: Any) -> Future[Any]:
            """Submit a call of the method."""
            return self.call_method(name, *args, **kwargs)

        return method

    def _check_method(self, name: str) -> None:
        """Raise `AttributeError` if this name is no method."""
        raise NotImplementedError

    def __call__(self, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call the object itself."""
        return self.call_method("__call__", *args, **kwargs)
