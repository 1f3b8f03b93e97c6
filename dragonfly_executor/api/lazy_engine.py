"""The engine of a pool, which is made when it is first needed.

The engine and the core are most of this package. Until its first call a program does without them, and the first call
need not wait for them either: the first submit launches the first runner, and loads them while the runner starts.
"""

from __future__ import annotations

import sys
import threading
import weakref

from dragonfly_executor import errors
from dragonfly_executor.core.shutdown_mode import ShutdownMode
from dragonfly_executor.engine.boot.launched_node import FIRST_RUNNER, LaunchedNode
from dragonfly_executor.engine.exit_hook import watch_exit
from dragonfly_executor.engine.fork_guard import ForkGuard
from dragonfly_executor.engine.startup import EngineStart
from dragonfly_executor.protocol.parent import Parent
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly_executor.api.assembly import EnginePlan
    from dragonfly_executor.engine.engine import Engine


class LazyEngine:
    """The engine of a pool, and its state until it exists.

    A Ctrl-C may interrupt a caller between any two steps. So an engine becomes the pool's in one step, and a launch
    runs on a thread of its own, which gets no interrupt.

    Args:
        plan: makes the engine.
        pool: the pool. When it is garbage-collected, no more calls can come: pending calls finish, and then the engine
            ends.
    """

    def __init__(self, plan: EnginePlan, pool: object) -> None:
        self._plan = plan
        self._pool = weakref.ref(pool)
        self._made: dict[str, Engine] = {}
        """The engine, once it exists."""
        self._modes: list[tuple[ShutdownMode, str]] = []
        self._forked = False
        self._is_watched = False
        self._launches = True
        self._launched: LaunchedNode | None = None
        """The launched node, until the engine has taken it."""
        # Only threads that get no interrupt hold this lock.
        self._lock = threading.Lock()
        self._start = EngineStart(plan.options.name, self._launch_and_start)
        ForkGuard.of_this_process().add(self)

    @property
    def made(self) -> Engine | None:
        """The engine, or None as long as there is none."""
        return self._made.get("")

    def get(self) -> Engine:
        """Return the engine, which is made now if there is none. It is not started.

        Raises:
            StartError: there is no memory or no descriptor to load it.
        """
        engine = self.made
        if engine is None:
            new = self._plan.make()
            self._end_with_pool(new)
            # Several threads may come here at once, and get one engine.
            engine = self._made.setdefault("", new)
            # A thread that shuts the pool down adds the mode first, and then looks for the engine.
            for mode, reason in list(self._modes):
                engine.shut_down(mode, reason)
            engine.forked = engine.forked or self._forked
        return engine

    def _end_with_pool(self, engine: Engine) -> None:
        pool = self._pool()
        if pool is None:
            engine.shut_down(ShutdownMode.DRAIN)
            return
        # The finalizer must not hold the pool. It must not hold the engine either, which references `__main__`:
        # otherwise a `__del__` in `__main__` would run at interpreter exit only after the built-in names are gone.
        # There are two finalizers, because a Ctrl-C during one of them loses it.
        for _ in range(2):
            finalizer = weakref.finalize(pool, _wind_down, weakref.ref(engine))
            finalizer.atexit = False

    def start(self, *, launches: bool = True) -> None:
        """Launch the first runner, if the backend can launch it now, and make and start the engine meanwhile.

        Args:
            launches: False if no runner may be launched.

        Raises:
            RuntimeError: the pool is shut down, or broken, or belongs to another process.
            StartError: the engine could not be started.
        """
        self.check_open()
        self._launches = launches
        self._start.wait()

    def check_open(self) -> None:
        """Raise the error that a submit would raise now; see `Engine.check_open`."""
        engine = self.made
        if engine is not None:
            engine.check_open()
        elif self._forked:
            raise errors.ForkedExecutorError(
                "this pool belongs to the process that this one was forked from: make a new pool here"
            )
        elif self._modes:
            raise RuntimeError(self._modes[0][1])
        elif sys.is_finalizing():
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    def shut_down(self, mode: ShutdownMode, reason: str = "cannot schedule new futures after shutdown") -> None:
        """Accept no more calls and end, the way `mode` says. Returns at once; `join` waits."""
        if self._forked:
            return
        self._modes.append((mode, reason))
        engine = self.made
        if engine is not None:
            engine.shut_down(mode, reason)

    @property
    def has_ended(self) -> bool:
        """True if nothing of the pool is left, or it belongs to the process that this one was forked from."""
        engine = self.made
        if self._forked:
            return True
        return bool(self._modes) if engine is None else engine.has_ended

    def join(self, timeout: float | None = None) -> None:
        """Wait until nothing of the pool is left; see `Engine.join`."""
        if self._forked:
            return
        self._start.join()
        engine = self.made
        if engine is not None:
            engine.join(timeout)

    def leave(self, *, interrupted: bool, reason: str = "cannot schedule new futures after shutdown") -> None:
        """Shut down, and wait until nothing of the pool is left; see `shutdown.leave`."""
        if self._forked:
            return
        if self.made is None:
            self.shut_down(ShutdownMode.DRAIN, reason)
        # Even if the thread that began the start was interrupted: the start goes on.
        self._start.join()
        engine = self.made
        if engine is not None:
            engine.leave(interrupted=interrupted, reason=reason)

    def abandon_in_forked_child(self) -> None:
        """Close the descriptors in a forked child, and send nothing. They belong to the process that forked."""
        self._forked = True
        launched = self._launched
        if launched is not None:
            launched.abandon()

    # -- the first start, on a thread of its own ----------------------------------------------------------------------

    def _launch_and_start(self) -> None:
        with self._lock:
            if self.made is not None or self._modes:
                return
            if not self._is_watched:
                # Before there is a process: at interpreter exit, the main thread then waits for this start.
                watch_exit(self)
                self._is_watched = True
            launched = self._launched = self._launch()
            try:
                self._bring_up(launched)
            finally:
                self._launched = None

    def _bring_up(self, launched: LaunchedNode | None) -> None:
        try:
            self.get().bring_up(launched)
        except BaseException as error:
            if launched is None:
                raise
            launched.stop()
            if not isinstance(error, (RuntimeError, MemoryError, OSError)):
                raise
            # The launch may have taken what is short now.
            self.get().bring_up()

    def _launch(self) -> LaunchedNode | None:
        """Launch the first runner, if the pool's first boot is certain to ask for one like it."""
        backend = self._plan.backend_to_launch
        if backend is None or not self._launches:
            return None
        parent = Parent.new(self._plan.options.name, FIRST_RUNNER, backend.name)
        node = backend.launch_ahead(parent)
        return None if node is None else LaunchedNode(parent, node)


def _wind_down(reference: weakref.ref[Engine]) -> None:
    """Shut down the engine of a pool that was garbage-collected. The engine's thread holds the engine while it runs."""
    engine = reference()
    if engine is not None:
        engine.shut_down(ShutdownMode.DRAIN)
