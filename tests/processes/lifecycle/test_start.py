"""A pool that cannot be started, for want of a thread or a descriptor: nothing is left, and it may be tried again."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from dragonfly_executor import DragonflyExecutor, Pool, StartError
from dragonfly_executor.engine import startup
from dragonfly_executor.testing import FakeBackend, VirtualClock
from dragonfly_executor.transport import loop, waker
from tests.support import payloads
from tests.support.census import Census
from tests.support.helpers import PATIENCE

NO_THREAD = "can't start new thread"
THREADS = 5
"""That a pool on a fake backend starts with: one to start the others, for callbacks, for give-backs, for boots, and the
engine's own."""


class Shortage:
    """Stands before what takes one of something, and has none when its turn comes, and from then on until it ends."""

    def __init__(self, function: Callable[..., object], left: int, error: BaseException) -> None:
        self._function = function
        self._error = error
        self.left = left

    def __get__(self, instance: object, owner: type) -> Callable[..., object]:
        return lambda *args, **kwargs: self(instance, *args, **kwargs)

    def __call__(self, *args: object, **kwargs: object) -> object:
        if self.left <= 0:
            raise self._error
        self.left -= 1
        return self._function(*args, **kwargs)


@pytest.fixture
def executor() -> Iterator[DragonflyExecutor]:
    with DragonflyExecutor(2, backend=FakeBackend()) as executor:
        yield executor


def check_that_nothing_begins(executor: DragonflyExecutor, census: Census) -> StartError:
    """Submit twice, and find nothing afterwards that was not there before."""
    before = census.look()
    for _ in range(2):
        with pytest.raises(
            StartError, match=f"{executor.pool.name!r} could not be started, and was cleaned up: "
        ) as caught:
            executor.submit(payloads.echo, 1)
    left = census.look() - before
    assert not left, census.describe(left)
    assert executor.pool.stats().calls_queued == 0
    return caught.value


@pytest.mark.parametrize("had", range(THREADS))
@pytest.mark.parametrize("error", [RuntimeError(NO_THREAD), MemoryError()], ids=repr)
def test_a_pool_without_threads_starts_anew_when_there_are_some(
    executor: DragonflyExecutor, census: Census, monkeypatch: pytest.MonkeyPatch, had: int, error: Exception
) -> None:
    """Whichever of its threads is the first that is not to be had."""
    with monkeypatch.context() as patch:
        shortage = Shortage(threading.Thread.start, had, error)
        patch.setattr(threading.Thread, "start", shortage)
        before = census.look()
        with pytest.raises(StartError, match=type(error).__name__) as caught:
            executor.submit(payloads.echo, 1)
        assert caught.value.__cause__ is error
        assert isinstance(caught.value, RuntimeError)
        left = census.look() - before
        assert not left, census.describe(left)
        check_that_nothing_begins(executor, census)
    assert executor.submit(payloads.echo, 1).result(PATIENCE) == 1


def test_a_pool_without_a_thread_to_start_it_starts_anew(
    executor: DragonflyExecutor, census: Census, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(startup, "start_new_thread", Shortage(startup.start_new_thread, 0, RuntimeError(NO_THREAD)))
        assert NO_THREAD in str(check_that_nothing_begins(executor, census))
    assert executor.submit(payloads.echo, 1).result(PATIENCE) == 1


@pytest.mark.parametrize("what", ["poller", "waker"])
def test_a_pool_without_descriptors_starts_anew_when_there_are_some(
    executor: DragonflyExecutor, census: Census, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    with monkeypatch.context() as patch:
        error = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        patch.setattr(loop, f"make_{what}", Shortage(waker.make_waker, 0, error))
        assert check_that_nothing_begins(executor, census).__cause__ is error
    assert executor.submit(payloads.echo, 1).result(PATIENCE) == 1


@pytest.mark.parametrize("how", ["shutdown", "exit", "kill", "collected"])
def test_a_pool_that_never_started_ends_at_once(census: Census, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(threading.Thread, "start", Shortage(threading.Thread.start, 2, RuntimeError(NO_THREAD)))
    executor = DragonflyExecutor(2, backend=FakeBackend())
    check_that_nothing_begins(executor, census)
    if how == "shutdown":
        executor.shutdown()
    elif how == "exit":
        with executor:
            pass
    elif how == "kill":
        executor.kill_workers()
    if how == "collected":
        del executor
    else:
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(payloads.echo, 1)


def test_a_pool_that_keeps_runners_is_not_made_without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """And its name is free."""
    backend = FakeBackend()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", Shortage(threading.Thread.start, 2, RuntimeError(NO_THREAD)))
        with pytest.raises(StartError):
            Pool("kept", min=1, max=1, backend=backend)
        with pytest.raises(StartError):
            DragonflyExecutor(2, min=1, backend=backend)
    with Pool("kept", min=1, max=1, backend=backend) as pool:
        assert pool.call(payloads.echo, 1) == 1


def test_first_submits_that_race_start_one_engine() -> None:
    """However many threads need it at once."""
    count = 16
    loops = []
    clock = VirtualClock()
    backend = FakeBackend(clock=clock)
    make_loop = clock.make_loop
    clock.make_loop = lambda: loops.append(make_loop()) or loops[-1]  # type: ignore[method-assign,func-returns-value]
    barrier = threading.Barrier(count)

    def submit(number: int) -> int:
        barrier.wait(PATIENCE)
        result: int = executor.submit(payloads.echo, number).result(PATIENCE)
        return result

    with DragonflyExecutor(2, backend=backend) as executor, ThreadPoolExecutor(count) as threads:
        assert list(threads.map(submit, range(count))) == list(range(count))
    assert len(loops) == 1


def test_a_shutdown_while_the_pool_starts_is_one() -> None:
    """It waits for the start, which comes to nothing or ends at once."""
    reached, go_on = threading.Event(), threading.Event()
    backend = FakeBackend()
    make_loop = backend.make_loop

    def make_slowly() -> loop.Loop:
        reached.set()
        assert go_on.wait(PATIENCE)
        return make_loop()

    backend.make_loop = make_slowly  # type: ignore[method-assign]
    executor = DragonflyExecutor(2, backend=backend)
    refusals: list[BaseException] = []

    def submit() -> None:
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown") as caught:
            executor.submit(payloads.echo, 1)
        refusals.append(caught.value)

    submitting = threading.Thread(target=submit)
    submitting.start()
    assert reached.wait(PATIENCE)
    ending = threading.Thread(target=executor.shutdown)
    ending.start()
    go_on.set()
    for thread in (submitting, ending):
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert len(refusals) == 1
