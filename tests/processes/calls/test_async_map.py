"""`amap`: calls that a task of an asyncio event loop takes the values of."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, aclosing
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import CallSerializationError, RunnerLostError
from tests.processes.calls.test_asyncio import Run, _first_loop, run
from tests.processes.conftest import Make
from tests.support.helpers import PATIENCE, SOON, CountedNumbers, Gate, Mailbox, all_ended, becomes_true, watching
from tests.support.payloads import echo, hold, hold_for_good, leave_if, log_run, wait_at

__all__ = ["_first_loop", "run"]


def add(one: int, two: int) -> int:
    return one + two


def fail_at(number: int) -> int:
    if number == 3:
        raise ValueError("this one")
    return number


def wait_if(gate: str, number: int) -> int:
    if number == 0:
        wait_at(gate)
    return number


async def numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        await asyncio.sleep(0)
        yield number


@pytest.mark.parametrize("ordered", [True, False])
def test_every_value_comes_once(make: Make, run: Run, ordered: bool) -> None:
    ex = make(2)

    async def all_of(*args: Any, **options: Any) -> list[int]:
        values = [value async for value in ex.pool.amap(*args, ordered=ordered, **options)]
        return values if ordered else sorted(values)

    async def main() -> None:
        for buffersize in (None, 1, 3):
            assert await all_of(echo, range(100), buffersize=buffersize) == list(range(100))
            sums = [2 * number for number in range(20)]
            assert await all_of(add, range(50), iter(range(20)), buffersize=buffersize) == sums
            assert await all_of(add, numbers(20), range(50), buffersize=buffersize) == sums

    run(main)


def test_without_items_there_are_no_values(make: Make) -> None:
    ex = make(1)

    async def main() -> list[int]:
        values = [value async for value in ex.amap(echo, [])]
        return values + [value async for value in ex.amap(echo, numbers(0), ordered=False)]

    assert asyncio.run(main()) == []


def test_values_come_in_order_or_as_the_calls_end(make: Make, gate: Gate) -> None:
    ex = make(2)

    async def main() -> None:
        paths = [gate.path] * 4
        async with ex.amap(wait_if, paths, range(4), ordered=False) as values:
            assert sorted([await anext(values) for _ in range(3)]) == [1, 2, 3]
            gate.open()
            assert [value async for value in values] == [0]
        async with ex.amap(wait_if, paths, range(4)) as values:
            first = asyncio.ensure_future(anext(values))
            done, _ = await asyncio.wait([first], timeout=0.1)
            assert not done
            gate.open()
            assert [await first, *[value async for value in values]] == [0, 1, 2, 3]

    asyncio.run(main())


@pytest.mark.parametrize("ordered", [True, False])
def test_a_window_bounds_what_is_taken_of_endless_items(make: Make, ordered: bool) -> None:
    ex = make(2)
    items, more = CountedNumbers(), CountedNumbers()

    async def main() -> None:
        async with ex.amap(echo, items, ordered=ordered, buffersize=8) as values:
            for taken in range(100):
                await anext(values)
                assert items.taken <= taken + 1 + 8
        async with ex.amap(echo, more, ordered=ordered) as values:
            await anext(values)
            assert more.taken <= 1024 + 1

    asyncio.run(main())


def test_a_slow_first_call_does_not_hold_up_the_window_without_order(make: Make, gate: Gate) -> None:
    ex = make(2)

    async def main() -> list[int]:
        got = []
        async for value in ex.amap(wait_if, [gate.path] * 100, range(100), ordered=False, buffersize=4):
            got.append(value)
            if len(got) == 99:
                gate.open()
        return got

    got = asyncio.run(main())
    assert got[-1] == 0
    assert sorted(got) == list(range(100))


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("source", ["sync", "async"])
def test_the_items_are_taken_while_values_come(make: Make, ordered: bool, source: str) -> None:
    """An item that depends on a value: it is asked for only when there is room."""
    ex = make(1)
    got: list[int] = []

    def items() -> Iterator[int]:
        for number in range(10):
            assert number <= len(got) + 1
            yield number

    async def async_items() -> AsyncIterator[int]:
        for number in items():
            yield number

    async def main() -> None:
        given: Any = items() if source == "sync" else async_items()
        async for value in ex.amap(echo, given, ordered=ordered, buffersize=1):
            got.append(value)  # noqa: PERF401  # the items look at it meanwhile

    asyncio.run(main())
    assert got == list(range(10))


def test_values_come_before_a_slow_item(make: Make) -> None:
    ex = make(1)

    async def main() -> list[int]:
        came = asyncio.Event()

        async def items() -> AsyncIterator[int]:
            yield 0
            await came.wait()
            yield 1

        got = []
        async for value in ex.amap(echo, items()):
            got.append(value)
            came.set()
        return got

    assert asyncio.run(main()) == [0, 1]


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [True, False])
def test_an_error_names_its_item_and_ends_the_map(make: Make, ordered: bool) -> None:
    ex = make(1)

    async def main() -> None:
        values = ex.amap(fail_at, range(1000), ordered=ordered, buffersize=2)
        got = []
        with pytest.raises(ValueError, match="this one") as caught:
            async for value in values:
                got.append(value)  # noqa: PERF401  # those before the error
        assert "raised for item 3 of the map" in caught.value.__notes__[0]
        assert set(got) <= {0, 1, 2, 4}
        assert [value async for value in values] == []

    asyncio.run(main())


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("source", ["sync", "async"])
def test_an_error_of_the_items_comes_after_the_values_before_it(make: Make, ordered: bool, source: str) -> None:
    ex = make(2)

    def items() -> Iterator[int]:
        yield from range(5)
        raise LookupError("no more")

    async def async_items() -> AsyncIterator[int]:
        for number in items():
            yield number

    async def main() -> list[int]:
        got = []
        with pytest.raises(LookupError, match="no more"):
            async for value in ex.amap(echo, items() if source == "sync" else async_items(), ordered=ordered):
                got.append(value)  # noqa: PERF401  # those before the error
        return sorted(got)

    assert asyncio.run(main()) == list(range(5))


@pytest.mark.parametrize("ordered", [True, False])
def test_an_item_that_cannot_be_pickled_fails_in_its_turn(make: Make, ordered: bool) -> None:
    ex = make(1)

    async def main() -> None:
        items = [0, threading.Lock(), 2]
        with pytest.raises(CallSerializationError) as caught:
            async for _ in ex.amap(echo, items, ordered=ordered):
                pass
        assert "item 1 of the map" in caught.value.__notes__[0]

    asyncio.run(main())


def test_a_lost_slot_is_told(make: Make) -> None:
    ex = make(1)

    async def main() -> None:
        with pytest.raises(RunnerLostError):
            async for _ in ex.amap(leave_if, [False, True]):
                pass

    asyncio.run(main())


def test_arguments_are_checked_at_once(make: Make) -> None:
    ex = make(1)
    for buffersize, error in ((0, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match="buffersize"):
            ex.amap(echo, [1], buffersize=buffersize)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="iterable"):
        ex.amap(echo, 1)  # type: ignore[call-overload]
    ex.shutdown()
    with pytest.raises(RuntimeError, match="shutdown"):
        ex.amap(echo, [1])


def test_two_tasks_cannot_await_one_result(make: Make, gate: Gate) -> None:
    ex = make(1)

    async def main() -> None:
        values = ex.amap(wait_at, [gate.path])
        first = asyncio.ensure_future(anext(values))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="another task"):
            await anext(values)
        gate.open()
        await first

    asyncio.run(main())


# -- ends --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("how", ["cancel", "break", "aclose", "aclosing", "raise"])
def test_the_window_is_stopped(make: Make, mailbox: Mailbox, log: Path, ordered: bool, how: str) -> None:
    ex = make(2)

    async def take() -> None:
        if how == "aclosing":
            async with aclosing(ex.amap(step, range(50), ordered=ordered)) as values:
                await anext(values)
                await asyncio.to_thread(wait_for_slots)
            return
        values = ex.amap(step, range(50), ordered=ordered)
        async for _ in values:
            await asyncio.to_thread(wait_for_slots)
            if how == "break":
                break
            if how == "aclose":
                await values.aclose()
                assert [value async for value in values] == []
            if how == "raise":
                raise LookupError
        if how == "break":
            del values

    def wait_for_slots() -> None:
        watches.extend(held.enter_context(watching(*mailbox.numbers(2))))
        slots_are_there.set()

    step = Step(mailbox.path)
    watches: list[Any] = []
    slots_are_there = threading.Event()
    held = ExitStack()

    async def main() -> bool:
        task = asyncio.ensure_future(take())
        if how == "cancel":
            await asyncio.to_thread(slots_are_there.wait, PATIENCE)
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        elif how == "raise":
            with pytest.raises(LookupError):
                await task
            del task  # its exception holds the frame, and the frame holds the iterator
            gc.collect()
        else:
            await task
        return await asyncio.to_thread(all_ended, watches)

    with held:
        assert asyncio.run(main())
    assert ex.submit(echo, 1).result(SOON) == 1
    stats = ex.pool.stats()
    assert (stats.calls_queued, stats.calls_sent) == (0, 0)


class Step:
    """Return at once for the first item, and never for the others."""

    def __init__(self, mailbox: str) -> None:
        self.mailbox = mailbox

    def __call__(self, number: int) -> int:
        if number:
            hold_for_good(self.mailbox)
        return number


def test_a_pool_that_is_dropped_before_the_first_value_submits_nothing(make: Make, log: Path) -> None:
    ex = make(1)

    async def main() -> None:
        values = ex.amap(log_run, [str(log)], [1])
        del values

    asyncio.run(main())
    ex.submit(echo, 1).result(PATIENCE)
    assert not log.exists()


def test_cancel_running_false_leaves_what_runs(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    ex = make(1)

    async def main() -> None:
        values = ex.options(cancel_running=False).amap(hold, [mailbox.path] * 2, [gate.path] * 2)
        task = asyncio.ensure_future(anext(values))
        (slot,) = await asyncio.to_thread(mailbox.numbers, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.open(2)  # the second call runs as well if it was sent ahead before that
        with watching(slot) as watches:
            assert await ex.acall(os.getpid) == slot
            assert not all_ended(watches, 0)

    asyncio.run(main())


def test_ready_values_leave_other_tasks_their_turn(make: Make) -> None:
    ex = make(2)

    def has_ended() -> bool:
        stats = ex.pool.stats()
        return stats.calls_sent == stats.calls_queued == 0

    async def main() -> int:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        values = ex.amap(echo, range(1000))
        await anext(values)
        assert await asyncio.to_thread(becomes_true, ex.pool, has_ended)
        task = asyncio.ensure_future(other())
        assert len([value async for value in values]) == 999
        task.cancel()
        return turns

    assert asyncio.run(main()) >= 10


def test_asynchronous_items_are_not_taken_after_the_end(make: Make, gate: Gate) -> None:
    ex = make(1)
    ended: list[str] = []

    async def items() -> AsyncIterator[int]:
        try:
            yield 0
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append("items")

    async def main() -> None:
        async with ex.amap(echo, items()) as values:
            assert await anext(values) == 0
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert ended == ["items"]
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())
