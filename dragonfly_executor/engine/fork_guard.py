"""The end of pools in a forked child."""

from __future__ import annotations

import os
import weakref

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from typing import ClassVar


class Forkable(Protocol):
    """A part of a pool that has descriptors."""

    def abandon_in_forked_child(self) -> None:
        """Close the descriptors in a forked child. They belong to the process that forked."""


class ForkGuard:
    """A guard that tells the pools of this process that it has forked.

    The child must not use a pool, and must not keep a link open: otherwise an agent does not notice that its parent is
    gone. `os.register_at_fork` has no undo. So there is one guard for the process, with weak references to the pools.
    """

    _instance: ClassVar[ForkGuard | None] = None

    def __init__(self) -> None:
        self._parts: weakref.WeakSet[Forkable] = weakref.WeakSet()
        os.register_at_fork(after_in_child=self._after_fork)

    @classmethod
    def of_this_process(cls) -> ForkGuard:
        """Return the guard of this process."""
        if cls._instance is None:
            cls._instance = cls()
        return cls._instance

    def add(self, part: Forkable) -> None:
        """Guard a part of a pool until it is garbage-collected."""
        self._parts.add(part)

    def _after_fork(self) -> None:
        for part in list(self._parts):
            part.abandon_in_forked_child()
        self._parts.clear()
