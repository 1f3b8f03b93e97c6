"""`Submitter`: the methods that `Pool` and `PoolExecutor` share, so that a call goes the same way from both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, overload

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Awaitable, Coroutine, Mapping, Sequence
    from os import PathLike
    from typing import Any, ClassVar, Literal, ParamSpec, TypeVar

    from dragonfly_executor.api.async_map import AsyncMapResults
    from dragonfly_executor.api.call_stream import CallStream
    from dragonfly_executor.api.placed_process import PlacedProcess
    from dragonfly_executor.api.placed_worker import PlacedWorker
    from dragonfly_executor.engine.future import Future
    from dragonfly_executor.engine.map_calls import MapCalls, Split
    from dragonfly_executor.engine.observing.call_carrier import CallCarrier
    from dragonfly_executor.engine.options import CallOptions
    from dragonfly_executor.serialization.shared_object import SharedObject
    from dragonfly_executor.util.validation import Seconds

    T = TypeVar("T")
    P = ParamSpec("P")
    A = TypeVar("A")
    B = TypeVar("B")
    C = TypeVar("C")


class Submitter:
    """A submitter of calls to a pool, with one set of call options.

    A subclass sets the attributes.
    """

    _options: CallOptions
    _submit_with: Callable[..., Future[Any]]
    """`Pool.submit_with` of the pool."""
    _submit_in_task: Callable[..., Awaitable[Future[Any]]]
    """`Pool.submit_in_task` of the pool."""
    _open_stream: Callable[..., CallStream[Any]]
    """`Pool.open_stream` of the pool."""
    _place: Callable[..., PlacedWorker[Any]]
    """`Pool.place_with` of the pool."""
    _place_process: Callable[..., PlacedProcess]
    """`Pool.place_process_with` of the pool."""
    _calls_of_map: Callable[..., MapCalls]
    """`Pool.calls_of_map` of the pool."""
    _begin: Callable[[CallOptions], object]
    """`Pool.begin` of the pool."""
    _check_open: Callable[[], None]
    """`Pool.check_open` of the pool."""
    _failed: Callable[[Exception], Future[Any]]
    """`Pool.failed` of the pool."""
    _share: Callable[[Any], SharedObject[Any]]
    """`Pool.share_object` of the pool."""
    _carrier: CallCarrier | None = None
    """The observer of the pool that carries the caller's context into calls."""
    _fails_in_its_future: ClassVar[tuple[type[Exception], ...]] = ()
    """Errors of a submit that the future gets. All others are raised."""

    def __reduce__(self) -> Any:
        raise TypeError(
            f"a {type(self).__name__} cannot travel to a runner: it owns processes and threads here. "
            "Make one in the call instead"
        )

    @overload
    def submit(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]: ...  # `fn` is an ``async def``
    @overload
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]: ...
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run ``fn(*args, **kwargs)`` on a runner. If `fn` is an ``async def``, its coroutine runs there to its end.

        The arguments are pickled before this returns: later changes to them do not reach the call. With the option
        `max_queued`, this waits for room, or raises.

        If the call cannot be pickled, that is a `CallSerializationError`, whose text names the part. If it is larger
        than ``max_payload``, that is a `FrameTooLargeError`. A `Pool` raises these errors. With an executor the call
        fails in its future, as in the standard library.

        Raises:
            RuntimeError: the pool is shut down.
            TypeError: `fn` is a generator function.
            QueueFullError: with ``when_full="raise"``, as many calls of the pool wait as `max_queued` allows.
        """
        try:
            return self._submit_with(self._options, fn, args, kwargs)
        except self._fails_in_its_future as error:
            return self._failed(error)

    @overload
    async def acall(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...  # `fn` is an ``async def``
    @overload
    async def acall(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    async def acall(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run ``fn(*args, **kwargs)`` on a runner, and return its value in a task of an asyncio event loop.

        The loop is not blocked, and no thread waits. If the task is cancelled, the call is cancelled, and stopped if
        it runs, unless the option `cancel_running` is False.

        Raises:
            Exception: the exception of the call; also what `submit` raises, and what it sets on the future.
        """
        # First, because otherwise the call runs, and nothing waits for it.
        from dragonfly_executor.engine.awaiting import running_loop

        running_loop()
        if self._options.max_queued is None:
            return await self.submit(fn, *args, **kwargs)
        try:
            future = await self._submit_in_task(self._options, fn, args, kwargs)
        except self._fails_in_its_future as error:
            future = self._failed(error)
        return await future

    @overload
    def stream(self, fn: Callable[P, Iterable[T]], /, *args: P.args, **kwargs: P.kwargs) -> CallStream[T]: ...
    @overload
    def stream(self, fn: Callable[P, AsyncIterable[T]], /, *args: P.args, **kwargs: P.kwargs) -> CallStream[T]: ...
    def stream(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> CallStream[Any]:
        """Run ``fn(*args, **kwargs)`` on a runner, and return an iterator over the items that it yields.

        `fn` is a generator function, also an asynchronous one, or another function that returns an iterable. Its items
        come while it runs: ``for item in pool.stream(fn)``, or ``async for`` in a task. The call is submitted at once.
        It goes on while fewer than `stream_buffersize` items (an option of calls) and 1 MiB are not taken, and waits
        otherwise. An error of the call is raised after the items before it. With `retries`, the call runs again only if
        none of its items has come, so no item comes twice. docs/streams.md has the rules.

        Raises:
            TypeError: `fn` is a coroutine function, or no function.
            RuntimeError: the pool is shut down.
            CallSerializationError: the call cannot be pickled.
            FrameTooLargeError: the call is larger than ``max_payload``.
            QueueFullError: with ``when_full="raise"``, as many calls wait as may.
        """
        return self._open_stream(self._options, fn, args, kwargs)

    @overload
    def place(
        self, make: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> PlacedWorker[T]: ...  # `make` is an ``async def``
    @overload
    def place(self, make: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> PlacedWorker[T]: ...
    def place(self, make: Callable[..., Any], /, *args: Any, **kwargs: Any) -> PlacedWorker[Any]:
        """Make an object on a runner, in a slot of its own, and return a worker that runs its methods there.

        ``worker = pool.place(Model, path)`` calls ``Model(path)`` there. ``worker.predict(data)`` returns a `Future`.
        Methods run one at a time, in the order of the calls, unless the option `concurrency` says otherwise. The worker
        counts as a running call until it is stopped: it has its slot, and its runner is not idle. docs/workers.md has
        the rules.

        Args:
            make: a class, or a function that returns the object.
            args, kwargs: its arguments.

        Raises:
            CallSerializationError: the class or an argument cannot be pickled.
            FrameTooLargeError: they are larger than ``max_payload``.
            RequirementsError: no runner can have the resources that the worker requires.
            RuntimeError: the pool is shut down.
        """
        return self._place(self, self._options, make, args, kwargs)

    def place_process(
        self,
        argv: Sequence[str | PathLike[str]],
        *,
        cwd: str | PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        input: bytes | None = None,  # noqa: A002  # subprocess's word
        output: Literal["capture", "inherit"] = "capture",
        max_output: int | None = 1024 * 1024,
        stop_timeout: Seconds = 10.0,
    ) -> PlacedProcess:
        """Run a command on a runner, in a slot of its own, until it ends or is stopped. docs/workers.md has the rules.

        Args:
            argv: the command and its arguments. No shell is used.
            cwd: its directory on the runner; None for that of calls.
            env: environment variables in addition to those of calls.
            input: bytes that it reads from stdin; None for an empty input.
            output: "capture": its result has the output. "inherit": it goes to the same place as the output of calls.
            max_output: bytes at the end of stdout and of stderr that are kept; None for all.
            stop_timeout: seconds from SIGTERM to SIGKILL when it is stopped, or a `timedelta`.

        Raises:
            TypeError: the command is no sequence of texts and paths.
            RequirementsError: no runner can have the resources that the view requires.
            RuntimeError: the pool is shut down.
        """
        settings = {
            "cwd": cwd,
            "env": None if env is None else dict(env),
            "input": input,
            "output": output,
            "max_output": max_output,
            "stop_timeout": stop_timeout,
        }
        return self._place_process(self, self._options, argv, settings)

    def share(self, obj: T) -> SharedObject[T]:
        """Pickle `obj` once, and return a handle that stands for it in the arguments of calls, at any depth.

        The object is pickled before this returns: later changes to it do not reach the calls. A runner gets it when the
        first call there needs it, and each slot opens it once. The object is kept until the handle is closed or
        garbage-collected and the calls that use it have ended, or until the pool ends. In a ``with`` statement, the
        handle is closed at the end. docs/large-data.md has the details.

        Raises:
            CallSerializationError: the object cannot be pickled.
            SharedObjectError: the pool has a serializer object of its own, which cannot know handles.
            FrameTooLargeError: the pickled object is larger than ``max_payload``.
            RuntimeError: the pool is shut down.
        """
        return self._share(obj)

    if TYPE_CHECKING:
        # One for each number of iterables, as for the builtin `map`: no other signature relates them to `fn`.

        @overload
        def map(
            self,
            fn: Callable[..., Coroutine[Any, Any, T]],
            /,
            *iterables: Iterable[Any],
            timeout: float | None = ...,
            chunksize: int | Literal["auto"] = ...,
            buffersize: int | None = ...,
            ordered: bool = ...,
            progress: bool | str = ...,
            return_exceptions: Literal[False] = ...,
        ) -> Iterator[T]: ...  # `fn` is an ``async def``

        @overload
        def map(
            self,
            fn: Callable[[A], T],
            iterable: Iterable[A],
            /,
            *,
            timeout: float | None = ...,
            chunksize: int | Literal["auto"] = ...,
            buffersize: int | None = ...,
            ordered: bool = ...,
            progress: bool | str = ...,
            return_exceptions: Literal[False] = ...,
        ) -> Iterator[T]: ...

        @overload
        def map(
            self,
            fn: Callable[[A, B], T],
            iterable: Iterable[A],
            iterable2: Iterable[B],
            /,
            *,
            timeout: float | None = ...,
            chunksize: int | Literal["auto"] = ...,
            buffersize: int | None = ...,
            ordered: bool = ...,
            progress: bool | str = ...,
            return_exceptions: Literal[False] = ...,
        ) -> Iterator[T]: ...

        @overload
        def map(
            self,
            fn: Callable[[A, B, C], T],
            iterable: Iterable[A],
            iterable2: Iterable[B],
            iterable3: Iterable[C],
            /,
            *,
            timeout: float | None = ...,
            chunksize: int | Literal["auto"] = ...,
            buffersize: int | None = ...,
            ordered: bool = ...,
            progress: bool | str = ...,
            return_exceptions: Literal[False] = ...,
        ) -> Iterator[T]: ...

        @overload
        def map(
            self,
            fn: Callable[..., T],
            iterable: Iterable[Any],
            iterable2: Iterable[Any],
            iterable3: Iterable[Any],
            iterable4: Iterable[Any],
            /,
            *iterables: Iterable[Any],
            timeout: float | None = ...,
            chunksize: int | Literal["auto"] = ...,
            buffersize: int | None = ...,
            ordered: bool = ...,
            progress: bool | str = ...,
            return_exceptions: Literal[False] = ...,
        ) -> Iterator[T]: ...

        @overload
        def map(
            self,
            fn: Callable[..., Coroutine[Any, Any, T]],
            /,
            *iterables: Iterable[Any],
            timeout: float | None = ...,
            chunksize: int | Literal["auto"] = ...,
            buffersize: int | None = ...,
            ordered: bool = ...,
            progress: bool | str = ...,
            return_exceptions: bool,
        ) -> Iterator[T | BaseException]: ...

        @overload
        def map(
            self,
            fn: Callable[..., T],
            /,
            *iterables: Iterable[Any],
            timeout: float | None = ...,
            chunksize: int | Literal["auto"] = ...,
            buffersize: int | None = ...,
            ordered: bool = ...,
            progress: bool | str = ...,
            return_exceptions: bool,
        ) -> Iterator[T | BaseException]: ...

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | Literal["auto"] = 1,
        buffersize: int | None = None,
        ordered: bool = True,
        progress: bool | str = False,
        return_exceptions: bool = False,
    ) -> Iterator[Any]:
        """Return an iterator like the builtin ``map``'s, but the calls run on the runners.

        Iterables with a length are submitted at once, as in the standard library. From other iterables (a generator, an
        endless counter) only a window is submitted ahead of the results that were taken. Closing the iterator cancels
        the remaining calls. An error of an argument, in its iterator or its pickling, is raised after the results
        before it. An exception of a call has a note that names the item by its number, or the items of the chunk if the
        slot was lost with them.

        With ``chunksize="auto"`` chunks grow while the calls are short, until a chunk runs for some milliseconds. An
        exception ends its own call alone, as without chunks. Items that a chunk has not begun after 50 ms go
        to other slots. But a call may wait behind others in its chunk, so calls of the map that wait for each other may
        wait for ever. If a slot is lost, its chunk is lost. A window of chunks is submitted ahead of the results that
        were taken, so take the results. With the options `retries` and `run_timeout` there are no such chunks.

        Args:
            timeout: seconds until ``__next__`` raises TimeoutError, counted from this call; None for no limit.
            chunksize: number of arguments that are sent, and run on one slot, together: if a call raises, the values of
                its chunk are lost. Or "auto", see above.
            buffersize: number of arguments that are submitted ahead of the results that were taken; None for the rules
                above.
            ordered: return the results in the order of the items. If False, each result comes as soon as it is there,
                and the first error is raised as soon as it is there. An error of an iterable comes last.
            progress: draw one bar for the items on stderr, with their rate, the failures and the runners, from the
                first result on: a widget in notebooks, a bar of rich or tqdm on a terminal, otherwise lines. A text
                names it. docs/progress.md has the rules.
            return_exceptions: return the exception of an item in place of its value, as ``asyncio.gather`` does. Then
                an exception ends its own item alone in chunks as well. Only the TimeoutError of `timeout` and errors of
                the iterables are raised.

        Raises:
            ValueError: `chunksize` or `buffersize` is less than 1, or `chunksize` is another text.
            TypeError: an argument has the wrong type, or `fn` is a generator function.
        """
        self._check_open()
        # Imported here, because a program that only submits need not load it.
        from dragonfly_executor.api.map import MapOptions, map_calls

        if buffersize is None:
            buffersize = self._options.max_queued
        options = MapOptions(timeout, chunksize, buffersize, ordered=ordered, return_exceptions=return_exceptions)
        options.show(progress, self._runners)
        if options.items_end_alone and (self._options.retries or self._options.run_timeout is not None):
            options.size = 1  # these options are for each call
        if self._options.has_setting:
            from dragonfly_executor.api.call_settings import items_with_setting

            fn, iterables = items_with_setting(fn, iterables, self._options)
        make_calls: Callable[..., MapCalls] = self._map_calls
        if self._carrier is not None:
            from dragonfly_executor.api.traced_calls import traced

            fn, make_calls = traced(self._carrier, fn, make_calls)
        return map_calls(make_calls, fn, iterables, options, self._slots, lambda: self._begin(self._options))

    @overload
    def amap(
        self,
        fn: Callable[..., Coroutine[Any, Any, T]],
        *iterables: Iterable[Any] | AsyncIterable[Any],
        buffersize: int | None = None,
        ordered: bool = True,
    ) -> AsyncMapResults[T]: ...  # `fn` is an ``async def``
    @overload
    def amap(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any] | AsyncIterable[Any],
        buffersize: int | None = None,
        ordered: bool = True,
    ) -> AsyncMapResults[T]: ...
    def amap(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any] | AsyncIterable[Any],
        buffersize: int | None = None,
        ordered: bool = True,
    ) -> AsyncMapResults[Any]:
        """Return an asynchronous iterator like `map`'s: ``async for value in pool.amap(fn, items)``.

        The first calls are submitted when the first value is asked for. Then a window of calls is ahead of the values
        that were taken. No thread waits. If the task is cancelled while it waits for a value, if a call raises, or if
        the iterator is closed or dropped, the remaining calls are cancelled. An exception has a note that names the
        item.

        Args:
            fn: the function.
            iterables: one for each argument of `fn`; asynchronous ones too. The map ends with the shortest.
            buffersize: number of calls that are submitted ahead of the values that were taken; None for 1024.
            ordered: whether values come in the order of the items (True), or as the calls end (False).

        Raises:
            ValueError: `buffersize` is less than 1.
            TypeError: `buffersize` is not a whole number, or `fn` is a generator function.
        """
        from dragonfly_executor.api.async_map import map_async

        if self._options.has_setting:
            from dragonfly_executor.api.call_settings import items_with_setting

            fn, iterables = items_with_setting(fn, iterables, self._options)
        if buffersize is None:
            buffersize = self._options.max_queued
        make_calls = self._awaited_calls
        if self._carrier is not None:
            from dragonfly_executor.api.traced_calls import traced

            fn, make_calls = traced(self._carrier, fn, make_calls)
        return map_async(make_calls, fn, iterables, buffersize, ordered=ordered)

    def _awaited_calls(self, fn: Callable[..., Any], calls_type: Any) -> Any:
        return self._calls_of_map(self._options, fn, self._fails_in_its_future, None, calls_type)

    def _map_calls(self, fn: Callable[..., Any], calls_type: type[MapCalls], split: Split | None = None) -> MapCalls:
        return self._calls_of_map(self._options, fn, self._fails_in_its_future, split, calls_type)

    def _slots(self) -> int:
        """Return the number of calls that may run at once."""
        raise NotImplementedError

    def _runners(self) -> int:
        """Return the number of runners that are up."""
        raise NotImplementedError
