"""The contract that every backend keeps, over a real sshd."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from types import MappingProxyType
from typing import Any

import pytest

from dragonfly_executor import Backend
from dragonfly_executor.testing import BackendContract
from tests.backends.ssh.conftest import MakeBackend, MakeHost
from tests.support.helpers import Mailbox
from tests.support.sshd.host import Host


class TestSSHBackend(BackendContract):
    options: Mapping[str, Any] = MappingProxyType({})

    @pytest.fixture(autouse=True)
    def _hosts(self, make_host: MakeHost, make_backend: MakeBackend, mailbox: Mailbox) -> Iterator[None]:
        self._host: Host = make_host()
        self._make_host, self._make_backend, self._mailbox = make_host, make_backend, mailbox
        with ExitStack() as self._opened:
            yield

    def make_backend(self) -> Backend:
        return self._make_backend(self._host, runners_per_host=2, **self.options)

    def make_broken_backend(self) -> Backend:
        return self._make_backend(self._make_host(programs=[]), **self.options)

    def hanging_steps(self) -> Sequence[str]:
        return ("connect", "command")

    def make_hanging_backend(self, step: str) -> tuple[Backend, Callable[[], object]]:
        if step == "connect":
            listener = self._opened.enter_context(socket.create_server(("127.0.0.1", 0)))
            backend = self._make_backend(f"127.0.0.1:{listener.getsockname()[1]}", **self.options)
            return backend, lambda: self._opened.enter_context(listener.accept()[0])
        host = self._make_host()
        host.profile(f"echo > {self._mailbox.path}; read -r line")
        return self._make_backend(host, **self.options), self._mailbox.read

    def kill(self, node: Any) -> None:
        # The agent alone, as where a machine has no memory left: what started it is the shell's process, and stays.
        for pid in self._host.processes()[::-1]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def left_running(self, backend: Backend) -> Sequence[object]:
        return self._host.processes()


class TestDirectSSHBackend(TestSSHBackend):
    """Its runners dial back."""

    options = MappingProxyType({"connect": "direct"})


class TestOpenSSHBackend(TestSSHBackend):
    """Its connections are processes of ``ssh``."""

    options = MappingProxyType({"client": "openssh"})


class TestDirectOpenSSHBackend(TestSSHBackend):
    """Both."""

    options = MappingProxyType({"client": "openssh", "connect": "direct"})
