"""The table of shared objects in a payload, and lists of numbers: what was packed is read, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly_executor.protocol.shared_entries import (
    INLINE_SIZE,
    NO_DESCRIPTOR,
    NO_DIGEST,
    SharedEntry,
    pack_entries,
    pack_numbers,
    read_entries,
    read_numbers,
)

big = st.integers(0, 2**64 - 1)
inline = st.builds(
    lambda number, data: SharedEntry(number, len(data), NO_DIGEST, NO_DESCRIPTOR, 0, data),
    big,
    st.binary(max_size=INLINE_SIZE),
)
placed = st.builds(
    SharedEntry, big, big, st.binary(min_size=32, max_size=32), st.integers(0, 2**31 - 1), big, st.just(b"")
)
entries = st.lists(st.one_of(inline, placed), max_size=20)


@given(entries)
def test_a_table_is_read_as_it_was_packed(table: list[SharedEntry]) -> None:
    assert read_entries(pack_entries(table)) == table


@given(entries.filter(bool), st.data())
def test_a_table_that_is_cut_short_is_refused(table: list[SharedEntry], data: st.DataObject) -> None:
    packed = pack_entries(table)
    whole = {len(pack_entries(table[:count])) for count in range(len(table) + 1)}
    cut = data.draw(st.integers(0, len(packed)).filter(lambda size: size not in whole))
    with pytest.raises(ValueError, match="cut short"):
        read_entries(packed[:cut])


@given(st.lists(big))
def test_numbers(numbers: list[int]) -> None:
    packed = pack_numbers(numbers)
    assert read_numbers(packed) == numbers
    with pytest.raises(ValueError, match="cut short"):
        read_numbers(packed + b"1")
