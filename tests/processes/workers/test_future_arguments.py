"""Futures as arguments of placed workers and of their methods: a call keeps its place while it waits."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError
from concurrent.futures import Future as BaseFuture

import pytest

from dragonfly_executor import CallSerializationError, CallTimeoutError, WorkerLostError
from tests.processes.conftest import Make
from tests.processes.workers.objects import Counter
from tests.support.helpers import PATIENCE, Gate, Mailbox, becomes_true, error_of, values
from tests.support.payloads import echo, hold


def fail_with(text: str) -> None:
    raise ValueError(text)


def test_a_method_gets_the_values_of_its_futures(make: Make) -> None:
    ex = make(3)
    worker = ex.place(Counter, ex.submit(echo, 10))
    assert worker.add(ex.submit(echo, 5)).result(PATIENCE) == 15
    assert worker.add(number=ex.submit(echo, 5)).result(PATIENCE) == 20
    # The value of a method of this worker, and of another one, at any depth.
    other = ex.place(Counter, start=worker.add(0))
    assert other.echo([worker.add(1), {"x": other.add(1)}]).result(PATIENCE) == [21, {"x": 21}]
    assert ex.submit(echo, worker.add(1)).result(PATIENCE) == 22
    large = b"x" * 3_000_000
    assert worker.size(ex.submit(echo, large)).result(PATIENCE) == len(large)


@pytest.mark.parametrize("concurrency", [1, 2])
def test_no_later_call_overtakes_one_that_waits(make: Make, concurrency: int) -> None:
    worker = make().options(concurrency=concurrency).place(Counter)
    theirs: list[BaseFuture[int]] = [BaseFuture() for _ in range(2)]
    calls = [worker.add(1), worker.add(theirs[0]), worker.echo("x"), worker.add(theirs[1]), worker.add(1)]
    assert calls[0].result(PATIENCE) == 1
    theirs[1].set_result(100)
    assert not any(call.done() for call in calls[1:])
    theirs[0].set_result(10)
    assert values(calls) == [1, 11, "x", 111, 112]


def test_an_error_or_a_cancel_lets_the_calls_behind_go_on(make: Make) -> None:
    ex = make()
    worker = ex.place(Counter)
    theirs: list[BaseFuture[int]] = [BaseFuture() for _ in range(4)]
    bad = ex.submit(fail_with, "no")
    assert error_of(worker.add(bad)) is error_of(bad)
    failed, behind = worker.add([theirs[0], theirs[1]]), worker.add(1)
    theirs[1].set_exception(KeyError("theirs"))
    assert error_of(failed) is theirs[1].exception()
    assert behind.result(PATIENCE) == 1
    ended, behind = worker.add(theirs[2]), worker.add(1)
    theirs[2].cancel()
    assert behind.result(PATIENCE) == 2
    assert ended.cancelled()
    cancelled, behind = worker.add(theirs[3]), worker.add(1)
    assert cancelled.cancel()
    assert behind.result(PATIENCE) == 3
    late, behind = worker.options(timeout=0.05).add(theirs[0]), worker.add(1)
    assert isinstance(error_of(late), CallTimeoutError)
    assert behind.result(PATIENCE) == 4
    unpicklable: BaseFuture[object] = BaseFuture()
    unpicklable.set_result(threading.Lock())
    assert isinstance(error_of(worker.echo(unpicklable)), CallSerializationError)
    with pytest.raises(CallSerializationError):
        worker.echo(threading.Lock())
    theirs[0].set_result(5)
    theirs[3].set_result(5)
    # `queue_timeout` counts from the time at which the values are there.
    first: BaseFuture[int] = BaseFuture()
    patient = worker.options(queue_timeout=PATIENCE).add(first)
    first.set_result(1)
    assert patient.result(PATIENCE) == 5


def test_a_worker_that_waits_for_futures(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    ex = make()
    first = ex.submit(hold, mailbox.path, gate.path, 10)
    mailbox.read()
    worker = ex.place(Counter, first)
    call = worker.add(1)
    assert ex.pool.stats().calls_delayed == 1
    gate.open()
    assert call.result(PATIENCE) == 11
    # Each of its runs gets the value.
    again = ex.options(restart="always").place(Counter, first)
    error_of(again.exit(3))
    assert again.add(1).result(PATIENCE) == 11


@pytest.mark.parametrize("restart", [None, "always"])
def test_ends_of_a_worker_that_waits(make: Make, restart: str | None) -> None:
    ex = make()
    theirs: list[BaseFuture[int]] = [BaseFuture() for _ in range(4)]
    view = ex if restart is None else ex.options(restart=restart)  # type: ignore[arg-type]
    failed = view.place(Counter, theirs[0])
    call = failed.add(1)
    theirs[0].set_exception(RuntimeError("theirs"))
    for future in (call, failed.ready):
        error = error_of(future)
        assert isinstance(error, WorkerLostError)
        assert error.__cause__ is theirs[0].exception()
    cancelled = view.place(Counter, theirs[1])
    theirs[1].cancel()
    assert "was cancelled" in str(error_of(cancelled.ready))
    stopped = view.place(Counter, theirs[2])
    stopped.stop(timeout=PATIENCE)
    killed = view.place(Counter, theirs[2])
    killed.kill()
    assert isinstance(error_of(killed.ended), WorkerLostError)
    waits, method = view.place(Counter, theirs[2]), ex.place(Counter).add(theirs[2])
    ex.shutdown(cancel_futures=True)
    assert isinstance(error_of(waits.ready), (RuntimeError, CancelledError))
    assert method.cancelled()
    theirs[2].set_result(1)


def test_stop_waits_for_the_calls_that_wait(make: Make) -> None:
    worker = make().place(Counter)
    theirs: BaseFuture[int] = BaseFuture()
    call = worker.add(theirs)
    worker.stop(wait=False)
    assert not worker.ended.done()
    theirs.set_result(3)
    assert call.result(PATIENCE) == 3
    assert worker.ended.result(PATIENCE) is None


def test_a_call_that_waits_outlives_the_slot_of_its_worker(make: Make) -> None:
    ex = make()
    worker = ex.options(restart="on_failure").place(Counter)
    theirs: BaseFuture[int] = BaseFuture()
    killer, call = worker.exit(3), worker.add(theirs)
    assert isinstance(error_of(killer), WorkerLostError)
    theirs.set_result(3)
    assert call.result(PATIENCE) == 3
    for_good = ex.place(Counter)
    lost = for_good.add(BaseFuture())
    for_good.kill()
    assert isinstance(error_of(lost), WorkerLostError)


def test_thousands_of_method_calls_wait(make: Make) -> None:
    ex = make()
    worker = ex.place(Counter)
    theirs: BaseFuture[int] = BaseFuture()
    calls = [worker.add(theirs) for _ in range(1000)]
    theirs.set_result(2)
    assert calls[-1].result(PATIENCE) == 2000
    chain = worker.add(1)
    for _ in range(200):
        chain = worker.echo(chain)
    assert chain.result(PATIENCE) == 2001
    assert becomes_true(ex.pool, lambda: not ex.pool._engine.codec.contents._references)
