"""`PoolCalls`: what `Pool`, executors, maps and streams submit calls through."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType

from dragonfly_executor.api.submitter import Submitter
from dragonfly_executor.engine.call_name import call_name
from dragonfly_executor.engine.tier_settings import capacities_of, names_of
from dragonfly_executor.errors import CallSerializationError
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, TypeVar

    from dragonfly_executor.api.call_stream import CallStream
    from dragonfly_executor.api.lazy_engine import LazyEngine
    from dragonfly_executor.api.placed_process import PlacedProcess
    from dragonfly_executor.api.placed_worker import PlacedWorker
    from dragonfly_executor.api.special_submit import SpecialSubmit
    from dragonfly_executor.engine.engine import Engine
    from dragonfly_executor.engine.future import Future
    from dragonfly_executor.engine.map_calls import MapCalls, Split
    from dragonfly_executor.engine.observing.call_carrier import CallCarrier
    from dragonfly_executor.engine.options import CallOptions
    from dragonfly_executor.serialization.shared_object import SharedObject

    T = TypeVar("T")
    M = TypeVar("M", bound=MapCalls)
    C = TypeVar("C")


class PoolCalls(Submitter):
    """The part of a pool that takes calls, with the options of each call.

    `Pool` adds the runners. It sets the attributes.
    """

    name: str
    """The name of the pool."""
    _lazy: LazyEngine
    _ready: Engine | None
    """The engine, once a call was submitted."""

    @property
    def _engine(self) -> Engine:
        return self._ready or self._lazy.get()

    @property
    def carrier(self) -> CallCarrier | None:
        """The observer that carries the caller's context into calls; None if there is none."""
        return self._carrier

    @property
    def call_options(self) -> CallOptions:
        """The default options of calls."""
        return self._options

    def submit_with(
        self, options: CallOptions, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Future[T]:
        """Submit a call with these options.

        Raises:
            RequirementsError: no runner can have the resources that the call requires.
            QueueFullError: with ``when_full="raise"``, as many calls wait as may.
        """
        engine = self._ready or self.begin(options)
        self._check(engine, options)
        if options.has_setting:
            # Few calls need the import.
            from dragonfly_executor.api.call_settings import with_setting

            fn = with_setting(fn, options)
        name = fn.__qualname__ if type(fn) is FunctionType else call_name(fn)
        if self._carrier is not None or options.is_special:
            special = self._special(engine, options, name, args, kwargs, fn)
            return special.submit(self.name, self._carrier, fn)
        try:
            parts = engine.codec.encode_call(fn, args, kwargs, options.retry_on)
        except CallSerializationError:
            future = self._special(engine, options, name, args, kwargs, fn).submit_dependent(fn)
            if future is None:
                raise
            return future
        return engine.submit(
            parts,
            options.limits(),
            name=name,
            cancel_running=options.cancel_running,
            on_progress=options.on_progress,
        )

    def _special(
        self,
        engine: Engine,
        options: CallOptions,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        fn: Callable[..., Any],
    ) -> SpecialSubmit:
        # Imported here, because most programs do not need it.
        from dragonfly_executor.api.special_submit import SpecialSubmit

        runs_it: Any = engine
        if options.slot_concurrency > 1:
            runs_it, options = self._task_engine(engine, options, fn)
        return SpecialSubmit(runs_it, options, name, args, kwargs)

    def _task_engine(self, engine: Engine, options: CallOptions, fn: Callable[..., Any]) -> tuple[Any, CallOptions]:
        """Return what runs the calls of a function that may share slots, and the options of these calls."""
        # Imported for the first such call.
        from dragonfly_executor.engine.task_slots.task_engines import task_engine

        return task_engine(engine, options, fn, is_default=options.slot_concurrency == self._options.slot_concurrency)

    async def submit_in_task(
        self, options: CallOptions, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Future[T]:
        """Submit a call in a task of an asyncio event loop, whose loop is not blocked while the task waits for room."""
        if options.max_queued is None or options.when_full != "wait":
            return self.submit_with(options, fn, args, kwargs)
        engine = self._ready or self.begin(options)
        self._check(engine, options)
        submit = self._special(engine, options, call_name(fn), args, kwargs, fn)
        return await submit.submit_in_task(self.name, self._carrier, fn, options.max_queued)

    def open_stream(
        self, options: CallOptions, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> CallStream[Any]:
        """Submit the call of a stream with these options; see `Submitter.stream`."""
        from dragonfly_executor.util.validation import refuse_stream

        refuse_stream(fn)
        engine = self._ready or self.begin(options)
        self._check(engine, options)
        run = fn
        if options.has_setting:
            from dragonfly_executor.api.call_settings import with_setting

            run = with_setting(fn, options, of_stream=True)
        name = call_name(fn)

        def submit(carried: Callable[..., Any]) -> CallStream[Any]:
            return self._submit_stream(engine, options, name, (carried, args, kwargs, options.stream_buffersize))

        if self._carrier is None:
            return submit(run)
        return self._carrier.submit(self.name, name, run, submit, is_stream=True)

    @staticmethod
    def _submit_stream(engine: Engine, options: CallOptions, name: str, given: tuple[Any, ...]) -> CallStream[Any]:
        # Imported for the first stream.
        from dragonfly_executor.api.call_stream import CallStream
        from dragonfly_executor.engine.stream_call import StreamCall
        from dragonfly_executor.serialization.map_chunk import run_stream

        wait = None
        try:
            parts = engine.codec.encode_call(run_stream, given, {}, options.retry_on)
            call = StreamCall(engine, engine.payloads.snapshot(parts), options)
        except CallSerializationError:
            pending = engine.codec.encode_pending(run_stream, given, {}, options.retry_on)
            if pending is None:
                raise
            from dragonfly_executor.engine.dependent_calls import ArgumentWait, HeldCall

            call = StreamCall(engine, b"", options)
            wait = ArgumentWait(engine, pending, HeldCall(engine, call))
        call.name = name
        # First, so that an interrupt closes it.
        stream: CallStream[Any] = CallStream(call, engine.codec.decode_result)
        engine.streams.add(call)
        if options.max_queued is None:
            engine.accept((call,))
        else:
            engine.core_observers.queue_bound().submit((call,), options.max_queued, waits=options.when_full == "wait")
        if wait is not None:
            wait.begin()
        return stream

    def place_with(
        self,
        owner: Submitter,
        options: CallOptions,
        make: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> PlacedWorker[Any]:
        """Place a worker with these options; see `Submitter.place`. The worker keeps `owner` alive."""
        # Imported for the first worker.
        from dragonfly_executor.api.placed_worker import place

        engine = self._ready or self.begin(options)
        self._check(engine, options)
        tracing = None if self._carrier is None else (self._carrier, self.name)
        return place(owner, engine, options, make, args, kwargs, tracing)

    def place_process_with(
        self, owner: Submitter, options: CallOptions, argv: Sequence[Any], settings: Mapping[str, Any]
    ) -> PlacedProcess:
        """Place a process with these options; see `Submitter.place_process`."""
        # Imported for the first process.
        from dragonfly_executor.api.placed_process import place_process

        engine = self._ready or self.begin(options)
        self._check(engine, options)
        return place_process(owner, engine, options, argv, settings)

    def check_open(self) -> None:
        """Raise the error that a submit would raise now."""
        self._lazy.check_open()

    def begin(self, options: CallOptions) -> Engine:
        """Return the engine for a call with these options, which is submitted next.

        Before the first call, a local backend launches the first runner, and the engine is loaded meanwhile.

        Raises:
            StartError: the engine could not be started.
        """
        if self._ready is None:
            self.check_open()
            if options.requires is None:
                self._lazy.start()
            self._ready = self._lazy.get()
        return self._ready

    def calls_of_map(
        self,
        options: CallOptions,
        fn: Callable[..., object],
        is_delayed: tuple[type[Exception], ...],
        split: Split | None,
        calls_type: type[M],
    ) -> M:
        """Return the calls of a new map, which are calls of `fn` with these options; see `MapCalls` for the rest.

        Raises:
            RequirementsError: no runner can have the resources that the calls require.
        """
        self.check_open()
        engine = self._engine
        self._check(engine, options)
        if options.slot_concurrency > 1:
            runs_it, options = self._task_engine(engine, options, fn)
            return runs_it.function_calls.of_map(options, fn, is_delayed, split, calls_type)  # type: ignore[no-any-return]
        return engine.function_calls.of_map(options, fn, is_delayed, split, calls_type)

    def calls_taken_by(
        self, make: Callable[..., C], fn: Callable[..., object], kwargs: Mapping[str, Any] | None = None
    ) -> C:
        """Return what `make` makes: calls of `fn` with the pool's default options, which take their own outcomes.

        Args:
            make, fn, kwargs: see `FunctionCalls.taken_by`.

        Raises:
            RequirementsError: no runner can have the resources that the calls require.
        """
        options = self._options
        self.check_open()
        engine = self._engine
        self._check(engine, options)
        return engine.function_calls.taken_by(make, options, fn, kwargs)

    def _check(self, engine: Engine, options: CallOptions) -> None:
        """Raise the error that a submit with these options would raise now, whatever it submits."""
        # Before anything is pickled, because pickling may take long and run the user's code.
        engine.check_open()
        if options.requires is not None:
            # Imported here, because importing takes time and most programs do not use `requires`.
            from dragonfly_executor.engine.requires import check_possible

            tiers = engine.tiers
            check_possible(options.requires, capacities_of(tiers), names_of(tiers))

    def share_object(self, value: T) -> SharedObject[T]:
        """Pickle an object for many calls; see `Submitter.share`."""
        self.check_open()
        return self._engine.shared.share(value)

    def failed(self, error: Exception) -> Future[Any]:
        """Return the future of a call that failed before it could be submitted."""
        return self._engine.failed(error)

    # On the class: an instance that holds a bound method of its own is never freed without the garbage collector.
    _submit_in_task = submit_in_task  # pyright: ignore[reportAssignmentType]  # an instance binds it
    _submit_with = submit_with  # pyright: ignore[reportAssignmentType]  # an instance binds it
    _open_stream = open_stream  # pyright: ignore[reportAssignmentType]  # and this
    _place = place_with  # pyright: ignore[reportAssignmentType]  # and this
    _place_process = place_process_with  # pyright: ignore[reportAssignmentType]  # and this
    _calls_of_map = calls_of_map  # pyright: ignore[reportAssignmentType]  # and this
    _share = share_object  # pyright: ignore[reportAssignmentType]  # and this
    _begin = begin  # pyright: ignore[reportAssignmentType]  # and this
    _check_open = check_open  # pyright: ignore[reportAssignmentType]  # and this
    _failed = failed  # pyright: ignore[reportAssignmentType]  # and this
