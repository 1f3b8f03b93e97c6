"""A backend whose nodes share no disk keeps the contract of all backends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor.backends.base import Backend
from dragonfly_executor.runner import process_tree
from dragonfly_executor.testing import BackendContract
from tests.processes.sync.elsewhere import ElsewhereBackend


class TestElsewhereBackend(BackendContract):
    @pytest.fixture(autouse=True)
    def _on_a_host(self, home: Path, project: Path) -> None:
        self.home = home

    def make_backend(self) -> Backend:
        return ElsewhereBackend(self.home)

    def make_broken_backend(self) -> Backend:
        return ElsewhereBackend(self.home, python="/nowhere/python")

    def kill(self, node: Any) -> None:
        process_tree.kill(node._process.pid)

    def left_running(self, backend: Any) -> Sequence[object]:
        return [pid for node in backend.nodes for pid in process_tree.members([node._process.pid], node._marker)]
