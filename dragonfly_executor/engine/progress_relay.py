"""`ProgressRelay`: the progress of a call, or of a map's calls, on its way to the user's callback."""

from __future__ import annotations

from collections.abc import Callable

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.protocol.call_progress import CallProgress


class ProgressRelay:
    """Calls a callback with the latest progress of each call, on the callback thread.

    A callback that is slow gets fewer reports, so no more than one for each call waits.

    Args:
        hook: the user's callback.
        call_back: runs a function with an argument on the callback thread.
    """

    def __init__(self, hook: Callable[[CallProgress], object], call_back: Callable[..., object]) -> None:
        self._hook = hook
        self._call_back = call_back
        self._waiting: dict[int | None, CallProgress] = {}
        self._is_queued = False

    def add(self, progress: CallProgress) -> None:
        """Have the callback called with this. Only the engine thread calls this."""
        # First the report, then the flag; the callback thread reads them in the other order.
        self._waiting[progress.item] = progress
        if not self._is_queued:
            self._is_queued = True
            self._call_back(self._run, None)

    def _run(self, _: Any) -> None:
        self._is_queued = False
        waiting = self._waiting
        while waiting:
            self._hook(waiting.popitem()[1])
