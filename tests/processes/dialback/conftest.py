"""Receptions, and the pools of the other tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.engine.conftest import make, make_pool
from tests.support.dialback import RunnerListener

__all__ = ["make", "make_pool"]

Receive = Callable[..., RunnerListener]


@pytest.fixture
def receive() -> Iterator[Receive]:
    """Makes receptions, and closes them."""
    made: list[RunnerListener] = []

    def receive(*args: Any, **limits: Any) -> RunnerListener:
        made.append(RunnerListener(*args, **limits))
        return made[-1]

    yield receive
    for reception in made:
        reception.close()
