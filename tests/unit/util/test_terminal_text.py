"""What a terminal would obey is shown instead, however it comes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly_executor.protocol.output_window import MAX_LINE, LineDecoder
from dragonfly_executor.util.terminal_text import MAX_SGR, RESET, escape_controls, split_at_carriage_returns
from tests.unit.protocol.test_output_window import all_of, cuts, split

OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
SGR = re.compile(r"\x1b\[[0-9;:]*m")
pieces = st.sampled_from([
    "a", "é", "\t", "\n", "\r", "\b", "\x07", "\x1b", "\x1b[", "\x1b]", "\x1b[31m", "\x1b[0m", "\x1b[2J", "\x1b[1A",
    "\x1b]0;title\x07", "\x1b]8;;http://x\x1b\\\\", "\x1bP", "\x9b", "\x9b31m", "\x9d0;t\x9c", "\x85", "\x7f", "\0",
    "\u202e", "31", ";", "m", "x" * 500,
])  # fmt: skip
texts = st.lists(st.one_of(pieces, st.characters(max_codepoint=0x2100)), max_size=40).map("".join)


def obeyed(shown: str) -> list[str]:
    """What a terminal would still do something about, beside ends of lines, tabs and colours."""
    return OBEYED.findall(SGR.sub("", shown))


@given(texts)
def test_nothing_is_left_that_a_terminal_obeys(text: str) -> None:
    assert obeyed(escape_controls(text)) == []


@given(texts)
def test_what_it_writes_after_a_line_is_as_before(text: str) -> None:
    """A colour does not run on into the next line, which begins with another tag."""
    renditions = SGR.findall(escape_controls(text))
    assert not renditions or renditions[-1] == RESET


@given(texts, cuts)
def test_a_sequence_in_pieces_is_what_it_is_in_one(text: str, places: list[int]) -> None:
    whole = [escape_controls(line) for line in all_of(LineDecoder(), [text.encode(errors="replace")])]
    apart = [escape_controls(line) for line in all_of(LineDecoder(), split(text.encode(errors="replace"), places))]
    assert apart == whole
    assert [found for line in apart for found in obeyed(line)] == []


@pytest.mark.parametrize("offset", range(7))
def test_a_sequence_where_a_long_line_is_cut_is_no_sequence(offset: int) -> None:
    text = "x" * (MAX_LINE - offset) + "\x1b[2J\x1b]0;title\x07"
    shown = [escape_controls(line) for line in all_of(LineDecoder(), [text.encode()])]
    assert len(shown) == 2
    assert [found for line in shown for found in obeyed(line)] == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("", ""),
        ("tab\tand é 𝄞", "tab\tand é 𝄞"),
        ("\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m\x1b[0m"),
        ("\x1b[38;2;1;2;3mrgb", "\x1b[38;2;1;2;3mrgb\x1b[0m"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("\x1b[1;1Hmoved", "\\x1b[1;1Hmoved"),
        ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
        ("\x9b2J", "\\x9b2J"),
        ("no\b\b\byes", "no\\x08\\x08\\x08yes"),
        ("\x1b[" + "1" * (MAX_SGR + 1) + "m", "\\x1b[" + "1" * (MAX_SGR + 1) + "m"),
        ("\x1b[?25m", "\\x1b[?25m"),
        ("abc\u202edef", "abc\\u202edef"),
        ("two\nlines", "two\nlines"),
    ],
)
def test_what_is_shown(text: str, shown: str) -> None:
    assert escape_controls(text) == shown


@pytest.mark.parametrize(
    ("line", "pieces"),
    [
        ("one", ["one"]),
        ("", [""]),
        ("dos\r", ["dos"]),
        ("\r10%\r20%\r30%", ["10%", "20%", "30%"]),
        ("\r", [""]),
    ],
)
def test_a_carriage_return_begins_a_line(line: str, pieces: list[str]) -> None:
    assert split_at_carriage_returns(line) == pieces
