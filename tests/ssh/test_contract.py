"""The contract that every backend keeps, over a real sshd."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any

import pytest

from dragonfly_executor import Backend
from dragonfly_executor.testing import BackendContract
from tests.ssh.conftest import MakeBackend, MakeHost
from tests.ssh.machinery import Host


class TestSSHBackend(BackendContract):
    options: Mapping[str, Any] = MappingProxyType({})

    @pytest.fixture(autouse=True)
    def _hosts(self, make_host: MakeHost, make_backend: MakeBackend) -> None:
        self._host: Host = make_host()
        self._make_host, self._make_backend = make_host, make_backend

    def make_backend(self) -> Backend:
        return self._make_backend(self._host, runners_per_host=2, **self.options)

    def make_broken_backend(self) -> Backend:
        return self._make_backend(self._make_host(programs=[]), **self.options)

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
