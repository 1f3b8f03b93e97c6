"""A process mark tells its process from every child, however that was forked."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable

import pytest

from dragonfly_executor.util import process_mark
from dragonfly_executor.util.process_mark import ProcessMark


def seen_by_child(mark: ProcessMark, fork: Callable[[], int]) -> bool:
    """Return what the mark says in a forked child."""
    pid = fork()
    if not pid:
        os._exit(int(mark.is_here()))
    return bool(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def c_fork() -> int:
    """Fork without Python's own handlers."""
    return int(ctypes.PyDLL(None).fork())


@pytest.mark.parametrize("fork", [os.fork, c_fork])
def test_a_child_has_no_mark(fork: Callable[[], int]) -> None:
    mark = ProcessMark()
    assert mark.is_here()
    assert not seen_by_child(mark, fork)
    assert mark.is_here()


@pytest.mark.parametrize("fork", [os.fork, c_fork])
@pytest.mark.parametrize("system", ["darwin", "an old linux"])
def test_without_such_memory_the_process_id_tells(
    monkeypatch: pytest.MonkeyPatch, system: str, fork: Callable[[], int]
) -> None:
    if system == "darwin":
        monkeypatch.setattr(sys, "platform", system)
    else:
        monkeypatch.setattr(process_mark, "MADV_WIPEONFORK", 9999)
    mark = ProcessMark()
    assert mark.is_here()
    assert not seen_by_child(mark, fork)
