"""The end of pools: at the end of a ``with`` block, at interpreter exit, and in a forked child."""

from __future__ import annotations

import atexit
import os
import sys
import weakref

from dragonfly_executor.core import events
from dragonfly_executor.engine.future import Future
from dragonfly_executor.engine.map_calls import MapCall
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import ClassVar

    from dragonfly_executor.engine.context import ShutdownContext


def leave(
    engine: ShutdownContext, *, interrupted: bool, reason: str = "cannot schedule new futures after shutdown"
) -> None:
    """Shut a pool down, and wait until nothing of it is left.

    After a Ctrl-C, calls that are not linked have ``shutdown_timeout`` to finish, and all others are cancelled. A
    Ctrl-C during the wait stops everything.
    """
    try:
        if interrupted:
            # This thread checks the futures: there may be a million of them, and the engine has other work.
            for call in engine.ask(lambda machine: machine.unsettled()):
                future = call.token
                if isinstance(future, (Future, MapCall)) and future not in engine.unlinked:
                    future.cancel()
        engine.shut_down(events.ShutdownMode.DRAIN, reason)
        engine.join(engine.options.shutdown_timeout if interrupted else None)
        if interrupted:
            engine.shut_down(events.ShutdownMode.KILL, reason)
            engine.join()
    except BaseException as error:
        if interrupted or isinstance(error, KeyboardInterrupt):
            engine.shut_down(events.ShutdownMode.KILL, reason)
            engine.join()
        raise


def watch_exit(engine: ShutdownContext) -> None:
    """Let the pool finish its calls at interpreter exit, as the standard library's executors do.

    If an uncaught Ctrl-C ends the interpreter, the calls are cancelled: in the standard library the Ctrl-C would have
    hit them too.
    """
    # The hook is a weak reference, and unregistering is its callback. So it goes with the engine without a step of
    # Python that could be interrupted.
    atexit.register(_ExitHook(engine, atexit.unregister))


class _ExitHook(weakref.ref["ShutdownContext"]):
    """An exit hook with a weak reference to the engine, so that a pool that has ended costs nothing."""

    def __call__(self) -> None:
        """Shut the pool down at interpreter exit."""
        engine = super().__call__()
        if engine is not None:
            reason = "cannot schedule new futures after interpreter shutdown"
            leave(engine, interrupted=_ended_by_interrupt(), reason=reason)


def _ended_by_interrupt() -> bool:
    """Return True if a KeyboardInterrupt ends the interpreter. At a prompt it has only ended a statement."""
    at_prompt = hasattr(sys, "ps1") or sys.flags.interactive
    kind = getattr(sys, "last_type", None)
    return not at_prompt and isinstance(kind, type) and issubclass(kind, KeyboardInterrupt)


class ForkGuard:
    """A guard that tells the pools of this process that it has forked.

    The child must not use a pool, and must not keep a link open: otherwise an agent does not notice that its parent is
    gone. `os.register_at_fork` has no undo. So there is one guard for the process, with weak references to the pools.
    """

    _instance: ClassVar[ForkGuard | None] = None

    def __init__(self) -> None:
        self._engines: weakref.WeakSet[ShutdownContext] = weakref.WeakSet()
        os.register_at_fork(after_in_child=self._after_fork)

    @classmethod
    def of_this_process(cls) -> ForkGuard:
        """Return the guard of this process."""
        if cls._instance is None:
            cls._instance = cls()
        return cls._instance

    def add(self, engine: ShutdownContext) -> None:
        """Guard a pool until it is garbage-collected."""
        self._engines.add(engine)

    def _after_fork(self) -> None:
        for engine in list(self._engines):
            engine.abandon_in_forked_child()
        self._engines.clear()
