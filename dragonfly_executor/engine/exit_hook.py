"""The end of pools at interpreter exit."""

from __future__ import annotations

import atexit
import sys
import weakref

from dragonfly_executor.util.lazy_typing import Protocol


class Leaver(Protocol):
    """A pool, or its engine."""

    def leave(self, *, interrupted: bool, reason: str) -> None:
        """Finish the calls, and wait until nothing of the pool is left; see `shutdown.leave`."""


def watch_exit(pool: Leaver) -> None:
    """Let the pool finish its calls at interpreter exit, as the standard library's executors do.

    If an uncaught Ctrl-C ends the interpreter, the calls are cancelled: in the standard library the Ctrl-C would have
    hit them too.
    """
    # The hook is a weak reference, and unregistering is its callback. So it goes with the pool without a step of
    # Python that could be interrupted.
    atexit.register(_ExitHook(pool, atexit.unregister))


class _ExitHook(weakref.ref["Leaver"]):
    """An exit hook with a weak reference to the pool, so that a pool that has ended costs nothing."""

    def __call__(self) -> None:
        """Shut the pool down at interpreter exit."""
        pool = super().__call__()
        if pool is not None:
            reason = "cannot schedule new futures after interpreter shutdown"
            pool.leave(interrupted=_ended_by_interrupt(), reason=reason)


def _ended_by_interrupt() -> bool:
    """Return True if a KeyboardInterrupt ends the interpreter. At a prompt it has only ended a statement."""
    at_prompt = hasattr(sys, "ps1") or sys.flags.interactive
    kind = getattr(sys, "last_type", None)
    return not at_prompt and isinstance(kind, type) and issubclass(kind, KeyboardInterrupt)
