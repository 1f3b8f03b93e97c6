"""The calls of one method call of a pool."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from functools import partial

from dragonfly_executor.api.map_values import named
from dragonfly_executor.core.actions import CANCELLED
from dragonfly_executor.engine.latch import Latch
from dragonfly_executor.engine.map_calls import MapCall, MapCalls
from dragonfly_executor.engine.outcome import Outcome
from dragonfly_executor.errors import ForkedExecutorError
from dragonfly_executor.util.condition import RLock, holding
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, ClassVar, Protocol

    from dragonfly_executor.engine.context import MapContext
    from dragonfly_executor.engine.map_calls import Batch
    from dragonfly_executor.engine.options import CallOptions
    from dragonfly_executor.serialization.layout import Buffer

    class GroupPool(Protocol):
        """A pool, as its groups use it. Any thread may call these, so they must not block."""

        def group_fed(self) -> None:
            """Note that all calls of a group were submitted."""

        def group_ended(self, group: Group) -> None:
            """Note that a group has ended."""

    class Group(Protocol):
        """The calls of one method call, as the pool uses them.

        Attributes:
            is_fed: whether all calls were submitted.
        """

        @property
        def is_fed(self) -> bool: ...

        def stop(self, error: Exception) -> None:
            """Submit no more calls, and cancel those that are not settled. `error` stands for their results."""

        def feed_all(self) -> None:
            """Submit all calls now, however many results were taken."""

        def wait_for_end(self, timeout: float | None = None) -> bool:
            """Wait until the group has ended, at most `timeout` seconds. Returns whether it has."""
            ...


class GroupCall(MapCall):
    """A call that tells its group of its outcome."""

    __slots__ = ()

    def settle(self, outcome: object) -> None:
        """Keep the outcome, and tell the group. Runs on the engine thread."""
        self.outcome = outcome
        self.is_settled = True
        group: Any = self.owner
        group.call_settled(self)

    def opened(self) -> tuple[Any, BaseException | None]:
        """Return the value and None, or None and the error. An error of a map's item has a note that names the item."""
        outcome = self.outcome
        if type(outcome) is Outcome:
            value, error = outcome.open()
            if error is None:
                return value, None
        else:
            error = CancelledError() if outcome is CANCELLED else outcome  # type: ignore[assignment]  # an exception
        return None, named(error, self.first, self.size)  # type: ignore[arg-type]


class CallGroup(MapCalls):
    """The calls of one method call of a pool, until all of them are settled and the user's callback has run.

    One thread submits them, and the engine thread settles them.

    Args:
        engine, options, encode, is_delayed: as for `MapCalls`.
        pool: the pool. The group holds it until the group ends, so that a pool without other references works on.

    Attributes:
        is_fed: whether all calls were submitted.
        stop_error: the error of what did not end before the group was stopped; None if it was not stopped.
    """

    call_type: ClassVar[type[MapCall]] = GroupCall

    def __init__(
        self,
        engine: MapContext,
        options: CallOptions,
        encode: Callable[[tuple[Any, ...]], list[Buffer]],
        is_delayed: tuple[type[Exception], ...],
        *,
        pool: GroupPool,
    ) -> None:
        super().__init__(engine, options, encode, is_delayed)
        self._pool: GroupPool | None = pool
        self._counting = RLock()
        self._added = self._ended_calls = 0
        self._end = Latch()
        self.is_fed = False
        self.stop_error: Exception | None = None

    # -- the thread that submits ---------------------------------------------------------------------------------------

    @property
    def is_stopped(self) -> bool:
        """Return whether no more calls are to be submitted."""
        return self.stop_error is not None

    def submit(self, batch: Batch) -> None:
        """Submit calls, all or none. An argument that cannot be pickled fails its own call.

        Raises:
            RuntimeError: the pool takes no calls. All calls of the batch have this error.
        """
        calls: Any = self._encoded(batch)
        holding(self._counting, partial(self._add, calls))
        sent = []
        for call in calls:
            if call.is_settled:
                self._settled_here(call)
            else:
                sent.append(call)
        if sent:
            try:
                self._engine.accept(sent)
            except Exception as error:
                for call in sent:
                    call.outcome, call.is_settled = error, True
                    self._settled_here(call)
                raise

    def fail(self, error: BaseException) -> None:
        """Add the error of an iterable, which belongs to no item, behind the items before it."""
        call: Any = self._failed(error, self._next_item(), 0)  # type: ignore[arg-type]  # an iterator may call sys.exit()
        holding(self._counting, partial(self._add, (call,)))
        self._settled_here(call)

    def fed(self) -> None:
        """Note that all calls were submitted."""
        if holding(self._counting, self._set_fed):
            self._all_settled()
        pool = self._pool
        if pool is not None:
            pool.group_fed()

    def _set_fed(self) -> bool:
        self.is_fed = True
        return self._added == self._ended_calls

    def _settled_here(self, call: GroupCall) -> None:
        if holding(self._counting, partial(self._count, call)):
            self._all_settled()

    def _add(self, calls: Sequence[GroupCall]) -> None:
        """Note new calls, before the engine may settle them. Runs with the lock."""
        self._added += len(calls)

    def _next_item(self) -> int:
        """Return the number of the next item."""
        return 0

    # -- the engine thread ---------------------------------------------------------------------------------------------

    def call_settled(self, call: GroupCall) -> None:
        """Note that a call is settled."""
        with self._counting:
            is_last = self._count(call)
        if is_last:
            self._all_settled()

    def _count(self, call: GroupCall) -> bool:
        """Note that a call is settled. Runs with the lock. Returns whether it was the last one."""
        self._ended_calls += 1
        return self.is_fed and self._added == self._ended_calls

    def _all_settled(self) -> None:
        """Go on after the last call was settled. Must not block."""
        raise NotImplementedError

    # -- any thread ----------------------------------------------------------------------------------------------------

    def unsettled_calls(self) -> Sequence[GroupCall]:
        """Return the calls that were submitted and are not settled."""
        raise NotImplementedError

    def stop(self, error: Exception) -> None:
        """Submit no more calls, and cancel those that are not settled. `error` stands for their results."""
        if self._end.is_open:
            return
        self.stop_error = self.stop_error or error
        self.cancel(self.unsettled_calls())
        self.end()

    def feed_all(self) -> None:
        """Submit all calls now, however many results were taken."""

    def end(self) -> None:
        """Let the threads go on that wait for the end, and let go of the pool. Calling it twice is fine."""
        pool, self._pool = self._pool, None
        self._end.open()
        if pool is not None:
            pool.group_ended(self)

    @property
    def has_ended(self) -> bool:
        """Return whether all calls are settled and the user's callback has run, or the group was stopped."""
        return self._end.is_open

    def wait_for_end(self, timeout: float | None = None) -> bool:
        """Wait until the group has ended, at most `timeout` seconds. Returns whether it has.

        Raises:
            ForkedExecutorError: the pool belongs to the process that this one was forked from.
        """
        if self._end.is_open:
            return True
        self.check_fork()
        return self._end.wait(None if timeout is None else max(0.0, timeout))

    def check_fork(self) -> None:
        """Raise ForkedExecutorError if the pool belongs to the process that this one was forked from."""
        if self._engine.forked:
            raise forked_error()


def forked_error() -> ForkedExecutorError:
    """Return the error of a result in a child process that was forked from the pool's."""
    return ForkedExecutorError(
        "this result belongs to the process that this one was forked from: it arrives only there"
    )
