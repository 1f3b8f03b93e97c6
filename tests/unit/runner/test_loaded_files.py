"""How often a slot looks whether the files that it has loaded have changed."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from dragonfly_executor.runner import code_changes
from dragonfly_executor.runner.code_changes import AFTER_A_PAUSE, TRIALS, LoadedFiles

PAUSE = 2 * AFTER_A_PAUSE


class Clock:
    """Time that passes only while files are looked at."""

    def __init__(self) -> None:
        self.now = 100.0
        self.cost = 0.0

    def perf_counter(self) -> float:
        self.now += self.cost
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(code_changes, "time", clock)
    return clock


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file of a module that is imported after `LoadedFiles` was made."""
    path = tmp_path / "changing.py"
    path.write_text("VERSION = 1")
    found = ModuleType("changing")
    found.__file__ = str(path)
    monkeypatch.setitem(sys.modules, "changing", found)
    return path


def loaded(path: Path, monkeypatch: pytest.MonkeyPatch) -> LoadedFiles:
    main: Any = SimpleNamespace(file=None)
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "changing")
        files = LoadedFiles(main)
    files.note()
    return files


def test_a_module_in_place_of_one_of_the_agents_is_watched(
    clock: Clock, module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slot drops the agent's `json` if the parent has a module of its own of this name."""
    main: Any = SimpleNamespace(file=None)
    for drops in (False, True):
        files = LoadedFiles(main)
        with monkeypatch.context() as patch:
            patch.delitem(sys.modules, "changing")
            if drops:
                files.forget(["changing"])
            files.note()
        files.note()
        change(module)
        assert files.are_stale(clock.now, clock.now - PAUSE) == drops
        module.touch()


def test_the_second_name_of_the_script_is_no_new_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "__mp_main__", raising=False)
    main: Any = SimpleNamespace(file=None)
    files = LoadedFiles(main)
    monkeypatch.setitem(sys.modules, "__mp_main__", ModuleType("__mp_main__"))
    assert files._count == len(sys.modules)


def change(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def test_one_check_that_took_long_does_not_put_off_the_next(
    clock: Clock, module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slot may have lacked a processor."""
    files = loaded(module, monkeypatch)
    clock.cost = 0.01
    assert not files.are_stale(clock.now, clock.now - PAUSE)
    change(module)
    assert files.are_stale(clock.now, clock.now - PAUSE)


def test_checks_that_take_long_each_time_come_less_often(
    clock: Clock, module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = loaded(module, monkeypatch)
    clock.cost = 0.001
    for _ in range(TRIALS):
        assert not files.are_stale(clock.now, clock.now - PAUSE)
    change(module)
    assert not files.are_stale(clock.now, clock.now - PAUSE)
    assert files.are_stale(clock.now, clock.now - 0.03)
