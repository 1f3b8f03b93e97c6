"""The environment variables of a slot: its share of the CPUs, unless the user has said how many threads there are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dragonfly_executor.protocol.parent import VARIABLE, Parent
from dragonfly_executor.runner.slot_environment import (
    FOLLOW_OPENMP,
    MARK,
    MOST,
    OPENMP,
    THREAD_VARIABLES,
    SlotEnvironment,
)


def made(
    environment: dict[str, str],
    slots: int,
    cpus: float = 1.0,
    seen: int = 1,
    *,
    limits: bool = True,
    gpus: dict[str, list[str]] | None = None,
    divides: bool = True,
) -> SlotEnvironment:
    machine: Any = SimpleNamespace(cpus=cpus, seen_cpus=seen, gpus=gpus or {})
    return SlotEnvironment(environment, machine, slots, limits_threads=limits, divides_gpus=divides)


def variables(
    environment: dict[str, str] | None = None, *, slots: int, cpus: float, seen: int = 16, limits: bool = True
) -> dict[str, str]:
    given = made(environment or {}, slots, cpus, seen, limits=limits)
    return given.common | given.of(0)


@pytest.mark.parametrize(
    ("slots", "cpus", "threads"), [(4, 16.0, 4), (5, 16.0, 3), (16, 16.0, 1), (100, 16.0, 1), (2, 1.5, 1), (1, 2.5, 2)]
)
def test_threads_are_limited_to_a_whole_share_of_at_least_one(slots: int, cpus: float, threads: int) -> None:
    expected = dict.fromkeys([*THREAD_VARIABLES, MARK], str(threads))
    assert variables(slots=slots, cpus=cpus) == expected


@pytest.mark.parametrize(("slots", "cpus", "seen"), [(1, 16.0, 16), (1, 1.0, 1), (8, 1.0, 1)])
def test_nothing_is_set_if_a_slot_may_use_all_that_libraries_see(slots: int, cpus: float, seen: int) -> None:
    """Libraries have better defaults than a number: MKL counts the cores and not their threads."""
    assert variables(slots=slots, cpus=cpus, seen=seen) == {}


def test_a_pool_that_limits_no_threads_sets_nothing() -> None:
    assert variables(slots=4, cpus=16.0, limits=False) == {}


@pytest.mark.parametrize("name", [name for name in THREAD_VARIABLES if name != OPENMP])
@pytest.mark.parametrize("value", ["7", "4", ""])
def test_a_variable_that_the_user_has_set_stays(name: str, value: str) -> None:
    found = variables({name: value}, slots=4, cpus=16.0)
    assert set(found) == {*THREAD_VARIABLES, MARK} - {name}


def test_what_the_user_has_set_for_openmp_holds_for_the_libraries_that_follow_it() -> None:
    found = variables({OPENMP: "7"}, slots=4, cpus=16.0)
    assert set(found) == {*THREAD_VARIABLES, MARK} - {OPENMP, *FOLLOW_OPENMP}


def test_a_library_gets_no_more_threads_than_it_takes() -> None:
    found = variables(slots=2, cpus=256.0, seen=256)
    assert {name: found[name] for name in MOST} == {"NUMEXPR_NUM_THREADS": "64"}
    assert found[OPENMP] == "128"


@pytest.mark.parametrize("cpus", [16.0, 256.0])
def test_slots_of_a_runner_in_a_slot_divide_what_that_slot_has(cpus: float) -> None:
    """What the outer slot has set is nothing that a user has set."""
    outer = variables(slots=2, cpus=cpus, seen=int(cpus))
    inner = variables(outer, slots=4, cpus=cpus, seen=int(cpus))
    assert inner == {**dict.fromkeys(THREAD_VARIABLES, str(int(cpus / 8))), MARK: str(int(cpus / 8))}


def test_what_a_call_has_set_holds_in_the_runner_that_it_boots() -> None:
    outer = variables(slots=2, cpus=16.0) | {"MKL_NUM_THREADS": "3"}
    assert set(variables(outer, slots=4, cpus=16.0)) == {*THREAD_VARIABLES, MARK} - {"MKL_NUM_THREADS"}


@pytest.mark.parametrize("mark", ["", "x", "-1", "²"])
def test_a_mark_that_is_no_number_says_nothing(mark: str) -> None:
    assert variables({MARK: mark}, slots=4, cpus=16.0)[OPENMP] == "4"


def test_each_slot_sees_its_gpus_alone() -> None:
    gpus = {"CUDA_VISIBLE_DEVICES": ["3", "GPU-a", "5"]}
    environment = made({}, 3, gpus=gpus)
    assert [environment.of(number) for number in range(3)] == [
        {"CUDA_VISIBLE_DEVICES": device} for device in gpus["CUDA_VISIBLE_DEVICES"]
    ]
    assert made({}, 3, gpus=gpus, divides=False).of(0) == {}


def test_each_slot_has_its_number() -> None:
    parent = Parent("media", 7, "local", 1, "host")
    environment = made({VARIABLE: parent.encode()}, 1)
    assert [Parent.decode(environment.of(number)[VARIABLE]) for number in (0, 5)] == [
        parent._replace(slot=number) for number in (0, 5)
    ]
