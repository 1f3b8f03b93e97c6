"""Text for a terminal: as wide as it is, and with nothing in it that the terminal would obey."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence

from dragonfly_executor.util.terminal_text import harmless

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from typing import TextIO

GAP = "  "
LEAST = 30
"""Columns that the text beside something else needs; if there are fewer it goes below."""


def width_of(file: TextIO | None) -> int | None:
    """Return the columns of the terminal that a file is; None if it is none: then nothing is to be wrapped."""
    try:
        if file is None or not file.isatty():
            return None
    except ValueError:  # it is closed
        return None
    try:
        if file is not sys.__stdout__ and not os.environ.get("COLUMNS"):
            return os.get_terminal_size(file.fileno()).columns or 80
    except OSError:
        pass  # it says that it is a terminal, and is no file
    return shutil.get_terminal_size().columns


def show(*lines: str, file: TextIO | None = None) -> None:
    """Print lines now. What the encoding of the file does not have is shown as an escape."""
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


def beside(left: str, text: str, width: int | None) -> list[str]:
    """Return the lines of a text that stands at the right of something.

    Args:
        left: what stands at the left of its first line.
        text: the text; its own ends of lines stay.
        width: columns; None for as many as it takes.
    """
    lines = harmless(text).split("\n")
    indent = " " * len(left)
    if width is not None:
        if width - len(left) < LEAST:
            margin = " " * min(4, width // 4)
            below = [margin + line for line in _wrapped(lines, width - len(margin))]
            return [left[:width].rstrip(), *below] if text else [left[:width].rstrip()]
        lines = _wrapped(lines, width - len(left))
    return [(left + lines[0]).rstrip(), *((indent + line).rstrip() for line in lines[1:])]


def table(head: Sequence[str], rows: Iterable[Sequence[str]], width: int | None) -> list[str]:
    """Return the lines of a table. Its last column is wrapped if there is room; else each row becomes a block.

    Args:
        head: the names of the columns.
        rows: a text for each column.
        width: columns of the terminal; None for as many as it takes.
    """
    shown = [tuple(head), *(tuple(harmless(word).replace("\n", " ") for word in row) for row in rows)]
    widths = [max(len(row[column]) for row in shown) for column in range(len(head) - 1)]
    lefts = ["".join(word.ljust(size) + GAP for word, size in zip(row, widths, strict=False)) for row in shown]
    pairs = list(zip(lefts, shown, strict=True))
    if width is not None and any(len(left + row[-1]) > width for left, row in pairs):
        if width - len(lefts[0]) < LEAST:
            return _blocks(shown, width)
        return [line for left, row in pairs for line in beside(left, row[-1], width)]
    return [(left + row[-1]).rstrip() for left, row in pairs]


def _blocks(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """A row as lines, each with the name of its column; a line between two rows is empty."""
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
