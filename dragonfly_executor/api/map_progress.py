"""`map(..., progress=True)`: one bar for all items of a map, drawn by a thread while results are waited for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Sequence, Sized

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.api.progress_display import Display

INTERVAL = 0.1
"""Seconds between two updates of the bar."""


class MapProgress:
    """The progress of one map: counts, and the thread that draws them.

    The thread lives from `begin` to `end`. If the display fails, for example because its terminal is gone, it draws no
    more, and the map goes on.

    Args:
        make_display: makes the display, when the first result is asked for.
        settled: returns the number of items whose calls have ended, as far as it is known.
        runners: returns the number of runners that are up.
    """

    def __init__(
        self, make_display: Callable[[], Display], settled: Callable[[], int], runners: Callable[[], int]
    ) -> None:
        self.taken = 0
        """Number of results that were taken."""
        self.failed = 0
        """Number of items that failed, among these."""
        self._make_display = make_display
        self._settled = settled
        self._runners = runners
        self._display: Display | None = None
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dragonfly-progress", daemon=True)

    def begin(self) -> None:
        """Start to draw."""
        try:
            self._display = self._make_display()
            self._draw()
            self._thread.start()
        except Exception:
            # The terminal is gone, or there is no room for a thread. The map does not depend on it.
            return

    def _run(self) -> None:
        try:
            while not self._has_ended.wait(INTERVAL):
                self._draw()
        except Exception:
            return

    def _draw(self) -> None:
        if self._display is not None:
            self._display.update(max(self.taken, self._settled()), self.failed, self._runners())

    def end(self) -> None:
        """Draw the last state, and end the thread."""
        self._has_ended.set()
        if self._thread.ident is not None:
            self._thread.join()
        try:
            if self._display is not None:
                self._display.update(self.taken, self.failed, self._runners())
                self._display.close()
        except Exception:
            return


def with_progress(
    results: Generator[Any, None, None], progress: MapProgress, *, returns_errors: bool
) -> Generator[Any, None, None]:
    """Yield the results of a map, and show how many there are.

    Args:
        results: the results.
        progress: draws.
        returns_errors: the exceptions of items are among the results.
    """
    try:
        progress.begin()
        for value in results:
            progress.taken += 1
            if returns_errors and isinstance(value, BaseException):
                progress.failed += 1
            yield value
    except GeneratorExit:
        raise
    except BaseException:
        progress.failed += 1
        raise
    finally:
        try:
            results.close()
        finally:
            progress.end()


def total_of(iterables: Sequence[Iterable[Any]]) -> int | None:
    """Return the number of items of a map; None if an iterable has no length."""
    lengths = [len(iterable) for iterable in iterables if isinstance(iterable, Sized)]
    return min(lengths) if lengths and len(lengths) == len(iterables) else None
