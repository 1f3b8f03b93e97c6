"""`get_context`: an object with the methods of a multiprocessing context, whose `Pool` is this package's."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from dragonfly_executor.multiprocessing.pool import MultiprocessingPool
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any


class MultiprocessingContext:
    """A context whose `Pool` is this package's. All other attributes are those of the standard library's context.

    Args:
        method: the start method, for everything but `Pool`: slots always start from a clean process.
    """

    def __init__(self, method: str | None) -> None:
        import multiprocessing

        self._context: Any = multiprocessing.get_context(method)

    def __getattr__(self, name: str) -> Any:
        if name == "_context":  # copy and pickle ask before there is one
            raise AttributeError(name)
        return getattr(self._context, name)

    def Pool(  # noqa: N802  # multiprocessing's name
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
    ) -> MultiprocessingPool:
        """Return a new pool."""
        return MultiprocessingPool(processes, initializer, initargs, maxtasksperchild)


def get_context(method: str | None = None) -> MultiprocessingContext:
    """Return a context, as `multiprocessing.get_context` does.

    Raises:
        ValueError: there is no such start method here.
    """
    return MultiprocessingContext(method)
