"""Fixtures of pytest for programs that use dragonfly_executor; docs/testing.md describes them.

pytest loads this module in every run where the package is installed. So it imports nothing else of the package until a
test asks for a fixture.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor import Pool
    from dragonfly_executor.testing import FakeBackend, VirtualClock


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers",
        "dragonfly_pool(name='test', min=0, max=1, ...): arguments of the `Pool` of the fixture dragonfly_pool",
    )


@pytest.fixture
def dragonfly_clock() -> VirtualClock:
    """Return a clock that stands still until the test advances it. In a test that asks for it, pools use it."""
    from dragonfly_executor.testing import VirtualClock

    return VirtualClock()


@pytest.fixture
def dragonfly_backend(request: pytest.FixtureRequest) -> Iterator[FakeBackend]:
    """Yield a `FakeBackend`. Until the test ends, pools that are made without a backend use it."""
    from dragonfly_executor import configure
    from dragonfly_executor.testing import FakeBackend

    clock = request.getfixturevalue("dragonfly_clock") if "dragonfly_clock" in request.fixturenames else None
    backend = FakeBackend(clock=clock)
    with configure(backend=backend):
        yield backend


@pytest.fixture
def dragonfly_pool(request: pytest.FixtureRequest, dragonfly_backend: FakeBackend) -> Iterator[Pool]:
    """Yield a `Pool` on the `FakeBackend`, with the arguments of the marker. It is killed when the test ends."""
    from dragonfly_executor import Pool

    marker = request.node.get_closest_marker("dragonfly_pool")
    arguments: dict[str, Any] = {"name": "test", "min": 0, "max": 1, "backend": dragonfly_backend}
    pool = Pool(**arguments | (marker.kwargs if marker else {}))
    try:
        yield pool
    finally:
        pool.kill()
        pool.join()
