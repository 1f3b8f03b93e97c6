"""The contract that every backend keeps, on the simulator."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Any

import pytest

from dragonfly_executor import Backend
from dragonfly_executor.testing import BackendContract
from tests.fly.conftest import MakeBackend
from tests.fly_simulator.simulator import Simulator
from tests.support import PATIENCE, watching


class TestFlyBackend(BackendContract):
    @pytest.fixture(autouse=True)
    def _fly(self, on_fly: Simulator, make_backend: MakeBackend) -> None:
        self._simulator, self._make = on_fly, make_backend

    def make_backend(self) -> Backend:
        return self._make(sweep=True)

    def make_broken_backend(self) -> Backend:
        return self._make(image="registry.fly.io/media:nowhere")

    def kill(self, node: Any) -> None:
        """As a machine whose host has lost its power: nothing of it runs any more."""
        machine = next(one for one in self._simulator.world.booted if one.id == node.machine_id)
        self._simulator.wait_for(machine, "started")
        pid = self._simulator.pid(machine)
        if pid is not None:
            with watching(pid) as (watch,):
                os.kill(pid, signal.SIGKILL)
                assert watch.ended(PATIENCE)

    def left_running(self, backend: Any) -> Sequence[object]:
        return [*self._simulator.history.left, *backend.journal.entries()]
