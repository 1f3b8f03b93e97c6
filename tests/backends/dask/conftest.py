"""A Dask cluster of two workers for the tests of this folder."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dragonfly_executor.backends.dask.backend import DaskBackend
from tests.support.dask_cluster import DaskCluster, dask_cluster, has_dask


@pytest.fixture(scope="session")
def dask_here(multiprocessing_helpers: None) -> Iterator[None]:
    """Skip without Dask. What Dask keeps in this process for good is there before a test begins."""
    if not has_dask():
        pytest.skip("Dask is not installed here: pip install -e '.[engines]'")
    import dask
    from distributed.utils import _offload_executor

    _offload_executor.submit(int).result()
    with tempfile.TemporaryDirectory() as folder, dask.config.set(temporary_directory=folder):
        yield


@pytest.fixture(scope="session")
def cluster(dask_here: None) -> Iterator[DaskCluster]:
    """A cluster of two workers with one thread each."""
    with tempfile.TemporaryDirectory(prefix="dask") as folder, dask_cluster(Path(folder), "w1", "w2") as running:
        yield running


@pytest.fixture
def make_backend(cluster: DaskCluster) -> Callable[..., DaskBackend]:
    """Make a backend on the cluster. What is synced is the business of other tests."""
    return lambda **arguments: DaskBackend(cluster.address, **{"sync": None, **arguments})
