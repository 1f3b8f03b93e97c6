"""What is printed for people fits the terminal; where there is none it is whole."""

from __future__ import annotations

import fcntl
import io
import os
import struct
import sys
import termios
from collections.abc import Iterator
from typing import Any, TextIO

import pytest

from dragonfly_executor.cli import terminal as terminal_module
from dragonfly_executor.cli.main import main


class Terminal(io.StringIO):
    """Says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal() -> Iterator[tuple[TextIO, Any]]:
    """A real one, and what sets its width."""
    outer, inner = os.openpty()

    def set_width(columns: int) -> None:
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    with os.fdopen(inner, "w") as file:
        yield file, set_width
    os.close(outer)


def test_the_width_is_the_terminals(terminal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file, set_width = terminal
    monkeypatch.delenv("COLUMNS", raising=False)
    set_width(61)
    assert terminal_module.width_of(file) == 61
    set_width(0)
    assert terminal_module.width_of(file) == 80
    monkeypatch.setenv("COLUMNS", "47")
    assert terminal_module.width_of(file) == 47


def test_what_is_no_terminal_has_no_width(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("COLUMNS", "47")
    with (tmp_path / "file").open("w") as file:
        assert terminal_module.width_of(file) is None
    assert terminal_module.width_of(file) is None  # closed
    assert terminal_module.width_of(None) is None
    assert terminal_module.width_of(io.StringIO()) is None
    assert terminal_module.width_of(Terminal()) == 47


def test_what_the_encoding_does_not_have_is_shown_all_the_same() -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    terminal_module.show("→ Zoë", "plain", file=file)
    assert raw.getvalue() == b"-> Zo\\xeb\nplain\n"


def test_a_program_without_a_console_is_shown_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    terminal_module.show("nobody")


LEFT = "  create         FAILED  "
TEXT = "BootError: cannot start /a/very/long/path/to/some/python-of-the-users: there is no such file\nand a second line"


def test_a_text_without_a_width_stays_whole() -> None:
    first, second = terminal_module.beside(LEFT, TEXT, None)
    assert first == LEFT + TEXT.partition("\n")[0]
    assert second == " " * len(LEFT) + "and a second line"
    assert terminal_module.beside(LEFT, "", None) == [LEFT.rstrip()]


@pytest.mark.parametrize("width", [200, 100, 80, 60, 55, 54, 40, 26, 25, 10, 5, 1])
def test_a_text_fits_whatever_the_width(width: int) -> None:
    lines = terminal_module.beside(LEFT, TEXT, width)
    assert max(map(len, lines)) <= width
    assert "".join("".join(lines).split()).endswith("".join(TEXT.split()))


HEAD = ("MACHINE", "NAME", "STATE", "OWNER")
ROWS = [
    (
        "d8d4440b921468",
        "runner-1-of-a-pool",
        "started",
        "gone: process 4711 on a-host-with-a-long-name is gone since then",
    ),
    ("-", "runner-2", "asked for", "alive"),
]


def test_a_table_without_a_width_has_a_line_for_each_row() -> None:
    lines = terminal_module.table(HEAD, ROWS, None)
    assert [line.split()[0] for line in lines] == ["MACHINE", "d8d4440b921468", "-"]
    assert len({line.index(word) for line, word in zip(lines, ("OWNER", "gone:", "alive"), strict=True)}) == 1
    assert terminal_module.table(HEAD, ROWS, max(map(len, lines))) == lines


def test_the_last_column_is_wrapped_where_there_is_room() -> None:
    lines = terminal_module.table(HEAD, ROWS, 90)
    assert max(map(len, lines)) <= 90
    column = lines[0].index("OWNER")
    assert " ".join(line[column:] for line in lines) == f"OWNER {ROWS[0][3]} alive"
    assert [line[0] for line in lines if not line[:column].isspace()] == ["M", "d", "-"]


@pytest.mark.parametrize("width", [70, 50, 40, 20, 9])
def test_a_narrow_terminal_gets_a_block_for_each_row(width: int) -> None:
    lines = terminal_module.table(HEAD, ROWS, width)
    assert max(map(len, lines)) <= width
    said = "".join("".join(lines).split())
    for word in (*ROWS[0], *ROWS[1]):
        assert "".join(word.split()) in said
    assert lines.count("") == 1


def test_what_is_shown_does_nothing_to_the_terminal() -> None:
    assert "\x1b]" not in terminal_module.beside("", "title \x1b]0;owned\x07", 80)[0]
    (_, row) = terminal_module.table(HEAD, [("a\x1b[2J", "b\nc", "d", "e")], None)
    assert "\x1b" not in row
    assert "b c" in row


def test_the_doctor_fits_its_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    said = Terminal()
    monkeypatch.setattr(sys, "stdout", said)
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["doctor", "--python", f"/nowhere/{'x' * 100}/python"]) == 1
    lines = said.getvalue().splitlines()
    assert max(map(len, lines)) <= 60
    assert "x" * 100 in "".join(line.strip() for line in lines)
