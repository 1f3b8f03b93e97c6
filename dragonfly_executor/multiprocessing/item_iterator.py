"""`ItemIterator`: the results of `imap` and `imap_unordered`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from queue import Empty, SimpleQueue

from dragonfly_executor.multiprocessing.call_group import CallGroup, GroupCall
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, TypeVar

    from dragonfly_executor.multiprocessing.feeder import Window

    T = TypeVar("T")
else:
    T = object


class ItemGroup(CallGroup):
    """The calls of one `ItemIterator`. Only engine thread and feeding thread take the lock, and neither gets a Ctrl-C.

    Args:
        base: the arguments of `CallGroup`.
        window: gets a place back for each result that is taken.
        ordered: whether results are taken in the order of the items, otherwise as they arrive.
    """

    def __init__(self, *base: Any, window: Window, ordered: bool, **more: Any) -> None:
        super().__init__(*base, **more)
        self._window = window
        self._ordered = ordered
        self._arrived: SimpleQueue[GroupCall | None] = SimpleQueue()
        """Settled calls, each when its turn has come; None at the end."""
        self._early: dict[int, GroupCall] = {}
        """Settled calls whose turn has not come, by the number of their first item."""
        self._turn = self._next = 0
        self._unsettled: dict[GroupCall, None] = {}
        self._is_dropped = False

    def _add(self, calls: Sequence[GroupCall]) -> None:
        super()._add(calls)
        for call in calls:
            self._unsettled[call] = None
            self._next = call.first + call.size

    def _next_item(self) -> int:
        return self._next

    def _count(self, call: GroupCall) -> bool:
        del self._unsettled[call]
        if self._is_dropped or self.is_stopped:
            self._window.give_back()
        elif not self._ordered:
            self._arrived.put(call)
        else:
            self._early[call.first] = call
            while (turn := self._early.pop(self._turn, None)) is not None:
                self._arrived.put(turn)
                self._turn += turn.size
        return super()._count(call)

    def _all_settled(self) -> None:
        self._arrived.put(None)
        self.end()

    def unsettled_calls(self) -> Sequence[GroupCall]:
        """Return the calls that were submitted and are not settled."""
        return list(self._unsettled)

    def stop(self, error: Exception) -> None:
        """Submit no more calls, and cancel the unsettled ones. The iterator ends with `error`."""
        super().stop(error)
        self._window.wake()
        self._arrived.put(None)

    def feed_all(self) -> None:
        """Submit all calls now, however many results were taken."""
        self._window.open_fully()

    def drop(self, *, has_begun: bool) -> None:
        """Keep no results any more: the iterator is gone. Runs during garbage collection, on any thread.

        Args:
            has_begun: whether the first result was asked for. If so, the calls are cancelled. Otherwise they run for
                their effects.
        """
        self._is_dropped = True
        if has_begun:
            self.stop(CancelledError())
        else:
            self._window.open_fully()

    def take(self, timeout: float | None) -> GroupCall:
        """Return the next settled call.

        Raises:
            StopIteration: there are no more.
            Empty: it has not arrived within `timeout` seconds.
            CancelledError: the group was stopped.
        """
        self.check_fork()
        call = self._arrived.get(timeout=None if timeout is None else max(0.0, timeout))
        if call is None:
            self._arrived.put(None)  # for the next call, or another thread
            if self.stop_error is not None:
                raise self.stop_error.with_traceback(None)
            raise StopIteration
        self._window.give_back()
        return call


class ItemIterator(Iterator[T]):
    """The results of a method call of a `Pool`, as they are taken. Several threads may take them.

    Dropping it cancels the remaining calls, unless no result was ever asked for.
    """

    def __init__(self, group: ItemGroup, *, in_chunks: bool) -> None:
        self._group = group
        self._in_chunks = in_chunks
        self._values: deque[T] = deque()
        """The values of a chunk that were not taken yet."""
        self._has_begun = False

    def __iter__(self) -> ItemIterator[T]:
        return self

    def next(self, timeout: float | None = None) -> T:
        """Return the next result, or raise the error of its call. After an error, the next call returns the next item.

        Args:
            timeout: seconds to wait; None for no limit.

        Raises:
            StopIteration: there are no more.
            multiprocessing.TimeoutError: the result has not arrived in time.
            CancelledError: the pool was terminated.
        """
        self._has_begun = True
        values = self._values
        while True:
            if values:
                try:
                    return values.popleft()
                except IndexError:  # another thread was faster
                    continue
            try:
                call = self._group.take(timeout)
            except Empty:
                import multiprocessing

                raise multiprocessing.TimeoutError(f"no result has arrived within {timeout:g} s") from None
            value, error = call.opened()
            if error is not None:
                try:
                    raise error from error.__cause__
                finally:
                    del error, call  # the traceback holds this frame, and this frame holds the error
            if not self._in_chunks:
                return value  # type: ignore[no-any-return]  # it comes from a runner
            values.extend(value)

    __next__ = next  # noqa: A003  # the method of this class

    def __del__(self) -> None:
        group = getattr(self, "_group", None)
        if group is not None and not group.has_ended:
            group.drop(has_begun=self._has_begun)
