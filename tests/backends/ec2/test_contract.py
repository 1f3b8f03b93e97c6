"""The EC2 backend keeps the contract of all backends, on moto with instances that are real processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from dragonfly_executor.backends.base import Backend
from dragonfly_executor.backends.ec2.backend import EC2Backend
from dragonfly_executor.testing import BackendContract
from tests.support.ec2_world import EC2World, Fault
from tests.support.helpers import PATIENCE

pytestmark = pytest.mark.engine

HANGS = {
    "launch, which launches nothing": [Fault("RunInstances", hangs="before")],
    "launch, which launches an instance": [Fault("RunInstances", hangs="after")],
    "the search for what was launched": [
        Fault("RunInstances", hangs="after"),
        Fault("DescribeInstances", hangs="before"),
    ],
    "launch, which is refused again and again": [Fault("RunInstances", code="RequestLimitExceeded")],
    "the runner": [],
}


class TestEC2Backend(BackendContract):
    @pytest.fixture(autouse=True)
    def _region(self, ec2: EC2World, make_backend: Callable[..., EC2Backend]) -> None:
        self.ec2, self.make_backend = ec2, make_backend  # type: ignore[method-assign]
        self.is_hanging = False

    def make_broken_backend(self) -> Backend:
        return self.make_backend(subnets="subnet-00000000")

    def kill(self, node: Any) -> None:
        self.ec2.played[node.instance_id].kill()

    def left_running(self, backend: Any) -> Sequence[object]:
        entries = backend.journal.entries()
        if self.is_hanging:
            # What could not be undone in time is in the journal, and the next sweep sees to it.
            self.ec2.standing.clear()
            backend.sweep()
            entries = [entry for entry in entries if not entry.abandoned]
        return [*self.ec2.left(), *entries]

    def hanging_steps(self) -> Sequence[str]:
        return [*HANGS]

    def make_hanging_backend(self, step: str) -> tuple[Backend, Callable[[], object]]:
        self.is_hanging = True
        self.ec2.hung.clear()
        faults = [fault._replace(call=self.ec2.hung.set) for fault in HANGS[step]]
        self.ec2.standing[:] = faults
        if faults:
            return self.make_backend(sweep=False), lambda: self.ec2.hung.wait(PATIENCE)
        before = set(self.ec2.played)
        backend = self.make_backend(setup="exec sleep 1000", sweep=False)
        return backend, lambda: self.ec2.wait_until(lambda: set(self.ec2.played) - before, "an instance")
