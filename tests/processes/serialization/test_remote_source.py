"""Remote tracebacks of code that travelled by value: real file or cell, line, source and carets."""

from __future__ import annotations

import linecache
import re
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor.serialization import exceptions, remote_source
from tests.processes.conftest import Make
from tests.support.helpers import error_of

CELL = "<a cell that only this program knows>"
SOURCE = """def outer(value):
    def inner():
        return value["a"] + value["b"]["c"]
    return inner()
"""


@pytest.fixture
def outer(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function of a notebook's cell: the source is in the parent's line cache alone."""
    monkeypatch.setitem(linecache.cache, CELL, (len(SOURCE), None, SOURCE.splitlines(keepends=True), CELL))
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(SOURCE, CELL, "exec"), namespace)
    return namespace["outer"]


def test_a_cells_lines_are_shown_with_carets(make: Make, outer: Any) -> None:
    text = str(error_of(make(1).submit(outer, {"a": 1, "b": {}})).__cause__)
    lines = text.splitlines()
    place = lines.index(f'  File "{CELL}", line 3, in inner')
    assert lines[place + 1] == '    return value["a"] + value["b"]["c"]'
    assert set(lines[place + 2].strip()) <= set("~^")
    # The carets stand below the part that raised.
    start, end = lines[place + 2].index("~"), len(lines[place + 2])
    assert lines[place + 1][start:end] == 'value["b"]["c"]'
    assert lines[lines.index(f'  File "{CELL}", line 4, in outer') + 1] == "    return inner()"


def test_groups_and_causes_have_their_lines_too(make: Make, outer: Any) -> None:
    def grouped() -> None:
        try:
            outer({"a": 1, "b": {}})
        except KeyError as error:
            raise ExceptionGroup("several", [error]) from error

    text = str(error_of(make(1).submit(grouped)).__cause__)
    shown = [line for line in text.splitlines() if line.endswith('return value["a"] + value["b"]["c"]')]
    assert len(shown) == 2
    assert any(line.lstrip().startswith("|") for line in shown)


def test_only_files_of_this_program_are_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret.py"
    secret.write_text("password = 'hunter2'\n")
    text = f'Traceback (most recent call last):\n  File "{secret}", line 1, in f\nKeyError: 1\n'
    frames = [(str(secret), 1, "f", (1, 0, 8))]
    assert remote_source.with_source(text, frames) == text
    for garbage in (None, 7, [1], [("x",)], [(1, "x", 2, 3)]):
        assert remote_source.with_source(text, garbage) == text


def test_an_error_whose_source_is_known_sends_nothing_more() -> None:
    try:
        raise KeyError("here")  # this file is everywhere
    except KeyError as error:
        (data,) = exceptions.encode(error, lambda value: b"", lambda data: None)
    assert re.search(rb"test_remote_source", bytes(data))
    assert len(exceptions.pickle.loads(data)) == 4
