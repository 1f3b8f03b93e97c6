"""A simulator of Fly's Machines API for tests: one server, another world for each test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.fly_simulator.simulator import Simulator


@pytest.fixture(scope="session")
def _fly_server() -> Iterator[Simulator]:
    for needed in ("starlette", "uvicorn", "jsonschema"):
        pytest.importorskip(needed, reason=f"the simulator of Fly needs {needed}, which is in the extra 'test'")
    from tests.fly_simulator.simulator import Simulator

    simulator = Simulator()
    yield simulator
    simulator.close()


@pytest.fixture
def fly(_fly_server: Simulator) -> Iterator[Simulator]:
    """A running simulator with nothing in it but the parent's own machine. See `Simulator` for what it offers.

    A test fails if a request of its did not fit Fly's OpenAPI document (`fly.openapi.violations`).
    """
    yield _fly_server
    troubles = _fly_server.reset()
    assert not troubles, "\n".join(troubles)
