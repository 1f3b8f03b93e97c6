"""Tools for tests: runners without machines, a clock that tests advance, and the contract of every backend.

    clock = VirtualClock()
    backend = FakeBackend(FakeRunner(error=OSError("no capacity")), FakeRunner(dies_after=3), clock=clock)
    with Pool("media", min=0, max=2, backend=backend) as pool:
        ...

The author of a backend subclasses `BackendContract` and runs it with pytest.
"""

from __future__ import annotations

from dragonfly_executor.testing.clock import VirtualClock
from dragonfly_executor.testing.contract import BackendContract
from dragonfly_executor.testing.fake import FakeBackend, FakeNode, FakeRunner

__all__ = ["BackendContract", "FakeBackend", "FakeNode", "FakeRunner", "VirtualClock"]
