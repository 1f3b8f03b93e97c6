"""A simulator of Fly's Machines API for tests: one server, another world for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tenacity

from dragonfly_executor import FlyBackend
from dragonfly_executor.backends.fly.rate_limit import RateLimit
from tests.backends.conftest import Make
from tests.processes.dialback.conftest import receive

if TYPE_CHECKING:
    from tests.backends.fly.asking import Asker
    from tests.support.fly_simulator.simulator import Simulator

__all__ = ["Make", "receive"]

MakeBackend = Callable[..., FlyBackend]


# Its thread is gone when tests of other packages run: some of them count threads, or fork.
@pytest.fixture(scope="package")
def _fly_server() -> Iterator[Simulator]:
    for needed in ("starlette", "uvicorn", "jsonschema"):
        pytest.importorskip(needed, reason=f"the simulator of Fly needs {needed}, which is in the extra 'test'")
    from tests.support.fly_simulator.simulator import Simulator

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


@pytest.fixture
def asker(fly: Simulator) -> Iterator[Asker]:
    """Asks the simulator plainly."""
    from tests.backends.fly.asking import Asker

    with closing(Asker(fly)) as asker:
        yield asker


@pytest.fixture
def on_fly(fly: Simulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Simulator:
    """This process is the parent's machine: it has the environment of one. Fly takes ten requests where it took one."""
    fly.rates.usual = (10.0, 3.0)
    monkeypatch.setattr("dragonfly_executor.backends.fly.rate_limit.DEFAULT", RateLimit(10.0, 3))
    for name, value in fly.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return fly


@pytest.fixture(autouse=True)
def _short_pauses(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Backends pause for a tenth of what they would between two tries or looks, or for less. Not for the real Fly."""
    if request.path.name == "test_live.py":
        return
    pauses = tenacity.wait_random_exponential(multiplier=0.025, max=0.4)
    monkeypatch.setattr("dragonfly_executor.backends.fly.client.full_jitter", pauses)
    monkeypatch.setattr("dragonfly_executor.backends.fly.node.PAUSE", 0.1)
    monkeypatch.setattr("dragonfly_executor.backends.fly.creation.PAUSE_ON_MISSING_IMAGE", 0.1)


@pytest.fixture
def make_backend(on_fly: Simulator) -> MakeBackend:
    """Backends for the parent's own app and image. They do not sweep by themselves: most tests are about one boot."""

    def make(**options: Any) -> FlyBackend:
        return FlyBackend(**{"sweep": False, "region": None} | options)

    return make
