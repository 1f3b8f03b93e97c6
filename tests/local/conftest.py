"""Executors, mailboxes and gates for tests of the local pool; all of it is gone when a test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import DragonflyExecutor

Make = Callable[..., DragonflyExecutor]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes executors with a single runner, and ends them whatever runs there."""
    made: list[DragonflyExecutor] = []

    def make(max_workers: int | None = 2, **options: Any) -> DragonflyExecutor:
        executor = DragonflyExecutor(max_workers, **options)
        made.append(executor)
        return executor

    yield make
    for executor in made:
        executor.kill_workers()
        executor.shutdown()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A file that calls add lines to."""
    return tmp_path / "log"
