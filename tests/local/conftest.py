"""Executors, and a file that their calls add lines to; all of it is gone when a test ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pool.conftest import MakeExecutor as Make
from tests.pool.conftest import make

__all__ = ["Make", "make"]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A file that calls add lines to."""
    return tmp_path / "log"
