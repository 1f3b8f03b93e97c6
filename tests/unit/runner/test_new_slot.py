"""What is made for a slot before its fork, and the forks of several."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, NoReturn

import pytest

from dragonfly_executor.runner import new_slot, slot_calls
from dragonfly_executor.runner.new_slot import NewSlot, NewSlotOutput, fork_all
from dragonfly_executor.runner.slot_progress import Progress


def open_descriptors() -> set[int]:
    return {int(entry.name) for entry in Path("/dev/fd").iterdir()}


def make() -> NewSlot:
    return NewSlot(Progress(), output=NewSlotOutput(), title=None, environment={})


def test_all_that_is_open_is_known_and_closed_if_the_fork_fails() -> None:
    before = open_descriptors()
    slot = make()
    made = slot.descriptors()
    assert all(os.fstat(fd) for fd in made)
    slot.close()
    assert open_descriptors() == before
    assert len(set(made)) == len(made) == 8 + hasattr(os, "eventfd")


@pytest.mark.parametrize("works", range(3))
def test_without_descriptors_nothing_stays_open(works: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_descriptors()
    left = works
    make_pair = new_slot.socketpair

    def few(*arguments: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return make_pair(*arguments)

    monkeypatch.setattr(new_slot, "socketpair", few)
    monkeypatch.setattr(slot_calls, "socketpair", few)
    if works < 2:
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            make()
    else:
        make().close()
    assert open_descriptors() == before


@pytest.mark.parametrize("works", range(4))
def test_forks_end_with_the_first_that_fails(works: int, monkeypatch: pytest.MonkeyPatch) -> None:
    slots = [make() for _ in range(3)]
    pids = iter(range(101, 101 + works))

    def fork() -> int:
        pid = next(pids, None)
        if pid is None:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return pid

    def run(slot: NewSlot) -> NoReturn:
        raise AssertionError("this is no forked child")

    monkeypatch.setattr(os, "fork", fork)
    found, error = fork_all(slots, run)
    monkeypatch.undo()
    assert found == [101, 102, 103][:works]
    assert (error is None) == (works >= 3)
    for slot in slots:
        slot.close()
