"""Futures as arguments of calls: a call waits for them without a slot, gets their values, and fails with theirs."""

from __future__ import annotations

import asyncio
import gc
import pickle
import threading
import weakref
from concurrent.futures import CancelledError, ThreadPoolExecutor
from concurrent.futures import Future as BaseFuture
from concurrent.futures import wait as wait_for_futures
from dataclasses import dataclass
from typing import Any

import pytest

from dragonfly_executor import (
    CallSerializationError,
    CallTimeoutError,
    FrameTooLargeError,
    QueueFullError,
    ResultSerializationError,
    RunnerLostError,
)
from tests.engine.conftest import MakePool
from tests.processes.conftest import Make
from tests.support.helpers import PATIENCE, Gate, Mailbox, becomes_true, error_of
from tests.support.payloads import die_by, echo, hold, pid, wait_at


def add(*values: int) -> int:
    return sum(values)


def fail_with(text: str) -> None:
    raise ValueError(text)


@dataclass
class Job:
    numbers: Any
    parts: dict[str, Any]


def total(job: Job, extra: list[Any]) -> int:
    return sum(job.numbers) + sum(job.parts.values()) + sum(extra)


def spoil(value: list[int]) -> int:
    """Change the value, and return its length as it was."""
    count = len(value)
    value.append(0)
    return count


def spoil_bytes(value: bytearray) -> int:
    """Change the value, and return its first byte as it was."""
    first = value[0]
    value[0] = 255
    return first


def make_bytes(size: int) -> bytearray:
    return bytearray(size)


def test_a_call_gets_the_values_of_the_futures_among_its_arguments(make: Make) -> None:
    ex = make(2)
    one, two = ex.submit(echo, 1), ex.submit(echo, 2)
    assert ex.submit(add, one, two, 3).result(PATIENCE) == 6
    # At any depth, by keyword, twice in one call, and in what the function has captured.
    job = Job((one, 1), {"a": two, "b": 1})
    assert ex.submit(total, job, extra=[one, one, 4]).result(PATIENCE) == 11
    assert ex.submit(lambda: one).result(PATIENCE) == 1
    assert ex.submit(echo, {"x": [one, (two,)]}).result(PATIENCE) == {"x": [1, (2,)]}
    with ex.share([7]) as shared:
        assert ex.submit(total, Job(shared, {}), extra=[one]).result(PATIENCE) == 8
    # A chain, of futures that are done and of those that are not.
    chain = one
    for _ in range(50):
        chain = ex.submit(add, chain, 1)
    assert chain.result(PATIENCE) == 51
    assert ex.submit(echo, None).result(PATIENCE) is None
    assert ex.submit(echo, ex.submit(echo, None)).result(PATIENCE) is None

    async def main() -> int:
        return await ex.acall(add, one, ex.submit(echo, 5))

    assert asyncio.run(main()) == 6


@pytest.mark.parametrize("serializer", ["cloudpickle", "dill", "pickle"])
def test_the_other_arguments_are_those_of_the_submit(make: Make, mailbox: Mailbox, gate: Gate, serializer: str) -> None:
    ex = make(1, serializer=serializer)
    first = ex.submit(hold, mailbox.path, gate.path, 1)
    mailbox.read()
    numbers, data = [2, 3], bytearray(b"\1" * 300_000)
    second = ex.submit(echo, [first, numbers, data])
    numbers.append(4)
    data[0] = 9
    gate.open()
    value, then, bytes_then = second.result(PATIENCE)
    assert (value, then, bytes_then[0]) == (1, [2, 3], 1)


def test_a_call_that_waits_has_no_slot(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    ex = make(1)
    threads = ThreadPoolExecutor(1)
    opened = threading.Event()
    theirs = threads.submit(opened.wait, PATIENCE)
    waits = ex.submit(echo, theirs)
    assert ex.submit(echo, 1).result(PATIENCE) == 1
    assert not waits.done()
    assert not waits.running()
    assert ex.pool.stats().calls_delayed == 1
    opened.set()
    assert waits.result(PATIENCE) is True
    # The callback thread may be busy with what waits for such a call.
    first = ex.submit(hold, mailbox.path, gate.path, 2)
    second = ex.submit(echo, first)
    done: list[int] = []
    first.add_done_callback(lambda _: done.append(second.result(PATIENCE)))
    gate.open()
    assert second.result(PATIENCE) == 2
    assert becomes_true(ex.pool, lambda: done == [2])
    threads.shutdown()


def test_futures_of_other_pools_count(make: Make) -> None:
    first, second = make(1), make(1)
    assert second.submit(add, first.submit(echo, 1), second.submit(echo, 2)).result(PATIENCE) == 3


def test_a_call_fails_with_the_error_of_its_future(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    ex = make(2)
    never = ex.submit(hold, mailbox.path, gate.path)
    mailbox.read()
    bad = ex.submit(fail_with, "no")
    # It does not wait for the others, and neither do those that wait for it.
    third = ex.submit(echo, ex.submit(add, never, bad))
    assert str(error_of(third)) == "no"
    assert isinstance(error_of(third), ValueError)
    assert isinstance(error_of(ex.submit(echo, bad)), ValueError), "it had failed before"
    lost = ex.submit(die_by, 9)
    assert isinstance(error_of(ex.submit(echo, lost)), RunnerLostError)
    theirs: BaseFuture[int] = BaseFuture()
    call = ex.submit(echo, theirs)
    theirs.set_exception(KeyError("theirs"))
    assert isinstance(error_of(call), KeyError)
    stats = ex.pool.stats()
    assert (stats.calls_failed, stats.calls_delayed) == (6, 0)
    gate.open()


def test_cancelling(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    """Cancelling a future cancels the calls that wait for it; cancelling such a call leaves its futures alone."""
    ex = make(1)
    running = ex.submit(hold, mailbox.path, gate.path, 1)
    mailbox.read()
    first = ex.submit(echo, running)
    assert first.cancel()
    with pytest.raises(CancelledError):
        first.result(PATIENCE)
    second = ex.submit(echo, ex.submit(echo, running))
    gate.open()
    assert second.result(PATIENCE) == 1
    stopped = ex.submit(hold, mailbox.path, gate.path, 1)
    mailbox.read()
    third = ex.submit(echo, ex.submit(echo, stopped))
    stopped.cancel()
    assert wait_for_futures([third], PATIENCE).done
    assert third.cancelled()


def test_limits_of_a_call_that_waits(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    """`timeout` counts from the submit, `queue_timeout` from the time at which the values are there."""
    ex = make(1)
    first = ex.submit(hold, mailbox.path, gate.path, 1)
    mailbox.read()
    late = ex.options(timeout=0.05).submit(echo, first)
    patient = ex.options(queue_timeout=PATIENCE, priority=2, retries=1).submit(echo, first)
    assert isinstance(error_of(late), CallTimeoutError)
    view = ex.options(max_queued=1, when_full="raise")
    with pytest.raises(QueueFullError):
        view.submit(echo, first)
    gate.open()
    assert patient.result(PATIENCE) == 1


def test_shutdown_waits_for_them_and_cancels_them(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    ex = make(1)
    first = ex.submit(hold, mailbox.path, gate.path, 1)
    second = ex.submit(add, first, 1)
    mailbox.read()
    ex.shutdown(wait=False)
    gate.open()
    ex.shutdown()
    assert second.result(0) == 2
    with pytest.raises(RuntimeError, match="after shutdown"):
        ex.submit(add, first, 1)

    for end in ("cancel", "kill"):
        ex = make(1)
        theirs: BaseFuture[int] = BaseFuture()
        waits = ex.submit(add, theirs, 1)
        if end == "cancel":
            ex.shutdown(cancel_futures=True)
        else:
            ex.kill_workers()
            ex.shutdown()
        assert waits.cancelled()
        theirs.set_result(1)


@pytest.mark.parametrize("size", [10_000, 200_000, 3_000_000])
def test_large_values_come_fresh_for_each_call(make: Make, size: int) -> None:
    ex = make(1)
    value = ex.submit(make_bytes, size)
    calls = [ex.submit(spoil_bytes, value) for _ in range(3)]
    assert [call.result(PATIENCE) for call in calls] == [0, 0, 0]
    assert value.result()[0] == 0
    assert [ex.submit(spoil, ex.submit(echo, [1])).result(PATIENCE) for _ in range(2)] == [1, 1]
    assert becomes_true(ex.pool, lambda: not ex.pool._engine.codec.contents._references)


def test_a_future_does_not_keep_the_calls_that_have_waited_for_it(make: Make) -> None:
    ex = make(1)
    one = ex.submit(echo, 1)
    calls = [ex.submit(add, one, number) for number in range(50)]
    assert [call.result(PATIENCE) for call in calls] == list(range(1, 51))
    references = [weakref.ref(call) for call in calls]
    calls.clear()
    # The first steps of other threads may still hold some.
    assert becomes_true(ex.pool, lambda: gc.collect() >= 0 and all(reference() is None for reference in references))
    assert one.result() == 1


def test_what_cannot_be_an_argument(make: Make, make_pool: MakePool) -> None:
    ex = make(1)
    one = ex.submit(echo, 1)
    error = error_of(ex.submit(echo, [one, threading.Lock()]))
    assert isinstance(error, CallSerializationError)
    assert "cannot pickle '_thread.lock'" in str(error)
    for call in (ex.submit(return_a_future), make(1, serializer=pickle).submit(echo, one)):
        error = error_of(call)
        assert "future" in str(error)
        assert isinstance(error, (CallSerializationError, ResultSerializationError))
    with pytest.raises(TypeError, match="generator"):
        ex.submit(generate, one)
    small = make_pool(max_payload=100_000)
    large = small.submit(echo, b"")
    large = ex.submit(make_bytes, 200_000)
    assert isinstance(error_of(small.submit(echo, large)), FrameTooLargeError)
    theirs: BaseFuture[Any] = BaseFuture()
    unpicklable = ex.submit(echo, theirs)
    theirs.set_result(threading.Lock())
    assert isinstance(error_of(unpicklable), CallSerializationError)


def return_a_future() -> Any:
    return BaseFuture()


def generate(value: int) -> Any:
    yield value


def test_a_slot_that_is_killed_fails_only_what_depends_on_it(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    import os
    import signal

    ex = make(2)
    first = ex.submit(hold, mailbox.path, gate.path)
    killed = mailbox.numbers(1)[0]
    waits, other = ex.submit(pid, first), ex.submit(echo, ex.submit(echo, 3))
    os.kill(killed, signal.SIGKILL)
    assert isinstance(error_of(waits), RunnerLostError)
    assert other.result(PATIENCE) == 3
    # A call with a value is tried again like any other.
    again = ex.options(retries=1).submit(wait_at, ex.submit(echo, gate.path))
    gate.open()
    assert again.result(PATIENCE) is None
