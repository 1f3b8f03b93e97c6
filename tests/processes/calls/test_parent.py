"""What a runner knows about its parent, runners in runners, and what cannot travel there."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from dragonfly_executor import (
    CallSerializationError,
    DragonflyExecutor,
    LocalBackend,
    NestingError,
    Parent,
    Pool,
)
from dragonfly_executor.protocol.parent import VARIABLE
from tests.engine.conftest import MakeExecutor, MakePool
from tests.support.helpers import PATIENCE, error_of
from tests.support.payloads import echo, in_runner_of_its_own, nested_stats


def test_outside_a_runner_there_is_no_parent() -> None:
    """Design §4."""
    assert Parent.get() is None
    assert VARIABLE not in os.environ


def test_a_runner_knows_who_booted_it(make_pool: MakePool) -> None:
    """Design §4: Parent.get()."""
    pool = make_pool("media")
    parent = pool.call(Parent.get)
    assert parent == Parent("media", 1, "local", os.getpid(), os.uname().nodename, 1, slot=0)
    assert pool.call(Parent.get) == parent


def test_the_second_runner_has_the_next_number(make_pool: MakePool) -> None:
    pool = make_pool(single_use=True)
    assert [pool.call(Parent.get).runner_id for _ in range(2)] == [1, 2]


def test_a_runner_of_a_runner_is_one_deeper(make: MakeExecutor) -> None:
    """A nested executor inside a runner works."""
    parent = make(1).submit(in_runner_of_its_own, Parent.get).result(PATIENCE)
    assert parent.depth == 2
    assert parent.pid != os.getpid()


def test_new_describes_this_process() -> None:
    """Parent.new."""
    parent = Parent.new("media", 7, "local")
    assert (parent.pool, parent.runner_id, parent.backend) == ("media", 7, "local")
    assert (parent.pid, parent.host, parent.depth) == (os.getpid(), os.uname().nodename, 1)


@pytest.mark.parametrize("name", ["media", "", "Ünïcode / \n \0 = & %"])
def test_encode_and_decode_are_inverse(name: str) -> None:
    """Parent.encode; what travels is fit for an environment variable."""
    parent = Parent(name, 2**40, "fly", 1, "host", 3)
    text = parent.encode()
    assert Parent.decode(text) == parent
    assert text.isascii()
    assert text.replace("-", "").replace("_", "").replace("=", "").isalnum()


@pytest.mark.parametrize("text", ["", "x", "bm90IGpzb24=", "W10=", "e30=", "eyJwb29sIjogMX0=", "é"])
def test_what_is_no_parent_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="DRAGONFLY_PARENT does not hold a parent's description"):
        Parent.decode(text)
    if text:
        monkeypatch.setenv(VARIABLE, text)
        with pytest.raises(ValueError, match="DRAGONFLY_PARENT"):
            Parent.get()


def test_a_runner_in_a_runner_runs_calls(make: MakeExecutor) -> None:
    """Checklist 67: each of four calls on two slots has a runner of its own."""
    results = make(2).map(in_runner_of_its_own, [pow] * 4, range(4), [2] * 4)
    assert list(results) == [0, 1, 4, 9]


def test_runners_that_are_too_deep_are_refused_and_the_caller_hears_why(make: MakeExecutor) -> None:
    """Checklist 67: a pool that boots itself on and on ends before the machine does."""
    future = make(1).submit(in_runner_of_its_own, in_runner_of_its_own, in_runner_of_its_own, pow, 2, 2)
    error = error_of(future)
    assert isinstance(error, NestingError)
    assert "2 deep" in str(error)
    assert "DRAGONFLY_MAX_DEPTH" in str(error)


@pytest.mark.parametrize(("limit", "allowed"), [("1", False), ("3", True)])
def test_the_depth_limit_can_be_set(make: MakeExecutor, limit: str, allowed: bool) -> None:
    """Checklist 67."""
    nested = (in_runner_of_its_own, in_runner_of_its_own) if allowed else (in_runner_of_its_own,)
    executor = make(1, backend=LocalBackend(env={"DRAGONFLY_MAX_DEPTH": limit}))
    future = executor.submit(*nested, pow, 2, 5)
    if allowed:
        assert future.result(PATIENCE) == 32
    else:
        assert isinstance(error_of(future), NestingError)


def test_a_named_pool_that_an_application_makes_when_it_starts_boots_nobody_on_a_runner(make: MakeExecutor) -> None:
    """Design §4: min is 0 there."""
    assert make(1).submit(nested_stats, 3).result(PATIENCE) == (0, 0)


def _itself(executor: DragonflyExecutor, pool: Pool) -> Any:
    return executor


def _view(executor: DragonflyExecutor, pool: Pool) -> Any:
    return executor.options(timeout=1)


def _pool(executor: DragonflyExecutor, pool: Pool) -> Any:
    return [{"pool": pool}]


def _method(executor: DragonflyExecutor, pool: Pool) -> Any:
    return executor.submit


def _closure(executor: DragonflyExecutor, pool: Pool) -> Any:
    return lambda: executor.submit(echo, 1)


@pytest.mark.parametrize("make_argument", [_itself, _view, _pool, _method, _closure])
def test_an_executor_cannot_travel_into_a_call(
    make: MakeExecutor, make_pool: MakePool, make_argument: Callable[[DragonflyExecutor, Pool], Any]
) -> None:
    """Checklist 67: the error says so, and the executor goes on."""
    executor = make(1)
    error = error_of(executor.submit(echo, make_argument(executor, make_pool())))
    assert isinstance(error, CallSerializationError)
    assert "cannot travel to a runner" in str(error)
    assert executor.submit(echo, 1).result(PATIENCE) == 1


def test_a_call_that_makes_an_executor_and_returns_it_is_told_that_it_cannot(make: MakeExecutor) -> None:
    """Checklist 67: the other way."""
    error = error_of(make(1).submit(DragonflyExecutor, 1))
    assert "cannot travel" in str(error)
