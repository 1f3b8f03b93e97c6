"""`Group`: the calls of one method call of a pool, as the pool and the threads that wait for its end use them."""

from __future__ import annotations

from dragonfly_executor.errors import ForkedExecutorError
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, Protocol

    from dragonfly_executor.engine.latch import Latch

    class GroupPool(Protocol):
        """A pool, as its groups use it. Any thread may call these, so they must not block."""

        def group_fed(self) -> None:
            """Note that all calls of a group were submitted."""

        def group_ended(self, group: Group) -> None:
            """Note that a group has ended."""


class Group:
    """The calls of one method call. A subclass sets the attributes, and cancels its calls.

    Attributes:
        is_fed: whether all calls were submitted.
        stop_error: the error of what did not end before the group was stopped; None if it was not stopped.
    """

    __slots__ = ()

    if TYPE_CHECKING:
        is_fed: bool
        stop_error: Exception | None
        _pool: GroupPool | None
        _end: Latch
        _engine: Any

    def cancel_unsettled(self) -> None:
        """Cancel the calls that were submitted and are not settled."""
        raise NotImplementedError

    def feed_all(self) -> None:
        """Submit all calls now, however many results were taken. Default: they were submitted."""

    def stop(self, error: Exception) -> None:
        """Submit no more calls, and cancel the unsettled ones. `error` stands for their results."""
        if self._end.is_open:
            return
        self.stop_error = self.stop_error or error  # type: ignore[misc]  # the subclass has the slot
        self.cancel_unsettled()
        self.end()

    @property
    def is_stopped(self) -> bool:
        """Return whether the group was stopped, so that no more calls are to be submitted."""
        return self.stop_error is not None

    def end(self) -> None:
        """Let the threads go on that wait for the end, and let go of the pool. Calling it twice is fine."""
        pool, self._pool = self._pool, None  # type: ignore[misc]  # the same
        self._end.open()
        if pool is not None:
            pool.group_ended(self)

    @property
    def has_ended(self) -> bool:
        """Return whether all calls are settled and the user's callback has run, or the group was stopped."""
        return self._end.is_open

    def wait_for_end(self, timeout: float | None = None) -> bool:
        """Wait until the group has ended, at most `timeout` seconds. Return whether it has.

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
            raise ForkedExecutorError(
                "this result belongs to the process that this one was forked from: it arrives only there"
            )
