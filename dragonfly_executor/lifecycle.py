"""What happens to pools when the interpreter ends, and when the process forks."""

from __future__ import annotations

import atexit
import os
import weakref
from typing import TYPE_CHECKING, ClassVar

from dragonfly_executor.core import events

if TYPE_CHECKING:
    from dragonfly_executor.engine import Engine


def watch_exit(engine: Engine) -> None:
    """Let the pool finish its calls when the interpreter ends, as the standard library's executors do."""
    atexit.register(_ExitHook(engine))


class _ExitHook:
    """Holds the engine weakly: a pool that has ended costs nothing but this."""

    def __init__(self, engine: Engine) -> None:
        self._engine = weakref.ref(engine, self._forget)

    def _forget(self, reference: object) -> None:
        atexit.unregister(self)

    def __call__(self) -> None:
        engine = self._engine()
        if engine is not None:
            engine.shut_down(events.ShutdownMode.DRAIN, "cannot schedule new futures after interpreter shutdown")
            engine.join()


class ForkGuard:
    """Tells the pools of this process when it has forked.

    The child must neither use a pool nor keep its links open: an agent would not notice that its parent is gone. The
    hook of `os.register_at_fork` cannot be taken back, so there is one for the process, and it holds the pools weakly.
    """

    _instance: ClassVar[ForkGuard | None] = None

    def __init__(self) -> None:
        self._engines: weakref.WeakSet[Engine] = weakref.WeakSet()
        os.register_at_fork(after_in_child=self._after_fork)

    @classmethod
    def of_this_process(cls) -> ForkGuard:
        """The one guard."""
        if cls._instance is None:
            cls._instance = cls()
        return cls._instance

    def add(self, engine: Engine) -> None:
        """Guard a pool for as long as it lives."""
        self._engines.add(engine)

    def _after_fork(self) -> None:
        for engine in list(self._engines):
            engine.abandon_in_forked_child()
        self._engines.clear()
