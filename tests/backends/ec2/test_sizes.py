"""Which type of instance is launched for calls that require something."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import BootError, DragonflyExecutor, Parent, RequirementsError
from dragonfly_executor.backends.base import BootRequest
from dragonfly_executor.backends.ec2.backend import EC2Backend
from dragonfly_executor.backends.ec2.prices import EC2_PRICES
from dragonfly_executor.backends.ec2.sizes import DEFAULT_TYPES, PER_CPU, SIZES, InstanceTypes, size_of
from dragonfly_executor.core.capacity import UNKNOWN, Capacity, Requirements
from tests.support.ec2_world import EC2World, Fault
from tests.support.helpers import PATIENCE

GIB = 2**30
MakeBackend = Callable[..., EC2Backend]
PARENT = Parent.new("a pool", 1, "ec2")._replace(address="127.0.0.1:1", fingerprint="00" * 32, token="5ec2e7" * 10)


def types(*names: str, sizes: dict[str, Capacity] | None = None, chooses: bool = True) -> InstanceTypes:
    return InstanceTypes(names, sizes or {}, frozenset({"eu"}), may_choose=chooses)


def test_the_table_says_what_ec2_says() -> None:
    """moto carries EC2's own description of its types."""
    found = importlib.util.find_spec("moto")
    if found is None or found.origin is None:
        pytest.skip("moto is not installed here (pip install -e '.[engines]')")
    told = json.loads(
        gzip.decompress((Path(found.origin).parent / "ec2/resources/instance_types.json.gz").read_bytes())
    )
    families = [name for name in told if name.partition(".")[0] in PER_CPU and "metal" not in name]
    assert len(families) > 150
    assert set(SIZES) | set(DEFAULT_TYPES) <= set(told), "there is no such type"
    for name in {*families, *SIZES, *DEFAULT_TYPES}:
        gpus = sum(one["Count"] for one in told[name].get("GpuInfo", {}).get("Gpus", ()))
        memory = told[name]["MemoryInfo"]["SizeInMiB"] * 2**20
        assert size_of(name) == Capacity(float(told[name]["VCpuInfo"]["DefaultVCpus"]), gpus, memory), name
    for name in DEFAULT_TYPES:
        assert "x86_64" in told[name]["ProcessorInfo"]["SupportedArchitectures"]
        assert EC2_PRICES.per_second(name, "us-east-1", is_spot=False) is not None


@pytest.mark.parametrize("name", ["zz9.large", "c7i.metal", "c7i.huge", "c7i", "", "c7i.0xlarge", "c7i.\u0664xlarge"])
def test_a_size_that_is_not_known(name: str) -> None:
    assert size_of(name) is None


@pytest.mark.parametrize(
    ("required", "expected"),
    [
        (Requirements(cpus=3), ["c7i.xlarge", "m7i.xlarge", "r7i.xlarge", "c7i.2xlarge"]),
        (Requirements(memory=30 * GIB), ["r7i.xlarge", "m7i.2xlarge", "r7i.2xlarge", "c7i.4xlarge"]),
        (Requirements(gpus=1), ["g6.xlarge", "g6.2xlarge", "g6.4xlarge", "g6.8xlarge"]),
        (Requirements(gpus=2, cpus=50), ["g6.24xlarge", "g6.48xlarge"]),
        (Requirements(memory=1500 * GIB), ["r7i.48xlarge"]),
    ],
)
def test_the_smallest_type_comes_first(required: Requirements, expected: list[str]) -> None:
    assert types().for_boot(required)[:4] == expected


def test_the_users_types_are_the_choice_if_there_are_some() -> None:
    chosen = types("m7i.2xlarge", "zz9.large", "m6i.xlarge", "m7i.xlarge", "c7i.large")
    assert chosen.for_boot(None) == ["m7i.2xlarge", "zz9.large", "m6i.xlarge", "m7i.xlarge", "c7i.large"]
    assert chosen.for_boot(Requirements(cpus=4)) == ["m6i.xlarge", "m7i.xlarge", "m7i.2xlarge", "zz9.large"]
    known = types("c7i.large", "zz9.large", sizes={"zz9.large": Capacity(8.0, 1, GIB, frozenset({"fast"}))})
    assert known.for_boot(Requirements(gpus=1, labels=frozenset({"eu", "fast"}))) == ["zz9.large"]
    assert known.capacity("zz9.large") == Capacity(8.0, 1, GIB, frozenset({"eu", "fast"}))
    with pytest.raises(BootError, match=r"require 9 CPUs, and none of c7i.large, zz9.large has that") as caught:
        known.for_boot(Requirements(cpus=9))
    assert caught.value.final


def test_what_the_types_can_have() -> None:
    assert types("c7i.large").capacities() == [Capacity(2.0, 0, 4 * GIB, frozenset({"eu"}))]
    anything = Capacity(UNKNOWN, UNKNOWN, UNKNOWN, frozenset({"eu"}))
    assert types("c7i.large", "zz9.large").capacities()[1] == anything
    assert types(chooses=False).capacities() == [anything], "the launch template has the type"
    assert types(chooses=False).for_boot(Requirements(cpus=2)) == []
    assert len(types().capacities()) == len(DEFAULT_TYPES)
    with pytest.raises(TypeError, match="must be a Capacity, not tuple"):
        types(sizes={"zz9.large": (1, 2)})  # type: ignore[dict-item]


# -- in a region -------------------------------------------------------------------------------------------------------


@pytest.mark.engine
def test_a_boot_launches_the_smallest_type_and_goes_on_to_larger_ones(ec2: EC2World, make_backend: MakeBackend) -> None:
    ec2.faults += [Fault("RunInstances", code="InsufficientInstanceCapacity")]
    backend = make_backend(instance_types="m7i.2xlarge,c7i.large,m7i.xlarge", labels={"eu"})
    node = backend.boot(BootRequest(1, PARENT, 60.0, requires=Requirements(cpus=4, labels=frozenset({"eu"}))))
    asked = [fields["InstanceType"] for fields in ec2.requests if fields["Action"] == "RunInstances"]
    assert asked == ["m7i.xlarge", "m7i.2xlarge"]
    assert node.capacity == Capacity(8.0, 0, 32 * GIB, frozenset({"eu"}))
    assert node.price == EC2_PRICES.per_second("m7i.2xlarge", "us-east-1", is_spot=False)
    node.stop()


@pytest.mark.engine
def test_calls_run_on_an_instance_that_has_what_they_require(ec2: EC2World, make_backend: MakeBackend) -> None:
    with DragonflyExecutor(backend=make_backend(instance_types=()), max=1, max_concurrency=1) as executor:
        view = executor.options(requires={"memory": "100GiB"})
        assert view.submit(os.getpid).result(PATIENCE) > 0
        (runner,) = executor.pool.stats().runners
        assert runner.capacity is not None
        assert (runner.capacity.cpus, runner.capacity.memory) == (16.0, 128 * GIB)
    (fields,) = [one for one in ec2.requests if one["Action"] == "RunInstances"]
    assert fields["InstanceType"] == "r7i.4xlarge"
    assert ec2.left() == []


@pytest.mark.engine
def test_what_no_type_has_fails_at_submit(ec2: EC2World, make_backend: MakeBackend) -> None:
    backend = make_backend(instance_types="c7i.large,m7i.xlarge")
    with DragonflyExecutor(backend=backend, max=1, max_concurrency=1) as executor:
        view: Any = executor.options(requires={"cpus": 5})
        with pytest.raises(RequirementsError, match="the nearest has 4 CPUs, 16 GiB of memory"):
            view.submit(os.getpid)
    assert not [one for one in ec2.requests if one["Action"] == "RunInstances"]
