"""What calls write, as text: any split of the bytes gives the same."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from dragonfly_executor.protocol.output_window import MAX_LINE, LineDecoder, TextDecoder

characters = st.sampled_from(["a", "\n", "é", "€", "𝄞", "\r\n", "x" * 500])
texts = st.lists(characters, max_size=60).map("".join)
noise = st.lists(st.one_of(texts.map(str.encode), st.binary(max_size=8)), max_size=12).map(b"".join)
cuts = st.lists(st.integers(0, 10**6), max_size=20)


def split(data: bytes, places: list[int]) -> list[bytes]:
    """`data` cut at these places."""
    ends = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(ends)]


def all_of(text: TextDecoder | LineDecoder, pieces: list[bytes]) -> list[str]:
    """Everything that it makes of the pieces."""
    return [found for piece in pieces for found in text.feed(piece)] + text.end()


@given(noise, cuts)
def test_any_split_of_the_bytes_gives_the_same_text(data: bytes, places: list[int]) -> None:
    """A character is never split, and what is none is replaced as it is in one piece."""
    assert "".join(all_of(TextDecoder(), split(data, places))) == data.decode(errors="replace")


@given(noise, cuts)
def test_any_split_of_the_bytes_gives_the_same_lines(data: bytes, places: list[int]) -> None:
    lines = data.split(b"\n")
    expected = [line.decode(errors="replace") for line in (lines if lines[-1] else lines[:-1])]
    assert all_of(LineDecoder(), split(data, places)) == expected


@given(st.integers(MAX_LINE - 2, 3 * MAX_LINE + 2), st.sampled_from(["a", "é", "€", "𝄞"]), st.booleans(), cuts)
def test_a_long_line_is_cut_at_the_same_places_however_it_comes(
    size: int, character: str, ends: bool, places: list[int]
) -> None:
    data = (character * size).encode()[:size] + b"\n" * ends
    whole = all_of(LineDecoder(), [data])
    assert all_of(LineDecoder(), split(data, places)) == whole
    assert all(len(line.encode()) <= MAX_LINE + 9 for line in whole)
    # Between the pieces no character was lost: only an incomplete one at the very end is replaced.
    assert "".join(whole) == data.removesuffix(b"\n").decode(errors="replace")


def test_a_line_of_exactly_the_longest_size_is_one_line() -> None:
    data = b"x" * MAX_LINE
    assert all_of(LineDecoder(), [data, b"\ny\n"]) == ["x" * MAX_LINE, "y"]


def test_text_is_not_held_back_longer_than_a_character_needs() -> None:
    text = TextDecoder()
    assert text.feed(b"a\xe2\x82") == ["a"]
    assert text.feed(b"\xac") == ["€"]
    assert text.feed(b"\xf0\x9d") == []
    assert text.end() == ["�"]
