"""The contract that every backend keeps, on the simulator."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from dragonfly_executor import Backend
from dragonfly_executor.testing import BackendContract
from tests.backends.kubernetes.conftest import MakeBackend
from tests.support.helpers import PATIENCE, SOON, watching

if TYPE_CHECKING:
    from tests.support.kubernetes_simulator.simulator import Cluster

pytestmark = pytest.mark.engine

HANGS: dict[str, dict[str, dict[str, Any]]] = {
    "create, which makes no Pod": {"create pods": {"hang": True, "commit": False}},
    "create, which makes a Pod": {"create pods": {"hang": True}},
    "create of the Secret": {"create secrets": {"hang": True}},
    "create, which is refused for now": {"create pods": {"reply": "too many"}},
    "list": {"list pods": {"hang": True}},
    "watch": {"watch pods": {"hang": True}},
}
"""By step of a boot: what the API server does to which requests."""
QUEUE, PULL = "the queue", "the pull"


class TestKubernetesBackend(BackendContract):
    give_up_patience = SOON

    @pytest.fixture(autouse=True)
    def _cluster(self, cluster: Cluster, make_backend: MakeBackend) -> None:
        self._simulator, self._make = cluster, make_backend

    def make_backend(self) -> Backend:
        return self._make()

    def make_broken_backend(self) -> Backend:
        return self._make(namespace="nowhere")

    def kill(self, node: Any) -> None:
        """As a node that has lost its power."""
        key = self._simulator.pod(lambda pod: pod["metadata"]["name"] == node.name)
        self._simulator.until(lambda: self._simulator.nodes.pid(key))
        pid = self._simulator.pid(key)
        if pid is not None:
            with watching(pid) as (watch,):
                os.kill(pid, signal.SIGKILL)
                assert watch.ended(PATIENCE)

    def hanging_steps(self) -> Sequence[str]:
        return [*HANGS, QUEUE, PULL]

    def make_hanging_backend(self, step: str) -> tuple[Backend, Callable[[], object]]:
        from tests.support.kubernetes_simulator.statuses import too_many

        self._simulator.faults.clear()
        hangs, arguments = threading.Event(), {}
        # Without a list or a watch the backend does not see that the Pod has a node.
        if step in (QUEUE, "list", "watch"):
            arguments["node_selector"] = {"there-is": "none"}
        if step in (QUEUE, PULL):
            self._simulator.faults.on("create secrets", times=math.inf, after=lambda _: hangs.set())
        for action, fault in HANGS.get(step, {}).items():
            given = {**fault, **({"reply": too_many(60)} if "reply" in fault else {})}
            self._simulator.faults.on(action, times=math.inf, after=lambda _: hangs.set(), **given)
        image = {PULL: "registry.example/app:slow"}.get(step, "registry.example/app:1")
        return self._make(image, **arguments), lambda: hangs.wait(PATIENCE)

    def left_running(self, backend: Backend) -> Sequence[object]:
        return [*self._simulator.pods(), *self._simulator.secrets()]
