"""`SingleCall`: the call of `apply` and `apply_async`."""

from __future__ import annotations

from collections.abc import Callable

from dragonfly_executor.engine.latch import Latch
from dragonfly_executor.multiprocessing.call_group import GroupCall
from dragonfly_executor.multiprocessing.group import Group
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from dragonfly_executor.engine.context import MapContext
    from dragonfly_executor.engine.options import CallOptions
    from dragonfly_executor.multiprocessing.callbacks import ResultCallbacks
    from dragonfly_executor.multiprocessing.group import GroupPool
    from dragonfly_executor.serialization.layout import Buffer


class SingleCall(Group, GroupCall):
    """A call that is its whole group, in one object: the core's record, the receiver of the outcome, and the result.

    Args:
        engine, options, encode, is_delayed: as for `MapCalls`.
        args: the arguments.
        pool: as for `CallGroup`.
        callbacks: the user's; None if there are none.
    """

    __slots__ = ("_callbacks", "_end", "_engine", "_pool", "_runs_on", "caller", "stop_error")

    is_fed = True
    is_item = False

    def __init__(
        self,
        engine: MapContext,
        options: CallOptions,
        encode: Callable[[tuple[Any, ...]], list[Buffer]],
        is_delayed: tuple[type[Exception], ...],
        *,
        args: tuple[Any, ...],
        pool: GroupPool,
        callbacks: ResultCallbacks | None,
    ) -> None:
        payload: Any = b""
        error: Exception | None = None
        try:
            payload = engine.payloads.snapshot(encode(args))
        except is_delayed as failure:
            error = failure
        here: Any = self
        super().__init__(next(engine.ids), payload, options.limits(), here, 0, 0)
        self._engine = engine
        self._runs_on = not options.cancel_running
        self._pool: GroupPool | None = pool
        self._callbacks = callbacks
        self._end = Latch()
        self.stop_error: Exception | None = None
        self.caller: Mapping[str, str] | None = None
        """The trace context of the caller; see `MapCalls`."""
        if error is not None:
            self.token, self.outcome = None, error

    def submit(self) -> None:
        """Submit the call. Raises as `Engine.accept` does."""
        if self.token is None:
            self.settle(self.outcome)
        else:
            self._engine.accept((self,))

    def settle(self, outcome: object) -> None:
        """Keep the outcome, and go on. Runs on the engine thread."""
        self.outcome = outcome
        self.is_settled = True
        if self._callbacks is None or self.stop_error is not None:
            self.end()
        else:
            self._callbacks.run(self)

    def cancel(self) -> None:
        """Cancel the call, and stop it if it runs."""
        self._engine.cancel((self,), running=not self._runs_on)

    def cancel_unsettled(self) -> None:
        """See `Group`."""
        if not self.is_settled:
            self.cancel()

    @property
    def may_be_opened(self) -> bool:
        """Return whether `result` has it: it is there for its own callback before others see it."""
        callbacks = self._callbacks
        return self._end.is_open or (callbacks is not None and callbacks.are_running_here)

    def result(self) -> tuple[Any, BaseException | None]:
        """Return the value and None, or None and the error."""
        return self.opened() if self.stop_error is None else (None, self.stop_error)
