"""The fake backend and the virtual clock, as a test of a user's would use them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any

import pytest

from dragonfly_executor import (
    BootError,
    DragonflyExecutor,
    InitializerError,
    Pool,
    RunnerLostError,
    VersionMismatchError,
    on_drain,
)
from dragonfly_executor.backends.base import BootRequest
from dragonfly_executor.protocol.parent import Parent
from dragonfly_executor.testing import FakeBackend, FakeRunner, VirtualClock
from tests.support.helpers import PATIENCE, Events, error_of
from tests.support.payloads import echo, fail, init_fails


@contextmanager
def executor_on(backend: FakeBackend, **options: Any) -> Iterator[DragonflyExecutor]:
    executor = DragonflyExecutor(backend=backend, **options)
    try:
        yield executor
    except BaseException:
        executor.kill_workers()
        raise
    finally:
        executor.shutdown()


def test_calls_run_in_this_process_and_errors_come_back() -> None:
    seen = []
    with executor_on(FakeBackend(), serializer="pickle") as executor:
        assert executor.submit(threading.get_ident).result(PATIENCE) != threading.get_ident()
        seen = [executor.submit(echo, number) for number in range(100)]
        assert [future.result(PATIENCE) for future in seen] == list(range(100))
        assert repr(error_of(executor.submit(fail, ValueError("no")))) == "ValueError('no')"


@pytest.mark.parametrize("size", [64 * 1024 - 100, 64 * 1024 + 100, 3_000_000])
def test_large_payloads_go_there_and_back(size: int) -> None:
    data = bytes(range(256)) * (size // 256)
    with executor_on(FakeBackend()) as executor:
        assert executor.submit(echo, data).result(PATIENCE) == data


def test_the_script_decides_boot_by_boot() -> None:
    broken = FakeRunner(error=OSError("no capacity"))
    backend = FakeBackend(broken, broken)
    with executor_on(backend, max_boot_failures=3, boot_wait=lambda state: 0.0) as executor:
        assert executor.submit(echo, 1).result(PATIENCE) == 1
        stats = executor.pool.stats()
    assert (stats.boots_attempted, stats.boots_failed) == (3, 2)
    assert [request.runner_id for request in backend.requests] == [1, 2, 3]
    assert len(backend.nodes) == 1


def test_a_scripted_boot_error_carries_its_cause() -> None:
    backend = FakeBackend(FakeRunner(error=OSError("no capacity")))
    with pytest.raises(BootError, match="no capacity") as caught:
        backend.boot(BootRequest(1, Parent.new("pool", 1, "fake"), 1.0))
    assert isinstance(caught.value.__cause__, OSError)


def test_a_runner_that_dies_after_some_calls_loses_the_next_one() -> None:
    backend = FakeBackend(FakeRunner(dies_after=3), slots=1)
    with executor_on(backend) as executor:
        assert [executor.submit(echo, number).result(PATIENCE) for number in range(3)] == [0, 1, 2]
        assert isinstance(error_of(executor.submit(echo, 3)), RunnerLostError)
        assert executor.submit(echo, 4).result(PATIENCE) == 4
    assert len(backend.nodes) == 2


@pytest.mark.parametrize("claims", [{"python": "3.9"}, {"protocol": 99}])
def test_a_runner_of_another_version_is_refused_and_not_booted_again(claims: dict[str, Any]) -> None:
    backend = FakeBackend(then=FakeRunner(**claims))
    with executor_on(backend) as executor:
        error = error_of(executor.submit(echo, 1))
    assert isinstance(error, VersionMismatchError)
    assert str(next(iter(claims.values()))) in str(error)
    assert len(backend.requests) == 1


def test_a_cancelled_call_frees_its_place_for_the_next() -> None:
    release = threading.Event()
    started = threading.Event()
    held[:] = [started, release]
    with executor_on(FakeBackend(slots=1)) as executor:
        first = executor.submit(wait_for_release)
        assert started.wait(PATIENCE)
        assert first.cancel()
        release.set()
        with pytest.raises(CancelledError):
            first.result()
        assert executor.submit(echo, 2).result(PATIENCE) == 2


held: list[threading.Event] = []


def wait_for_release() -> None:
    started, release = held
    started.set()
    release.wait()


def test_the_initializer_runs_and_its_failure_breaks_the_pool() -> None:
    with executor_on(FakeBackend(), initializer=init_fails) as executor:
        assert isinstance(error_of(executor.submit(echo, 1)), InitializerError)


def test_a_node_that_is_killed_is_no_longer_running() -> None:
    backend = FakeBackend()
    with executor_on(backend) as executor:
        executor.submit(echo, 1).result(PATIENCE)
        assert backend.running == backend.nodes
        backend.nodes[0].kill()
        backend.nodes[0].agent.join()
        assert backend.running == []
    assert backend.nodes[0].stops == 1


def test_a_failed_boot_comes_ahead_of_the_script() -> None:
    backend = FakeBackend(FakeRunner(host="first"), FakeRunner(host="second"))
    cause = OSError("no capacity")
    request = BootRequest(1, Parent.new("pool", 1, "fake"), 1.0)
    nodes = [backend.boot(request)]
    backend.fail_next_boot(cause, count=2)
    for _ in range(2):
        with pytest.raises(BootError, match="no capacity") as caught:
            backend.boot(request)
        assert caught.value.__cause__ is cause
    nodes += [backend.boot(request) for _ in range(2)]
    backend.fail_next_boot()  # behind the end of the script
    with pytest.raises(BootError, match="fail_next_boot"):
        backend.boot(request)
    nodes.append(backend.boot(request))
    assert [node.host for node in nodes] == ["first", "second", "", ""]
    for node in nodes:
        node.stop()


def test_the_pool_knows_that_a_runner_was_lost() -> None:
    backend = FakeBackend(slots=1)
    with executor_on(backend, retries=1, max=2) as executor:
        assert executor.submit(echo, 1).result(PATIENCE) == 1
        assert backend.lose_runner() is backend.nodes[0]
        assert executor.pool.stats().runners_up == 0
        assert executor.submit(echo, 2).result(PATIENCE) == 2
        assert backend.running == backend.nodes[1:]
        backend.lose_runner(backend.nodes[1])
        assert executor.pool.stats().runners_up == 0


def test_no_runner_can_be_lost_before_one_is_up() -> None:
    with pytest.raises(LookupError, match="no runner of this FakeBackend is up"):
        FakeBackend().lose_runner()


def test_a_runner_that_no_pool_misses_is_not_lost_in_silence() -> None:
    backend = FakeBackend()
    node = backend.boot(BootRequest(1, Parent.new("pool", 1, "fake"), 1.0))
    with pytest.raises(TimeoutError, match=r"has not stopped the lost runner's node within 0.01 s"):
        backend.lose_runner(timeout=0.01)
    node.stop()


# -- the parent --------------------------------------------------------------------------------------------------------


def parents_of_two_calls(executor: DragonflyExecutor) -> list[Parent | None]:
    """What two calls see that run at the same time."""
    both_run = threading.Barrier(2)
    met[:] = [both_run]
    return [future.result(PATIENCE) for future in [executor.submit(parent_at_barrier) for _ in range(2)]]


met: list[threading.Barrier] = []


def parent_at_barrier() -> Parent | None:
    met[0].wait(PATIENCE)
    return Parent.get()


def test_calls_see_their_parent_and_slot_and_nobody_else_does() -> None:
    with executor_on(FakeBackend(slots=2)) as executor:
        parents = parents_of_two_calls(executor)
        assert Parent.get() is None
        for parent in parents:
            assert parent is not None
            assert (parent.pool, parent.runner_id, parent.backend, parent.depth) == (executor.pool.name, 1, "fake", 1)
            assert parent.pid == os.getpid()
        assert {parent.slot for parent in parents if parent} == {0, 1}
        # Slots are used again, the lowest first.
        assert [executor.submit(slot_of_call).result(PATIENCE) for _ in range(3)] == [0, 0, 0]


def slot_of_call() -> int | None:
    parent = Parent.get()
    return parent.slot if parent else None


def test_the_initializer_sees_the_parent() -> None:
    seen: list[Parent | None] = []
    slots_of_initializer[:] = [seen]
    with executor_on(FakeBackend(), initializer=note_parent) as executor:
        executor.submit(echo, 1).result(PATIENCE)
    assert [parent.slot for parent in seen if parent] == [0]


slots_of_initializer: list[list[Parent | None]] = []


def note_parent() -> None:
    slots_of_initializer[0].append(Parent.get())


def test_a_call_may_watch_for_a_drain_that_never_comes() -> None:
    with executor_on(FakeBackend()) as executor:
        assert executor.submit(watch_for_drain).result(PATIENCE) is False


def watch_for_drain() -> bool:
    with on_drain() as notice:
        return notice.has_begun


# -- the clock ---------------------------------------------------------------------------------------------------------


def test_an_hour_of_idleness_passes_at_once() -> None:
    clock, events = VirtualClock(), Events()
    backend = FakeBackend(clock=clock)
    with executor_on(backend, idle_shutdown_after=3600, on_event=events) as executor:
        executor.submit(echo, 1).result(PATIENCE)
        clock.advance(3599)
        assert executor.pool.stats().runners_up == 1
        clock.advance(1)
        assert executor.pool.stats().runners_up == 0
        assert events.wait("down")["text"] == "runner 1 is down: idle"


def test_a_budget_ends_when_the_clock_says_so() -> None:
    clock = VirtualClock()
    backend = FakeBackend(FakeRunner(silent=True), clock=clock)
    with executor_on(backend, timeout=10, boot_timeout=3600) as executor:
        future = executor.submit(echo, 1)
        clock.advance(9.9)
        assert not future.done()
        clock.advance(0.2)
        assert isinstance(future.exception(PATIENCE), TimeoutError)
        executor.kill_workers()


def test_a_runner_that_hangs_is_given_up_once_it_was_silent_for_too_long() -> None:
    clock = VirtualClock()
    backend = FakeBackend(clock=clock, slots=1)
    with executor_on(backend, heartbeat=5, dead_after=30) as executor:
        executor.submit(echo, 1).result(PATIENCE)
        backend.nodes[0].freeze()
        future = executor.submit(echo, 2)
        for _ in range(6):
            clock.advance(5)
        assert not future.done()
        clock.advance(5)
        error = error_of(future)
        assert isinstance(error, RunnerLostError)
        assert "no data for 35.0 s" in str(error)


def test_time_does_not_go_back() -> None:
    with pytest.raises(ValueError, match="forward only"):
        VirtualClock().advance(-1)


def test_a_clock_without_pools_can_be_moved() -> None:
    clock = VirtualClock(5.0)
    with Pool("timed", min=0, max=1, backend=FakeBackend(clock=clock)):
        clock.advance(2.5)
    assert clock.time() == 7.5
