"""`MethodInbox`: method calls on their way from the threads that make them to the engine thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly_executor.engine.context import WorkerContext
    from dragonfly_executor.engine.placed.method_call import MethodCall


class MethodInbox:
    """The method calls of one worker that the engine thread has yet to take.

    Args:
        engine: the pool's.
        take: takes the calls, on the engine thread.

    Attributes:
        refusal: makes the error of calls from now on; None while the worker accepts calls. The engine thread sets it,
            and all threads read it.
    """

    def __init__(self, engine: WorkerContext, take: Callable[[], object]) -> None:
        self._engine = engine
        self._take = take
        self._calls: deque[MethodCall] = deque()
        self.refusal: Callable[[], Exception] | None = None

    def check_open(self) -> None:
        """Raise the error that a method call would raise now."""
        if self.refusal is not None:
            raise self.refusal()
        self._engine.check_open()

    def accept(self, call: MethodCall) -> None:
        """Accept a call, on any thread.

        Raises:
            WorkerLostError: the worker has ended.
            RuntimeError: it was stopped, or its pool was shut down.
        """
        self.check_open()
        try:
            self._calls.append(call)
            self._engine.on_thread(lambda _: self._take())
            # The engine thread sets the refusal first, and takes the calls for the last time after that.
            if self.refusal is not None and self._withdraw(call):
                self.check_open()
        except BaseException:
            self._withdraw(call)
            raise

    def _withdraw(self, call: MethodCall) -> bool:
        try:
            self._calls.remove(call)
        except ValueError:
            return False
        return True

    def close(self, refusal: Callable[[], Exception]) -> None:
        """Accept no more calls, on the engine thread. The first reason stays."""
        self.refusal = self.refusal or refusal

    def take_all(self) -> list[MethodCall]:
        """Remove all calls and return them, on the engine thread."""
        calls = []
        while self._calls:
            calls.append(self._calls.popleft())
        return calls
