"""What the Dask backend decides by itself: which workers fit, how a cluster is scaled, what it says without Dask."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from dragonfly_executor import DaskBackend
from dragonfly_executor.backends.dask.backend import _own_address
from dragonfly_executor.backends.dask.cluster_capacity import capacities_of
from dragonfly_executor.backends.dask.cluster_scale import ClusterScale
from dragonfly_executor.backends.dask.scheduler import Worker
from dragonfly_executor.backends.dask.wanted import Wanted
from dragonfly_executor.core.capacity import UNKNOWN, Capacity, Requirements

WORKER = Worker("tcp://10.0.0.5:4000", "w1", "10.0.0.5", 4, {"GPU": 2.0}, 0)


@pytest.mark.parametrize(
    ("resources", "workers", "fits"),
    [
        ({}, None, True), ({"GPU": 2}, None, True), ({"GPU": 3}, None, False), ({"TPU": 1}, None, False),
        ({}, ["w1"], True), ({}, ["10.0.0.5"], True), ({}, ["tcp://10.0.0.5:4000"], True), ({}, ["w2"], False),
    ],
)  # fmt: skip
def test_a_worker_fits_by_what_it_offers_and_by_its_names(
    resources: dict[str, float], workers: list[str] | None, fits: bool
) -> None:
    assert Wanted(resources, workers, {}).fits(WORKER) == fits


BIG = Worker("tcp://10.0.0.6:4000", "w2", "10.0.0.6", 8, {"GPU": 2.0, "eu": 1.0, "us": 0.0}, 0, 2**30)


@pytest.mark.parametrize(
    ("required", "fits"),
    [
        (Requirements(), True), (Requirements(cpus=8), True), (Requirements(cpus=9), False),
        (Requirements(gpus=2), True), (Requirements(gpus=3), False),
        (Requirements(memory=2**30), True), (Requirements(memory=2**30 + 1), False),
        (Requirements(labels=frozenset({"eu"})), True), (Requirements(labels=frozenset({"eu", "all"})), True),
        (Requirements(labels=frozenset({"us"})), False), (Requirements(labels=frozenset({"GPU"})), False),
    ],
)  # fmt: skip
def test_a_worker_fits_by_what_calls_require_and_its_runner_then_has_that(required: Requirements, fits: bool) -> None:
    """A worker without a memory limit has any amount of memory."""
    wanted = Wanted({}, None, {}, required, frozenset({"all"}))
    assert wanted.fits(BIG) == fits
    assert not fits or required.fit(wanted.capacity(BIG))
    assert wanted.resources == ({"GPU": required.gpus} if required.gpus else {})
    assert Wanted({}, None, {}, Requirements(memory=2**50)).fits(WORKER)


def test_a_runner_that_takes_more_gpus_than_calls_require_keeps_them() -> None:
    wanted = Wanted({"GPU": 2}, None, {}, Requirements(gpus=1))
    assert wanted.resources == {"GPU": 2}
    assert wanted.capacity(BIG).gpus == 2


def test_a_runner_that_waits_says_why() -> None:
    wanted = Wanted({"GPU": 4}, ["w1"], {}, Requirements(2, 1, 2**31, frozenset({"eu"})))
    named = "GPU=4, eu (a label), 2 threads, a memory limit of 2 GiB, one of the names w1"
    assert wanted.standing([WORKER, BIG], 2) == (
        f"none of the 2 Dask workers has {named} (they declare GPU, eu, us); 2 runners wait"
    )
    assert wanted.standing([], 1) == "the Dask cluster has no worker; 1 runner waits"
    text = "each of the 2 Dask workers that fit has a runner; 3 runners wait"
    assert Wanted({}, None, {}).standing([WORKER, BIG], 3) == text


def local_spec(**options: Any) -> dict[str, Any]:
    """A specification of one of Dask's own workers."""
    return {"cls": type("Worker", (), {"__module__": "distributed.worker"}), "options": options}


def test_a_cluster_object_of_dask_s_own_workers_says_what_they_can_have() -> None:
    """Workers that it has count as well as those that it would start."""
    new = local_spec(nthreads=2, memory_limit=2**30, resources={"GPU": 1, "eu": 1})
    cluster = SimpleNamespace(new_spec=new, worker_spec={0: new, 1: local_spec(nthreads=4, memory_limit="auto")})
    assert capacities_of(cluster, frozenset({"all"})) == [
        Capacity(2, 1, 2**30, frozenset({"eu", "all"})), Capacity(4, 0, UNKNOWN, frozenset({"all"})),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "cluster",
    [
        SimpleNamespace(),
        SimpleNamespace(new_spec=None, worker_spec={}),
        SimpleNamespace(new_spec={"cls": SimpleNamespace, "options": {"nthreads": 4}}, worker_spec={}),
        SimpleNamespace(new_spec=local_spec(nthreads=1), worker_spec={0: local_spec(cores=4)}),
    ],
)
def test_what_another_cluster_object_s_workers_can_have_is_unknown(cluster: object) -> None:
    assert capacities_of(cluster, frozenset()) == []


def test_the_doctor_is_told_which_workers_may_get_a_runner() -> None:
    wanted = Wanted({"GPU": 1}, None, {})
    text = "2 of 2 Dask workers with 12 threads in all may get a runner; they declare GPU, eu, us"
    assert wanted.census([WORKER, BIG]) == text
    assert Wanted({}, ["w1"], {}).census([WORKER, BIG]).startswith("1 of 2")
    assert wanted.census([]) == "the Dask cluster has no worker now"


def test_without_dask_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match=r"pip install 'dragonfly-executor\[dask\]'"):
        DaskBackend("127.0.0.1:8786")


def test_workers_dial_the_address_from_which_the_scheduler_is_reached() -> None:
    assert _own_address("tcp://127.0.0.1:8786") == "127.0.0.1"
    assert _own_address("inproc://10.0.0.5/1/1") == "127.0.0.1"


class Cluster:
    """A cluster that only notes how it is scaled."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *names: str, group: tuple[str, ...] = ("",)) -> None:
        self.loop = SimpleNamespace(asyncio_loop=loop)
        self.name = "fake"
        self.worker_spec: dict[str, dict[str, Any]] = {name: {"group": group} for name in names}
        self.observed = self.plan
        self.ended: list[str] = []
        self._adaptive: SimpleNamespace | None = None

    @property
    def plan(self) -> set[str]:
        return {name + suffix for name, spec in self.worker_spec.items() for suffix in spec["group"]}

    def scale(self, count: int) -> None:
        for number in range(len(self.worker_spec), count):
            self.worker_spec[f"n{number}"] = {"group": ("",)}

    async def scale_down(self, names: list[str]) -> None:
        self.ended += names
        for name in names:
            del self.worker_spec[name]


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def settled(loop: asyncio.AbstractEventLoop) -> None:
    """Wait until what was given to the loop is done."""
    for _ in range(3):
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result()


def test_a_cluster_grows_by_what_is_missing_and_keeps_what_it_had(loop: asyncio.AbstractEventLoop) -> None:
    cluster = Cluster(loop, "own")
    scale = ClusterScale(cluster)
    for _ in range(3):
        scale.more()
        settled(loop)
    assert cluster.plan == {"own", "n1", "n2"}
    cluster.observed = {"own", "n1"}
    scale.less(["own", "n1"])
    settled(loop)
    assert cluster.ended == ["n2"]
    scale.less(["own"])
    scale.less([])
    settled(loop)
    assert cluster.plan == {"own"}


def test_a_worker_with_a_runner_is_not_ended(loop: asyncio.AbstractEventLoop) -> None:
    cluster = Cluster(loop)
    scale = ClusterScale(cluster)
    scale.more()
    scale.more()
    settled(loop)
    cluster.observed = cluster.plan
    scale.less(["n0"])
    settled(loop)
    assert cluster.ended == ["n1"]


def test_the_workers_of_one_job_go_together_once_none_has_a_runner(loop: asyncio.AbstractEventLoop) -> None:
    cluster = Cluster(loop)
    scale = ClusterScale(cluster)
    scale.more()
    settled(loop)
    cluster.worker_spec = {"job": {"group": ("-0", "-1")}}
    cluster.observed = cluster.plan
    scale.more()
    scale.less(["job-1"])
    settled(loop)
    assert cluster.ended == []
    scale.less([])
    settled(loop)
    assert cluster.ended == ["job"]


def test_a_closed_cluster_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """The user may close a cluster object before the executor. Its loop is closed then."""
    loop = asyncio.new_event_loop()
    loop.close()
    scale = ClusterScale(Cluster(loop))
    scale.more()
    scale.less([])
    assert "the Dask cluster fake did not scale (RuntimeError: Event loop is closed)" in caplog.text


def test_a_cluster_that_scales_itself_has_its_minimum_raised_within_its_maximum(
    loop: asyncio.AbstractEventLoop,
) -> None:
    """Dask's own rule starts no worker for a task without a length. In the end, the user's minimum is there again."""
    cluster = Cluster(loop)
    adaptive = cluster._adaptive = SimpleNamespace(minimum=1, maximum=3)
    scale = ClusterScale(cluster)
    minimums = []
    for change in (*[scale.more] * 4, *[lambda: scale.less([])] * 4):
        change()
        minimums.append(adaptive.minimum)
    settled(loop)
    assert minimums == [1, 2, 3, 3, 3, 2, 1, 1]
    assert cluster.plan == set()
    assert scale.describe() == "the cluster scales itself, from 1 to 3 workers"
