"""What happens to pools when their block ends, when the interpreter does, and when the process forks."""

from __future__ import annotations

import atexit
import os
import sys
import weakref

from dragonfly_executor.core import events
from dragonfly_executor.engine.future import Future

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from typing import ClassVar

    from dragonfly_executor.engine.context import ShutdownContext


def leave(
    engine: ShutdownContext, *, interrupted: bool, reason: str = "cannot schedule new futures after shutdown"
) -> None:
    """Shut a pool down and wait for all of it; after a Ctrl-C only for the calls that are not linked.

    Those have ``shutdown_timeout`` to finish, and all others are cancelled. A Ctrl-C while this waits stops everything.
    """
    try:
        if interrupted:
            # The futures are read here: there may be a million of them, and the engine has other things to do.
            for call in engine.ask(lambda machine: machine.unsettled()):
                future = call.token
                if isinstance(future, Future) and future not in engine.unlinked:
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
    """Let the pool finish its calls when the interpreter ends, as the standard library's executors do.

    Where it ends because of a Ctrl-C that nobody caught, nobody waits for them: theirs would have been hit by it, too.
    """
    # It is its own handler, so that it goes with the engine without a step of Python, at which an interrupt could come.
    atexit.register(_ExitHook(engine, atexit.unregister))


class _ExitHook(weakref.ref["ShutdownContext"]):
    """Holds the engine weakly: a pool that has ended costs nothing."""

    def __call__(self) -> None:
        """Called at the interpreter's end."""
        engine = super().__call__()
        if engine is not None:
            reason = "cannot schedule new futures after interpreter shutdown"
            leave(engine, interrupted=_ended_by_interrupt(), reason=reason)


def _ended_by_interrupt() -> bool:
    """Whether what ends the interpreter is a KeyboardInterrupt. At a prompt it was only the end of a statement."""
    at_prompt = hasattr(sys, "ps1") or sys.flags.interactive
    kind = getattr(sys, "last_type", None)
    return not at_prompt and isinstance(kind, type) and issubclass(kind, KeyboardInterrupt)


class ForkGuard:
    """Tells the pools of this process when it has forked.

    The child must neither use a pool nor keep its links open: an agent would not notice that its parent is gone. The
    hook of `os.register_at_fork` cannot be taken back, so there is one for the process, and it holds the pools weakly.
    """

    _instance: ClassVar[ForkGuard | None] = None

    def __init__(self) -> None:
        self._engines: weakref.WeakSet[ShutdownContext] = weakref.WeakSet()
        os.register_at_fork(after_in_child=self._after_fork)

    @classmethod
    def of_this_process(cls) -> ForkGuard:
        """The one guard."""
        if cls._instance is None:
            cls._instance = cls()
        return cls._instance

    def add(self, engine: ShutdownContext) -> None:
        """Guard a pool for as long as it lives."""
        self._engines.add(engine)

    def _after_fork(self) -> None:
        for engine in list(self._engines):
            engine.abandon_in_forked_child()
        self._engines.clear()
