"""Pool: a named, elastic set of runners; and `call` and `cast`, which find a pool by its name."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType

from dragonfly_executor import errors
from dragonfly_executor.api.map import map_calls
from dragonfly_executor.api.options import Budget, CallOptions, core_limits, read_options
from dragonfly_executor.api.registry import Registry, check_backend
from dragonfly_executor.core.events import Resized, ShutdownMode
from dragonfly_executor.engine.future import Future
from dragonfly_executor.engine.shutdown import leave
from dragonfly_executor.protocol.parent import Parent, max_depth
from dragonfly_executor.util.validation import whole

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from typing import Any, Self, TypeVar

    from dragonfly_executor.backends.base import Backend
    from dragonfly_executor.core.stats import PoolStats
    from dragonfly_executor.engine.engine import Engine
    from dragonfly_executor.sync import Keeper

    T = TypeVar("T")

registry: Registry[Pool] = Registry()


class Pool:
    """A named, elastic set of runners, with Dragonfly's options and defaults. Durations are seconds or a `timedelta`.

    Args:
        name: what `call` and `cast` find the pool by. The pool lives until it is shut down or the interpreter ends,
            also if the program keeps no reference to it.
        min: runners that are kept booted, from now on, and again when one is lost. 0 inside a runner.
        max: runners at most, those that boot counted in.
        max_concurrency: calls at once on one runner.
        single_use: a runner goes away after its first call.
        backend: where runners are booted; default what `configure` set, else `LocalBackend()`.
        log: level of the pool's own log lines (logger ``dragonfly_executor``); False for none.
        timeout: a call's whole budget, waiting and running; None for no limit.
        boot_timeout: for a boot: to create, to connect, to shake hands; and again for the set-up of each slot, which
            imports the script, if calls need it, and runs the initializer.
            The backend's own if not given: 30, by SSH 60, on Fly 120.
        shutdown_timeout: grace for running calls when a runner is told to go.
        idle_shutdown_after: how long a runner above `min` may be idle; or a pair with a check that is run on the runner
            then: the runner goes if it returns true; None for never. A check that raises counts as false, and its
            traceback is what the runner prints. A check that does not end within 10 s counts as false too: its slot is
            killed, with a warning. A call that comes meanwhile runs in another slot.
        min_idle_shutdown_after: the same for the `min` runners.
        on_grow_start: called with ``{"name", "count", "pid"}`` before a runner above `min` is booted.
        on_grow_end: called with ``"ok"`` or the error, and the same mapping, when that has ended.
        on_shrink: called with the same mapping when a runner goes.
        output: what becomes of what calls write to stdout and stderr, their children included. "inherit" (the default):
            on this machine slots write where the parent does; from elsewhere the text comes over the link, and is
            written as it is. "tag": each line is printed as ``[runner 1, call 12] text``, on the same stream; control
            characters but colours are shown as escapes, and a carriage return begins another line.
            "capture": nothing is shown, and `Future.output` has it. "drop": it is thrown away on the runner. A
            callable is called with an `OutputLine` for each line, on the pool's callback thread. With "tag" and a
            callable records of `logging` come back as records: a slot's root logger has the level that the parent's has
            when a call is sent. They are handled by the parent's loggers, with ``dragonfly_runner`` and
            ``dragonfly_call`` as attributes, or given to the callable. Lines are cut after 64 KiB. A call that writes
            faster than the parent consumes waits.
        budget: a `Budget`: the most that all runners together may use, in time or in money; ``stats()`` counts both.
        options: `CallOptions`' other fields, and those below.

    Options:
        max_workers: calls at once over the whole pool; None (the default) for no cap.
        initializer, initargs, max_tasks_per_child: as `DragonflyExecutor` has them.
        serializer: "cloudpickle" (the default), "dill", "pickle", or an object with ``dumps`` and ``loads``.
        max_payload: bytes of one call's arguments, or of its result; 8 GiB.
        max_boot_failures: boots that may fail in a row, with no runner up, until calls that wait fail; 3.
        boot_wait: a tenacity wait strategy for the pauses after failed boots; None for an exponential one with jitter.
        on_event: called with a mapping for each boot and end of a runner: ``"event"``, ``"runner_id"``, ``"text"``.
        lease: a runner that hears nothing of its parent for so long ends; 60.
        heartbeat: how often runners are asked for a sign of life; 5.
        dead_after: a runner that is silent for so long is lost; 30.

    Raises:
        ValueError: an option is out of range, or the name is taken.
        TypeError: an option has the wrong type, or there is none of that name.
        NestingError: this process is a runner that is already as deep as runners may be.
    """

    def __init__(
        self,
        name: str,
        *,
        min: int,  # noqa: A002  # Dragonfly's word
        max: int,  # noqa: A002
        max_concurrency: int = 100,
        single_use: bool = False,
        backend: Backend | None = None,
        log: int | str | bool = False,
        timeout: Any = 30.0,
        boot_timeout: Any = ...,
        shutdown_timeout: Any = 30.0,
        idle_shutdown_after: Any = 30.0,
        min_idle_shutdown_after: Any = None,
        on_grow_start: Callable[[Mapping[str, Any]], object] | None = None,
        on_grow_end: Callable[[object, Mapping[str, Any]], object] | None = None,
        on_shrink: Callable[[Mapping[str, Any]], object] | None = None,
        budget: Budget | None = None,
        **options: Any,
    ) -> None:
        named = {
            "min": min,
            "max": max,
            "max_concurrency": max_concurrency,
            "single_use": single_use,
            "log": log,
            "timeout": timeout,
            "shutdown_timeout": shutdown_timeout,
            "idle_shutdown_after": idle_shutdown_after,
            "min_idle_shutdown_after": min_idle_shutdown_after,
            "on_grow_start": on_grow_start,
            "on_grow_end": on_grow_end,
            "on_shrink": on_shrink,
            "budget": budget,
        }
        own = {} if boot_timeout is ... else {"boot_timeout": boot_timeout}
        self._set_up(name, backend, {**named, **own, **options})
        registry.add(self)
        try:
            if self._engine.options.min:
                self._engine.start()
        except BaseException:
            self.kill()
            raise

    def _set_up(self, name: str, backend: Backend | None, options: dict[str, Any]) -> None:
        # Half of this package: a program that only imports the names does not pay for it.
        from dragonfly_executor.engine.engine import Engine
        from dragonfly_executor.serialization import CallCodec

        backend = registry.default_backend() if backend is None else backend
        check_backend(backend)
        depth = _depth()
        if depth:
            # A runner that boots the runners that its own start-up asks for would never end.
            options["min"] = 0
        pool_options = read_options(name, backend, options)
        self.name = name
        self._backend = backend
        keeper = _keeper(backend)
        codec = CallCodec(
            pool_options.serializer,
            script_travels=keeper is None or keeper.script_travels,
            path_travels=keeper is None or backend.shares_image,
            on_code=None if keeper is None else keeper.code_travels,
        )
        self._engine = Engine(pool_options, core_limits(pool_options, backend), backend, codec, keeper)
        self._codec = codec
        # Without a pool nobody can ask for results that are not asked for yet, so what is pending finishes, and then
        # the engine ends. It must not hold the pool itself. The finalizer must not hold the engine, which
        # knows `__main__`: at the interpreter's end a `__del__` there would run only when the built-in names are gone.
        # There are two: what a Ctrl-C hits in one of them is lost.
        for _ in range(2):
            finalizer = weakref.finalize(self, _wind_down, weakref.ref(self._engine))
            finalizer.atexit = False

    def __reduce__(self) -> Any:
        raise TypeError(
            "a Pool cannot travel to a runner: it owns processes and threads here. Make one in the call instead"
        )

    def __repr__(self) -> str:
        try:
            return f"<Pool {self.name!r}: {self.stats().explain}>"
        except Exception:
            # Not made yet, or there is no memory or no descriptor for what counts. A log line may hold this text.
            return f"<Pool {getattr(self, 'name', None)!r}>"

    def _repr_html_(self) -> str:
        from dragonfly_executor.engine.notebook import table

        return table("Pool", self.described())

    def described(self) -> dict[str, object]:
        """Return how the pool stands as names and words, for people. There is no text of an error in it."""
        from dragonfly_executor.engine.notebook import pool_rows

        return pool_rows(self.name, self._backend.name, self.stats())

    @property
    def call_options(self) -> CallOptions:
        """What applies to calls where they do not say otherwise."""
        return self._engine.options.call

    @property
    def is_shut_down(self) -> bool:
        """Whether the pool accepts no more calls."""
        try:
            self._engine.check_open()
        except RuntimeError:
            return True
        return False

    # -- calls --------------------------------------------------------------------------------------------------------

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Run ``fn(*args, **kwargs)`` on a runner; see `DragonflyExecutor.submit`."""
        return self.submit_with(self.call_options, fn, args, kwargs)

    def submit_with(
        self, options: CallOptions, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Future[T]:
        """Submit under these options."""
        engine = self._engine
        # Before anything is pickled: that may take long, and run the user's code.
        engine.check_open()
        parts = self._codec.encode_call(fn, args, kwargs, options.retry_on)
        return engine.submit(parts, options.limits(), cancel_running=options.cancel_running)

    def failed(self, error: Exception) -> Future[Any]:
        """The future of a call that failed before it could be submitted."""
        future: Future[Any] = Future(self._engine)
        future.set_exception(error)
        return future

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Like the builtin ``map``, on the runners; see `DragonflyExecutor.map`."""
        return map_calls(self.submit, fn, iterables, timeout, chunksize, buffersize)

    def call(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Run ``fn(*args, **kwargs)`` on a runner and return its value. An interrupt takes the remote work with it."""
        return wait_linked(self.submit(fn, *args, **kwargs), link=True)

    def cast(self, fn: Callable[..., object], /, *args: Any, **kwargs: Any) -> None:
        """Run ``fn(*args, **kwargs)`` on a runner, and forget it: without a limit on its time, and without a result."""
        options = self.call_options.change({"timeout": None})
        self.submit_with(options, fn, args, kwargs)

    def unlink(self, future: Future[Any]) -> None:
        """Let this call outlive an interrupt of whoever waits for it."""
        self._engine.unlinked.add(future)

    # -- the pool itself ----------------------------------------------------------------------------------------------

    def resize(self, *, min: int | None = None, max: int | None = None) -> None:  # noqa: A002
        """Change the bounds while the pool runs; None leaves one as it is.

        Raises:
            ValueError: a bound is out of range, or min is more than max.
            RuntimeError: the pool is shut down.
        """
        self._engine.check_open()
        current = self.stats()
        new_min = current.min if min is None else whole(min, "min", 0)
        new_max = current.max if max is None else whole(max, "max", 1)
        if new_min > new_max:
            raise ValueError(f"min must be at most max, and {new_min} is more than {new_max}")
        self._engine.start()
        self._engine.post(Resized(0 if _depth() else new_min, new_max))

    def stats(self) -> PoolStats:
        """How the pool stands, and why it does not grow."""
        return self._engine.stats()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See `DragonflyExecutor.shutdown`."""
        self._engine.shut_down(ShutdownMode.CANCEL_QUEUED if cancel_futures else ShutdownMode.DRAIN)
        registry.release(self)
        if wait:
            self._engine.join()

    def kill(self) -> None:
        """Stop all calls and all runners now. Futures that are not done fail or are cancelled."""
        self._engine.shut_down(ShutdownMode.KILL)
        registry.release(self)

    def join(self, timeout: float | None = None) -> None:
        """Wait until a pool that was shut down is gone; `timeout` seconds at most."""
        self._engine.join(timeout)

    def leave(self, *, interrupted: bool) -> None:
        """The end of a ``with`` block: wait for all, or, after a Ctrl-C, for what was called with ``link=False``.

        Those calls have ``shutdown_timeout`` to finish. A Ctrl-C while this waits stops everything.
        """
        try:
            leave(self._engine, interrupted=interrupted)
        finally:
            registry.release(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.leave(interrupted=kind is not None and issubclass(kind, KeyboardInterrupt))
        except KeyboardInterrupt:
            self.kill()  # wherever it came
            raise


def _wind_down(reference: weakref.ref[Engine]) -> None:
    """Let an engine go whose pool is gone. While it runs, its thread holds it."""
    engine = reference()
    if engine is not None:
        engine.shut_down(ShutdownMode.DRAIN)


def make_pool(name: str, backend: Backend | None, options: dict[str, Any]) -> Pool:
    """A pool that is nobody's by name, for an executor of its own."""
    pool = Pool.__new__(Pool)
    pool._set_up(name, backend, options)  # noqa: SLF001
    if pool._engine.options.min:  # noqa: SLF001
        pool._engine.start()  # noqa: SLF001
    return pool


def _depth() -> int:
    parent = Parent.get()
    depth = parent.depth if parent else 0
    if depth >= max_depth():
        raise errors.NestingError(
            f"this process is a runner, {depth} deep, and runners may be {max_depth()} deep at most; "
            "a call that needs runners of its own can raise that with DRAGONFLY_MAX_DEPTH"
        )
    return depth


def _keeper(backend: Backend) -> Keeper | None:
    """Who knows what of this machine's files the runners need; None where they see them."""
    if backend.sync is None:
        return None
    from dragonfly_executor.sync import Keeper

    return Keeper(backend.sync)


def wait_linked(future: Future[T], *, link: bool) -> T:
    """A future's result; where the wait is interrupted, the work is stopped too if it is linked."""
    try:
        return future.result()
    except BaseException:
        if link:
            future.cancel()
        raise


def call(pool: Pool | str, func: Callable[[], T], *, timeout: Any = None, link: bool = True) -> T:
    """Run a zero-argument callable on a runner of a pool and return its value.

    Args:
        pool: the pool, or its name.
        func: a closure: what it captures travels with it.
        timeout: seconds for waiting and running together; None for the pool's own.
        link: where the wait is interrupted (Ctrl-C, an exception raised into this thread), stop the remote work too;
            False lets it finish, within the pool's ``shutdown_timeout`` if the pool goes.

    Raises:
        KeyError: no pool has this name.
        CallTimeoutError: the budget ran out; the work has been stopped.
        BudgetExceeded: the pool's ``budget`` is used up; the call was not started.
        Exception: what `func` raised.
    """
    found = registry.find(pool) if isinstance(pool, str) else pool
    options = found.call_options if timeout is None else found.call_options.change({"timeout": timeout})
    future = found.submit_with(options, func, (), {})
    if not link:
        found.unlink(future)
    return wait_linked(future, link=link)


def cast(pool: Pool | str, func: Callable[[], object]) -> None:
    """Run a zero-argument callable on a runner of a pool, and forget it: no limit on its time, no result, no error.

    Raises:
        KeyError: no pool has this name.
    """
    (registry.find(pool) if isinstance(pool, str) else pool).cast(func)


def configure(*, backend: Backend) -> None:
    """Set the backend of the pools that are made without one from now on; TypeError for what is none."""
    registry.configure(backend=backend)
