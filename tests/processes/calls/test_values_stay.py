"""Values of futures that are arguments: the parent does not open them, and their runner gets them from its agent."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import DragonflyExecutor, LocalBackend
from dragonfly_executor.engine.outcome import Outcome
from dragonfly_executor.protocol.frames import KEPT_FROM
from dragonfly_executor.runner.kept_results import MOST_KEPT
from tests.engine.conftest import MakeExecutor as Make
from tests.support.dialback import DialingBackend
from tests.support.helpers import PATIENCE, becomes_true, bytes_streamed_since, error_of, values
from tests.support.payloads import agent_pid, echo, pid

SIZE = 4 << 20


class Dialing(DialingBackend):
    """Runners that dial back, with two slots."""

    def default_slots(self) -> int:
        return 2


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives the runners a cache that has nothing."""
    monkeypatch.setenv("DRAGONFLY_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Tells the bytes of large payloads that went to runners since it was last asked."""
    return bytes_streamed_since(monkeypatch)


def random_bytes(size: int) -> bytes:
    return os.urandom(size)


def array_of(size: int) -> Any:
    import numpy

    return numpy.arange(size, dtype="u1")


def swapped(value: bytes) -> bytes:
    return value[::-1]


def last_and_spoil(value: Any) -> int:
    last = int(value[-1])
    if not isinstance(value, bytes):
        value[-1] = 0
    return last


class Unopenable:
    """A large value that no process can open."""

    def __reduce__(self) -> Any:
        return _refuse, (b"x" * SIZE,)


def _refuse(_: bytes) -> None:
    raise ValueError("never")


def unopenable() -> Unopenable:
    return Unopenable()


def is_unopened(future: Any) -> bool:
    return type(future._result) is Outcome and future._result.encoded is not None


def test_a_large_value_is_not_sent_to_the_runner_that_it_came_from(make: Make, sent: Callable[[], int]) -> None:
    ex: DragonflyExecutor = make(backend=Dialing())
    assert ex.submit(echo, ex.submit(echo, 1)).result(PATIENCE) == 1
    first = ex.submit(random_bytes, SIZE)
    second = ex.submit(swapped, first)
    calls = [ex.submit(last_and_spoil, value) for value in (first, second) for _ in range(4)]
    found = values(calls)
    assert sent() < SIZE // 4
    assert is_unopened(first)
    assert second.result() == first.result()[::-1]
    assert found == [first.result()[-1]] * 4 + [first.result()[0]] * 4
    # An item of a map, a stream and a method are calls as well. The values were asked for, so they are encoded again.
    assert list(ex.map(len, [ex.submit(random_bytes, SIZE)])) == [SIZE]
    assert sent() < SIZE // 4
    assert ex.submit(len, first).result(PATIENCE) == SIZE
    assert sent() >= SIZE


def test_arrays_and_compressed_results_stay_too(make: Make, sent: Callable[[], int]) -> None:
    pytest.importorskip("numpy")
    pytest.importorskip("lz4")
    ex: DragonflyExecutor = make(backend=Dialing(), compression="auto")
    assert ex.submit(echo, ex.submit(echo, 1)).result(PATIENCE) == 1
    array = ex.submit(array_of, SIZE)
    calls = [ex.submit(last_and_spoil, array) for _ in range(4)]
    assert values(calls) == [255] * 4, "each call has a value of its own"
    assert sent() < SIZE // 64
    assert array.result().sum() == 4 * 1024 * 1024 // 256 * (255 * 128)


def test_a_value_whose_runner_was_killed_is_sent_to_the_next_one(make: Make, sent: Callable[[], int]) -> None:
    ex: DragonflyExecutor = make(backend=Dialing())
    assert ex.submit(echo, ex.submit(echo, 1)).result(PATIENCE) == 1
    first = ex.submit(random_bytes, SIZE)
    wait([first], PATIENCE)
    agent = ex.submit(agent_pid).result(PATIENCE)
    assert sent() < SIZE // 4
    os.kill(agent, signal.SIGKILL)
    assert becomes_true(ex.pool, lambda: ex.pool.stats().runners_up == 0)
    assert ex.submit(last_and_spoil, first).result(PATIENCE) == first.result()[-1]
    assert sent() >= SIZE


def test_a_value_that_is_not_kept_any_more_is_sent(make: Make, sent: Callable[[], int]) -> None:
    ex: DragonflyExecutor = make(backend=Dialing())
    assert ex.submit(echo, ex.submit(echo, 1)).result(PATIENCE) == 1
    first = ex.submit(random_bytes, SIZE)
    wait([first], PATIENCE)
    wait([ex.submit(random_bytes, KEPT_FROM) for _ in range(MOST_KEPT)], PATIENCE)
    assert sent() < SIZE // 4
    assert values(ex.submit(last_and_spoil, first) for _ in range(3)) == [first.result()[-1]] * 3
    assert SIZE <= sent() < 2 * SIZE


def test_the_parent_does_not_open_what_only_passes(make: Make) -> None:
    for backend in (LocalBackend(slots=2), LocalBackend(slots=2, shared_memory=0)):
        ex: DragonflyExecutor = make(backend=backend)
        for size in (10, 100_000, SIZE):
            first = ex.submit(random_bytes, size)
            second = ex.submit(swapped, first)
            assert ex.submit(len, second).result(PATIENCE) == size
            assert is_unopened(first)
            assert is_unopened(second)
            assert second.result() == first.result()[::-1]
        # What nobody can open fails the calls that need it, where they are opened.
        assert "never" in str(error_of(ex.submit(echo, ex.submit(unopenable))))
        assert ex.submit(pid).result(PATIENCE)
