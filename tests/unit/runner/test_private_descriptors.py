"""A slot closes what only its agent may hold, and nothing else."""

from __future__ import annotations

import os

import pytest

from dragonfly_executor.runner.private_descriptors import ROOM, PrivateDescriptors


def closed_ranges(table: PrivateDescriptors, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "closerange", lambda start, end: ranges.append((start, end)))
    table.close()
    monkeypatch.undo()
    return ranges


@pytest.mark.parametrize("kept", [(), (0,), (5,), (9,), (2, 3, 7)])
def test_all_of_these_are_closed_and_no_other(kept: tuple[int, ...]) -> None:
    made = [os.dup(0) for _ in range(10)]
    table = PrivateDescriptors()
    # In any order, and one of them twice.
    table.add([made[1], *reversed([fd for place, fd in enumerate(made) if place not in kept]), *made])
    table.discard(made[place] for place in kept)
    table.close()
    for place in kept:
        os.close(made[place])
    for fd in made:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_there_may_be_nothing_to_close(monkeypatch: pytest.MonkeyPatch) -> None:
    assert closed_ranges(PrivateDescriptors(), monkeypatch) == []


@pytest.mark.parametrize("last", [ROOM - 1, ROOM, ROOM + 1, 5 * ROOM, 1 << 16])
def test_the_table_grows(last: int, monkeypatch: pytest.MonkeyPatch) -> None:
    table = PrivateDescriptors()
    table.add([7, last - 1, last, 3])
    assert closed_ranges(table, monkeypatch) == [(3, 4), (7, 8), (last - 1, last + 1)]


def test_what_is_not_there_is_discarded_without_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that is closed has no number."""
    table = PrivateDescriptors()
    table.add([ROOM - 1])
    table.discard([-1, 5, 10 * ROOM])
    assert closed_ranges(table, monkeypatch) == [(ROOM - 1, ROOM)]
