"""The capacity of a runner: what its node states, otherwise what its agent has found, with all labels."""

from __future__ import annotations

import logging
import os
from typing import Any

import pytest

from dragonfly_executor import BootRequest, Capacity, LocalBackend, Node
from dragonfly_executor.protocol.versions import usable_cpus
from dragonfly_executor.testing import FakeBackend
from tests.engine.conftest import MakePool
from tests.support.payloads import echo

GIB = 2**30


class Stating(FakeBackend):
    """A backend whose nodes say what they have."""

    labels = frozenset({"eu"})

    def __init__(self, capacity: Any) -> None:
        super().__init__()
        self._capacity = capacity

    def boot(self, request: BootRequest) -> Node:
        node = super().boot(request)
        node.capacity = self._capacity
        node.labels = ["big"]
        return node


def capacity_of(pool: Any) -> Capacity | None:
    pool.call(echo, 1)
    (runner,) = pool.stats().runners
    found = runner.capacity
    return None if found is None else Capacity(found.cpus, found.gpus, found.memory, frozenset(found.labels))


def test_an_agent_finds_out_what_it_has(make_pool: MakePool) -> None:
    capacity = capacity_of(make_pool(backend=LocalBackend(labels={"here"}), max_concurrency=1))
    assert capacity is not None
    assert 0 < capacity.cpus <= usable_cpus()
    assert 0 < capacity.memory <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert capacity.labels == {"here"}


def test_an_agent_counts_the_gpus_that_it_may_use(make_pool: MakePool) -> None:
    backend = LocalBackend(env={"CUDA_VISIBLE_DEVICES": "3,5,GPU-x,-1,7"})
    capacity = capacity_of(make_pool(backend=backend, max_concurrency=1))
    assert capacity is not None
    assert capacity.gpus == 3


def test_what_a_node_says_counts(make_pool: MakePool) -> None:
    stated = Capacity(4, 2, 8 * GIB, frozenset({"a100"}))
    expected = Capacity(4, 2, 8 * GIB, frozenset({"a100", "eu", "big"}))
    assert capacity_of(make_pool(backend=Stating(stated))) == expected


def test_a_runner_of_which_nothing_is_known_has_no_capacity(make_pool: MakePool) -> None:
    assert capacity_of(make_pool(backend=Stating(None))) is None


def test_a_capacity_of_another_type_is_warned_of(make_pool: MakePool, caplog: pytest.LogCaptureFixture) -> None:
    pool = make_pool(backend=Stating({"cpus": 4}))
    assert capacity_of(pool) is None
    pool.shutdown()
    assert "the capacity of runner 1 is a dict, not a Capacity" in caplog.text


def test_a_booting_runner_has_no_capacity_yet(make_pool: MakePool) -> None:
    seen: list[Any] = []
    pool = make_pool(
        backend=Stating(Capacity(4)), on_event=lambda event: seen.append((event["event"], event.get("capacity")))
    )
    capacity_of(pool)
    pool.shutdown()
    assert seen[:2] == [("boot", None), ("up", Capacity(4, 0, 0, frozenset({"eu", "big"})))]


def test_the_log_line_of_a_runner_says_what_it_has(make_pool: MakePool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "dragonfly_executor")
    pool = make_pool(backend=Stating(Capacity(4, 1, 8 * GIB)), log=True)
    capacity_of(pool)
    pool.shutdown()
    assert " with 4 CPUs, 1 GPU, 8 GiB of memory, the labels big, eu" in caplog.text
