"""`AsyncResult`: the result of `apply_async`, `map_async` and `starmap_async`."""

from __future__ import annotations

from collections.abc import Sequence
from types import GenericAlias

from dragonfly_executor.multiprocessing.call_group import CallGroup, GroupCall
from dragonfly_executor.util.condition import RLock, holding
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, Generic, TypeVar

    from dragonfly_executor.multiprocessing.callbacks import ResultCallbacks, ResultSource
    from dragonfly_executor.multiprocessing.feeder import Window

    T = TypeVar("T")
else:
    T, Generic = object, {object: object}  # Generic[T] is a plain base class


class ResultGroup(CallGroup):
    """The calls of one `AsyncResult` of several items.

    Args:
        base: the arguments of `CallGroup`.
        in_chunks: whether the value of a call is a list of values.
        callbacks: the user's; None if there are none.
        window: gets a place back for each settled call.
    """

    def __init__(
        self, *base: Any, in_chunks: bool, callbacks: ResultCallbacks | None, window: Window, **more: Any
    ) -> None:
        super().__init__(*base, **more)
        self._in_chunks = in_chunks
        self._callbacks = callbacks
        self._window = window
        self._calls: list[GroupCall] = []
        self._opening = RLock()
        self._result: tuple[Any, BaseException | None] | None = None

    def _add(self, calls: Sequence[GroupCall]) -> None:
        super()._add(calls)
        self._calls += calls

    def _count(self, call: GroupCall) -> bool:
        self._window.give_back()
        return super()._count(call)

    def unsettled_calls(self) -> Sequence[GroupCall]:
        """Return the calls that were submitted and are not settled."""
        return [call for call in list(self._calls) if not call.is_settled]

    def stop(self, error: Exception) -> None:
        """Submit no more calls, and cancel the unsettled ones. No callback is called any more."""
        super().stop(error)
        self._window.wake()

    def _all_settled(self) -> None:
        if self._callbacks is None or self.is_stopped:
            self.end()
        else:
            self._callbacks.run(self)

    @property
    def may_be_opened(self) -> bool:
        """Return whether `result` has it: it is there for its own callback before others see it."""
        callbacks = self._callbacks
        return self.has_ended or (callbacks is not None and callbacks.are_running_here)

    def result(self) -> tuple[Any, BaseException | None]:
        """Return the values and None, or None and the first error."""
        if self._result is None:
            return (None, self.stop_error) if self.is_stopped else holding(self._opening, self._open)
        return self._result

    def _open(self) -> tuple[Any, BaseException | None]:
        if self._result is None:
            self._result = self._opened()
            self._calls = []
        return self._result

    def _opened(self) -> tuple[Any, BaseException | None]:
        values: list[Any] = []
        for call in self._calls:
            value, error = call.opened()
            if error is not None:
                return None, error
            if self._in_chunks:
                values += value
            else:
                values.append(value)
        return values, None


class AsyncResult(Generic[T]):
    """The result of a method call of a `Pool` that does not wait."""

    if not TYPE_CHECKING:
        __class_getitem__ = classmethod(GenericAlias)

    def __init__(self, source: ResultSource) -> None:
        self._source = source

    def ready(self) -> bool:
        """Return whether the result or the error is there, and the callback has run."""
        return self._source.may_be_opened

    def successful(self) -> bool:
        """Return whether `get` would return a result.

        Raises:
            ValueError: the result is not ready.
        """
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return self._source.result()[1] is None

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the result is ready, at most `timeout` seconds."""
        if not self._source.may_be_opened:
            self._source.wait_for_end(timeout)

    def get(self, timeout: float | None = None) -> T:
        """Return the result, or raise the error of a call.

        A Ctrl-C during the wait leaves the calls running, and `get` may be called again.

        Args:
            timeout: seconds to wait; None for no limit.

        Raises:
            multiprocessing.TimeoutError: the result is not ready.
            RunnerLostError, CallTimeoutError, BootError, ...: a call was stopped or lost.
            CancelledError: the pool was terminated before that.
        """
        self.wait(timeout)
        source = self._source
        if not source.may_be_opened:
            import multiprocessing

            raise multiprocessing.TimeoutError(f"the result has not arrived within {timeout:g} s")
        value, error = source.result()
        result: T = value
        if error is None:
            return result
        try:
            raise error from error.__cause__
        finally:
            # The traceback holds this frame, and this frame holds the error.
            del error, source, self
