"""`ChunkSize`: chunks grow while items are short, and shrink when items become long."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly_executor.core.chunk_size import GROWTH, MAX_ITEMS, SHARES, TARGET, ChunkSize

EVENTS = st.lists(
    st.tuples(st.integers(0, 5000), st.floats(0, 1e4) | st.floats(0, 1e-3), st.none() | st.integers(0, 10**6))
)


def run(size: ChunkSize, each: float, chunks: int, left: int | None = None) -> list[int]:
    """Run chunks of items of `each` seconds, and return the sizes."""
    sizes = []
    for _ in range(chunks):
        sizes.append(size.next(left))
        size.ended(sizes[-1], sizes[-1] * each)
    return sizes


def test_it_begins_with_one_item() -> None:
    assert ChunkSize(2).next() == 1
    assert ChunkSize(2).next(10**9) == 1


@pytest.mark.parametrize("each", [1e-6, 1e-5, 1e-4, 5e-4])
def test_chunks_of_short_items_grow_to_the_target(each: float) -> None:
    sizes = run(ChunkSize(2), each, 20)
    assert all(later <= GROWTH * earlier for earlier, later in pairwise(sizes))
    assert sizes == sorted(sizes)
    assert sizes[-1] == pytest.approx(min(TARGET / each, MAX_ITEMS), rel=0.01, abs=1)


@pytest.mark.parametrize("each", [TARGET, 0.1, 10.0])
def test_long_items_stay_alone(each: float) -> None:
    assert set(run(ChunkSize(2), each, 20)) == {1}


def test_chunks_shrink_as_soon_as_items_become_long() -> None:
    size = ChunkSize(2)
    run(size, 1e-6, 20)
    big = size.next()
    assert big > 1000
    size.ended(3, 0.3)
    assert size.next() == 1
    assert set(run(size, 0.1, 10)) == {1}
    assert run(size, 1e-6, 40)[-1] == big


def test_one_short_item_among_long_ones_changes_little() -> None:
    size = ChunkSize(2)
    run(size, TARGET, 5)
    size.ended(1, 1e-7)
    assert size.next() <= GROWTH


def test_the_last_chunks_are_small() -> None:
    """So that no slot has a large chunk left when the others are done."""
    size = ChunkSize(4)
    run(size, 1e-6, 20)
    left, sizes = 10_000, []
    while left:
        sizes.append(size.next(left))
        assert sizes[-1] <= max(1, left // (SHARES * 4))
        left -= sizes[-1]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 1


@given(EVENTS, st.integers(0, 1000))
def test_a_size_is_always_within_its_bounds(events: list[tuple[int, float, int | None]], slots: int) -> None:
    size, largest = ChunkSize(slots), 0
    for items, seconds, left in events:
        size.ended(items, seconds)
        largest = max(largest, items)
        chosen = size.next(left)
        assert 1 <= chosen <= MAX_ITEMS
        assert chosen <= max(1, GROWTH * largest)
        if left is not None:
            assert chosen <= max(1, left // (SHARES * max(1, slots)))


@given(EVENTS, st.floats(1e-7, 1.0))
def test_whatever_was_before_it_finds_the_size_of_steady_items(
    events: list[tuple[int, float, int | None]], each: float
) -> None:
    size = ChunkSize(2)
    for items, seconds, _ in events:
        size.ended(items, seconds)
    assert run(size, each, 60)[-1] == pytest.approx(max(1, min(TARGET / each, MAX_ITEMS)), rel=0.01, abs=1)
