"""`MultiprocessingPool`: the methods of `multiprocessing.Pool` on a pool of runners."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from functools import partial
from itertools import count
from operator import index

from dragonfly_executor.api.pool import Pool, registry
from dragonfly_executor.api.registry import check_backends
from dragonfly_executor.engine.call_name import call_name
from dragonfly_executor.multiprocessing.callbacks import ResultCallbacks
from dragonfly_executor.multiprocessing.exit_hook import terminate_at_exit
from dragonfly_executor.multiprocessing.feeder import WINDOW, ChunkedItems, Feeder, SingleItems, Window
from dragonfly_executor.multiprocessing.item_iterator import ItemGroup, ItemIterator
from dragonfly_executor.multiprocessing.results import AsyncResult, ResultGroup
from dragonfly_executor.multiprocessing.single_call import SingleCall
from dragonfly_executor.multiprocessing.threads import CallbackThread, start_thread
from dragonfly_executor.serialization.map_chunk import run_chunk
from dragonfly_executor.util import validation
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Any, Self, TypeVar, Unpack

    from dragonfly_executor.backends.base import Backend
    from dragonfly_executor.engine.option_keywords import ExecutorKeywords
    from dragonfly_executor.multiprocessing.group import Group

    T = TypeVar("T")
    Callback = Callable[[T], object]
    ErrorCallback = Callable[[BaseException], object]

RUN, CLOSE, TERMINATE = "RUN", "CLOSE", "TERMINATE"
"""The states of a pool."""
CHUNKS_PER_SLOT = 4
"""Number of chunks for each slot, if the user gives no `chunksize`."""
_numbers = count(1)


class MultiprocessingPool:
    """A pool with the methods of `multiprocessing.Pool`. Its calls run on the slots of runners.

    Args:
        processes: maximum number of calls at once; None for as many as the runners have slots. On the local backend
            these are the CPUs that this process may use.
        initializer: called in each slot before its first call. If it raises, the pool is broken.
        initargs: its arguments.
        maxtasksperchild: number of calls, or chunks, that a slot runs before it is replaced; None for any number.
        context: accepted and without effect: slots always start from a clean process.
        backend: boots the runners; see `DragonflyExecutor`.
        pool: use this pool instead of one of its own. No other argument may be given then. `close` and `terminate` end
            the calls that were made here, and leave the pool alone.
        options: the options of `DragonflyExecutor`, such as ``retries`` and ``run_timeout``. ``min`` is 1 if all
            runners are on this machine: the runner boots at once, and stays until the pool ends.

    Raises:
        ValueError, TypeError: an argument is out of range, or has the wrong type.
        NestingError: this process is a runner that is already as deep as runners may be.
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: object = None,
        *,
        backend: Backend | Sequence[Backend] | None = None,
        pool: Pool | None = None,
        **options: Unpack[ExecutorKeywords],
    ) -> None:
        self._state = ""
        self._owner_pid = os.getpid()
        self._groups: dict[Group, None] = {}
        """The method calls that have not ended."""
        _check(processes, initializer, maxtasksperchild)
        self._processes = processes
        self._owns_pool = pool is None
        if pool is None:
            named = {
                "max_workers": processes,
                "initializer": initializer,
                "initargs": tuple(initargs),
                "max_tasks_per_child": maxtasksperchild,
            }
            pool = _new_pool(backend, named | options)
        elif options or backend is not None or initializer is not None or maxtasksperchild or processes:
            raise TypeError("on an existing pool there are no pool options: set them where that pool is made")
        self._runner_pool = pool
        self._callbacks = CallbackThread(f"dragonfly-{pool.name}-results")
        # The pool's own exit hook, which waits for all calls, is registered when its threads start. The hook that was
        # registered last is called first.
        pool.start()
        terminate_at_exit(self)
        self._state = RUN

    # -- methods that wait ---------------------------------------------------------------------------------------------

    def apply(self, func: Callable[..., T], args: Iterable[Any] = (), kwds: Mapping[str, Any] | None = None) -> T:
        """Run ``func(*args, **kwds)`` and return its value. A Ctrl-C stops the call."""
        group = self._apply(func, args, kwds, None, None)
        return _waited(group, AsyncResult(group))

    def map(self, func: Callable[[Any], T], iterable: Iterable[Any], chunksize: int | None = None) -> list[T]:
        """Run `func` for each item, and return the values in order. A Ctrl-C stops the calls.

        Args:
            func: the function.
            iterable: the items. All are read before the first call.
            chunksize: number of items that are sent, and run on one slot, together: if one fails, the values of its
                chunk are lost. None for a quarter of each slot's share.

        Raises:
            Exception: the first error, in the order of the items, once all calls have ended. A note names the item.
            ValueError: the pool is closed or terminated, or `chunksize` is less than 1.
        """
        group = self._map(func, iterable, chunksize, None, None, starred=False)
        return _waited(group, AsyncResult(group))

    def starmap(
        self, func: Callable[..., T], iterable: Iterable[Iterable[Any]], chunksize: int | None = None
    ) -> list[T]:
        """Run `func` as `map` does, but each item holds the arguments of its call."""
        group = self._map(func, iterable, chunksize, None, None, starred=True)
        return _waited(group, AsyncResult(group))

    # -- methods that do not wait --------------------------------------------------------------------------------------

    def apply_async(
        self,
        func: Callable[..., T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        callback: Callback[T] | None = None,
        error_callback: ErrorCallback | None = None,
    ) -> AsyncResult[T]:
        """Run ``func(*args, **kwds)``, and return at once.

        The callbacks of a pool run on one thread, one after another, in the order in which the results arrive. The
        result is ready when its callback has returned. An exception of a callback is logged.

        Args:
            func, args, kwds: the call. It is pickled before this returns: later changes do not reach it.
            callback: called with the value.
            error_callback: called with the error, also if the call could not be pickled. Once the pool is terminated,
                no callback is called.

        Raises:
            ValueError: the pool is closed or terminated.
        """
        return AsyncResult(self._apply(func, args, kwds, callback, error_callback))

    def map_async(
        self,
        func: Callable[[Any], T],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callback[list[T]] | None = None,
        error_callback: ErrorCallback | None = None,
    ) -> AsyncResult[list[T]]:
        """Run `func` as `map` does, and return at once. The callbacks are as for `apply_async`."""
        return AsyncResult(self._map(func, iterable, chunksize, callback, error_callback, starred=False))

    def starmap_async(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callback[list[T]] | None = None,
        error_callback: ErrorCallback | None = None,
    ) -> AsyncResult[list[T]]:
        """Run `func` as `starmap` does, and return at once. The callbacks are as for `apply_async`."""
        return AsyncResult(self._map(func, iterable, chunksize, callback, error_callback, starred=True))

    def imap(
        self,
        func: Callable[[Any], T],
        iterable: Iterable[Any],
        chunksize: int = 1,
        *,
        buffersize: int | None = None,
    ) -> ItemIterator[T]:
        """Run `func` for each item, and return an iterator of the values in order.

        A thread reads the items, only so far ahead of the values that were taken. `join` reads the rest.

        Args:
            func: the function.
            iterable: the items.
            chunksize: number of items that are sent, and run on one slot, together: if one fails, its chunk fails.
            buffersize: maximum number of items that are read ahead of the values taken; None for 1,024 chunks.

        Raises:
            ValueError: the pool is closed or terminated, or a size is less than 1.
        """
        return self._imap(func, iterable, chunksize, buffersize, ordered=True)

    def imap_unordered(
        self,
        func: Callable[[Any], T],
        iterable: Iterable[Any],
        chunksize: int = 1,
        *,
        buffersize: int | None = None,
    ) -> ItemIterator[T]:
        """Run `func` as `imap` does, and return an iterator of the values in the order in which they arrive."""
        return self._imap(func, iterable, chunksize, buffersize, ordered=False)

    # -- the end -------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Accept no more method calls. When the calls made before have ended, the runners stop."""
        if self._state == RUN:
            self._state = CLOSE
            self.group_fed()

    def terminate(self) -> None:
        """Stop all calls and all runners now, and wait until they are gone. Results that are not ready fail."""
        if self._is_forked():
            return
        self._state = TERMINATE
        error = CancelledError("the pool was terminated before this call had ended")
        # Before the kill, which settles all calls: no callback is called for that.
        for group in list(self._groups):
            group.stop(error)
        if self._owns_pool:
            self._runner_pool.kill()
        self._callbacks.close()
        if self._owns_pool:
            self._runner_pool.join()
        self._callbacks.join()

    def join(self) -> None:
        """Wait until all calls have ended, all callbacks have run, and nothing of the pool is left.

        This reads the rest of the items of `imap` and `imap_unordered`. Values that were not taken are kept.

        Raises:
            ValueError: the pool is neither closed nor terminated.
            RuntimeError: called in a callback of this pool, which would wait for itself.
        """
        if self._state == RUN:
            raise ValueError("Pool is still running")
        if self._is_forked():
            return
        if self._callbacks.is_this_thread:
            raise RuntimeError("a callback cannot join its own pool: it would wait for itself")
        groups = list(self._groups)
        for group in groups:
            group.feed_all()
        for group in groups:
            group.wait_for_end()
        if self._owns_pool:
            self._runner_pool.join()
        self._callbacks.close()
        self._callbacks.join()

    def __enter__(self) -> Self:
        self._check_running()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.terminate()

    def __del__(self, _warn: Callable[..., object] = warnings.warn, _pid: Callable[[], int] = os.getpid) -> None:
        # The names of the module are gone when the interpreter clears it.
        if getattr(self, "_state", "") == "RUN" and self._owner_pid == _pid():
            self._callbacks.close()
            if self._owns_pool:
                # Not left to the garbage collector: who records the warning keeps this object.
                self._runner_pool.shutdown(wait=False)
                _warn(f"unclosed running multiprocessing pool {self!r}", ResourceWarning, source=self)

    def __reduce__(self) -> Any:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def __repr__(self) -> str:
        size = "elastic" if self._processes is None else self._processes
        return f"<dragonfly_executor.multiprocessing.Pool state={self._state} pool_size={size}>"

    # -- groups --------------------------------------------------------------------------------------------------------

    def group_fed(self) -> None:
        """Shut down a closed pool when nothing is left to submit. Any thread may call this."""
        if self._state == CLOSE and self._owns_pool and all(group.is_fed for group in list(self._groups)):
            self._runner_pool.shutdown(wait=False)

    def group_ended(self, group: Group) -> None:
        """Forget a group that has ended. Any thread may call this."""
        self._groups.pop(group, None)
        self.group_fed()

    def _is_forked(self) -> bool:
        return self._owner_pid != os.getpid()

    def _check_running(self) -> None:
        if self._state != RUN:
            raise ValueError("Pool not running")

    def _start(self, group: Group, feed: Callable[[], object]) -> None:
        """Submit the calls of a group."""
        self._groups[group] = None
        try:
            # A `close` that came meanwhile either sees the group, or is seen here.
            self._check_running()
            feed()
        except BaseException as error:
            group.stop(CancelledError())
            if isinstance(error, RuntimeError):
                self._check_running()
            raise

    def _apply(
        self,
        func: Callable[..., Any],
        args: Iterable[Any],
        kwds: Mapping[str, Any] | None,
        callback: Callback[Any] | None,
        error_callback: ErrorCallback | None,
    ) -> SingleCall:
        self._check_running()
        name, (func, caller) = call_name(func), self._traced(func)
        make = partial(
            SingleCall, args=tuple(args), pool=self, callbacks=self._result_callbacks(callback, error_callback)
        )
        call: SingleCall = self._runner_pool.calls_taken_by(make, func, {} if kwds is None else kwds)
        call.name, call.caller = name, caller
        self._start(call, call.submit)
        return call

    def _map(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None,
        callback: Callback[Any] | None,
        error_callback: ErrorCallback | None,
        *,
        starred: bool,
    ) -> ResultGroup:
        self._check_running()
        validation.refuse(func)
        items: Any = iterable if hasattr(iterable, "__len__") else list(iterable)
        size = self._default_size(len(items)) if chunksize is None else _size(chunksize)
        name, (func, caller) = call_name(func), self._traced(func)
        source = _source(func, items, size, starred=starred)
        window = Window(WINDOW)
        make = partial(
            ResultGroup,
            pool=self,
            in_chunks=isinstance(source, ChunkedItems),
            callbacks=self._result_callbacks(callback, error_callback),
            window=window,
        )
        group: ResultGroup = self._runner_pool.calls_taken_by(make, _function(func, size, starred=starred))
        group.name, group.caller = name, caller
        feeder = Feeder(group, source, window)

        def feed() -> None:
            """Submit the calls that the window has room for, and have a thread submit the others."""
            if feeder.fill(waits=False):
                self._feed_on_thread(feeder)

        self._start(group, feed)
        return group

    def _imap(
        self, func: Callable[..., T], iterable: Iterable[Any], chunksize: int, buffersize: int | None, *, ordered: bool
    ) -> ItemIterator[T]:
        self._check_running()
        validation.refuse(func)
        size = _size(chunksize)
        if buffersize is not None and index(buffersize) < 1:
            raise ValueError(f"buffersize must be None or 1+, not {buffersize}")
        window = Window(WINDOW if buffersize is None else -(-index(buffersize) // size))
        make = partial(ItemGroup, pool=self, window=window, ordered=ordered)
        name, (func, caller) = call_name(func), self._traced(func)
        group = self._runner_pool.calls_taken_by(make, _function(func, size, starred=False))
        group.name, group.caller = name, caller
        feeder = Feeder(group, _source(func, iterable, size, starred=False), window)
        results: ItemIterator[T] = ItemIterator(group, in_chunks=size > 1)
        self._start(group, lambda: self._feed_on_thread(feeder))
        return results

    def _traced(self, func: Callable[..., Any]) -> tuple[Callable[..., Any], Mapping[str, str] | None]:
        """Return what travels in the place of `func`, and the trace context of the caller; None without tracing."""
        carrier = self._runner_pool.carrier
        if carrier is None:
            return func, None
        carried = carrier.carried(func)
        return carried, carried.headers

    def _feed_on_thread(self, feeder: Feeder) -> None:
        start_thread(f"dragonfly-{self._runner_pool.name}-feeder", feeder.run)

    def _result_callbacks(
        self, callback: Callback[Any] | None, error_callback: ErrorCallback | None
    ) -> ResultCallbacks | None:
        if callback is None and error_callback is None:
            return None
        self._callbacks.start()
        return ResultCallbacks(self._callbacks, callback, error_callback)

    def _default_size(self, items: int) -> int:
        """Return the size of chunks as multiprocessing has it: four for each slot."""
        slots = self._processes or self._runner_pool.max_calls
        return max(1, -(-items // (slots * CHUNKS_PER_SLOT)))


def _check(processes: int | None, initializer: object, maxtasksperchild: object) -> None:
    """Refuse arguments in the words of multiprocessing."""
    if processes is not None and processes < 1:
        raise ValueError("Number of processes must be at least 1")
    if maxtasksperchild is not None and (not isinstance(maxtasksperchild, int) or maxtasksperchild <= 0):
        raise ValueError("maxtasksperchild must be a positive int or None")
    if initializer is not None and not callable(initializer):
        raise TypeError("initializer must be a callable")


def _new_pool(backend: Backend | Sequence[Backend] | None, options: Mapping[str, Any]) -> Pool:
    """Return a pool of this object's own. On this machine it keeps its runner, as multiprocessing keeps its workers."""
    backends = registry.default_backends() if backend is None else check_backends(backend)
    if all(each.name == "local" for each in backends):
        options = {"min": 1, **options}
    return Pool.unnamed(f"multiprocessing-{next(_numbers)}", backends, options)


def _size(chunksize: int) -> int:
    size = index(chunksize)
    if size < 1:
        raise ValueError(f"Chunksize must be 1+, not {size}")
    return size


def _function(func: Callable[..., Any], size: int, *, starred: bool) -> Callable[..., Any]:
    """Return the function of which each call is one."""
    return run_chunk if starred or size > 1 else func


def _source(func: Callable[..., Any], items: Iterable[Any], size: int, *, starred: bool) -> SingleItems | ChunkedItems:
    if starred or size > 1:
        return ChunkedItems(func, items, size, starred=starred)
    return SingleItems(items)


def _waited(group: ResultGroup | SingleCall, result: AsyncResult[T]) -> T:
    """Return the result of a group. A caller that is interrupted cannot ask again, so the calls are stopped."""
    try:
        return result.get()
    except BaseException:
        if not group.has_ended:
            group.stop(CancelledError())
        raise
