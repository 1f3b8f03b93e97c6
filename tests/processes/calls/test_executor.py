"""The executor's face: what `concurrent.futures`, asyncio and careful users do with it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION, Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest

from dragonfly_executor import DragonflyExecutor, RunnerLostError
from tests.engine.conftest import MakeExecutor, MakePool
from tests.support.helpers import PATIENCE, Gate, Mailbox, all_ended, error_of, values, watching
from tests.support.payloads import echo, fail, hold, hold_for_good


def name_them(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
    return args, kwargs


NAMES = {"self": 1, "fn": 2, "timeout": 3, "func": 4, "retries": 5, "options": 6, "args": 7, "kwargs": 8}


def test_a_functions_own_arguments_may_have_any_name(make: MakeExecutor, make_pool: MakePool) -> None:
    """Design §4: options never travel among the function's own arguments."""
    executor, pool = make(1), make_pool()
    expected = ((1,), NAMES)
    assert executor.submit(name_them, 1, **NAMES).result(PATIENCE) == expected
    assert executor.options(timeout=9).submit(name_them, 1, **NAMES).result(PATIENCE) == expected
    assert pool.submit(name_them, 1, **NAMES).result(PATIENCE) == expected
    assert pool.call(name_them, 1, **NAMES) == expected


def test_fn_is_positional(make: MakeExecutor) -> None:
    with pytest.raises(TypeError):
        make(1).submit(fn=echo)  # type: ignore[call-arg]


@pytest.mark.parametrize("stop", ["terminate_workers", "kill_workers"])
def test_terminating_stops_everything_at_once(make: MakeExecutor, mailbox: Mailbox, stop: str) -> None:
    """As in 3.14."""
    executor = make(2)
    running = [executor.submit(hold_for_good, mailbox.path) for _ in range(2)]
    waiting = [executor.submit(echo, number) for number in range(20)]
    with watching(*mailbox.numbers(2)) as watches:
        getattr(executor, stop)()
        assert all_ended(watches)
    for future in running:
        assert isinstance(error_of(future), BrokenProcessPool)
    concurrent.futures.wait(waiting, PATIENCE)
    assert all(future.cancelled() or isinstance(future.exception(), RunnerLostError) for future in waiting)
    with pytest.raises(RuntimeError, match="shutdown"):
        executor.submit(echo, 1)
    getattr(executor, stop)()


@pytest.mark.parametrize("stop", ["terminate_workers", "kill_workers"])
def test_an_executor_that_never_ran_can_be_terminated(make: MakeExecutor, stop: str) -> None:
    executor = make(2)
    getattr(executor, stop)()
    with pytest.raises(RuntimeError, match="shutdown"):
        executor.submit(echo, 1)


def test_shutdown_finishes_all_and_twice_does_nothing_more(make: MakeExecutor, mailbox: Mailbox, gate: Gate) -> None:
    """Checklist 28."""
    executor = make(2)
    futures = [executor.submit(hold, mailbox.path, gate.path, number) for number in range(8)]
    gate.open(8)
    executor.shutdown()
    assert [future.result(0) for future in futures] == list(range(8))
    executor.shutdown()
    assert executor.pool.stats().runners == ()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(f"dragonfly-{executor.pool.name}")]


def test_shutdown_can_be_called_in_a_callback(make: MakeExecutor) -> None:
    """Checklist 28: it does not wait for the thread that it runs on."""
    executor = make(1)
    done = threading.Event()

    def callback(_future: Future[Any]) -> None:
        executor.shutdown(wait=True)
        done.set()

    executor.submit(echo, 1).add_done_callback(callback)
    assert done.wait(PATIENCE)


def test_shutdown_from_many_threads_at_once(make: MakeExecutor) -> None:
    """Checklist 28."""
    executor = make(2)
    futures = [executor.submit(echo, number) for number in range(50)]
    threads = [threading.Thread(target=executor.shutdown) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert values(futures, 0) == list(range(50))


def test_wait_tells_done_from_not_done(make: MakeExecutor, mailbox: Mailbox, gate: Gate) -> None:
    """Wait."""
    executor = make(2)
    held, quick = executor.submit(hold, mailbox.path, gate.path), executor.submit(echo, 1)
    assert concurrent.futures.wait([held, quick], PATIENCE, FIRST_COMPLETED) == ({quick}, {held})
    failing = executor.submit(fail, ValueError("no"))
    assert concurrent.futures.wait([held, failing], PATIENCE, FIRST_EXCEPTION) == ({failing}, {held})
    assert concurrent.futures.wait([held], 0.01) == (set(), {held})
    gate.open()
    assert concurrent.futures.wait([held, quick, failing], PATIENCE) == ({held, quick, failing}, set())


def test_wait_sees_what_was_cancelled(make: MakeExecutor, mailbox: Mailbox) -> None:
    """Wait, and a cancelled call that ran."""
    executor = make(1)
    futures = [executor.submit(hold_for_good, mailbox.path) for _ in range(3)]
    mailbox.numbers(1)
    for future in futures:
        assert future.cancel()
    assert concurrent.futures.wait(futures, PATIENCE).not_done == set()


def test_as_completed_gives_each_once_as_they_end(make: MakeExecutor, mailbox: Mailbox, gate: Gate) -> None:
    """as_completed, with some that are done, one twice, and one that is cancelled meanwhile."""
    executor = make(2)
    done, held = executor.submit(echo, "done"), executor.submit(hold, mailbox.path, gate.path, "held")
    done.result(PATIENCE)
    stopped = executor.submit(hold_for_good, mailbox.path)
    mailbox.numbers(2)
    order = []
    for future in concurrent.futures.as_completed([held, done, done, stopped], PATIENCE):
        order.append(future)
        if future is done:
            stopped.cancel()
        elif future is stopped:
            gate.open()
    assert order == [done, stopped, held]


def test_as_completed_of_two_executors(make: MakeExecutor) -> None:
    """Futures of different pools, and of threads."""
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        futures = [make(1).submit(echo, 1), make(1).submit(echo, 2), threads.submit(echo, 3)]
        assert {future.result() for future in concurrent.futures.as_completed(futures, PATIENCE)} == {1, 2, 3}


def test_asyncio_awaits_a_future(make: MakeExecutor) -> None:
    """asyncio.wrap_future, run_in_executor."""
    executor = make(2)

    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        view = executor.options(timeout=PATIENCE)
        return await asyncio.gather(
            asyncio.wrap_future(executor.submit(echo, 1)),
            loop.run_in_executor(executor, echo, 2),
            loop.run_in_executor(view, echo, 3),
            asyncio.wrap_future(executor.submit(fail, ValueError("no"))),
            return_exceptions=True,
        )

    *good, bad = asyncio.run(main())
    assert good == [1, 2, 3]
    assert repr(bad) == "ValueError('no')"


def test_cancelling_an_asyncio_task_stops_the_remote_work(make: MakeExecutor, mailbox: Mailbox) -> None:
    """The work stops, its process included."""
    executor = make(1)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(loop.run_in_executor(executor, hold_for_good, mailbox.path))
        (slot,) = await loop.run_in_executor(None, mailbox.numbers, 1)
        with watching(slot) as watches:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await loop.run_in_executor(None, all_ended, watches)

    asyncio.run(main())
    assert executor.submit(echo, 1).result(PATIENCE) == 1


def test_an_asyncio_timeout_stops_the_remote_work(make: MakeExecutor, mailbox: Mailbox) -> None:
    executor = make(1)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await loop.run_in_executor(executor, hold_for_good, mailbox.path)

    asyncio.run(main())
    assert executor.submit(echo, 1).result(PATIENCE) == 1


def test_an_exception_in_the_block_still_waits_for_the_calls(mailbox: Mailbox, gate: Gate) -> None:
    """As ProcessPoolExecutor's context manager does."""
    futures: list[Future[Any]] = []
    gate.open(3)
    with pytest.raises(LookupError, match="in the block"), DragonflyExecutor(1) as executor:
        futures += [executor.submit(hold, mailbox.path, gate.path, number) for number in range(3)]
        raise LookupError("in the block")
    assert [future.result(0) for future in futures] == [0, 1, 2]
