"""`slot_concurrency`: `async def` calls that share a slot and its event loop."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
import time
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import CallProgress, CallTimeoutError, QueueFullError, progress
from dragonfly_executor.testing import FakeBackend
from tests.engine.conftest import MakePool
from tests.processes.conftest import Make
from tests.support.helpers import PATIENCE, Gate, Mailbox, becomes_true, values
from tests.support.payloads import echo, hold, log, pid, tell, wait_at

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


async def meet(count: int) -> int:
    """Return the slot once so many calls are in it."""
    loop: Any = asyncio.get_running_loop()
    if not hasattr(loop, "barrier"):
        loop.barrier = asyncio.Barrier(count)
    await loop.barrier.wait()
    return os.getpid()


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


async def pass_gate(mailbox: str, gate: str, value: Any = None) -> Any:
    """Say the slot, and return once the gate is open. The loop goes on meanwhile."""
    tell(mailbox, os.getpid())
    await asyncio.to_thread(wait_at, gate)
    return value


async def wait_for_good(mailbox: str, path: str) -> None:
    tell(mailbox, os.getpid())
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        log(path, "cancelled")


async def set_and_get(value: str) -> str:
    before = variable.get()
    variable.set(value)
    await asyncio.sleep(0.01)
    assert variable.get() == value
    return before


async def read_variable() -> str:
    await asyncio.sleep(0)
    return variable.get()


async def read_variable_of(_: int) -> str:
    return await read_variable()


async def count_up(most: int) -> int:
    for number in range(most + 1):
        progress(number, most, str(os.getpid()))
        await asyncio.sleep(0)
    return most


async def twice(data: bytes) -> bytes:
    return data * 2


async def fail_at(number: int) -> int:
    await asyncio.sleep(0)
    if number == 3:
        raise ValueError("this one")
    return number


async def leave(status: int) -> None:
    raise SystemExit(status)


async def stop_iteration() -> None:
    raise StopIteration


async def fail_twice(path: str) -> int:
    log(path, "run")
    lines = len(await asyncio.to_thread(Path(path).read_text)) // 4
    if lines < 3:
        raise ConnectionError("again")
    return lines


class Service:
    async def __call__(self, number: int) -> int:
        return 3 * number


async def items(most: int) -> Any:
    for number in range(most):
        yield number


def test_calls_meet_in_one_slot(make: Make) -> None:
    ex = make(1).options(slot_concurrency=8)
    assert len(set(values(ex.submit(meet, 8) for _ in range(8)))) == 1
    assert len(set(ex.map(meet, [8] * 16))) == 1

    async def main() -> None:
        slots = await asyncio.gather(*(ex.acall(meet, 8) for _ in range(8)))
        slots += [slot async for slot in ex.amap(meet, [8] * 16)]
        assert len(set(slots)) == 1

    asyncio.run(main())


def test_no_more_than_so_many_share_a_slot(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    ex = make(2).options(slot_concurrency=3)
    futures = [ex.submit(pass_gate, mailbox.path, gate.path, number) for number in range(8)]
    slots = mailbox.numbers(6)
    assert sorted(map(slots.count, set(slots))) == [3, 3]
    assert becomes_true(ex.pool, lambda: ex.pool.stats().calls_running == 6)
    stats = ex.pool.stats()
    assert (stats.calls_queued, stats.calls_sent, stats.slots_busy) == (2, 6, 2)
    gate.open(8)
    assert values(futures) == list(range(8))
    assert (ex.pool.stats().calls_done, ex.pool.stats().calls_running) == (8, 0)


def test_the_pool_grows_by_slots_and_shrinks(make_pool: MakePool, mailbox: Mailbox, gate: Gate) -> None:
    pool = make_pool(max=4, max_concurrency=1, idle_shutdown_after=0.1, slot_concurrency=4)
    futures = [pool.submit(pass_gate, mailbox.path, gate.path) for _ in range(8)]
    assert len(set(mailbox.numbers(8))) == 2
    assert pool.stats().runners_up == 2, "two slots of four calls each"
    gate.open(8)
    values(futures)
    assert becomes_true(pool, lambda: pool.stats().runners_up == 0)
    assert pool.call(double, 2) == 4


def test_which_functions_share_slots(make: Make) -> None:
    ex, shared = make(1), make(1, slot_concurrency=4)
    view = ex.options(slot_concurrency=4)
    for each in (view, shared):
        assert each.submit(functools.partial(double, 2)).result(PATIENCE) == 4
        assert each.submit(Service(), 2).result(PATIENCE) == 6
        assert list(each.map(Service(), range(5))) == [0, 3, 6, 9, 12]
        with pytest.raises(TypeError, match="asynchronous generator"):
            each.submit(items, 3)
    # The pool's own option is for the functions that it fits.
    assert shared.submit(pow, 2, 3).result(PATIENCE) == 8
    assert list(shared.map(abs, [-1, -2])) == [1, 2]
    assert list(shared.map(double, range(6), chunksize=3)) == [0, 2, 4, 6, 8, 10]
    for refused in (
        lambda: view.submit(pow, 2, 3),
        lambda: view.map(abs, [-1]),
        lambda: view.map(double, [1], chunksize=2),
    ):
        with pytest.raises(TypeError, match="slot_concurrency=4 is for `async def` functions"):
            refused()
    with pytest.raises(ValueError, match="seed and slot_concurrency"):
        view.options(seed=1)
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="slot_concurrency must be at least 1"):
            ex.options(slot_concurrency=wrong)


def test_in_a_fake_pool_each_call_has_a_slot(make: Make) -> None:
    assert list(make(2, backend=FakeBackend(), slot_concurrency=4).map(double, range(6))) == [0, 2, 4, 6, 8, 10]


def test_errors_and_values_of_calls_that_share_a_slot(make: Make, tmp_path: Path) -> None:
    ex = make(1).options(slot_concurrency=4)
    error = ex.submit(fail_at, 3).exception(PATIENCE)
    assert isinstance(error, ValueError)
    assert "in fail_at" in str(error.__cause__)
    with pytest.raises(ValueError, match="this one") as caught:
        list(ex.map(fail_at, range(8)))
    assert "item 3 of the map" in caught.value.__notes__[0]
    assert isinstance(ex.submit(leave, 3).exception(PATIENCE), SystemExit)
    assert isinstance(ex.submit(stop_iteration).exception(PATIENCE), RuntimeError)
    retrying = ex.options(retries=3, retry_on=ConnectionError, retry_wait=lambda state: 0.0)
    assert retrying.submit(fail_twice, str(tmp_path / "log")).result(PATIENCE) == 3
    data = os.urandom(1 << 20)
    assert values(ex.submit(twice, data) for _ in range(6)) == [2 * data] * 6
    first = ex.submit(double, 4)
    assert ex.submit(double, first.as_argument()).result(PATIENCE) == 16
    assert list(ex.map(double, [ex.submit(double, number) for number in range(4)])) == [0, 4, 8, 12]
    with ex.share(data) as shared:
        assert values(ex.submit(twice, shared) for _ in range(3)) == [2 * data] * 3


def test_each_call_has_context_and_progress_of_its_own(make: Make) -> None:
    reports: list[CallProgress] = []
    ex = make(1).options(slot_concurrency=4)
    assert values(ex.submit(set_and_get, str(number)) for number in range(8)) == ["unset"] * 8
    variable.set("the caller's")
    seeing = ex.options(context_vars=variable)
    assert seeing.submit(read_variable).result(PATIENCE) == "the caller's"
    assert list(seeing.map(read_variable_of, range(3))) == ["the caller's"] * 3
    futures = [ex.options(on_progress=reports.append).submit(count_up, most) for most in (3, 5)]
    assert values(futures) == [3, 5]
    shown = [future.progress() for future in futures]
    assert [(each.done, each.total) for each in shown if each is not None] == [(3, 3), (5, 5)]
    assert len({each.text for each in shown if each is not None}) == 1, "both were in one slot"
    assert becomes_true(ex.pool, lambda: {each.total for each in reports} == {3, 5})


def test_cancel_ends_one_task_and_no_other(make: Make, mailbox: Mailbox, gate: Gate, tmp_path: Path) -> None:
    ex, path = make(1).options(slot_concurrency=3), tmp_path / "log"
    others = [ex.submit(pass_gate, mailbox.path, gate.path, number) for number in range(2)]
    doomed = ex.submit(wait_for_good, mailbox.path, str(path))
    slots = mailbox.numbers(3)
    queued = [ex.submit(double, number) for number in range(2)]
    assert queued[1].cancel()
    assert doomed.cancel()
    # It has its place in the slot, so its task has ended.
    assert queued[0].result(PATIENCE) == 0
    assert path.read_text() == "cancelled\n"
    gate.open(2)
    assert values(others) == [0, 1]
    assert ex.submit(meet, 1).result(PATIENCE) == slots[0]
    stats = ex.pool.stats()
    assert (stats.calls_cancelled, stats.calls_done, stats.calls_failed) == (2, 4, 0)


@pytest.mark.parametrize("limit", ["timeout", "run_timeout"])
def test_a_limit_ends_one_task_and_no_other(
    make: Make, mailbox: Mailbox, gate: Gate, tmp_path: Path, limit: Any
) -> None:
    ex, path = make(1).options(slot_concurrency=2), tmp_path / "log"
    other = ex.submit(pass_gate, mailbox.path, gate.path, "other")
    slot = mailbox.read()
    limits: Any = {limit: 0.3}
    late = ex.options(**limits).submit(wait_for_good, mailbox.path, str(path))
    assert mailbox.read() == slot
    with pytest.raises(CallTimeoutError, match=f"{limit} of 0.3 s: it was stopped on runner 1"):
        late.result(PATIENCE)
    assert ex.submit(double, 2).result(PATIENCE) == 4
    assert path.read_text() == "cancelled\n"
    gate.open()
    assert other.result(PATIENCE) == "other"
    assert ex.submit(meet, 1).result(PATIENCE) == int(slot)
    assert ex.pool.stats().calls_timed_out == 1


def test_an_attempt_that_takes_too_long_is_tried_again(make: Make, mailbox: Mailbox, tmp_path: Path) -> None:
    ex = make(1).options(slot_concurrency=2, run_timeout=0.2, retries=1, retry_on=CallTimeoutError)
    future = ex.options(retry_wait=lambda state: 0.0).submit(wait_for_good, mailbox.path, str(tmp_path / "log"))
    assert isinstance(future.exception(PATIENCE), CallTimeoutError)
    assert (tmp_path / "log").read_text() == "cancelled\n" * 2
    assert len(set(mailbox.numbers(2))) == 1


def test_a_plain_call_gets_a_slot_while_others_keep_coming(make: Make) -> None:
    """A slot that several calls share ends after its turn, if a call waits that came before the next of them."""
    ex = make(1)
    shared = ex.options(slot_concurrency=2)

    async def keep_coming(stop: asyncio.Event) -> int:
        count = 0
        while not stop.is_set():
            await shared.acall(asyncio.sleep, 0.02)
            count += 1
        return count

    async def main() -> None:
        stop = asyncio.Event()
        streams = [asyncio.create_task(keep_coming(stop)) for _ in range(4)]
        await shared.acall(double, 1)
        assert await asyncio.wait_for(ex.acall(pid), PATIENCE)
        assert await shared.acall(double, 2) == 4
        stop.set()
        assert min(await asyncio.gather(*streams)) > 0

    asyncio.run(main())


def test_a_pool_shrinks_while_calls_keep_coming(make_pool: MakePool) -> None:
    pool = make_pool(max=2, max_concurrency=1, slot_concurrency=2)

    async def keep_coming(stop: asyncio.Event) -> None:
        while not stop.is_set():
            await pool.acall(asyncio.sleep, 0.02)

    async def main() -> bool:
        stop = asyncio.Event()
        streams = [asyncio.create_task(keep_coming(stop)) for _ in range(4)]
        await pool.await_for(runners=2)
        await pool.acall(double, 1)
        pool.resize(min=0, max=1)
        shrunk = await asyncio.to_thread(becomes_true, pool, lambda: pool.stats().runners_up == 1)
        stop.set()
        await asyncio.gather(*streams)
        return shrunk

    assert asyncio.run(main())


def test_an_idle_slot_is_given_to_a_plain_call_at_once(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    ex = make(1)
    assert ex.options(slot_concurrency=4).submit(double, 1).result(PATIENCE) == 2
    began = time.monotonic()
    future = ex.submit(hold, mailbox.path, gate.path, "plain")
    mailbox.read()
    assert time.monotonic() - began < PATIENCE
    shared = ex.options(slot_concurrency=4).submit(double, 3)
    gate.open()
    assert (future.result(PATIENCE), shared.result(PATIENCE)) == ("plain", 6)


def test_a_bound_on_the_calls_that_wait(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    ex = make(1).options(slot_concurrency=2)
    futures = [ex.submit(pass_gate, mailbox.path, gate.path) for _ in range(2)]
    mailbox.numbers(2)
    bounded = ex.options(max_queued=1, when_full="raise")
    futures.append(bounded.submit(double, 1))
    with pytest.raises(QueueFullError):
        bounded.submit(double, 2)
    gate.open(2)
    values(futures)
    assert ex.options(max_queued=1).submit(double, 2).result(PATIENCE) == 4


def test_observers_and_status_show_the_calls_and_not_their_slots(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    events: list[Any] = []
    ex = make(1, on_call=events.append, slot_concurrency=2)
    futures = [ex.submit(pass_gate, mailbox.path, gate.path, number) for number in range(2)]
    mailbox.numbers(2)
    assert becomes_true(ex.pool, lambda: ex.pool.stats().calls_running == 2)
    shown = ex.pool.status()
    assert [(call["function"], call["state"], call["runner"]) for call in shown["calls"]] == [
        ("pass_gate", "running", 1)
    ] * 2
    assert shown["stats"]["calls_running"] == 2
    gate.open(2)
    values(futures)
    ex.shutdown()
    assert {event["function"] for event in events} == {"pass_gate"}
    assert [event["event"] for event in events if event["call_id"] == events[0]["call_id"]] == [
        "call submitted", "call sent", "call started", "call done"
    ]  # fmt: skip
    assert {event["runner_id"] for event in events if "runner_id" in event} == {1}


def test_the_requirements_are_those_of_the_slot(make: Make) -> None:
    ex = make(2).options(slot_concurrency=3, requires={"cpus": 1}, priority=1, key="one")
    assert len(set(values(ex.submit(meet, 3) for _ in range(3)))) == 1
    assert ex.submit(double, 2).result(PATIENCE) == 4
    assert make(1).submit(echo, 1).result(PATIENCE) == 1


def test_without_the_option_nothing_of_it_is_loaded(make: Make) -> None:
    ex = make(1)
    loaded = ex.submit(list_modules).result(PATIENCE)
    assert not [name for name in loaded if "task" in name.rpartition(".")[2] and name.startswith("dragonfly")]


def list_modules() -> list[str]:
    import sys

    return list(sys.modules)
