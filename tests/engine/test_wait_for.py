"""`wait_for` and `await_for`: threads and tasks that wait until so many runners are up."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from typing import Any

import pytest

from dragonfly_executor import BootError, Pool
from dragonfly_executor.testing import FakeBackend
from tests.engine.conftest import MakeExecutor, MakePool
from tests.support.helpers import PATIENCE, becomes_true
from tests.support.payloads import echo


def waits(pool: Pool) -> int:
    """How many threads and tasks wait for runners."""
    waits = pool._engine.core_observers.waits
    return 0 if waits is None else len(waits._waits)


def test_a_wait_ends_when_so_many_runners_are_up(make_pool: MakePool, make: MakeExecutor) -> None:
    pool = make_pool(min=2, max=3, max_concurrency=1, backend=FakeBackend())
    pool.wait_for(runners=2, timeout=PATIENCE)
    assert pool.stats().runners_up == 2
    pool.wait_for(runners=1)
    pool.wait_for(runners=2, timeout=timedelta(seconds=PATIENCE))
    asyncio.run(pool.await_for(runners=2))
    with pytest.raises(TimeoutError, match=r"3 runners were not up within 0 s: .*2 of at most 3 runners up"):
        pool.wait_for(runners=3, timeout=0)
    with pytest.raises(TimeoutError, match=r"3 runners were not up within 0\.01 s"):
        pool.wait_for(runners=3, timeout=0.01)
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(pool.await_for(runners=3), 0.01))
    with pytest.raises(ValueError, match="at most max, and 4 is more than 3"):
        pool.wait_for(runners=4)
    with pytest.raises(ValueError, match="runners must be at least 1"):
        pool.wait_for(runners=0)
    assert waits(pool) == 0
    # An executor, and a pool that no call has started.
    executor = make(1, backend=FakeBackend())
    with pytest.raises(TimeoutError):
        executor.wait_for(runners=1, timeout=0)
    assert executor.submit(echo, 1).result(PATIENCE) == 1
    asyncio.run(executor.await_for(runners=1))


def test_a_wait_fails_once_boots_are_given_up(make_pool: MakePool) -> None:
    backend = FakeBackend()
    backend.fail_next_boot(count=100_000)
    pool = make_pool(min=1, max=2, max_boot_failures=2, boot_wait=lambda _state: 0.01, backend=backend)
    with pytest.raises(BootError) as caught:
        pool.wait_for(runners=1, timeout=PATIENCE)
    assert caught.value.attempts >= 2
    with pytest.raises(BootError):
        asyncio.run(pool.await_for(runners=1))
    assert waits(pool) == 0


@pytest.mark.parametrize("end", ["shutdown", "kill"])
def test_the_end_of_the_pool_ends_each_wait(make_pool: MakePool, end: str) -> None:
    pool = make_pool(min=1, max=2, backend=FakeBackend())
    got: list[BaseException] = []

    def wait() -> None:
        try:
            pool.wait_for(runners=2)
        except BaseException as error:
            got.append(error)

    async def main() -> Any:
        thread = threading.Thread(target=wait)
        thread.start()
        task = asyncio.create_task(pool.await_for(runners=2))
        cancelled = asyncio.create_task(pool.await_for(runners=2))
        assert await asyncio.to_thread(becomes_true, pool, lambda: waits(pool) == 3)
        cancelled.cancel()
        assert await asyncio.to_thread(becomes_true, pool, lambda: waits(pool) == 2)
        pool.kill() if end == "kill" else pool.shutdown(wait=False)
        with pytest.raises(RuntimeError, match="after shutdown"):
            await task
        thread.join(PATIENCE)

    asyncio.run(main())
    assert [type(error) for error in got] == [RuntimeError]
    assert becomes_true(pool, lambda: waits(pool) == 0)
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.wait_for(runners=1)
