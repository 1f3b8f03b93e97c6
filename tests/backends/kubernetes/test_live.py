"""A pool on a real cluster, if one is named.

    DRAGONFLY_KUBERNETES_IMAGE=registry.example/app:1 [DRAGONFLY_KUBERNETES_HOST=192.0.2.7] \\
        python -m pytest -m engine tests/backends/kubernetes/test_live.py

The cluster is that of KUBECONFIG or of this Pod. The image needs this version of the package, and of Python.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator

import pytest

from dragonfly_executor import BootError, DragonflyExecutor, KubernetesBackend, RunnerLostError

IMAGE, HOST = (os.environ.get(f"DRAGONFLY_KUBERNETES_{name}") for name in ("IMAGE", "HOST"))
pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not IMAGE, reason="DRAGONFLY_KUBERNETES_IMAGE names no image for a real cluster"),
]


def make_backend(**arguments: object) -> KubernetesBackend:
    return KubernetesBackend(**{"image": IMAGE, "host": HOST, "sync": None, **arguments})  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    assert [node for node in make_backend().list_nodes() if node.pool.startswith("live")] == []


def test_calls_run_on_two_pods() -> None:
    with DragonflyExecutor(backend=make_backend(), max=2, max_concurrency=1, boot_timeout=600) as executor:
        names = set(executor.map(lambda _: platform.node(), range(20)))
    assert names
    assert platform.node() not in names


def test_an_image_that_does_not_exist() -> None:
    backend = make_backend(image="registry.invalid/none:1")
    with DragonflyExecutor(backend=backend, max=1, boot_timeout=120, max_boot_failures=1) as executor:
        assert isinstance(executor.submit(pow, 2, 2).exception(), BootError)


def test_a_pod_that_nothing_can_take() -> None:
    backend = make_backend(resources={"cpu": 100000}, queue_timeout=10)
    with DragonflyExecutor(backend=backend, max=1, max_boot_failures=1) as executor:
        assert "Insufficient cpu" in str(executor.submit(pow, 2, 2).exception())


def test_a_call_that_needs_too_much_memory() -> None:
    backend = make_backend(resources={"cpu": "100m", "memory": "128Mi"})
    with DragonflyExecutor(backend=backend, max=1, max_concurrency=1, boot_timeout=600) as executor:
        error = executor.submit(lambda: len(bytearray(os.urandom(1) * 2**30))).exception()
    assert isinstance(error, RunnerLostError)
    assert error.out_of_memory or "OOMKilled" in str(error)


def test_a_sweep_spares_the_pods_of_this_process() -> None:
    backend = make_backend()
    with DragonflyExecutor(backend=backend, max=1, boot_timeout=600) as executor:
        assert executor.submit(pow, 2, 10).result() == 1024
        assert backend.sweep().destroyed == []
        assert executor.submit(pow, 2, 10).result() == 1024
