"""Dask's collections and xarray on an executor: ``dask.config.set(scheduler=executor)``."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from dragonfly_executor import DragonflyExecutor, Parent
from tests.support.helpers import PATIENCE, Gate, Mailbox
from tests.support.payloads import hold, pid

dask = pytest.importorskip("dask", reason="Dask is not installed here: pip install -e '.[engines]'")

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("default")]


@pytest.fixture
def executor() -> Iterator[DragonflyExecutor]:
    with DragonflyExecutor(2) as executor:
        executor.submit(pid).result(PATIENCE)
        yield executor


def place(number: int) -> tuple[int, bool]:
    return os.getpid(), Parent.get() is not None


def total(parts: list[Any]) -> int:
    return len(parts)


def fail(number: int) -> None:
    raise ZeroDivisionError(number)


def test_delayed_calls_run_on_runners(executor: DragonflyExecutor) -> None:
    with dask.config.set(scheduler=executor):
        places = dask.compute(*(dask.delayed(place)(number) for number in range(6)))
    assert all(inside for _, inside in places)
    assert os.getpid() not in {process for process, _ in places}


def test_a_graph_with_dependencies(executor: DragonflyExecutor) -> None:
    parts = [dask.delayed(place)(number) for number in range(6)]
    assert dask.delayed(total)(parts).compute(scheduler=executor) == 6


def test_arrays_and_bags(executor: DragonflyExecutor) -> None:
    da = pytest.importorskip("dask.array")
    bag = pytest.importorskip("dask.bag")
    with dask.config.set(scheduler=executor):
        array = da.arange(10_000, chunks=1_000)
        assert int((array * 2).sum().compute()) == 99_990_000
        assert bag.from_sequence(range(100), npartitions=4).filter(lambda n: n % 3 == 0).count().compute() == 34


def test_xarray(executor: DragonflyExecutor) -> None:
    xr = pytest.importorskip("xarray", reason="xarray is not installed here")
    import numpy

    data = xr.DataArray(numpy.arange(1000.0).reshape(100, 10), dims=("time", "place")).chunk({"time": 10})
    with dask.config.set(scheduler=executor):
        assert data.mean("time").sum().compute().item() == pytest.approx(4995.0)


def test_an_error_of_a_task_is_that_error(executor: DragonflyExecutor) -> None:
    with dask.config.set(scheduler=executor), pytest.raises(ZeroDivisionError, match="7"):
        dask.delayed(fail)(7).compute()
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024


def test_as_many_tasks_run_at_once_as_the_executor_may_run(mailbox: Mailbox, gate: Gate) -> None:
    """Dask reads `_max_workers`, and takes the CPUs of this machine for an executor that has none."""
    count = (os.cpu_count() or 1) + 1
    with DragonflyExecutor(max_concurrency=count) as executor, dask.config.set(scheduler=executor):
        tasks = [dask.delayed(hold)(mailbox.path, gate.path, number) for number in range(count)]
        computing = threading.Thread(target=lambda: dask.compute(*tasks))
        computing.start()
        assert len(set(mailbox.numbers(count))) == count
        gate.open(count)
        computing.join()
