"""The end of pools in a forked child."""

from __future__ import annotations

import os
import weakref
from _thread import allocate_lock

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from typing import ClassVar


LONGEST_DELAY = 1.0
"""Seconds for which a fork waits at most."""


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
        self._gate = allocate_lock()
        self._is_forking = False
        os.register_at_fork(
            before=self._before_fork, after_in_parent=self._after_in_parent, after_in_child=self._after_fork
        )

    @classmethod
    def of_this_process(cls) -> ForkGuard:
        """Return the guard of this process."""
        if cls._instance is None:
            cls._instance = cls()
        return cls._instance

    def add(self, part: Forkable) -> None:
        """Guard a part of a pool until it is garbage-collected."""
        self._parts.add(part)

    def delay(self) -> bool:
        """Have forks wait until `end_delay`: a thread opens a descriptor that is no part of a pool, and closes it.

        Returns:
            False if a fork is under way or another thread delays forks: then the thread must not open it.
        """
        return self._gate.acquire(blocking=False)

    def end_delay(self) -> None:
        """Let forks go on."""
        self._gate.release()

    def _before_fork(self) -> None:
        # With a limit: an interrupt in this method may leave the lock locked. Then forks are slow, and go on.
        self._is_forking = self._gate.acquire(timeout=LONGEST_DELAY)

    def _after_in_parent(self) -> None:
        if self._is_forking:
            self._is_forking = False
            self._gate.release()

    def _after_fork(self) -> None:
        self._gate, self._is_forking = allocate_lock(), False
        for part in list(self._parts):
            part.abandon_in_forked_child()
        self._parts.clear()
