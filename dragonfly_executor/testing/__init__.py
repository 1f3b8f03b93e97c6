"""For tests: runners without machines, time that is moved by hand, and what every backend must do.

    clock = VirtualClock()
    backend = FakeBackend(FakeRunner(error=OSError("no capacity")), FakeRunner(dies_after=3), clock=clock)
    with Pool("media", min=0, max=2, backend=backend) as pool:
        ...

A backend's author subclasses `BackendContract` and has pytest run it.
"""

from __future__ import annotations

from dragonfly_executor.testing.clock import VirtualClock
from dragonfly_executor.testing.contract import BackendContract
from dragonfly_executor.testing.fake import FakeBackend, FakeNode, FakeRunner

__all__ = ["BackendContract", "FakeBackend", "FakeNode", "FakeRunner", "VirtualClock"]
