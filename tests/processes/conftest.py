"""Executors, and a file that their calls add lines to; all of it is gone when a test ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.conftest import MakeExecutor as Make
from tests.engine.conftest import make, make_pool

__all__ = ["Make", "make", "make_pool"]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A file that calls add lines to."""
    return tmp_path / "log"
