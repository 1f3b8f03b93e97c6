"""Calls that require something share the runner of this machine, or are refused."""

from __future__ import annotations

import os

import pytest

from dragonfly_executor import DragonflyExecutor, LocalBackend, RequirementsError
from dragonfly_executor.core.capacity import Capacity
from dragonfly_executor.core.stats import CapacityStats
from tests.processes.conftest import Make
from tests.support import payloads
from tests.support.helpers import PATIENCE, Gate, Mailbox, values


def capacity() -> Capacity:
    (found,) = LocalBackend().capacities()
    return found


def test_this_machine_is_known_before_a_runner_is_up(make: Make) -> None:
    ex = make(2)
    ex.submit(payloads.nothing).result(PATIENCE)
    assert ex.pool.stats().runners[0].capacity == CapacityStats.of(capacity())
    assert capacity().memory > 2**20
    assert 0 < capacity().cpus <= (os.cpu_count() or 1)


@pytest.mark.parametrize("requires", [{"cpus": 1000}, {"memory": "1PB"}, {"gpus": 100}, {"label": "eu"}])
def test_what_this_machine_does_not_have_is_refused_at_submit(requires: dict[str, object], make: Make) -> None:
    ex = make(1)
    with pytest.raises(RequirementsError, match=r"the nearest has .* CPU"):
        ex.options(requires=requires).submit(payloads.nothing)
    assert ex.submit(payloads.echo, 1).result(PATIENCE) == 1


def test_calls_that_fit_run_on_the_runner_that_is_up(make: Make) -> None:
    ex = make(2)
    agent = ex.submit(payloads.agent_pid).result(PATIENCE)
    view = ex.options(requires={"cpus": capacity().cpus / 2})
    assert set(values(view.submit(payloads.agent_pid) for _ in range(6))) == {agent}
    assert ex.pool.stats().boots_attempted == 1


def test_a_call_that_requires_the_whole_machine_runs_alone(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    ex = make(2)
    whole = ex.options(requires={"cpus": capacity().cpus})
    held = whole.submit(payloads.hold, mailbox.path, gate.path)
    mailbox.read()
    others = [ex.submit(payloads.echo, n) for n in range(4)]
    also_whole = whole.submit(payloads.echo, "whole")
    assert ex.pool.stats().calls_queued == 5, "nothing runs beside it"
    gate.open()
    assert values([held, *others, also_whole]) == [None, 0, 1, 2, 3, "whole"]


def test_small_calls_do_not_keep_out_a_large_one(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    ex = make(2)
    ex.submit(payloads.nothing).result(PATIENCE)
    held = ex.submit(payloads.hold, mailbox.path, gate.path)
    mailbox.read()
    large = ex.options(requires={"cpus": capacity().cpus}).submit(payloads.echo, "large")
    small = [ex.submit(payloads.echo, n) for n in range(50)]
    gate.open()
    assert values([held, large, *small]) == [None, "large", *range(50)]


def test_labels_of_the_backend_are_those_of_its_runners() -> None:
    with DragonflyExecutor(1, backend=LocalBackend(labels={"eu", "big"})) as ex:
        assert ex.options(requires={"label": "eu"}).submit(payloads.echo, 3).result(PATIENCE) == 3
        with pytest.raises(RequirementsError, match="the labels big, eu"):
            ex.options(requires={"label": "us"}).submit(payloads.echo, 3)


class Overstated(LocalBackend):
    """A backend whose runners have less than it says."""

    def capacities(self) -> tuple[Capacity, ...]:
        return (Capacity(1e6, 99, 2**50, frozenset({"eu"})),)


def test_a_runner_that_has_less_than_was_asked_for_is_a_failed_boot() -> None:
    with DragonflyExecutor(1, backend=Overstated(), max_boot_failures=1) as ex:
        error = ex.options(requires={"gpus": 99}).submit(payloads.nothing).exception(PATIENCE)
        assert "GPU" in str(error)
        assert "and the calls that wait for it require 99 GPUs" in str(error)
        assert ex.submit(payloads.echo, 1).result(PATIENCE) == 1
