"""A Ray cluster of two CPUs for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from dragonfly_executor.backends.ray.backend import RayBackend
from tests.support.ray_cluster import RayCluster, has_ray, ray_cluster


@pytest.fixture(scope="session")
def ray_here() -> None:
    """Skip without Ray."""
    if not has_ray():
        pytest.skip("Ray is not installed here (pip install -e '.[ray]'), or has no wheel for this Python")


@pytest.fixture(scope="session")
def cluster(ray_here: None) -> Iterator[RayCluster]:
    """A cluster of one node with two CPUs."""
    with ray_cluster() as running:
        yield running


@pytest.fixture(scope="session", autouse=True)
def ray_without_tokens() -> Iterator[None]:
    """Keep a token in the user's environment or home folder out of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.delenv("RAY_AUTH_TOKEN", raising=False)
        patch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
        yield


@pytest.fixture
def make_backend(cluster: RayCluster) -> Callable[..., RayBackend]:
    """Make a backend on the cluster. What is synced is the business of other tests."""
    return lambda **arguments: RayBackend(cluster.address, **{"sync": None, **arguments})
