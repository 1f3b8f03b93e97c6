"""The contract that every backend keeps, and what the fake one adds to it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import LocalBackend
from dragonfly_executor.backends.base import Backend, BootRequest, Node
from dragonfly_executor.runner import process_tree
from dragonfly_executor.testing import BackendContract, FakeBackend, FakeRunner
from tests.support.dialback import DialingBackend
from tests.support.helpers import PATIENCE, SOON, Mailbox


def mute_program(folder: Path) -> tuple[str, Mailbox]:
    """A program that stands in for the interpreter, says where it is, and then nothing."""
    mailbox = Mailbox(folder / "begun")
    program = folder / "python"
    program.write_text(f"#!/bin/sh\necho begun > {mailbox.path}\nexec sleep 1000\n")
    program.chmod(0o755)
    return os.fspath(program), mailbox


class RememberingBackend(LocalBackend):
    """The local backend, and all nodes that it has booted."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.nodes: list[Any] = []

    def boot(self, request: BootRequest) -> Node:
        self.nodes.append(super().boot(request))
        return self.nodes[-1]


class PythonContract(BackendContract):
    """Of a backend that starts an interpreter here, which `make_with(python=...)` makes."""

    give_up_patience = SOON
    silent_step: str
    make_with: Callable[..., Backend]

    @pytest.fixture(autouse=True)
    def _mute(self, tmp_path: Path) -> Iterator[None]:
        self._program, self._mailbox = mute_program(tmp_path)
        yield
        self._mailbox.close()

    def hanging_steps(self) -> Sequence[str]:
        return [self.silent_step]

    def make_hanging_backend(self, step: str) -> tuple[Backend, Callable[[], object]]:
        return type(self).make_with(python=self._program), self._mailbox.read

    def make_backend(self) -> Backend:
        return type(self).make_with()

    def make_broken_backend(self) -> Backend:
        return type(self).make_with(python="/nowhere/python")


class TestLocalBackend(PythonContract):
    silent_step, make_with = "handshake", RememberingBackend

    def kill(self, node: Any) -> None:
        process_tree.kill(node._process.pid)

    def left_running(self, backend: Any) -> Sequence[object]:
        return [pid for node in backend.nodes for pid in process_tree.members([node._process.pid], node._marker)]


class TestDialingBackend(PythonContract):
    """Runners that come in over TLS."""

    silent_step, make_with = "connect", DialingBackend

    def kill(self, node: Any) -> None:
        node.kill()

    def left_running(self, backend: Any) -> Sequence[object]:
        return [pid for node in backend.nodes for pid in node.left()]


class HangingFake(FakeBackend):
    """Tells when a boot begins."""

    def __init__(self, runner: FakeRunner) -> None:
        super().__init__(then=runner)
        self.begun = threading.Event()

    def boot(self, request: BootRequest) -> Node:
        self.begun.set()
        return super().boot(request)


class TestFakeBackend(BackendContract):
    give_up_patience = SOON

    def hanging_steps(self) -> Sequence[str]:
        return ["create", "handshake"]

    def make_hanging_backend(self, step: str) -> tuple[Backend, Callable[[], object]]:
        backend = HangingFake(FakeRunner(hangs=step == "create", silent=step == "handshake"))
        return backend, lambda: backend.begun.wait(PATIENCE)

    def make_backend(self) -> Backend:
        return FakeBackend()

    def make_broken_backend(self) -> Backend:
        return FakeBackend(then=FakeRunner(error=OSError("no capacity")))

    def kill(self, node: Any) -> None:
        node.kill()

    def left_running(self, backend: Any) -> Sequence[object]:
        return backend.running
