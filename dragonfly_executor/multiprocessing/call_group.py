"""The calls of one method call of a pool."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from dragonfly_executor.api.map_values import named
from dragonfly_executor.engine.latch import Latch
from dragonfly_executor.engine.map_call import MapCall
from dragonfly_executor.engine.map_calls import MapCalls
from dragonfly_executor.multiprocessing.group import Group
from dragonfly_executor.util.condition import RLock, holding
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, ClassVar

    from dragonfly_executor.engine.context import MapContext
    from dragonfly_executor.engine.map_calls import Batch
    from dragonfly_executor.engine.options import CallOptions
    from dragonfly_executor.multiprocessing.group import GroupPool
    from dragonfly_executor.serialization.layout import Buffer


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
        value, error = self.open_outcome()
        return value, None if error is None else named(error, self.first, self.size)


class CallGroup(Group, MapCalls):
    """The calls of one method call of a pool, until all of them are settled and the user's callback has run.

    One thread submits them, and the engine thread settles them.

    Args:
        engine, options, encode, is_delayed: as for `MapCalls`.
        pool: the pool. The group holds it until the group ends, so that a pool without other references works on.
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

    def cancel_unsettled(self) -> None:
        """See `Group`."""
        self.cancel(self.unsettled_calls())
