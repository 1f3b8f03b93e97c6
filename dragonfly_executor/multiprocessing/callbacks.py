"""The user's callbacks of one result."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, Protocol

    from dragonfly_executor.multiprocessing.threads import CallbackThread

    class ResultSource(Protocol):
        """The calls of one result, as its callbacks and its `AsyncResult` use them."""

        @property
        def is_stopped(self) -> bool:
            """Return whether the result was given up."""
            ...

        @property
        def may_be_opened(self) -> bool:
            """Return whether `result` has it: it is there for its own callback before others see it."""
            ...

        def result(self) -> tuple[Any, BaseException | None]:
            """Return the result and None, or None and the error."""
            ...

        def end(self) -> None:
            """Let the threads go on that wait for the end."""

        def wait_for_end(self, timeout: float | None = None) -> bool:
            """Wait for the end, at most `timeout` seconds. Returns whether it has come."""
            ...


class ResultCallbacks:
    """The user's callbacks of one result.

    Args:
        thread: runs them.
        callback: called with the result; None for nothing.
        error_callback: called with the error; None for nothing.
    """

    __slots__ = ("_callback", "_error_callback", "_has_begun", "_thread")

    def __init__(
        self,
        thread: CallbackThread,
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> None:
        self._thread = thread
        self._callback = callback
        self._error_callback = error_callback
        self._has_begun = False

    @property
    def are_running_here(self) -> bool:
        """True in the callback itself."""
        return self._has_begun and self._thread.is_this_thread

    def run(self, source: ResultSource) -> None:
        """Have the callback called, and then end the result. Must not block."""
        self._thread.run(partial(self._run, source))

    def _run(self, source: ResultSource) -> None:
        try:
            value, error = source.result()
            self._has_begun = True
            if source.is_stopped:
                return
            if error is None:
                if self._callback is not None:
                    self._callback(value)
            elif self._error_callback is not None:
                self._error_callback(error)
        except BaseException as failure:  # it is the user's code, and may even call sys.exit()
            from dragonfly_executor.engine.notifications import logger

            logger.error("exception in a callback of a pool", exc_info=failure)
        finally:
            source.end()
