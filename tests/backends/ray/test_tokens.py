"""A cluster that wants a token, as each does from Ray 2.61 on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dragonfly_executor import DragonflyExecutor, RayBackend
from tests.support.engine_tasks import boot_error
from tests.support.ray_cluster import RayCluster, ray_cluster

pytestmark = pytest.mark.engine

TOKEN, OTHER = "5ec2e7" * 10, "0bad" * 15


@pytest.fixture(scope="module")
def guarded(ray_here: None) -> Iterator[RayCluster]:
    with ray_cluster(1, token=TOKEN) as running:
        yield running


def test_the_token_is_taken_from_ray_s_own_variables(monkeypatch: pytest.MonkeyPatch, guarded: RayCluster) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    with DragonflyExecutor(backend=RayBackend(guarded.address, sync=None), max=1) as executor:
        assert executor.submit(pow, 2, 3).result(60) == 8


@pytest.mark.parametrize("token", [None, OTHER])
def test_a_missing_or_wrong_token_is_named(
    monkeypatch: pytest.MonkeyPatch, guarded: RayCluster, token: str | None
) -> None:
    if token:
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    error = boot_error(RayBackend(guarded.address, sync=None))
    assert "the cluster refuses this program's token, or wants one and got none: set RAY_AUTH_MODE=token" in str(error)
    assert OTHER not in f"{error!r} {error.output}"
