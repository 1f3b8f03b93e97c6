"""Source lines for remote tracebacks: a slot does not have the source of a notebook's cell, and the parent has.

The slot sends the columns of the frames whose source it cannot show. The parent adds the lines, with carets.
"""

from __future__ import annotations

import linecache
import re
import sys
from itertools import islice

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import Any, TypeAlias

    Columns: TypeAlias = tuple[int | None, int | None, int | None]
    """The last line of a frame's instruction, its first column and its last column."""
    SourcelessFrame: TypeAlias = tuple[str, int, str, Columns]
    """A frame without source: file, line, function and columns."""

MOST_FRAMES = 100
_FRAME = re.compile(r'^(?P<margin>[ |+\-]*)  File "(?P<file>.+)", line (?P<line>\d+), in (?P<function>.+)$')


def sourceless_frames(tracebacks: Iterable[TracebackType | None]) -> list[SourcelessFrame]:
    """Return the frames whose source is not here. Runs on a slot."""
    found: list[SourcelessFrame] = []
    for first in tracebacks:
        traceback = first
        while traceback is not None and len(found) < MOST_FRAMES:
            code, line = traceback.tb_frame.f_code, traceback.tb_lineno
            if line is not None and not linecache.getline(code.co_filename, line, traceback.tb_frame.f_globals):
                place = traceback.tb_lasti // 2
                positions = next(islice(code.co_positions(), place, place + 1), (None, None, None, None))
                found.append((code.co_filename, line, code.co_name, positions[1:]))
            traceback = traceback.tb_next
    return found


def with_source(text: str, frames: Any) -> str:
    """Return the text of a traceback with the source lines of the frames that the slot could not show.

    Only files are read whose code runs in this program: the runner names them, and what it names is not trusted. Never
    raises.
    """
    try:
        columns = {(str(file), int(line), str(name)): place for file, line, name, place in list(frames)[:MOST_FRAMES]}
        own, cell_of = _own_files(), _cell_names()
        lines: list[str] = []
        for line in text.split("\n"):
            match = _FRAME.match(line)
            key = None if match is None else (match["file"], int(match["line"]), match["function"])
            if match is None or key not in columns or match["file"] not in own:
                lines.append(line)
                continue
            cell = cell_of(match["file"])
            place = f'File "{match["file"]}"' if cell is None else cell
            lines.append(f"{match['margin']}  {place}, line {match['line']}, in {match['function']}")
            lines += [match["margin"] + shown for shown in _source(key, columns[key])]
        return "\n".join(lines)
    except Exception:  # the runner may have sent anything
        return text


def _own_files() -> set[str]:
    """Return the names of the files whose code this program has loaded, notebook cells among them."""
    loaded = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    return {*linecache.cache, *(file for file in loaded if isinstance(file, str))}


def _cell_names() -> Callable[[str], str | None]:
    """Return a function that names the cell of a notebook whose code is in a file; None for other files."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    describe = getattr(getattr(shell, "compile", None), "format_code_name", None)

    def cell_of(file: str) -> str | None:
        """Return the words that IPython has for a cell."""
        named = None if describe is None else describe(file)
        return " ".join(map(str, named)) if named else None

    return cell_of


def _source(frame: tuple[str, int, str], columns: Any) -> list[str]:
    """Return the source lines of a frame with their carets; empty if there are none."""
    from traceback import FrameSummary, StackSummary

    (file, line, name), (end_line, column, end_column) = frame, columns
    summary = FrameSummary(file, line, name, end_lineno=end_line, colno=column, end_colno=end_column)
    if not summary.line:
        return []
    return StackSummary.from_list([summary]).format()[0].rstrip("\n").split("\n")[1:]
