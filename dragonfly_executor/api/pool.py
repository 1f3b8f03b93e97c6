"""`Pool`: a named, elastic set of runners."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType

from dragonfly_executor.api.assembly import plan_engine
from dragonfly_executor.api.lazy_engine import LazyEngine
from dragonfly_executor.api.options import CallOptions, PoolOptions
from dragonfly_executor.api.pool_calls import PoolCalls
from dragonfly_executor.api.registry import Registry, check_backends
from dragonfly_executor.core.shutdown_mode import ShutdownMode
from dragonfly_executor.engine.option_set import OptionSignature
from dragonfly_executor.engine.tier_settings import most_calls, names_of, new_bounds
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, overload
from dragonfly_executor.util.validation import duration, whole

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping, Sequence
    from typing import Any, ParamSpec, Self, TypeVar, Unpack

    from dragonfly_executor.api.live_view import LiveView
    from dragonfly_executor.backends.base import Backend
    from dragonfly_executor.core.stats import PoolStats
    from dragonfly_executor.engine.future import Future
    from dragonfly_executor.engine.option_keywords import PoolKeywords
    from dragonfly_executor.util.validation import Seconds

    T = TypeVar("T")
    P = ParamSpec("P")

registry: Registry[Pool] = Registry()
DRAGONFLY_DEFAULTS = {"max_concurrency": 100, "timeout": 30.0}
"""Defaults of a `Pool` that differ from those of an executor."""


class Pool(PoolCalls):
    """A named, elastic set of runners, with Dragonfly's options and defaults. Durations are seconds or a `timedelta`.

    Args:
        name: the name by which `call` and `cast` find the pool. The pool lives until it is shut down or the interpreter
            exits, even if the program keeps no reference to it.
        min: number of runners that are always kept up, and replaced when one is lost. 0 inside a runner.
        max: maximum number of runners, including booting ones, of all backends together. A backend's own `max` holds
            too.
        spare: number of runners that are kept ahead of the load: while calls run or wait, this number of runners is up
            or boots beside those that the calls fill, within `max`, `max_workers` and the budget. Without calls they
            are idle runners, and stop after `idle_shutdown_after`. 0 (the default): a runner boots when a call waits.
            0 inside a runner.
        max_concurrency: maximum number of calls at once on one runner.
        single_use: stop a runner after its first call.
        limit_threads: whether numeric libraries in a slot use no more threads than the slot's share of the runner's
            CPUs (True). A variable that the user has set stays. docs/runners.md lists the variables.
        divide_gpus: whether each slot sees its share of the runner's GPUs alone (True). docs/runners.md has the rule.
        backend: boots the runners; by default the backend that `configure` set, otherwise `LocalBackend()`. Or a list
            of several in order of preference: calls go to the first that has room soon. docs/tiers.md has the rules.
        log: level of the pool's own log lines (logger ``dragonfly_executor``); False for none.
        timeout: time limit of a call, waiting and running together; None for no limit.
        boot_timeout: time limit of a boot: to create, to connect, to shake hands. It also limits the set-up of each
            slot, which imports the script, if calls need it, and runs the initializer. The default is the backend's:
            30 s, by SSH 60 s, on Fly 120 s.
        shutdown_timeout: grace for running calls when a runner is stopped.
        idle_shutdown_after: idle time after which a runner above `min` is stopped; None for never. Or a pair of that
            time and a check, which runs on the runner: the runner stops if the check returns true. A check that raises
            counts as false, and the runner prints its traceback. A check that does not end within 10 s counts as false
            too: its slot is killed, with a warning. A call that comes meanwhile runs in another slot.
        min_idle_shutdown_after: the same for the `min` runners.
        placement: which runner with a free slot gets the next call. "spread": the one with the fewest calls, so each
            call has most of a machine. "pack": the one with the most calls, so other runners become idle and stop. None
            (the default): "pack" if the backend's runners have a price or wait in a queue, otherwise "spread".
        scaling: how many runners boot for the calls that wait. "fast" (the default): as many as have slots for them.
            "thrifty": those for which there is work when they come up, and one for a call that has waited for two boot
            times. A thrifty pool measures calls and boots. If `idle_shutdown_after` is not given, it also learns how
            long to keep an idle runner.
        on_grow_start: called with ``{"name", "count", "pid"}`` before a runner above `min` is booted.
        on_grow_end: called with ``"ok"`` or the error, and the same mapping, at the end of that boot.
        on_shrink: called with the same mapping when a runner stops.
        output: how the output of calls to stdout and stderr is handled, including that of their child processes.
            "inherit" (the default): on this machine slots write to the parent's streams; from elsewhere the text comes
            over the link, and is written unchanged. "tag": each line is printed as ``[runner 1, call 12] text``, on the
            same stream. Control characters except colours are shown as escapes, and a carriage return begins another
            line. "capture": nothing is shown, and `Future.output` returns it. "drop": the runner discards it. A
            callable is called with an `OutputLine` for each line, on the pool's callback thread. With "tag" and a
            callable, records of `logging` come back as records: a slot's root logger has the level that the parent's
            has when a call is sent. The parent's loggers handle these records, with ``dragonfly_runner`` and
            ``dragonfly_call`` as attributes, or the callable gets them. Lines are cut after 64 KiB. A call that writes
            faster than the parent consumes waits.
        budget: a `Budget`: caps on the total use of all runners, in time or in money; ``stats()`` counts both.
        options: `CallOptions`' other fields, and those below.

    Options:
        max_workers: maximum number of calls at once over the whole pool; None (the default) for no cap.
        initializer, initargs, max_tasks_per_child: as in `DragonflyExecutor`.
        serializer: "cloudpickle" (the default), "dill", "pickle", or an object with ``dumps`` and ``loads``.
        max_payload: maximum size in bytes of one call's arguments, or of its result; 8 GiB.
        read_only_arguments: whether slots get the arrays in arguments and shared objects as read-only views. False (the
            default): a call may write into its own. docs/large-data.md has the rules.
        compression: "auto" compresses large payloads to and from runners on other machines where that is faster; None
            compresses nothing. It needs the extra ``lz4`` or ``zstd``, here and on the runners.
        max_boot_failures: number of boots that may fail in a row, with no runner up, before waiting calls fail; 3.
        boot_wait: a tenacity wait strategy for the pauses after failed boots; None for exponential backoff with jitter.
        on_event: called with a mapping for each boot and end of a runner: ``"event"``, ``"runner_id"``, ``"text"``.
        on_call: called with a mapping for each step of a call: ``"event"``, ``"call_id"``, ``"function"``.
            docs/observability.md has the events.
        observers: a callable, or a list of several, that are called for all of these events.
        log_events: the path of a file to which all of these events are appended, one JSON object a line, for
            ``dragonfly replay``.
        dashboard: True for a web page that shows the pool, on this machine alone; "read-only" for one that cannot kill
            calls and resize the pool. `dashboard_url` is its address. docs/dashboard.md has more.
        lease: seconds after which a runner ends if it gets no data from its parent; 60.
        heartbeat: seconds between heartbeats; 5.
        dead_after: seconds of silence after which a runner is lost; 30.

    Raises:
        ValueError: an option is out of range, or the name is taken.
        TypeError: an option has the wrong type, or there is no such option.
        ImportError: the option needs a package that is not installed.
        NestingError: this process is a runner that is already as deep as runners may be.
    """

    __signature__ = OptionSignature(PoolOptions, CallOptions, **DRAGONFLY_DEFAULTS)
    _has_warned_of_loop = False
    _view: LiveView | None = None

    def __init__(
        self,
        name: str,
        *,
        min: int,  # noqa: A002  # Dragonfly's word
        max: int,  # noqa: A002
        backend: Backend | Sequence[Backend] | None = None,
        **options: Unpack[PoolKeywords],
    ) -> None:
        self._set_up(name, backend, {"min": min, "max": max, **options}, DRAGONFLY_DEFAULTS)
        registry.add(self)
        try:
            self._start_min()
        except BaseException:
            self.kill()
            raise

    @classmethod
    def unnamed(cls, name: str, backend: Backend | Sequence[Backend] | None, options: Mapping[str, Any]) -> Self:
        """Make a pool that no name finds, for an executor of its own. `name` is for people."""
        pool = cls.__new__(cls)
        pool._set_up(name, backend, options, {})  # noqa: SLF001  # of this class
        pool._start_min()  # noqa: SLF001
        return pool

    def _set_up(
        self,
        name: str,
        backend: Backend | Sequence[Backend] | None,
        options: Mapping[str, Any],
        defaults: Mapping[str, Any],
    ) -> None:
        self.name = name
        backends = registry.default_backends() if backend is None else check_backends(backend)
        plan = plan_engine(name, backends, options, defaults)
        self._options = plan.options.call
        self._min = plan.options.min
        self._has_dashboard = bool(plan.options.dashboard)
        carrier: Any = next((each for each in plan.options.observers if hasattr(each, "carried")), None)
        self._carrier = carrier
        self._lazy = LazyEngine(plan, self)
        self._ready = None
        if not plan.is_checked:
            self._lazy.get()
        registry.note(self)

    def _start_min(self) -> None:
        if self._min or self._has_dashboard:
            self._lazy.start(launches=bool(self._min))
            self._engine.start()

    def start(self) -> None:
        """Start the threads of the pool now, and not with the first call. This boots no runner.

        Raises:
            StartError: there is no thread or no descriptor for that.
        """
        self._lazy.start()
        self._engine.start()

    def __repr__(self) -> str:
        try:
            return f"<Pool {self.name!r}: {self.stats().explain}>"
        except Exception:
            # The pool is not made yet, or there is no memory or no descriptor for its statistics. A log line may
            # contain this text.
            return f"<Pool {getattr(self, 'name', None)!r}>"

    def _repr_html_(self) -> str:
        return self.html("Pool")

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        return self.live_bundle("Pool")

    def live_bundle(self, title: str) -> dict[str, Any]:
        """Return the widget of the pool for a notebook, by media type; empty if there are no widgets.

        Args:
            title: the title of the view.
        """
        if "ipykernel" not in sys.modules:
            return {}
        from dragonfly_executor.api.live_view import widget_bundle

        self._view, bundle = widget_bundle(self, self._view, title)
        return bundle

    @property
    def dashboard_url(self) -> str | None:
        """The address of the pool's web page, with the token that opens it; None without ``dashboard=True``."""
        return self._engine.dashboard_url if self._has_dashboard else None

    def html(self, title: str) -> str:
        """Return HTML that shows the pool now, for notebooks."""
        from dragonfly_executor.engine.notebook import pool_html

        return pool_html(title, self.described(), self.status())

    def described(self) -> dict[str, object]:
        """Return the state of the pool as names and words, for people. Texts of errors are left out."""
        from dragonfly_executor.engine.notebook import pool_rows

        return pool_rows(self.name, names_of(self._engine.tiers), self.stats())

    @property
    def is_shut_down(self) -> bool:
        """True if the pool accepts no more calls."""
        try:
            self.check_open()
        except RuntimeError:
            return True
        return False

    @property
    def has_ended(self) -> bool:
        """True if nothing of the pool is left, or it belongs to the process that this one was forked from."""
        return self._lazy.has_ended

    @property
    def max_calls(self) -> int:
        """The number of calls that may run at once, when as many runners are up as may be.

        Before the first runner is up, this is an estimate: it then counts the slots that the options or the backend
        name for each runner, or one.
        """
        options, stats = self._engine.options, self.stats()
        calls = most_calls(self._engine.tiers, stats, single_use=options.single_use)
        return calls if options.max_workers is None else min(calls, options.max_workers)

    def _slots(self) -> int:
        return self.max_calls

    def _runners(self) -> int:
        return self.stats().runners_up

    # -- calls --------------------------------------------------------------------------------------------------------

    @overload
    def call(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...  # `fn` is an ``async def``
    @overload
    def call(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    def call(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run ``fn(*args, **kwargs)`` on a runner and return its value. An interrupt stops the remote work too.

        In a task of an asyncio event loop it blocks the loop: use `acall` there. The pool warns of that once.
        """
        self.check_blocks_no_loop()
        return wait_linked(self.submit(fn, *args, **kwargs), link=True)

    def check_blocks_no_loop(self) -> None:
        """Warn, once, if the caller of the caller is about to block an asyncio event loop."""
        if not self._has_warned_of_loop and "asyncio" in sys.modules:
            from dragonfly_executor.api.blocked_loop import warn_of_blocked_loop

            self._has_warned_of_loop = warn_of_blocked_loop(self.name)

    def cast(self, fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Run ``fn(*args, **kwargs)`` on a runner without a time limit, and drop its result."""
        options = self.call_options.change({"timeout": None})
        self.submit_with(options, fn, args, kwargs)

    def unlink(self, future: Future[Any]) -> None:
        """Let this call outlive an interrupt of the thread that waits for it."""
        self._engine.unlinked.add(future)

    # -- the pool itself ----------------------------------------------------------------------------------------------

    def resize(self, *, min: int | None = None, max: int | None = None) -> None:  # noqa: A002
        """Change the bounds while the pool runs; None leaves a bound unchanged. The backends' own `max` holds as well.

        Raises:
            ValueError: a bound is out of range, or min is more than max.
            RuntimeError: the pool is shut down.
        """
        self.check_open()
        bounds = new_bounds(self._engine.tiers, self.stats(), min, max)
        self._engine.start()
        self._engine.resize(*bounds)

    def stats(self) -> PoolStats:
        """Return the statistics of the pool, and the reason why it does not grow."""
        return self._engine.stats()

    def wait_for(self, *, runners: int, timeout: Seconds | None = None) -> None:
        """Wait until this many runners are up. It boots none: `min`, `spare` and the calls that wait do.

        Args:
            runners: the number of runners, at most `max`.
            timeout: seconds to wait, or a `timedelta`; None for no limit.

        Raises:
            TimeoutError: fewer runners were up in time. The text says why, as ``stats().explain`` does.
            BootError: no runner is up, and `max_boot_failures` boots have failed during the wait.
            RuntimeError: the pool is shut down, or broken (`PoolBrokenError`).
            ValueError: `runners` is more than `max`.
        """
        seconds = self._check_wait(runners, timeout)
        self._engine.core_observers.runner_waits().wait(runners, seconds)

    async def await_for(self, *, runners: int) -> None:
        """Wait until this many runners are up, in a task of an asyncio event loop; see `wait_for`.

        For a limit use `asyncio.timeout`.
        """
        self._check_wait(runners, None)
        await self._engine.core_observers.runner_waits().wait_async(runners)

    def _check_wait(self, runners: int, timeout: Seconds | None) -> float | None:
        """Check what to wait for, and start the pool. Returns the seconds to wait; None for no limit."""
        count = whole(runners, "runners", 1)
        seconds = None if timeout is None else duration(timeout, "timeout")
        self.check_open()
        self._engine.start()
        most = self.stats().max
        if count > most:
            raise ValueError(f"runners must be at most max, and {count} is more than {most}")
        return seconds

    def status(self) -> dict[str, Any]:
        """Return what ``dragonfly status --json`` prints of this pool: what it does now, as one JSON object.

        docs/observability.md has the keys.
        """
        return self._engine.report()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shut the pool down; see `DragonflyExecutor.shutdown`."""
        self._lazy.shut_down(ShutdownMode.CANCEL_QUEUED if cancel_futures else ShutdownMode.DRAIN)
        registry.release(self)
        if wait:
            self._lazy.join()

    def kill(self) -> None:
        """Stop all calls and all runners now. Futures that are not done fail or are cancelled."""
        self._lazy.shut_down(ShutdownMode.KILL)
        registry.release(self)

    def join(self, timeout: float | None = None) -> None:
        """Wait until nothing of a pool that was shut down is left; `timeout` seconds at most."""
        self._lazy.join(timeout)

    def leave(self, *, interrupted: bool) -> None:
        """End a ``with`` block: wait for all calls; after a Ctrl-C, only for those with ``link=False``.

        These calls have ``shutdown_timeout`` to finish. A Ctrl-C during the wait stops everything.
        """
        try:
            self._lazy.leave(interrupted=interrupted)
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
            self.kill()  # at any step
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        from dragonfly_executor.api.async_exit import leave_async

        if self._ready is not None:
            self._ready.streams.close_abandoned(blocks=False)
        await leave_async(self, kind)


def wait_linked(future: Future[T], *, link: bool) -> T:
    """Return a future's result. If the wait is interrupted, cancel a linked call."""
    try:
        return future.result()
    except BaseException:
        if link:
            future.cancel()
        raise
