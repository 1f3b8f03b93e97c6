"""`progress` in calls, and who sees it: `Future.progress`, `on_progress`, streams, the calls of a map."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dragonfly_executor
from dragonfly_executor import CallProgress, RunnerLostError, progress
from dragonfly_executor.testing import FakeBackend
from tests.processes.calls.test_streams import threads_here
from tests.processes.conftest import Make
from tests.support.helpers import PATIENCE, Gate, Mailbox, becomes_true, error_of
from tests.support.payloads import echo, tell, wait_at


def report_and_wait(gate: str) -> None:
    progress(1, 10, "begin")
    progress(2, 10, "go on")
    progress(3, 10, "wait")
    wait_at(gate)
    progress(10, 10, "end")


def report_often(count: int) -> float:
    """Return the processor seconds for a report."""
    began = time.thread_time()
    for number in range(count):
        progress(number, count)
    return (time.thread_time() - began) / count


def report_item(number: int) -> int:
    progress(number, 100)
    return number


def report_items(count: int, gate: str) -> Iterator[int]:
    for number in range(count):
        progress(number, count)
        yield number
    wait_at(gate)


def report_and_die(path: str) -> None:
    with open(path, "a") as file:
        file.write("run\n")
    runs = len(Path(path).read_text().splitlines())
    progress(runs)
    if runs == 1:
        time.sleep(0.2)  # more than the time that a report may wait
        os.kill(os.getpid(), signal.SIGKILL)


def report_in_threads() -> None:
    threads = [threading.Thread(target=lambda: report_often(1000)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    progress(5)


def leave_thread_that_reports(mailbox: str, gate: str) -> None:
    def run() -> None:
        wait_at(gate)
        progress(1)
        tell(mailbox, "reported")

    threading.Thread(target=run, daemon=True).start()


def report_in_child() -> None:
    progress(1)
    child = os.fork()
    if not child:
        for number in range(100):
            progress(100 + number)
        os._exit(0)
    os.waitpid(child, 0)


def report_wrongly(what: Any) -> None:
    progress(what)


class Reports(list[CallProgress]):
    """A callback that keeps what it gets."""

    def __call__(self, report: CallProgress) -> None:
        self.append(report)


def test_the_latest_report_is_there_while_the_call_runs(make: Make, gate: Gate) -> None:
    ex = make(1)
    seen = Reports()
    future = ex.options(on_progress=seen).submit(report_and_wait, gate.path)
    # The third report comes at once behind the others, and nothing follows it.
    assert becomes_true(ex.pool, lambda: future.progress() == CallProgress(3, 10, "wait"))
    assert future.running()
    gate.open()
    future.result(PATIENCE)
    assert future.progress() == CallProgress(10, 10, "end")
    assert future.progress().fraction == 1  # type: ignore[union-attr]
    ex.shutdown()
    assert seen[-1] == CallProgress(10, 10, "end")
    assert seen[0] == CallProgress(1, 10, "begin")
    assert ex.pool.stats().calls_done == 1


def test_many_reports_cost_little(make: Make) -> None:
    ex = make(1)
    seen = Reports()
    future = ex.options(on_progress=seen).submit(report_often, 50_000)
    # It takes a microsecond or two, and a frame for each report takes ten times as long.
    assert future.result(PATIENCE) < 20e-6
    assert future.progress() == CallProgress(49_999, 50_000, "")
    assert ex.submit(threads_here).result(PATIENCE) == 1
    ex.shutdown()
    assert 2 <= len(seen) < 1000
    assert [report.done for report in seen] == sorted(report.done for report in seen)


def test_whoever_reports(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    ex = make(1, initializer=progress, initargs=(1,))
    progress(1)
    first = ex.submit(report_in_threads)
    first.result(PATIENCE)
    assert first.progress() == CallProgress(5, None, "")
    assert first.progress().fraction is None  # type: ignore[union-attr]
    child = ex.submit(report_in_child)
    child.result(PATIENCE)
    assert child.progress() == CallProgress(1, None, "")
    ex.submit(leave_thread_that_reports, mailbox.path, gate.path).result(PATIENCE)
    gate.open()
    mailbox.read()
    silent = ex.submit(echo, 1)
    assert silent.result(PATIENCE) == 1
    assert silent.progress() is None


def test_reports_that_are_none_and_a_long_text(make: Make) -> None:
    ex = make(1)
    for what in ("text", None, [1]):
        assert isinstance(error_of(ex.submit(report_wrongly, what)), (TypeError, ValueError))
    future = ex.submit(lambda: dragonfly_executor.progress(1, float("inf"), "é" * 5000))
    future.result(PATIENCE)
    assert future.progress() == CallProgress(1, None, "é" * 1000)


def test_reports_of_maps_tasks_and_streams(make: Make, gate: Gate) -> None:
    for backend in (None, FakeBackend()):
        ex = make(2, backend=backend)
        seen = Reports()
        view = ex.options(on_progress=seen)
        assert list(view.map(report_item, range(20))) == list(range(20))
        assert asyncio.run(view.acall(report_item, 50)) == 50
        ex.shutdown()
        expected: dict[int | None, float] = {number: number for number in range(20)}
        assert {report.item: report.done for report in seen} == expected | {None: 50}
    ex = make(1)
    stream = ex.stream(report_items, 3, gate.path)
    assert [next(stream) for _ in range(3)] == [0, 1, 2]
    assert becomes_true(ex.pool, lambda: stream.progress() == CallProgress(2, 3, ""))
    gate.open()
    assert list(stream) == []


def test_a_call_that_is_lost_and_its_next_attempt(make: Make, log: Path) -> None:
    ex = make(1)
    lost = ex.submit(report_and_die, str(log))
    assert isinstance(error_of(lost), RunnerLostError)
    assert lost.progress() == CallProgress(1, None, "")
    log.unlink()
    future = ex.options(retries=1).submit(report_and_die, str(log))
    future.result(PATIENCE)
    assert future.progress() == CallProgress(2, None, "")


def test_a_callback_that_is_slow_or_fails_disturbs_nothing(make: Make, gate: Gate) -> None:
    go_on = threading.Event()
    seen = Reports()

    def slow(report: CallProgress) -> None:
        seen(report)
        go_on.wait(PATIENCE)

    def fail(report: CallProgress) -> None:
        raise ValueError(report)

    ex = make(1)
    assert ex.options(on_progress=slow).submit(report_often, 100_000).result(PATIENCE) > 0
    failed = ex.options(on_progress=fail).submit(report_item, 1)
    assert failed.result(PATIENCE) == 1
    go_on.set()
    ex.shutdown()
    assert [report.done for report in seen][1:] == [99_999]
    with pytest.raises(TypeError, match="on_progress"):
        ex.options(on_progress=5)  # type: ignore[arg-type]
