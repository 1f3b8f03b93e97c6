"""The displays of a map's progress: a widget in notebooks, a bar on terminals, otherwise plain lines.

On a terminal, the bar is rich's if rich is installed, otherwise tqdm's. Without both, and without a terminal, there are
lines of text on stderr.
"""

from __future__ import annotations

import sys
import threading
from importlib import import_module
from time import monotonic

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol
from dragonfly_executor.util.terminal_text import escape_controls

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TextIO

LINE_EVERY = 10.0
"""Seconds between two lines of a display without a terminal."""


class Display(Protocol):
    """Whatever shows the progress of a map. One thread at a time uses it."""

    def update(self, done: int, failed: int, runners: int) -> None:
        """Show these counts."""

    def close(self) -> None:
        """Leave the last state on the screen."""


def make_display(text: str, total: int | None) -> Display:
    """Return the best display for this process's stderr.

    Args:
        text: names the map.
        total: number of its items; None if that is unknown.
    """
    text = escape_controls(text)
    makers: list[Callable[[str, int | None], Display]] = []
    if is_notebook():
        makers = [NotebookBar]
    elif is_terminal(sys.stderr):
        makers = [RichBar, TqdmBar]
    for make in makers:
        try:
            return make(text, total)
        except ImportError:
            continue  # it is not installed
    return PlainLines(text, total, sys.stderr)


def is_notebook() -> bool:
    """Return whether this is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


def is_terminal(file: TextIO | None) -> bool:
    """Return whether a file is a terminal."""
    try:
        return file is not None and file.isatty()
    except ValueError:  # it is closed
        return False


def counts(failed: int, runners: int) -> str:
    """Return the words for these counts."""
    return f"{failed} failed, {runners} {'runner' if runners == 1 else 'runners'}"


class TqdmBar:
    """A bar of tqdm.

    Raises:
        ImportError: tqdm is not installed.
    """

    def __init__(self, text: str, total: int | None) -> None:
        self._bar: Any = self._bar_type()(
            total=total, desc=text, unit=" items", mininterval=0, miniters=0, dynamic_ncols=True, file=sys.stderr
        )

    def _bar_type(self) -> Any:
        from tqdm import tqdm

        return without_monitor(tqdm)

    def update(self, done: int, failed: int, runners: int) -> None:
        """See `Display`."""
        self._bar.set_postfix_str(counts(failed, runners), refresh=False)
        self._bar.update(done - self._bar.n)
        self._bar.refresh()

    def close(self) -> None:
        """See `Display`."""
        self._bar.close()


class NotebookBar(TqdmBar):
    """A widget of tqdm in a notebook.

    Raises:
        ImportError: tqdm or ipywidgets is not installed.
    """

    def _bar_type(self) -> Any:
        from tqdm.notebook import tqdm

        import_module("ipywidgets")  # tqdm can be imported without it, and fails later

        return without_monitor(tqdm)


def without_monitor(tqdm: Any) -> Any:
    """Return a class of bars without tqdm's monitor thread and its lock for several processes."""

    class Bar(tqdm):  # type: ignore[misc]  # untyped
        """A bar that only its own thread draws."""

        monitor_interval = 0
        _lock = threading.RLock()

    return Bar


class RichBar:
    """A bar of rich.

    Raises:
        ImportError: rich is not installed.
    """

    def __init__(self, text: str, total: int | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress: Any = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeRemainingColumn(),
            TextColumn("{task.fields[counts]}", markup=False),
            console=Console(stderr=True),
            auto_refresh=False,
        )
        self._began = monotonic()
        self._task = self._progress.add_task(text, total=total, rate="", counts="")
        self._progress.start()

    def update(self, done: int, failed: int, runners: int) -> None:
        """See `Display`."""
        rate = rate_text(done, monotonic() - self._began)
        self._progress.update(self._task, completed=done, rate=rate, counts=counts(failed, runners), refresh=True)

    def close(self) -> None:
        """See `Display`."""
        self._progress.stop()


class PlainLines:
    """Lines of text, one each `LINE_EVERY` seconds, and one at the end.

    Args:
        text, total: see `make_display`.
        file: gets the lines; None for none.
        clock: returns seconds.
    """

    def __init__(
        self, text: str, total: int | None, file: TextIO | None, clock: Callable[[], float] = monotonic
    ) -> None:
        self._text = text
        self._total = total
        self._file = file
        self._clock = clock
        self._began = clock()
        self._due = self._began + LINE_EVERY
        self._line = ""

    def update(self, done: int, failed: int, runners: int) -> None:
        """See `Display`."""
        now = self._clock()
        share = ""
        if self._total is not None:
            percent = f" ({100 * done // self._total} %)" if self._total else ""
            share = f" of {self._total}{percent}"
        rate = rate_text(done, now - self._began)
        self._line = f"{self._text}: {done}{share} items, {rate}, {counts(failed, runners)}\n"
        if now >= self._due:
            self._due = now + LINE_EVERY
            self._write()

    def close(self) -> None:
        """See `Display`."""
        self._write()

    def _write(self) -> None:
        if self._file is not None:
            self._file.write(self._line)
            self._file.flush()


def rate_text(done: int, seconds: float) -> str:
    """Return the words for a number of items in a number of seconds."""
    rate = done / seconds if seconds > 0 else 0.0
    return f"{rate:.3g}/s" if rate < 1000 else f"{rate:.0f}/s"
