"""Pools, mailboxes and gates; all of it is gone when a test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest

from dragonfly_executor import DragonflyExecutor, Pool
from tests.support.helpers import ending

MakePool = Callable[..., Pool]
MakeExecutor = Callable[..., DragonflyExecutor]
numbers = count(1)


@pytest.fixture
def make_pool() -> Iterator[MakePool]:
    """Makes pools without a limit on calls, and ends them whatever runs there."""
    made: list[Pool] = []

    def make(name: str | None = None, **options: Any) -> Pool:
        pool = Pool(name or f"pool-{next(numbers)}", **{"min": 0, "max": 1, "timeout": None} | options)
        made.append(pool)
        return pool

    yield make
    for pool in made:
        pool.kill()
        pool.join()


@pytest.fixture
def make() -> Iterator[MakeExecutor]:
    """Makes executors, and ends them whatever runs there."""
    with ending() as made:

        def make(max_workers: int | None = 2, **options: Any) -> DragonflyExecutor:
            made.append(DragonflyExecutor(max_workers, **options))
            return made[-1]

        yield make
