"""The table of code that was written: bounded, by identity, and never wrong about a code object."""

from __future__ import annotations

import gc
import marshal
from types import CodeType

from hypothesis import given, settings
from hypothesis import strategies as st

from dragonfly_executor.serialization.code_table import LARGEST, CodeTable


def code(text: str, file: str = "a.py") -> CodeType:
    return compile(text, file, "eval")


def test_code_is_written_once() -> None:
    table, one = CodeTable(), code("x + y.z")
    written = table[one]
    assert table[one] is written
    assert written.data is not None
    assert marshal.loads(written.data) == one
    assert (written.names, written.attributes) == ({"x", "y"}, {"x", "y", "z"})


def test_the_table_is_bounded() -> None:
    table = CodeTable(most=4)
    for number in range(40):
        assert marshal.loads(table[code(f"{number}")].data or b"") == code(f"{number}")
        assert 1 <= len(table) <= 4


def test_large_code_is_written_and_not_kept() -> None:
    table = CodeTable()
    large = code(repr("x" * LARGEST))
    assert marshal.loads(table[large].data or b"") == large
    assert len(table) == 0


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), max_size=60), st.integers(1, 4))
def test_no_code_is_taken_for_another(order: list[int], most: int) -> None:
    """Code objects come and go, so one gets the id of another that is gone."""
    table = CodeTable(most)
    for number in order:
        here = code(f"f({number})", f"{number}.py")
        there = marshal.loads(table[here].data or b"")
        assert (there, there.co_filename) == (here, f"{number}.py")
        del here
        gc.collect(0)
