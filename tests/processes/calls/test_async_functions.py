"""`async def` functions as calls: each runs to its end in the event loop of its slot."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import CallTimeoutError, DragonflyExecutor, ResultSerializationError, call
from dragonfly_executor.testing import FakeBackend
from tests.engine.conftest import MakePool
from tests.processes.conftest import Make
from tests.support.helpers import PATIENCE, SOON, Mailbox, all_ended, values, watching
from tests.support.payloads import log, start_sleeper, tell

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


async def add(one: int, two: int = 0) -> int:
    return one + two


async def fail_at(number: int) -> int:
    await asyncio.sleep(0)
    if number == 3:
        raise ValueError("this one")
    return number


async def meet_in_one_call() -> list[int]:
    """Tasks of one call run at the same time."""
    met = asyncio.Barrier(3)

    async def come(number: int) -> int:
        await met.wait()
        return number

    return await asyncio.gather(*map(come, range(3)))


async def hold_for_good(mailbox: str) -> None:
    tell(mailbox, os.getpid(), start_sleeper("session"))
    await asyncio.get_running_loop().create_future()


async def loop_id() -> tuple[int, int]:
    return os.getpid(), id(asyncio.get_running_loop())


async def set_and_get(value: str) -> str:
    before = variable.get()
    variable.set(value)
    return before


class Service:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    async def multiply(self, number: int) -> int:
        return self.factor * number

    async def __call__(self, number: int) -> int:
        return self.factor * number


async def inner_coroutine() -> Any:
    return [double(1)]


def plain_that_returns_a_coroutine(number: int) -> Any:
    return double(number)


def run_a_loop_of_its_own() -> int:
    return asyncio.run(double(2))


async def leave_work_behind(path: str) -> None:
    """Leave a task, and threads of the loop's executor, to the end of the slot."""

    async def other() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            log(path, "cancelled")

    asyncio.get_running_loop().kept = asyncio.ensure_future(other())  # type: ignore[attr-defined]
    await asyncio.to_thread(int)
    await asyncio.sleep(0)


async def open_session(value: int) -> None:
    asyncio.get_running_loop().session = value  # type: ignore[attr-defined]


async def use_session() -> int:
    return asyncio.get_running_loop().session  # type: ignore[attr-defined, no-any-return]


async def leave() -> None:
    raise SystemExit(3)


async def fail_twice(path: str) -> int:
    log(path, "run")
    with open(path) as lines:  # noqa: ASYNC230  # nothing else runs in this loop
        count = len(lines.readlines())
    if count < 3:
        raise ConnectionError("again")
    return count


def test_a_coroutine_runs_to_its_end(make: Make, make_pool: MakePool) -> None:
    ex, pool = make(2), make_pool("of coroutines")
    futures = [ex.submit(double, 4), ex.submit(add, 1, two=2), ex.submit(Service(3).multiply, 2)]
    assert values(futures) == [8, 3, 6]
    assert ex.submit(Service(3), 5).result(PATIENCE) == 15
    assert ex.submit(functools.partial(add, 1), 1).result(PATIENCE) == 2
    assert ex.submit(plain_that_returns_a_coroutine, 3).result(PATIENCE) == 6
    assert ex.submit(meet_in_one_call).result(PATIENCE) == [0, 1, 2]
    assert pool.call(double, 1) == 2
    number = 21

    async def closure() -> int:
        return await double(number)

    assert call("of coroutines", closure) == 42
    assert ex.submit(closure).result(PATIENCE) == 42

    async def main() -> int:
        return await ex.acall(double, 5) + await ex.submit(double, 1)

    assert asyncio.run(main()) == 12


@pytest.mark.parametrize("chunksize", [1, 4, "auto"])
def test_a_map_of_coroutines(make: Make, chunksize: Any) -> None:
    ex = make(2)
    assert list(ex.map(double, range(50), chunksize=chunksize)) == [2 * n for n in range(50)]
    assert list(ex.map(Service(3).multiply, range(50), chunksize=chunksize)) == [3 * n for n in range(50)]
    assert list(ex.map(add, range(9), range(9), chunksize=chunksize)) == [2 * n for n in range(9)]
    number = 10

    async def closure(n: int) -> int:
        return n + number

    assert list(ex.map(closure, range(9), chunksize=chunksize)) == list(range(10, 19))
    with pytest.raises(ValueError, match="this one") as caught:
        list(ex.map(fail_at, range(8), chunksize=chunksize))
    assert "item 3 of the map" in caught.value.__notes__[0]

    async def main() -> list[int]:
        return [value async for value in ex.amap(double, range(5))]

    assert asyncio.run(main()) == [0, 2, 4, 6, 8]


def test_what_a_coroutine_raises(make: Make, tmp_path: Path) -> None:
    ex = make(1)
    error = ex.submit(fail_at, 3).exception(PATIENCE)
    assert isinstance(error, ValueError)
    assert "in fail_at" in str(error.__cause__)
    assert isinstance(ex.submit(inner_coroutine).exception(PATIENCE), ResultSerializationError)
    assert isinstance(ex.submit(leave).exception(PATIENCE), SystemExit)
    # The loop goes on.
    assert ex.submit(double, 1).result(PATIENCE) == 2
    retrying = ex.options(retries=3, retry_on=ConnectionError, retry_wait=lambda state: 0.0)
    assert retrying.submit(fail_twice, str(tmp_path / "log")).result(PATIENCE) == 3


def test_a_coroutine_is_stopped_as_any_call(make: Make, mailbox: Mailbox) -> None:
    ex = make(1)
    for how in ("cancel", "timeout"):
        future = (ex.options(run_timeout=1) if how == "timeout" else ex).submit(hold_for_good, mailbox.path)
        with watching(*map(int, mailbox.read().split())) as watches:
            if how == "cancel":
                assert future.cancel()
            else:
                assert isinstance(future.exception(PATIENCE), CallTimeoutError)
            assert all_ended(watches)
    assert ex.submit(double, 1).result(SOON) == 2


def test_a_slot_has_one_loop(make: Make) -> None:
    ex = make(1)
    first, _, second = values([ex.submit(loop_id), ex.submit(run_a_loop_of_its_own), ex.submit(loop_id)])
    assert first == second
    assert first[0] != os.getpid()


def test_context_variables_end_with_the_call(make: Make) -> None:
    ex = make(1)
    assert values(ex.submit(set_and_get, text) for text in "ab") == ["unset", "unset"]


def test_an_initializer_may_open_what_calls_use(make: Make) -> None:
    ex = make(2, initializer=open_session, initargs=(7,))
    assert values(ex.submit(use_session) for _ in range(4)) == [7] * 4


def test_what_a_call_leaves_in_the_loop_ends_with_the_slot(make: Make, log: Path, capfd: Any) -> None:
    with make(1) as ex:
        ex.submit(leave_work_behind, str(log)).result(PATIENCE)
        assert not log.exists()
        assert ex.submit(double, 1).result(PATIENCE) == 2
    assert log.read_text() == "cancelled\n"
    assert capfd.readouterr().err == ""


def test_a_fake_backend_runs_coroutines() -> None:
    with DragonflyExecutor(2, backend=FakeBackend()) as ex:
        assert values(ex.submit(double, n) for n in range(20)) == [2 * n for n in range(20)]


def test_asyncio_is_imported_for_the_first_coroutine(make: Make) -> None:
    ex = make(1)
    name = "'asyncio' in __import__('sys').modules"
    assert ex.submit(eval, name).result(PATIENCE) is False

    import tests.support.importable as light

    assert ex.submit(light.same, 1).result(PATIENCE) == 1
    assert ex.submit(eval, name).result(PATIENCE) is False
