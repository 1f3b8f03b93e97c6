"""`PlacedWorker`: the handle of an object in a slot of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

from dragonfly_executor.api.placed_handle import PlacedHandle
from dragonfly_executor.api.remote_methods import RemoteMethods
from dragonfly_executor.api.remote_object import RemoteLease
from dragonfly_executor.engine.call_name import call_name
from dragonfly_executor.engine.placed.channel_reference import ChannelReference
from dragonfly_executor.engine.placed.restart_policy import ALWAYS, NEVER, RestartPolicy
from dragonfly_executor.engine.placed.worker_driver import WorkerDriver
from dragonfly_executor.errors import CallSerializationError
from dragonfly_executor.serialization.placed_run import call_method, run_worker
from dragonfly_executor.serialization.repeated_call import RepeatedCall
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, Unpack

    from dragonfly_executor.engine.engine import Engine
    from dragonfly_executor.engine.future import Future
    from dragonfly_executor.engine.observing.call_carrier import CallCarrier
    from dragonfly_executor.engine.option_keywords import CallKeywords
    from dragonfly_executor.engine.options import CallOptions
    from dragonfly_executor.engine.placed.worker_driver import EncodedPart
    from dragonfly_executor.serialization.layout import Buffer

T = TypeVar("T")
ENDLESS: CallKeywords = {"timeout": None, "queue_timeout": None, "run_timeout": None, "retries": 0}
"""The changes of options for the call of a worker."""
DEFAULT_RESTARTS = 3
"""Restarts of a worker with ``restart="on_failure"``."""


class PlacedWorker(PlacedHandle, RemoteMethods, Generic[T]):
    """A worker: an object that stays in a slot of a runner, and runs its methods there.

    ``worker.method(*args)`` submits a call of that method, and returns its `Future`. A name that is taken here (`stop`,
    `kill`, `options`, `call_method`, `ready`, `ended`) can be called by `call_method`. An object that is callable
    itself is called by ``worker(*args)``.

    As a context manager it is stopped at the end of the block, or killed if the block raises. It is stopped when it is
    garbage-collected, and when its pool is shut down.

    Made by `DragonflyExecutor.place`.

    Attributes:
        ready: a future that is done once the object is made, the first time. It raises `WorkerLostError` if that fails.
        ended: a future that is done once the worker has ended for good: None after `stop`, otherwise it raises
            `WorkerLostError`.
    """

    def __init__(
        self,
        owner: object,
        engine: Engine,
        driver: WorkerDriver,
        options: CallOptions,
        names: frozenset[str] | None,
        tracing: tuple[CallCarrier, str] | None,
        *,
        whole: PlacedWorker[T] | None = None,
    ) -> None:
        self._owner = owner
        """The pool, which lives while the worker does."""
        self._engine = engine
        self._driver = driver
        self._options = options
        self._names = names
        """The attributes of the class; None if they are unknown."""
        self._tracing = tracing
        """The observer that carries the caller's context into method calls, and the name of the pool."""
        self._encode = RepeatedCall(engine.codec, call_method, options.retry_on).encode
        self._whole = whole
        """Of a view, the worker itself: it is stopped when no view is left either."""
        self.ready: Future[None] = driver.ready
        self.ended: Future[None] = driver.ended

    # -- methods -------------------------------------------------------------------------------------------------------

    def _check_method(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(
                f"a worker has no attribute {name!r}: call_method({name!r}) calls a method of that name"
            )
        names = self._names
        if names is not None and name not in names:
            raise AttributeError(
                f"{self._driver.name} has no method {name!r}. If only its instances have it, use call_method({name!r})"
            )

    def call_method(self, name: str, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit a call of the method `name`, and return its future.

        A call that was sent to the slot cannot be cancelled.

        Raises:
            WorkerLostError: the worker has ended.
            RuntimeError: the worker was stopped, or its pool was shut down.
            CallSerializationError: an argument cannot be pickled.
            FrameTooLargeError: the arguments are larger than ``max_payload``.
        """
        return self.submit_call(call_method, name, (name, *args), kwargs)

    def submit_call(
        self, fn: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Future[Any]:
        """Submit a call of a function that gets the object first; see `call_method`. For this package alone."""
        self._driver.check_open()
        if self._tracing is None:
            return self._submit(fn, name, args, kwargs)
        carrier, pool = self._tracing
        shown = f"{self._driver.name}.{name}"
        return carrier.submit_method(pool, shown, fn, lambda carried: self._submit(carried, name, args, kwargs))

    def _submit(self, fn: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[Any]:
        engine, options, limits = self._engine, self._options, self._options.limits()
        if options.has_setting:
            from dragonfly_executor.api.call_settings import with_setting

            fn = with_setting(fn, options)
        encode = None if kwargs or fn is not call_method else self._encode
        encoded = _encoded(engine, options.retry_on, fn, args, kwargs, encode)
        # Another attempt sends the same bytes, so until then the handles in them must keep their objects.
        kept = (args, kwargs) if options.retries else None
        return self._driver.submit(name, encoded, limits, partial(RemoteLease, self), kept)

    def options(self, **changes: Unpack[CallKeywords]) -> PlacedWorker[T]:
        """Return a view of this worker whose method calls have other options.

        If a method runs longer than its `timeout` or `run_timeout`, the worker's slot is killed, because only that
        stops the method.

        Args:
            changes: `timeout`, `queue_timeout`, `run_timeout`, `retries`, `retry_on`, `retry_wait`, `seed` and
                `context_vars`. Other fields of `CallOptions` have no effect.

        Raises:
            TypeError: there is no such option, or its value has the wrong type.
            ValueError: its value is out of range.
        """
        changed, whole = self._options.change(changes), self._whole or self
        return PlacedWorker(self._owner, self._engine, self._driver, changed, self._names, self._tracing, whole=whole)

    # -- the end -------------------------------------------------------------------------------------------------------

    def stop(self, wait: bool = True, timeout: float | None = None) -> None:
        """Accept no more method calls, and end the worker when those before have ended. Its slot is free then.

        Args:
            wait: return only after that.
            timeout: seconds to wait; None for no limit.

        Raises:
            TimeoutError: the worker has not ended in time.
        """
        super().stop(wait, timeout)

    def kill(self) -> None:
        """End the worker at once, with all processes that it has started. Its method calls fail. Returns at once."""
        super().kill()

    def __del__(self) -> None:
        # `__init__` may have been interrupted, and a view stops nothing.
        if self.__dict__.get("ended") is not None and self._whole is None:
            self._driver.stop()

    def __reduce__(self) -> Any:
        raise TypeError(
            "a worker cannot travel to a runner: its methods are called from the program that has placed it"
        )


def place(
    owner: object,
    engine: Engine,
    options: CallOptions,
    make: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    tracing: tuple[CallCarrier, str] | None,
) -> PlacedWorker[Any]:
    """Place a worker; see `Submitter.place`, and `PlacedWorker` for `tracing`."""
    if not callable(make):
        raise TypeError(f"place() needs a class or a function that returns the object, not {type(make).__name__}")
    limits = options.change(ENDLESS).limits()
    driver = WorkerDriver(engine, call_name(make), options.concurrency, restarts_of(options), limits)
    carried = make if tracing is None else tracing[0].carried(make)
    given = ChannelReference(driver.entry.number), options.concurrency, carried, args, kwargs
    encoded = _encoded(engine, (), run_worker, given, {})
    worker: PlacedWorker[Any] = PlacedWorker(owner, engine, driver, options, _names_of(make), tracing)
    driver.begin(encoded)
    return worker


def _encoded(
    engine: Engine,
    retry_on: tuple[type[BaseException], ...],
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    encode: Callable[[tuple[Any, ...]], list[Buffer]] | None = None,
) -> EncodedPart:
    """Return an encoded call, for the driver. `encode`: encodes calls of `fn` without keyword arguments, if given."""
    try:
        parts = engine.codec.encode_call(fn, args, kwargs, retry_on) if encode is None else encode(args)
        return engine.payloads.snapshot(parts), None
    except CallSerializationError:
        pending = engine.codec.encode_pending(fn, args, kwargs, retry_on)
        if pending is None:
            raise
        return b"", pending


def restarts_of(options: CallOptions) -> RestartPolicy:
    """Return the restarts that the options ask for."""
    most = options.max_restarts
    if most is None and options.restart != ALWAYS:
        most = DEFAULT_RESTARTS
    return RestartPolicy(options.restart or NEVER, most)


def _names_of(make: Any) -> frozenset[str] | None:
    """Return the attributes of a class; None for a function, and if the class makes attributes by itself."""
    if not isinstance(make, type) or hasattr(make, "__getattr__") or "__getattribute__" in vars(make):
        return None
    return frozenset(dir(make))
