"""A slot closes what only its agent may hold, and nothing else."""

from __future__ import annotations

import os

import pytest

from dragonfly_executor.runner.process_tree import close_all


@pytest.mark.parametrize("kept", [(), (0,), (5,), (9,), (2, 3, 7)])
def test_all_of_these_are_closed_and_no_other(kept: tuple[int, ...]) -> None:
    made = [os.dup(0) for _ in range(10)]
    # In any order, and one of them twice.
    close_all([made[1], *reversed([fd for place, fd in enumerate(made) if place not in kept])])
    for place in kept:
        os.close(made[place])
    for fd in made:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_there_may_be_nothing_to_close() -> None:
    close_all([])
