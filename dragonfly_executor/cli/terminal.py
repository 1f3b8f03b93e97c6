"""Output to a terminal: wrapped to its width, and without control characters for the terminal to interpret."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING
from dragonfly_executor.util.terminal_text import escape_controls

if TYPE_CHECKING:
    from typing import TextIO

GAP = "  "
LEAST = 30
"""The minimum width in columns of the right-hand text. A text with less room goes below the left-hand one."""


def width_of(file: TextIO | None) -> int | None:
    """Return the width of the terminal in columns; None if the file is no terminal, so that nothing is wrapped."""
    try:
        if file is None or not file.isatty():
            return None
    except ValueError:  # the file is closed
        return None
    try:
        if file is not sys.__stdout__ and not os.environ.get("COLUMNS"):
            return os.get_terminal_size(file.fileno()).columns or 80
    except OSError:
        pass  # the file claims to be a terminal, but has no descriptor of one
    return shutil.get_terminal_size().columns


def show(*lines: str, file: TextIO | None = None) -> None:
    """Print lines and flush. Characters that the file's encoding lacks become escapes."""
    file = sys.stdout if file is None else file
    if file is None:
        return
    text = "".join(f"{line}\n" for line in lines)
    try:
        file.write(text)
    except UnicodeEncodeError:
        encoding = file.encoding or "ascii"
        file.write(text.replace("→", "->").encode(encoding, "backslashreplace").decode(encoding))
    file.flush()


def confirm_destruction(count: int, nouns: str, alive: int) -> bool:
    """Ask the user on the terminal, by stderr, whether nodes may be destroyed.

    Args:
        count: number of the nodes.
        nouns: the word for nodes, in the plural.
        alive: number of the nodes whose owners are alive.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        show("dragonfly: cannot ask for confirmation without a terminal; give --yes", file=sys.stderr)
        return False
    lost = f", {alive} of them in use: their calls are lost" if alive else ""
    sys.stderr.write(f"Destroy these {count} {nouns}{lost}? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def duration(seconds: float) -> str:
    """Return a duration as text, in its two largest units."""
    whole = int(seconds)
    for unit, size, below, of_it in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // of_it} {below}"
    return f"{whole} s"


def beside(left: str, text: str, width: int | None) -> list[str]:
    """Return the lines of a text to the right of another.

    Args:
        left: the text to the left of the first line.
        text: the text. Its own line breaks stay.
        width: the maximum width in columns; None for no limit.
    """
    lines = escape_controls(text).split("\n")
    indent = " " * len(left)
    if width is not None:
        if width - len(left) < LEAST:
            margin = " " * min(4, width // 4)
            below = [margin + line for line in _wrapped(lines, width - len(margin))]
            return [left[:width].rstrip(), *below] if text else [left[:width].rstrip()]
        lines = _wrapped(lines, width - len(left))
    return [(left + lines[0]).rstrip(), *((indent + line).rstrip() for line in lines[1:])]


def table(head: Sequence[str], rows: Iterable[Sequence[str]], width: int | None) -> list[str]:
    """Return the lines of a table. The last column is wrapped if there is room; otherwise each row becomes a block.

    Args:
        head: the names of the columns.
        rows: rows with a text for each column.
        width: the width of the terminal in columns; None for no limit.
    """
    shown = [tuple(head), *(tuple(escape_controls(word).replace("\n", " ") for word in row) for row in rows)]
    widths = [max(len(row[column]) for row in shown) for column in range(len(head) - 1)]
    lefts = ["".join(word.ljust(size) + GAP for word, size in zip(row, widths, strict=False)) for row in shown]
    pairs = list(zip(lefts, shown, strict=True))
    if width is not None and any(len(left + row[-1]) > width for left, row in pairs):
        if width - len(lefts[0]) < LEAST:
            return _blocks(shown, width)
        return [line for left, row in pairs for line in beside(left, row[-1], width)]
    return [(left + row[-1]).rstrip() for left, row in pairs]


def _blocks(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return each row as a block of lines, one per column with its name. A blank line separates blocks."""
    size = max(map(len, rows[0]))
    lines: list[str] = []
    for row in rows[1:]:
        lines += [""] if lines else []
        for name, word in zip(rows[0], row, strict=True):
            lines += beside(name.ljust(size) + GAP, word, width)
    return lines


def _wrapped(lines: Iterable[str], width: int) -> list[str]:
    wrapped: list[str] = []
    for line in lines:
        wrapped += textwrap.wrap(line, width, break_on_hyphens=False) or [""]
    return wrapped
