"""Numbers of bytes as people write them."""

from __future__ import annotations

from typing import Any

import pytest

from dragonfly_executor.util.byte_sizes import byte_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (0, 0),
        (12345, 12345),
        ("7", 7),
        ("7B", 7),
        ("8GiB", 8 * 2**30),
        ("8 gib", 8 * 2**30),
        (" 1.5 MiB ", 1536 * 1024),
        ("500MB", 500_000_000),
        ("2kB", 2000),
        ("0.1kB", 100),
        ("0.3 B", 0),
        ("1TiB", 2**40),
    ],
)
def test_a_size_is_a_number_and_a_unit(text: int | str, size: int) -> None:
    assert byte_size(text, "memory") == size


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1e3", "8 G", "8GiBs", "1,5 GiB", "1..5", "٣", "8 GiB 3"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match='memory must be a number and a unit, such as "8GiB" or "500MB"'):
        byte_size(text, "memory")


@pytest.mark.parametrize("value", [1.5, None, b"8GiB", True, [1]])
def test_what_is_neither_text_nor_a_whole_number_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match='memory must be a whole number of bytes or text such as "8GiB"'):
        byte_size(value, "memory")


def test_a_negative_number_is_refused() -> None:
    with pytest.raises(ValueError, match="memory must be at least 0, not -1"):
        byte_size(-1, "memory")
