"""`on_drain`: tells a call that its runner ends soon, so that the call can save its state.

The agent sends SIGURG to its slots when it drains. The default action of that signal is to ignore it, so a call that
does not use `on_drain` notices nothing, and pays nothing. The agent repeats the signal while it drains, for calls that
use `on_drain` later.
"""

from __future__ import annotations

import signal

from dragonfly_executor.protocol.parent import Parent
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, TracebackType
    from typing import Self

    Handler = Callable[[int, FrameType | None], object] | int | None

DRAIN_SIGNAL = signal.SIGURG


class DrainNotice:
    """A notice of the drain while a ``with`` block runs. Made by `on_drain`.

    Attributes:
        has_begun: True once the drain has begun.
    """

    def __init__(self, hook: Callable[[], object] | None) -> None:
        self.has_begun = False
        self._hook = hook
        self._before: Handler = None
        self._is_watching = False

    def __enter__(self) -> Self:
        if Parent.of_process() is None:  # a fake runner sends no signal
            return self
        # Only a call that uses this pays for the import.
        import threading

        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("on_drain() works only on the thread that runs the call, as Python's signal handlers do")
        self._before = signal.getsignal(DRAIN_SIGNAL)
        signal.signal(DRAIN_SIGNAL, self._on_signal)
        self._is_watching = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_watching:
            self._is_watching = False
            signal.signal(DRAIN_SIGNAL, self._before)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Run the hook once, after that of a ``with`` block around this one."""
        if callable(self._before):
            self._before(number, frame)
        if not self.has_begun:
            self.has_begun = True
            if self._hook is not None:
                self._hook()


def on_drain(hook: Callable[[], object] | None = None) -> DrainNotice:
    """Return a context manager that tells the call inside of it when its runner begins to drain.

    A runner drains when its end is known: at a time limit, after a notice of its platform, or on SIGTERM. The call then
    has until that end, usually 25 to 30 s. Outside a runner, the context manager does nothing.

        with on_drain(lambda: model.save(path)):
            model.train()

    Args:
        hook: called once when the drain begins, as a signal handler is: on the thread of the call, between two
            bytecodes. An exception of the hook is raised in the call, and ends it. None: the call reads `has_begun`.

    Raises:
        RuntimeError: on enter, if another thread than that of the call enters the context.
    """
    return DrainNotice(hook)
