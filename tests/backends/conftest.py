"""Executors on a backend; all of them are gone when a test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dragonfly_executor import DragonflyExecutor
from tests.support.helpers import ending

Make = Callable[..., DragonflyExecutor]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes executors, and ends them whatever runs there."""
    with ending() as made:

        def make(backend: Any, **options: Any) -> DragonflyExecutor:
            defaults: dict[str, Any] = {"max": 1, "max_concurrency": 2, "boot_wait": lambda state: 0.0}
            made.append(DragonflyExecutor(backend=backend, **defaults | options))
            return made[-1]

        yield make
