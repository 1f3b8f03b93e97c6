"""`WorkerThreads`: they start when all are busy, end when idle, and are not all that keeps a pool alive."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue

import pytest

from dragonfly_executor.engine import worker_threads
from dragonfly_executor.engine.worker_threads import WorkerThreads
from tests.support.helpers import PATIENCE

MakeWorkers = Callable[[int], WorkerThreads]


@pytest.fixture
def errors() -> list[BaseException]:
    return []


@pytest.fixture
def make_workers(errors: list[BaseException]) -> Iterator[MakeWorkers]:
    made: list[WorkerThreads] = []

    def make(size: int) -> WorkerThreads:
        made.append(WorkerThreads("test", size, errors.append))
        return made[-1]

    yield make
    for workers in made:
        workers.close()
        assert workers.join(PATIENCE) == []


def meet(workers: WorkerThreads, count: int) -> list[threading.Thread]:
    """Have so many jobs wait for each other; the threads that they ran on."""
    meeting, met = threading.Barrier(count), SimpleQueue[threading.Thread]()

    def job() -> None:
        meeting.wait(PATIENCE)
        met.put(threading.current_thread())

    for _ in range(count):
        workers.run(job)
    return [met.get(timeout=PATIENCE) for _ in range(count)]


def test_jobs_that_wait_for_each_other_each_get_a_thread(make_workers: MakeWorkers) -> None:
    seen = meet(make_workers(40), 40)
    assert {thread.name for thread in seen} == {f"test-{number}" for number in range(1, 41)}


def test_no_more_threads_start_than_the_group_may_have(make_workers: MakeWorkers) -> None:
    workers, hold, done = make_workers(3), threading.Event(), SimpleQueue[str]()

    def job() -> None:
        hold.wait(PATIENCE)
        done.put(threading.current_thread().name)

    for _ in range(9):
        workers.run(job)
    hold.set()
    assert {done.get(timeout=PATIENCE) for _ in range(9)} <= {"test-1", "test-2", "test-3"}


def test_one_job_after_another_needs_one_thread(make_workers: MakeWorkers) -> None:
    workers, done = make_workers(10), SimpleQueue[str]()
    names = set()
    for _ in range(20):
        workers.run(lambda: done.put(threading.current_thread().name))
        names.add(done.get(timeout=PATIENCE))
    # Two at most: a thread counts as busy until it has put its job away.
    assert len(names) <= 2


def test_threads_that_have_nothing_to_do_end_and_the_last_one_stays(
    make_workers: MakeWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_threads, "IDLE", 0.01)
    workers = make_workers(5)
    seen = meet(workers, 5)
    ended: list[threading.Thread] = []
    while len(ended) < 4:
        running = [thread for thread in seen if thread not in ended]
        for thread in running:
            thread.join(0.01)
        ended += [thread for thread in running if not thread.is_alive()]
    (last,) = [thread for thread in seen if thread not in ended]
    assert meet(workers, 1) == [last]
    assert len(set(meet(workers, 5))) == 5, "it grows again"


def test_threads_that_are_kept_are_there_when_no_other_can_be_started(
    make_workers: MakeWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long they have had nothing to do."""
    monkeypatch.setattr(worker_threads, "IDLE", 0.01)
    workers = make_workers(5)
    workers.keep(3)
    workers.keep(2)
    beyond = set(meet(workers, 5))
    while len([thread for thread in beyond if thread.is_alive()]) > 3:
        for thread in beyond:
            thread.join(0.01)

    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    assert len(set(meet(workers, 3))) == 3
    workers.keep(9)
    assert len(set(meet(workers, 3))) == 3


def test_a_job_that_comes_as_a_thread_is_about_to_end_is_done(
    make_workers: MakeWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever comes first: hundreds of jobs, each at about the time at which a thread has been idle for long."""
    monkeypatch.setattr(worker_threads, "IDLE", 0.0001)
    workers = make_workers(4)
    for _ in range(200):
        meet(workers, 2)


def test_a_thread_that_cannot_be_started_is_not_the_end(
    make_workers: MakeWorkers, monkeypatch: pytest.MonkeyPatch, errors: list[BaseException]
) -> None:
    """The jobs are done by the threads that are there, and later ones get threads again."""
    workers, real = make_workers(5), threading.Thread.start

    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    done = SimpleQueue[str]()
    for _ in range(5):
        workers.run(lambda: done.put(threading.current_thread().name))
    assert {done.get(timeout=PATIENCE) for _ in range(5)} == {"test-1"}
    monkeypatch.setattr(threading.Thread, "start", real)
    assert len(set(meet(workers, 5))) == 5
    assert errors == []


def test_a_group_without_its_first_thread_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        WorkerThreads("test", 5, print)


def test_threads_that_block_are_waited_for_together(errors: list[BaseException]) -> None:
    """The time is for all of them, and their names say which they are."""
    workers, hold, busy = WorkerThreads("test", 9, errors.append), threading.Event(), threading.Barrier(10)

    def job() -> None:
        busy.wait(PATIENCE)
        hold.wait(PATIENCE)

    for _ in range(9):
        workers.run(job)
    busy.wait(PATIENCE)
    workers.close()
    waited: list[float | None] = []

    class Watched(threading.Thread):
        def join(self, timeout: float | None = None) -> None:
            waited.append(timeout)
            super().join(0.0 if timeout == 0 else 0.01)

    for thread in workers._threads:
        thread.__class__ = Watched
    assert len(workers.join(0.05)) == 9
    assert all(timeout is not None and timeout <= 0.05 for timeout in waited)
    assert waited[-1] is not None
    assert waited[-1] < 0.04
    hold.set()
    assert workers.join() == []
    assert errors == []


def test_what_a_job_raises_is_told_and_its_thread_goes_on(
    make_workers: MakeWorkers, errors: list[BaseException]
) -> None:
    workers = make_workers(1)
    error = SystemExit(3)

    def job() -> None:
        raise error

    workers.run(job)
    meet(workers, 1)
    assert errors == [error]
