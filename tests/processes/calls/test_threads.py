"""Numeric libraries in a slot start no more threads than the slot's share of the CPUs, unless the user allows more."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from dragonfly_executor import DragonflyExecutor, LocalBackend
from dragonfly_executor.protocol.versions import usable_cpus
from dragonfly_executor.runner.slot_environment import OPENMP, THREAD_VARIABLES
from tests.processes.conftest import Make
from tests.support.helpers import PATIENCE, values

THREADS = Path("/proc/self/task")
pytestmark = pytest.mark.skipif(usable_cpus() < 2, reason="with one CPU each library starts one thread")


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def set_here() -> dict[str, str]:
    return {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ}


def threads_of_numpy() -> tuple[int, float]:
    """Threads that a product of matrices starts in a slot that loads numpy now."""
    before = len([*THREADS.iterdir()])
    import numpy as np

    product = np.ones((500, 500)) @ np.ones((500, 500))
    return 1 + len([*THREADS.iterdir()]) - before, float(product[0, 0])


def set_and_leave(name: str, value: str) -> None:
    os.environ[name] = value


def initialize() -> None:
    os.environ["MKL_NUM_THREADS"] = "9"


def openmp_of_a_program() -> str:
    return subprocess.run(["printenv", OPENMP], check=True, capture_output=True, text=True).stdout.strip()


def limits_in_runner_of_its_own(slots: int) -> dict[str, str]:
    with DragonflyExecutor(slots) as inner:
        return inner.submit(set_here).result()


def test_libraries_share_the_cpus(make: Make) -> None:
    ex = make(usable_cpus())
    assert ex.submit(set_here).result(PATIENCE) == dict.fromkeys(THREAD_VARIABLES, "1")


@pytest.mark.skipif(not THREADS.is_dir(), reason="only Linux lists threads there")
@pytest.mark.parametrize(("limits", "threads"), [(True, 1), (False, usable_cpus())])
def test_numpy_starts_the_threads_of_its_share(limits: bool, threads: int, make: Make) -> None:
    ex = make(usable_cpus(), limit_threads=limits)
    assert ex.submit(threads_of_numpy).result(PATIENCE) == (threads, 500.0)


def test_a_single_slot_has_all_cpus_and_needs_no_limit(make: Make) -> None:
    assert make(1).submit(set_here).result(PATIENCE) == {}


def test_a_pool_may_leave_threads_alone(make: Make) -> None:
    assert make(usable_cpus(), limit_threads=False).submit(set_here).result(PATIENCE) == {}


def test_the_variables_of_this_program_hold(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_NUM_THREADS", "7")
    told = make(usable_cpus()).submit(set_here).result(PATIENCE)
    assert told == {**dict.fromkeys(THREAD_VARIABLES, "1"), "NUMBA_NUM_THREADS": "7"}


def test_the_variables_of_the_backend_hold(make: Make) -> None:
    told = make(usable_cpus(), backend=LocalBackend(env={OPENMP: "7"})).submit(set_here).result(PATIENCE)
    assert told[OPENMP] == "7"
    assert "OPENBLAS_NUM_THREADS" not in told


def test_what_a_call_or_an_initializer_sets_stays(make: Make) -> None:
    ex = make(1, initializer=initialize)
    ex.submit(set_and_leave, OPENMP, "8").result(PATIENCE)
    assert ex.submit(set_here).result(PATIENCE) == {OPENMP: "8", "MKL_NUM_THREADS": "9"}


def test_a_slot_in_a_slot_has_a_share_of_its_share(make: Make) -> None:
    """A slot's limits are not taken for the user's."""
    ex = make(usable_cpus())
    inner = values([ex.submit(limits_in_runner_of_its_own, 1), ex.submit(limits_in_runner_of_its_own, 2)])
    assert inner == [dict.fromkeys(THREAD_VARIABLES, "1")] * 2


def test_programs_of_a_call_have_the_limits(make: Make) -> None:
    ex = make(usable_cpus())
    assert ex.submit(openmp_of_a_program).result(PATIENCE) == "1"
