"""The contract that every backend keeps, on the simulator."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from dragonfly_executor import Backend
from dragonfly_executor.backends.fly.boot_deadline import FlyBootDeadline
from dragonfly_executor.testing import BackendContract
from tests.backends.fly.boots import ASLEEP_CONFIG
from tests.backends.fly.conftest import MakeBackend
from tests.support.fly_simulator.faults import rate_limited
from tests.support.fly_simulator.simulator import Simulator
from tests.support.helpers import PATIENCE, SOON, watching

HANGS: dict[str, dict[str, Any]] = {
    "create, which makes no machine": {"create": {"hang": True, "commit": False}},
    "create, which makes a machine": {"create": {"hang": True}},
    "list, to find what was made": {"create": {"hang": True}, "list": {"hang": True}},
    "destroy, of what was made": {"create": {"hang": True}, "destroy": {"hang": True}},
    "create, which is refused": {"create": {"reply": rate_limited("3600")}},
    "connect": {"create": {}},
}
"""By step of a boot: what Fly does to which requests. Machines that are made have nobody to dial."""

TURN = "the turn to create"
FOR_EVER = 60.0


class TestFlyBackend(BackendContract):
    give_up_patience = SOON

    @pytest.fixture(autouse=True)
    def _fly(self, on_fly: Simulator, make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
        self._simulator, self._make, self._monkeypatch = on_fly, make_backend, monkeypatch
        self._hanging_backends: list[Backend] = []

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

    def hanging_steps(self) -> Sequence[str]:
        return [*HANGS, TURN]

    def make_hanging_backend(self, step: str) -> tuple[Backend, Callable[[], object]]:
        self._simulator.faults.clear()
        backend, hangs = self._make(machine_config=ASLEEP_CONFIG), threading.Event()
        self._hanging_backends.append(backend)
        for action, fault in HANGS.get(step, {}).items():
            self._simulator.faults.on(action, times=math.inf, after=lambda call: hangs.set(), **fault)
        if step == TURN:
            pacer, wait = backend.api._connections._rate_limiter, FlyBootDeadline.wait_for_turn
            while pacer.reserve("create", backend.api.access.app, time.monotonic()) < FOR_EVER:
                continue

            def waits(deadline: FlyBootDeadline, seconds: float) -> None:
                hangs.set()
                wait(deadline, seconds)

            self._monkeypatch.setattr(FlyBootDeadline, "wait_for_turn", waits)
        return backend, lambda: hangs.wait(PATIENCE)

    def left_running(self, backend: Any) -> Sequence[object]:
        entries = backend.journal.entries()
        if backend in self._hanging_backends:
            # What could not be seen to within the time is written down, and the next sweep sees to it.
            self._simulator.faults.clear()
            backend.sweep()
            entries = [entry for entry in entries if not entry.abandoned]
        return [*self._simulator.history.left, *entries]
