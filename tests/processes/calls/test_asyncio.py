"""Calls that tasks of asyncio await: under asyncio's own loop, under uvloop, and through anyio."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import CallSerializationError, DragonflyExecutor, ForkedExecutorError, RunnerLostError, call
from tests.engine.conftest import MakePool
from tests.processes.conftest import Make
from tests.support.helpers import PATIENCE, SOON, Gate, Mailbox, all_ended, watching
from tests.support.payloads import (
    die_by,
    echo,
    fail,
    hold,
    hold_for_good,
    hold_with_sleeper,
    log_run,
    pid,
    wait_at,
)

Run = Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]


def run_in_asyncio(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return asyncio.run(main())


def run_in_uvloop(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    uvloop = pytest.importorskip("uvloop", reason="uvloop is not installed here: it is in the extra 'test'")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


def run_in_anyio(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    anyio = pytest.importorskip("anyio", reason="anyio is not installed here: it is in the extra 'test'")
    return anyio.run(main, backend="asyncio")


@pytest.fixture(scope="module", autouse=True)
def _first_loop() -> None:
    """Make the first loop of libuv in this process: it opens descriptors that stay."""
    with suppress(ImportError):
        import uvloop

        uvloop.new_event_loop().close()


@pytest.fixture(params=[run_in_asyncio, run_in_uvloop, run_in_anyio])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine function in an event loop of its own."""
    return request.param  # type: ignore[no-any-return]


# -- values and errors -------------------------------------------------------------------------------------------------


def test_a_call_is_awaited(make: Make, run: Run) -> None:
    ex = make(2)

    async def main() -> list[Any]:
        future = ex.submit(echo, 1)
        values = [
            await future,
            await future,
            await ex.acall(echo, value=2),
            await ex.options(timeout=30).acall(echo, 3),
        ]
        values += await asyncio.gather(ex.acall(echo, 4), ex.submit(echo, 5))
        return [*values, await ex.pool.acall(pid)]

    *values, slot = run(main)
    assert values == [1, 1, 2, 3, 4, 5]
    assert slot != os.getpid()


def test_the_exception_of_a_call_is_raised_with_its_remote_traceback(make: Make, run: Run) -> None:
    ex = make(1)

    async def main() -> None:
        with pytest.raises(ValueError, match="no") as caught:
            await ex.acall(fail, ValueError("no"))
        assert "in fail" in str(caught.value.__cause__)
        with pytest.raises(ValueError, match="no"):
            await ex.submit(fail, ValueError("no"))
        with pytest.raises(RuntimeError, match="StopIteration"):
            await ex.acall(fail, StopIteration("no"))
        with pytest.raises(CallSerializationError):
            await ex.acall(echo, threading.Lock())
        with pytest.raises(RunnerLostError):
            await ex.acall(die_by, signal.SIGKILL)

    run(main)


def test_a_call_that_was_cancelled_elsewhere_cancels_the_task_that_awaits_it(make: Make, gate: Gate) -> None:
    """As with `asyncio.wrap_future`."""
    ex = make(1)

    async def main() -> None:
        futures = [ex.submit(wait_at, gate.path) for _ in range(2)]
        tasks = [asyncio.ensure_future(future) for future in futures]
        await asyncio.sleep(0)
        assert futures[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[1]
        ex.kill_workers()
        with pytest.raises((asyncio.CancelledError, RunnerLostError)):
            await tasks[0]

    asyncio.run(main())


# -- cancelling --------------------------------------------------------------------------------------------------------


def test_cancelling_a_task_stops_the_work(make: Make, mailbox: Mailbox, run: Run) -> None:
    ex = make(1)

    async def main() -> bool:
        task = asyncio.ensure_future(ex.acall(hold_with_sleeper, mailbox.path, "session"))
        pids = (await asyncio.to_thread(mailbox.read)).split()
        with watching(*map(int, pids)) as watches:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return await asyncio.to_thread(all_ended, watches)

    assert run(main)
    assert ex.submit(echo, 1).result(SOON) == 1


def test_a_timeout_stops_the_work(make: Make, mailbox: Mailbox, run: Run) -> None:
    ex = make(1)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as scope:
                call = asyncio.ensure_future(ex.acall(hold_for_good, mailbox.path))
                await asyncio.to_thread(mailbox.read)
                scope.reschedule(asyncio.get_running_loop().time())
                await call
        # The one slot is free again.
        assert await ex.acall(echo, 1) == 1

    run(main)


def test_a_cancel_scope_of_anyio_stops_the_work(make: Make, mailbox: Mailbox) -> None:
    anyio = pytest.importorskip("anyio", reason="anyio is not installed here: it is in the extra 'test'")
    ex = make(2)

    async def call() -> None:
        await ex.acall(hold_for_good, mailbox.path)

    async def main() -> bool:
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(call)
            slots = await anyio.to_thread.run_sync(mailbox.numbers, 2)
            with watching(*slots) as watches:
                group.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    return bool(await anyio.to_thread.run_sync(all_ended, watches))
        raise AssertionError("unreachable")

    assert anyio.run(main, backend="asyncio")


def test_a_task_that_fails_stops_the_calls_of_its_group(make: Make, mailbox: Mailbox) -> None:
    ex = make(2)

    async def main() -> bool:
        watches: list[Any] = []

        async def fail_then() -> None:
            (slot,) = await asyncio.to_thread(mailbox.numbers, 1)
            watches.append(held.enter_context(watching(slot))[0])
            await ex.acall(fail, ValueError("no"))

        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(ex.acall(hold_for_good, mailbox.path))
                group.create_task(fail_then())
        return await asyncio.to_thread(all_ended, watches)

    with ExitStack() as held:
        assert asyncio.run(main())


def test_a_queued_call_of_a_cancelled_task_never_runs(make: Make, gate: Gate, log: Path) -> None:
    ex = make(1)

    async def main() -> None:
        first = asyncio.ensure_future(ex.acall(wait_at, gate.path))
        queued = asyncio.ensure_future(ex.acall(log_run, str(log), "queued"))
        await asyncio.sleep(0)
        queued.cancel()
        with pytest.raises(asyncio.CancelledError):
            await queued
        gate.open()
        await first
        await ex.acall(log_run, str(log), "last")

    asyncio.run(main())
    assert [line.split()[0] for line in log.read_text().splitlines()] == ["last"]


def test_a_task_that_is_cancelled_before_it_begins_submits_nothing(make: Make) -> None:
    ex = make(1)

    async def main() -> None:
        task = asyncio.ensure_future(ex.acall(echo, 1))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    stats = ex.pool.stats()
    assert (stats.calls_queued, stats.calls_sent, stats.calls_cancelled) == (0, 0, 0)


@pytest.mark.parametrize("how", ["cancel_running=False", "shield", "unlink"])
def test_work_goes_on_where_that_is_asked_for(make: Make, mailbox: Mailbox, gate: Gate, how: str) -> None:
    ex = make(1)

    async def main() -> int:
        view = ex.options(cancel_running=False) if "=" in how else ex
        future = view.submit(hold, mailbox.path, gate.path, 7)
        if how == "unlink":
            ex.pool.unlink(future)
        task = asyncio.ensure_future(asyncio.shield(future) if how == "shield" else future)
        await asyncio.to_thread(mailbox.read)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.open()
        return await future

    assert asyncio.run(main()) == 7


def test_an_ended_loop_cancels_the_calls_of_its_tasks_and_the_pool_goes_on(make: Make, mailbox: Mailbox) -> None:
    """A task that is thrown away while its loop is closed waits for nothing any more."""
    ex = make(1)
    loop = asyncio.new_event_loop()
    coroutine = ex.acall(hold_for_good, mailbox.path)

    async def begin() -> None:
        coroutine.send(None)

    loop.run_until_complete(begin())
    (slot,) = mailbox.numbers(1)
    with watching(slot) as watches:
        loop.close()
        coroutine.close()
        assert all_ended(watches)
    assert asyncio.run(ex.acall(echo, 1)) == 1


def test_a_call_ends_after_its_loop(make: Make, gate: Gate) -> None:
    """The engine finds the loop closed."""
    ex = make(1)
    loop = asyncio.new_event_loop()
    future = ex.submit(wait_at, gate.path)
    waiting = future.__await__()

    async def begin() -> None:
        waiting.send(None)

    loop.run_until_complete(begin())
    loop.close()
    gate.open()
    future.result(PATIENCE)
    assert ex.submit(echo, 1).result(SOON) == 1
    waiting.close()


# -- threads and loops -------------------------------------------------------------------------------------------------


def test_thousands_of_awaiting_tasks_take_no_thread(make: Make, gate: Gate, run: Run) -> None:
    ex = make(1)

    async def main() -> tuple[int, int, list[int]]:
        await ex.acall(echo, 0)
        before = threading.active_count()
        first = asyncio.ensure_future(ex.acall(wait_at, gate.path))
        tasks = [asyncio.ensure_future(ex.acall(echo, number)) for number in range(2000)]
        await asyncio.sleep(0)
        during = threading.active_count()
        gate.open()
        await first
        return before, during, await asyncio.gather(*tasks)

    before, during, values = run(main)
    assert during == before
    assert values == list(range(2000))


def test_calls_that_end_together_wake_their_loop_once(make: Make, gate: Gate) -> None:
    ex = make(1)
    wakes: list[Any] = []

    class CountingLoop(asyncio.SelectorEventLoop):
        def call_soon_threadsafe(self, callback: Any, *args: Any, **kwargs: Any) -> Any:
            wakes.append(callback)
            return super().call_soon_threadsafe(callback, *args, **kwargs)

    async def main() -> None:
        first = ex.submit(wait_at, gate.path)
        tasks = [asyncio.ensure_future(ex.acall(echo, number)) for number in range(500)]
        await asyncio.sleep(0)
        wakes.clear()
        ex.pool.kill()
        await asyncio.gather(*tasks, asyncio.ensure_future(first), return_exceptions=True)

    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        runner.run(main())
    assert 1 <= len(wakes) <= 3


def test_loops_of_several_threads_share_a_pool(make: Make) -> None:
    ex = make(2)
    values: list[list[int]] = []

    async def main(first: int) -> None:
        values.append(await asyncio.gather(*(ex.acall(echo, first + number) for number in range(200))))

    threads = [threading.Thread(target=lambda n=n: asyncio.run(main(n * 1000))) for n in range(4)]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(values) == [list(range(n * 1000, n * 1000 + 200)) for n in range(4)]


def test_a_future_is_awaited_only_in_a_loop(make: Make, gate: Gate) -> None:
    ex = make(1)
    future = ex.submit(wait_at, gate.path)
    with pytest.raises(RuntimeError, match=r"running asyncio event loop.*docs/asyncio\.md"):
        future.__await__().send(None)
    with pytest.raises(RuntimeError, match="running asyncio event loop"):
        ex.acall(echo, 1).send(None)
    stats = ex.pool.stats()
    assert stats.calls_queued + stats.calls_sent == 1
    gate.open()
    assert future.result(PATIENCE) is None


def test_a_forked_child_cannot_await_a_call_of_its_parent(make: Make, gate: Gate) -> None:
    ex = make(1)
    future = ex.submit(wait_at, gate.path)

    async def main() -> str:
        try:
            await future
        except ForkedExecutorError as error:
            return str(error)
        return "awaited"

    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, asyncio.run(main()).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with open(reading) as answer:
        assert "forked" in answer.read()
    gate.open()
    future.result(PATIENCE)


def test_nothing_imports_asyncio_without_a_task(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "from dragonfly_executor import DragonflyExecutor, Pool, call\n"
        "if __name__ == '__main__':\n"
        "    with DragonflyExecutor(1) as ex:\n"
        "        ex.submit(pow, 2, 3).result()\n"
        "        list(ex.map(abs, range(3)))\n"
        "    with Pool('p', min=0, max=1) as pool:\n"
        "        pool.call(abs, 1)\n"
        "        call('p', int)\n"
        "        in_slot = pool.call(eval, \"'asyncio' in __import__('sys').modules\")\n"
        "    print('asyncio' in sys.modules, in_slot)\n"
    )
    ran = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=PATIENCE)
    assert (ran.stdout, ran.stderr) == ("False False\n", "")


# -- call() in a loop --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["method", "function"])
def test_call_in_a_running_loop_warns_once(
    make_pool: MakePool, run: Run, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another test may have imported it, and notebooks get no warning.
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    pool = make_pool(f"blocks {how} {run.__name__}")

    def blocking_call() -> int:
        return pool.call(echo, 1) if how == "method" else call(pool.name, lambda: 1)

    async def main() -> int:
        with pytest.warns(RuntimeWarning, match=r"blocks the running asyncio event loop.*acall") as caught:
            assert blocking_call() == 1
        assert caught[0].filename == __file__
        # A second warning would be an error here.
        return blocking_call()

    assert blocking_call() == 1
    assert run(main) == 1


def test_call_beside_a_loop_does_not_warn(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = make_pool()

    async def main() -> int:
        value = await asyncio.to_thread(pool.call, echo, 1)
        monkeypatch.setitem(sys.modules, "ipykernel", threading)
        return value + pool.call(echo, 1)

    assert asyncio.run(main()) == 2


# -- async with --------------------------------------------------------------------------------------------------------


def test_a_block_waits_for_its_calls_while_the_loop_goes_on(make: Make, gate: Gate, run: Run) -> None:
    async def main() -> int:
        async with make(1) as ex:
            future = ex.submit(wait_at, gate.path)
            # A pool that blocked the loop at its end would never get there.
            asyncio.get_running_loop().call_soon(lambda: ended.append(future.done()))
            asyncio.get_running_loop().call_later(0.01, gate.open)
        with pytest.raises(RuntimeError, match="shutdown"):
            ex.submit(echo, 1)
        ended.append(future.done())
        return threading.active_count()

    ended: list[bool] = []
    before = threading.active_count()
    assert run(main) == before
    assert ended == [False, True]


def test_a_named_pool_and_a_view(make_pool: MakePool) -> None:
    async def main() -> None:
        async with make_pool("of asyncio", max_concurrency=1) as pool:
            assert await pool.acall(echo, 1) == 1
            async with DragonflyExecutor(pool=pool) as ex, ex.options(timeout=30) as view:
                assert await view.acall(echo, 2) == 2
            assert await pool.acall(echo, 3) == 3
        assert pool.is_shut_down

    asyncio.run(main())


def test_an_exception_in_a_block_lets_its_calls_finish(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    async def main() -> Any:
        with pytest.raises(ValueError, match="mine"):
            async with make(1) as ex:
                future = ex.submit(hold, mailbox.path, gate.path, 5)
                await asyncio.to_thread(mailbox.read)
                gate.open()
                raise ValueError("mine")
        assert future.done()
        return await future

    assert asyncio.run(main()) == 5


@pytest.mark.parametrize("when", ["in the block", "at its end"])
def test_a_cancelled_block_stops_its_calls(make: Make, mailbox: Mailbox, when: str) -> None:
    async def block() -> None:
        async with make(1) as ex:
            ex.submit(hold_for_good, mailbox.path)
            if when == "in the block":
                await asyncio.get_running_loop().create_future()

    async def main() -> bool:
        task = asyncio.ensure_future(block())
        (slot,) = await asyncio.to_thread(mailbox.numbers, 1)
        with watching(slot) as watches:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return all_ended(watches, 0.0)

    assert asyncio.run(main())


def test_an_unlinked_call_may_finish_when_its_block_is_cancelled(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    future: Any = None

    async def block() -> None:
        nonlocal future
        async with make(1) as ex:
            future = ex.submit(hold, mailbox.path, gate.path, 5)
            ex.pool.unlink(future)
            await future

    async def main() -> int:
        task = asyncio.ensure_future(block())
        await asyncio.to_thread(mailbox.read)
        task.cancel()
        await asyncio.sleep(0)
        gate.open()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await future  # type: ignore[no-any-return]

    assert asyncio.run(main()) == 5


def test_a_block_that_is_thrown_away_stops_its_calls(make: Make, mailbox: Mailbox) -> None:
    """Its loop is gone, so nothing can be awaited there."""
    made: list[Any] = []

    async def block() -> None:
        async with make(1) as ex:
            made.append(ex)
            await ex.acall(hold_for_good, mailbox.path)

    coroutine = block()

    async def begin() -> None:
        coroutine.send(None)

    asyncio.run(begin())
    (slot,) = mailbox.numbers(1)
    with watching(slot) as watches:
        coroutine.close()
        assert all_ended(watches)
    made[0].pool.join()


@pytest.mark.slow
@pytest.mark.parametrize("where", ["acall", "block"])
def test_ctrl_c_in_asyncio_run_stops_the_work(tmp_path: Path, mailbox: Mailbox, where: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import asyncio\n"
        "from dragonfly_executor import DragonflyExecutor\n"
        "from tests.support.payloads import hold_for_good\n"
        "async def main():\n"
        "    async with DragonflyExecutor(1) as ex:\n"
        + (
            f"        await ex.acall(hold_for_good, {mailbox.path!r})\n"
            if where == "acall"
            else f"        ex.submit(hold_for_good, {mailbox.path!r})\n"
        )
        + "if __name__ == '__main__':\n"
        "    asyncio.run(main())\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    process = subprocess.Popen([sys.executable, program], stderr=subprocess.PIPE, text=True, env=environment)
    with process:
        (slot,) = mailbox.numbers(1)
        with watching(slot) as watches:
            process.send_signal(signal.SIGINT)
            assert all_ended(watches)
        _, said = process.communicate(timeout=PATIENCE)
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert process.returncode == -signal.SIGINT
