"""The table that says which objects are evicted: bounded, least recently used first, what is needed now stays."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dragonfly_executor.core.recently_used import RecentlyUsed

numbers = st.integers(1, 8)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), numbers, st.integers(0, 50)),
        st.tuples(st.just("use"), numbers, st.just(0)),
        st.tuples(st.just("remove"), numbers, st.just(0)),
        st.tuples(st.just("evict"), numbers, st.just(0)),
    )
)


@given(steps, st.integers(0, 100), st.integers(0, 5))
def test_it_evicts_the_least_recently_used_first(
    steps: list[tuple[str, int, int]], most: int, most_objects: int
) -> None:
    """Against a list that is walked: `evict` removes objects from its front until the bounds hold."""
    table = RecentlyUsed(most, most_objects)
    model: list[tuple[int, int]] = []
    for what, number, size in steps:
        others = [entry for entry in model if entry[0] != number]
        here = [entry for entry in model if entry[0] == number]
        if what == "add":
            table.add(number, size)
            model = [*others, (number, size)]
        elif what == "use" and here:
            table.use(number)
            model = others + here
        elif what == "remove":
            table.remove(number)
            model = others
        elif what == "evict":
            expected = []
            for entry in list(model):
                if sum(size for _, size in model) <= most and len(model) <= most_objects:
                    break
                if entry[0] != number:
                    model.remove(entry)
                    expected.append(entry[0])
            assert table.evict({number}) == expected
        assert table.total == sum(size for _, size in model)
        assert len(table) == len(model)
        assert [each in table for each in range(1, 9)] == [each in dict(model) for each in range(1, 9)]


def test_a_bound_for_once() -> None:
    table = RecentlyUsed(100, 10)
    for number in range(5):
        table.add(number, 10)
    assert table.evict((), 25) == [0, 1, 2]
    assert table.evict((), 0) == [3, 4]
    assert table.total == 0
