"""Terminates pools at interpreter exit, as multiprocessing does."""

from __future__ import annotations

import atexit
import weakref

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Protocol

    class Terminable(Protocol):
        """A pool, as the hook uses it."""

        def terminate(self) -> None:
            """Stop all calls now."""


class _TerminateHook(weakref.ref["Terminable"]):
    """An exit hook with a weak reference, so that a pool that was collected costs nothing."""

    def __call__(self) -> None:
        """Terminate the pool at interpreter exit."""
        pool = super().__call__()
        if pool is not None:
            pool.terminate()


def terminate_at_exit(pool: Terminable) -> None:
    """Terminate this pool at interpreter exit, if it still exists."""
    atexit.register(_TerminateHook(pool, _forget))


def _forget(hook: _TerminateHook) -> None:
    # Not `atexit.unregister` as the callback itself: before Python 3.13 it drops the last reference to the hook, and
    # then compares the freed hook with the other functions. This frame keeps the hook alive meanwhile.
    atexit.unregister(hook)
