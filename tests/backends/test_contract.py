"""The contract that every backend keeps, and what the fake one adds to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dragonfly_executor import LocalBackend
from dragonfly_executor.backends.base import Backend, BootRequest, Node
from dragonfly_executor.runner import processes
from dragonfly_executor.testing import BackendContract, FakeBackend, FakeRunner
from tests.dialback.support import DialingBackend


class RememberingBackend(LocalBackend):
    """The local backend, and all nodes that it has booted."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.nodes: list[Any] = []

    def boot(self, request: BootRequest) -> Node:
        self.nodes.append(super().boot(request))
        return self.nodes[-1]


class TestLocalBackend(BackendContract):
    def make_backend(self) -> Backend:
        return RememberingBackend()

    def make_broken_backend(self) -> Backend:
        return RememberingBackend(python="/nowhere/python")

    def kill(self, node: Any) -> None:
        processes.kill(node._process.pid)

    def left_running(self, backend: Any) -> Sequence[object]:
        return [pid for node in backend.nodes for pid in processes.members([node._process.pid], node._marker)]


class TestDialingBackend(BackendContract):
    """Runners that come in over TLS."""

    def make_backend(self) -> Backend:
        return DialingBackend()

    def make_broken_backend(self) -> Backend:
        return DialingBackend(python="/nowhere/python")

    def kill(self, node: Any) -> None:
        node.kill()

    def left_running(self, backend: Any) -> Sequence[object]:
        return [pid for node in backend.nodes for pid in node.left()]


class TestFakeBackend(BackendContract):
    def make_backend(self) -> Backend:
        return FakeBackend()

    def make_broken_backend(self) -> Backend:
        return FakeBackend(then=FakeRunner(error=OSError("no capacity")))

    def kill(self, node: Any) -> None:
        node.kill()

    def left_running(self, backend: Any) -> Sequence[object]:
        return backend.running
