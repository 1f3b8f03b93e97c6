"""`DragonflyExecutor`: the `concurrent.futures` interface of a pool."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from itertools import count
from types import TracebackType

from dragonfly_executor import errors
from dragonfly_executor.api.options import CallOptions, PoolOptions
from dragonfly_executor.api.pool import Pool
from dragonfly_executor.api.submitter import Submitter
from dragonfly_executor.engine.option_set import OptionSignature
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Self, TypeVarTuple, Unpack

    from dragonfly_executor.backends.base import Backend
    from dragonfly_executor.engine.option_keywords import CallKeywords, ExecutorKeywords
    from dragonfly_executor.util.validation import Seconds

    Ts = TypeVarTuple("Ts")

_numbers = count(1)


class PoolExecutor(Submitter, Executor):  # type: ignore[misc]  # `map` checks more than the base class's
    """A pool as an `Executor`, with one set of call options."""

    # On the class, because a finalizer may submit after the interpreter has cleared the modules.
    _fails_in_its_future = (errors.CallSerializationError, errors.FrameTooLargeError)

    def __init__(self, pool: Pool, options: CallOptions, *, owns_pool: bool) -> None:
        self._pool = pool
        self._options = options
        self._owns_pool = owns_pool
        self._submit_with = pool.submit_with
        self._submit_in_task = pool.submit_in_task
        self._open_stream = pool.open_stream
        self._place = pool.place_with
        self._place_process = pool.place_process_with
        self._calls_of_map = pool.calls_of_map
        self._begin = pool.begin
        self._check_open = pool.check_open
        self._failed = pool.failed
        self._share = pool.share_object
        self._carrier = pool.carrier

    def __repr__(self) -> str:
        try:
            rows = self._pool.described()
        except Exception:
            # The pool is not made yet, or there is no memory or no descriptor for its statistics. A log line may
            # contain this text.
            return f"<{type(self).__name__} at {id(self):#x}>"
        held = f"; held by {rows['held by']}" if "held by" in rows else ""
        state = f"runners {rows['runners']}; slots {rows['slots']}; calls {rows['calls']}{held}"
        return f"<{type(self).__name__} {rows['pool']!r} on {rows['backend']}: {state}>"

    def _repr_html_(self) -> str:
        return self._pool.html(type(self).__name__)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        return self._pool.live_bundle(type(self).__name__)

    @property
    def pool(self) -> Pool:
        """The pool that runs the calls."""
        return self._pool

    @property
    def _max_workers(self) -> int:
        """The number of calls that may run at once. Dask reads it, as the standard library's executors have it."""
        return self._pool.max_calls

    def _slots(self) -> int:
        return self._pool.max_calls

    def wait_for(self, *, runners: int, timeout: Seconds | None = None) -> None:
        """Wait until this many runners are up; see `Pool.wait_for`."""
        self._pool.wait_for(runners=runners, timeout=timeout)

    async def await_for(self, *, runners: int) -> None:
        """Wait until this many runners are up, in a task of an asyncio event loop; see `Pool.await_for`."""
        await self._pool.await_for(runners=runners)

    def _runners(self) -> int:
        return self._pool.stats().runners_up

    def options(self, **changes: Unpack[CallKeywords]) -> PoolExecutor:
        """Return a view of this executor with other call options. The view is an `Executor` itself.

        In ``ex.options(timeout=60, retries=2).submit(fn, key=1)`` the options are not among the arguments of `fn`. The
        shutdown of a view has no effect.

        Args:
            changes: fields of `CallOptions`.

        Raises:
            TypeError: there is no such option, or its value has the wrong type.
            ValueError: its value is out of range.
        """
        return PoolExecutor(self._pool, self._options.change(changes), owns_pool=False)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls, and stop the runners when the accepted calls are done.

        Args:
            wait: return only after that, when nothing of the pool is left.
            cancel_futures: cancel the calls that no slot has started yet.
        """
        if not self._owns_pool:
            return
        self._pool.shutdown(wait, cancel_futures=cancel_futures)

    def terminate_workers(self) -> None:
        """Stop all calls and all runners now. Futures that are not done fail, and the executor is shut down."""
        self._pool.kill()

    def kill_workers(self) -> None:
        """Do the same as `terminate_workers`: SIGKILL always stops a slot, with all processes that it started."""
        self._pool.kill()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        if self._owns_pool:
            self._pool.__exit__(kind, error, traceback)
        return None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._owns_pool:
            await self._pool.__aexit__(kind, error, traceback)


class DragonflyExecutor(PoolExecutor):
    """An executor that runs calls on an elastic pool of runners. Takes `ProcessPoolExecutor`'s arguments in its order.

    Args:
        max_workers: maximum number of calls at once over the whole pool; None for no cap of its own. On the local
            backend these are the slots of its one runner, by default the CPUs that this process may use.
        mp_context: accepted and without effect: slots always start from a clean process.
        initializer: called in each slot before its first call. If it raises, the pool is broken.
        initargs: its arguments.
        max_tasks_per_child: number of calls that a slot runs before it is replaced; None for any number.
        backend: boots the runners; by default the backend that `configure` set, otherwise `LocalBackend()`. Or a list
            of several in order of preference: calls go to the first that has room soon. docs/tiers.md has the rules.
        pool: use this pool instead of one of its own. No other pool option may be given then, and the shutdown of the
            executor leaves the pool alone.
        options: `Pool`'s other options (``output`` among them) and `CallOptions`' fields, with the defaults of a
            drop-in: ``min=0``, ``max`` from the backend (the sum, if there are several), ``timeout=None``.

    Raises:
        ValueError: an argument is out of range.
        TypeError: an argument has the wrong type, or there is no such argument.
        NestingError: this process is a runner that is already as deep as runners may be.
    """

    __signature__ = OptionSignature(PoolOptions, CallOptions)

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: object = None,
        initializer: Callable[[], object] | Callable[[*Ts], object] | None = None,
        initargs: tuple[*Ts] = (),  # type: ignore[assignment]  # the initializer may take none
        *,
        max_tasks_per_child: int | None = None,
        backend: Backend | Sequence[Backend] | None = None,
        pool: Pool | None = None,
        **options: Unpack[ExecutorKeywords],
    ) -> None:
        if pool is not None:
            if options or initializer is not None or backend is not None or max_tasks_per_child or max_workers:
                raise TypeError(
                    "an executor on an existing pool takes no pool options: set them where the pool is made"
                )
            super().__init__(pool, pool.call_options, owns_pool=False)
            return
        named = {
            "max_workers": max_workers,
            "initializer": initializer,
            "initargs": initargs,
            "max_tasks_per_child": max_tasks_per_child,
        }
        own_pool = Pool.unnamed(f"executor-{next(_numbers)}", backend, named | options)
        super().__init__(own_pool, own_pool.call_options, owns_pool=True)
