"""`EngineView`: the parts of a pool's engine that futures ask for, passed on by an object that takes its place."""

from __future__ import annotations

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container

    from dragonfly_executor.engine.context import FutureContext


class EngineView:
    """Base class of objects that futures use in place of an engine.

    Args:
        engine: the pool's.
    """

    def __init__(self, engine: FutureContext) -> None:
        self._pool_engine = engine

    @property
    def forked(self) -> bool:
        """True in a process that was forked from the pool's."""
        return self._pool_engine.forked

    @property
    def unlinked(self) -> Container[object]:
        """The futures of calls that outlive an interrupt of what waits for them."""
        return self._pool_engine.unlinked

    @property
    def is_this_thread(self) -> bool:
        """True on the engine thread."""
        return self._pool_engine.is_this_thread
