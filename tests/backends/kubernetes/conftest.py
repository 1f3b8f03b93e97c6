"""A simulated Kubernetes cluster for tests: one server, another cluster for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dragonfly_executor.backends.kubernetes.backend import KubernetesBackend
from tests.backends.conftest import Make

if TYPE_CHECKING:
    from tests.support.kubernetes_simulator.simulator import Cluster

__all__ = ["Make"]

MakeBackend = Callable[..., KubernetesBackend]
GUIDE = Path(__file__).parents[3] / "docs" / "kubernetes.md"


def manifests() -> list[dict[str, Any]]:
    """The manifests of the guide's first YAML block: account, Role and binding."""
    import yaml

    return list(yaml.safe_load_all(GUIDE.read_text().partition("```yaml\n")[2].partition("```")[0]))


@pytest.fixture(scope="package")
def _server() -> Iterator[Cluster]:
    for needed in ("lightkube", "kubernetes_validate", "starlette", "uvicorn", "jsonschema"):
        pytest.importorskip(needed, reason=f"the simulator of Kubernetes needs {needed}, see the extra 'engines'")
    from tests.support.kubernetes_simulator.simulator import Cluster

    cluster = Cluster()
    yield cluster
    cluster.close()


@pytest.fixture
def cluster(_server: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster without Pods, in which this program has the rights of the guide, by a kubeconfig.

    A test fails if a request of its did not fit the published schemas (`cluster.api.violations`).
    """
    from tests.support.kubernetes_simulator.accounts import rights_of

    _server.restrict(rights_of(manifests()[1]["rules"]))
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(_server.kubeconfig())
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    for module in ("client", "pod_watch"):
        monkeypatch.setattr(f"dragonfly_executor.backends.kubernetes.{module}.FIRST_PAUSE", 0.02)
        monkeypatch.setattr(f"dragonfly_executor.backends.kubernetes.{module}.LONGEST_PAUSE", 0.2)
    yield _server
    troubles = _server.reset()
    assert not troubles, "\n".join(troubles)


@pytest.fixture
def make_backend(cluster: Cluster) -> MakeBackend:
    """Make a backend on the cluster. What is synced is the business of other tests."""
    from tests.support.kubernetes_simulator.images import IMAGE

    def make(image: str = IMAGE, **arguments: Any) -> KubernetesBackend:
        return KubernetesBackend(image, **{"host": "127.0.0.1", "sync": None, "sweep": False, **arguments})

    return make
