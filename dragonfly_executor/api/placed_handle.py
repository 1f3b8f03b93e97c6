"""`PlacedHandle`: the parts that the handles of workers and of processes have in common."""

from __future__ import annotations

from dragonfly_executor.errors import WorkerLostError
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from dragonfly_executor.engine.placed.worker_driver import WorkerDriver


class PlacedHandle:
    """The handle of something that stays in a slot of its own.

    As a context manager it is stopped at the end of the block, or killed if the block raises.
    """

    _driver: WorkerDriver

    def stop(self, wait: bool = True, timeout: float | None = None) -> None:
        """End it, and return once it has ended.

        Args:
            wait: False to return at once.
            timeout: seconds to wait; None for no limit.

        Raises:
            TimeoutError: it has not ended in time.
        """
        self._driver.stop()
        if wait:
            self._driver.ended.exception(timeout)

    def kill(self) -> None:
        """End it at once. Returns at once."""
        self._driver.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self.kill()
        self.stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self.kill()
        self._driver.stop()
        try:
            await self._driver.ended
        except WorkerLostError:
            return

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._driver.name} state={self._driver.state}>"
