"""`stream`: the items of a call, taken while it runs."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import CancelledError
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import (
    CallSerializationError,
    CallTimeoutError,
    DragonflyExecutor,
    FrameTooLargeError,
    LocalBackend,
    QueueFullError,
    ResultSerializationError,
    RunnerLostError,
)
from dragonfly_executor.testing import FakeBackend
from tests.processes.calls.test_bounded_submit import fill
from tests.processes.conftest import Make
from tests.support.helpers import PATIENCE, Gate, Mailbox, all_ended, becomes_true, watching
from tests.support.payloads import echo, log, pid, tell, wait_at


def numbers(count: int, last: object = None) -> Generator[int, None, object]:
    yield from range(count)
    return last


async def numbers_async(count: int) -> AsyncIterator[int]:
    for number in range(count):
        if number % 10 == 0:
            await asyncio.sleep(0)
        yield number


def mixed() -> list[Any]:
    return [1, "a", "b" * 1000, None, 2.5, [1, 2], {"key": (1, 2)}, b"bytes", 3, True, "c", bytes(3 << 20), 4, ("x", 1)]


def many_mixed(count: int) -> Iterator[Any]:
    for _ in range(count):
        yield from mixed()


def one_object(count: int) -> Iterator[dict[str, int]]:
    found: dict[str, int] = {}
    for number in range(count):
        found["number"] = number
        yield found


def then_wait(count: int, gate: str) -> Iterator[int]:
    yield from range(count)
    wait_at(gate)
    yield count


def logged(path: str, size: int = 0) -> Iterator[bytes]:
    while True:
        log(path, "one")
        yield bytes(size)


def fail_after(count: int) -> Iterator[int]:
    yield from range(count)
    raise ValueError("no more")


def tell_end(mailbox: str) -> Iterator[int]:
    try:
        number = 0
        while True:
            yield number
            number += 1
    finally:
        tell(mailbox, "closed", os.getpid())


async def tell_end_async(mailbox: str) -> AsyncIterator[int]:
    try:
        number = 0
        while True:
            yield number
            number += 1
    finally:
        tell(mailbox, "closed", os.getpid())


def stuck_after(count: int, mailbox: str) -> Iterator[int]:
    yield from range(count)
    tell(mailbox, os.getpid())
    while True:
        signal.pause()


def die_at(count: int, path: str) -> Iterator[int]:
    """The first attempt that the file knows of dies."""
    log(path, "run")
    has_run = len(Path(path).read_text().splitlines()) > 1
    for number in range(10):
        if number == count and not has_run:
            os.kill(os.getpid(), signal.SIGKILL)
        yield number


def fork_in_between() -> Iterator[int]:
    yield 1
    child = os.fork()
    if child:
        os.waitpid(child, 0)
    yield 2


def not_iterable(value: Any) -> Any:
    return value


def threads_here() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def taken_from(stream: Iterator[Any]) -> tuple[list[Any], BaseException]:
    """What comes, and the error that ends it."""
    found = []
    while True:
        try:
            found.append(next(stream))
        except StopIteration:
            pytest.fail("the stream ended without an error")
        except BaseException as error:
            return found, error


def run_async(main: Callable[[], Any]) -> Any:
    return asyncio.run(asyncio.wait_for(main(), PATIENCE))


# -- items -------------------------------------------------------------------------------------------------------------


def test_items_come_in_order_whatever_they_are(make: Make) -> None:
    ex = make(2)
    for window in (1, 2, 3, 1024):
        view = ex.options(stream_buffersize=window)
        for count in (0, 1, 2, 700):
            assert list(view.stream(numbers, count)) == list(range(count))
        assert list(view.stream(many_mixed, 3)) == mixed() * 3
        assert [each["number"] for each in view.stream(one_object, 300)] == list(range(300))
    assert list(ex.stream(range, 5)) == list(range(5))
    assert list(ex.stream(partial(numbers, 3))) == [0, 1, 2]
    captured = 7
    assert list(ex.stream(lambda more: (captured + each for each in range(more)), more=3)) == [7, 8, 9]
    assert list(ex.stream(sorted, [3, 1], reverse=True)) == [3, 1]


def test_a_million_items_and_the_value_of_a_generator(make: Make) -> None:
    ex = make(1)
    stream_of_many = ex.stream(numbers, 10**6)
    assert "state=open" in repr(stream_of_many)
    assert sum(stream_of_many) == sum(range(10**6))
    assert "state=ended" in repr(stream_of_many)
    stream_of_many.close()
    assert "state=closed" in repr(stream_of_many)
    found: list[Any] = []

    def inner() -> Iterator[int]:
        stream: Any = ex.stream(numbers, 2, ("a", "tuple"))
        found.append((yield from stream))

    assert list(inner()) == [0, 1]
    assert found == [("a", "tuple")]
    ended = ex.stream(numbers, 0, 5)
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(ended)


def test_tasks_take_items_of_both_kinds_of_generators(make: Make) -> None:
    ex = make(2)

    async def all_of(*args: Any) -> list[Any]:
        return [item async for item in ex.options(stream_buffersize=50).stream(*args)]

    async def main() -> None:
        one, two, three = await asyncio.gather(all_of(numbers, 500), all_of(numbers_async, 500), all_of(many_mixed, 1))
        assert one == two == list(range(500))
        assert three == mixed()

    run_async(main)
    assert list(ex.stream(numbers_async, 300)) == list(range(300))


def test_streams_of_a_fake_runner(make: Make) -> None:
    ex = make(None, backend=FakeBackend())
    assert list(ex.options(stream_buffersize=2).stream(many_mixed, 2)) == mixed() * 2
    assert list(ex.stream(numbers_async, 5)) == list(range(5))
    with ex.stream(numbers, 10**9) as stream:
        assert list(islice(stream, 3)) == [0, 1, 2]
    found, error = taken_from(ex.stream(fail_after, 3))
    assert (found, str(error)) == ([0, 1, 2], "no more")


def test_a_serializer_of_the_users_own(make: Make) -> None:
    import dill

    assert list(make(1, serializer=dill).stream(many_mixed, 1)) == mixed()


# -- the window --------------------------------------------------------------------------------------------------------


def test_items_come_while_the_function_goes_on(make: Make, gate: Gate) -> None:
    """Also items of a batch that is not full."""
    ex = make(1)
    for count in (1, 5):
        stream = ex.stream(then_wait, count, gate.path)
        assert list(islice(stream, count)) == list(range(count))
        gate.open()
        assert list(stream) == [count]


def test_the_function_is_not_far_ahead(make: Make, log: Path) -> None:
    ex = make(1)
    for window, size, most in ((1, 0, 1), (7, 0, 7), (1024, 300_000, 6)):
        log.unlink(missing_ok=True)
        with ex.options(stream_buffersize=window).stream(logged, str(log), size) as stream:
            for taken in range(30):
                next(stream)
                # The items that were taken, those in the window, and one that the function has begun.
                assert len(log.read_text().splitlines()) <= taken + 1 + most + 1
        assert ex.submit(echo, 1).result(PATIENCE) == 1  # the function writes no more


# -- errors ------------------------------------------------------------------------------------------------------------


def test_an_error_comes_after_the_items_before_it(make: Make) -> None:
    ex = make(1)
    for count in (0, 1, 1000):
        stream = ex.options(stream_buffersize=100).stream(fail_after, count)
        found, error = taken_from(stream)
        assert (found, type(error), str(error)) == (list(range(count)), ValueError, "no more")
        with pytest.raises(StopIteration):
            next(stream)


def test_items_that_cannot_leave_the_slot(make: Make) -> None:
    ex = make(1, max_payload=100_000)
    found, error = taken_from(ex.stream(lambda: iter([1, [2], threading.Lock()])))
    assert found == [1, [2]]
    assert isinstance(error, ResultSerializationError)
    assert "item 2 of the stream" in str(error)
    found, error = taken_from(ex.stream(lambda: iter([b"", bytes(200_000)])))
    assert found == [b""]
    assert isinstance(error, FrameTooLargeError)
    assert "item 1 of the stream" in str(error)


def test_functions_that_are_no_functions_of_a_stream(make: Make) -> None:
    ex = make(1)

    async def coroutine() -> None:
        pass

    with pytest.raises(TypeError, match="coroutine function"):
        ex.stream(coroutine)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="needs a function"):
        ex.stream(5)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="returned int, and a stream needs"):
        next(ex.stream(not_iterable, 2))
    with pytest.raises(CallSerializationError, match=r"argument 1 of numbers\(\)"):
        ex.stream(numbers, threading.Lock())  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="stream_buffersize"):
        ex.options(stream_buffersize=0)
    with pytest.raises(TypeError, match=r"stream\(\)"):
        ex.submit(numbers, 3)
    assert ex.submit(echo, 1).result(PATIENCE) == 1


def test_limits_hold_for_streams(make: Make, mailbox: Mailbox) -> None:
    ex = make(1)
    for view in (ex.options(run_timeout=0.3), ex.options(timeout=0.3)):
        found, error = taken_from(view.stream(stuck_after, 3, mailbox.path))
        assert found == [0, 1, 2][: len(found)]
        assert isinstance(error, CallTimeoutError)


# -- the end -----------------------------------------------------------------------------------------------------------


def test_closing_runs_the_finally_blocks_and_keeps_the_slot(make: Make, mailbox: Mailbox) -> None:
    ex = make(1)
    slot = ex.submit(pid).result(PATIENCE)

    async def leave_loop() -> None:
        async for number in ex.stream(tell_end_async, mailbox.path):
            if number == 5:
                break

    async def cancel() -> None:
        stream = ex.stream(tell_end_async, mailbox.path)
        await anext(stream)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                async for _ in stream:
                    pass

    for window in (1, 1024):
        view = ex.options(stream_buffersize=window)
        stream = view.stream(tell_end, mailbox.path)
        next(stream)
        stream.close()
        stream.close()
        assert list(stream) == []
        assert mailbox.read() == f"closed {slot}"
        for _ in view.stream(tell_end, mailbox.path):
            break
        assert mailbox.read() == f"closed {slot}"
        with view.stream(tell_end, mailbox.path) as stream:
            next(stream)
        assert mailbox.read() == f"closed {slot}"
    for main in (leave_loop, cancel):
        run_async(main)
        gc.collect()
        assert mailbox.read() == f"closed {slot}"
    assert ex.submit(pid).result(PATIENCE) == slot


def test_a_function_that_does_not_come_to_its_next_item_is_killed(make: Make, mailbox: Mailbox) -> None:
    ex = make(1)
    for count in (0, 1):  # without an item there is nothing to wait for
        stream = ex.stream(stuck_after, count, mailbox.path)
        assert list(islice(stream, count)) == list(range(count))
        with watching(int(mailbox.read())) as (slot,):
            stream.close()
            assert slot.ended()
    assert ex.submit(echo, 1).result(PATIENCE) == 1


def test_without_cancel_running_the_function_is_only_asked_to_end(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    ex = make(1, cancel_running=False)

    def items(mailbox: str, gate: str) -> Iterator[int]:
        tell(mailbox, "begun")
        wait_at(gate)
        yield from tell_end(mailbox)

    stream = ex.options(stream_buffersize=1).stream(items, mailbox.path, gate.path)
    assert mailbox.read() == "begun"
    stream.close()
    gate.open()
    assert mailbox.read().startswith("closed")


def test_a_stream_that_waits_for_a_slot_is_cancelled(make: Make, gate: Gate) -> None:
    ex = make(1)
    first = ex.submit(wait_at, gate.path)
    stream = ex.stream(numbers, 3)
    stream.close()
    gate.open()
    first.result(PATIENCE)
    assert ex.pool.stats().calls_queued == 0


def test_the_bound_on_waiting_calls_holds_for_streams(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    ex = make(1)
    futures = fill(ex, mailbox, gate, 1)
    view = ex.options(max_queued=1, when_full="raise")
    with pytest.raises(QueueFullError):
        view.stream(numbers, 3)
    gate.open()
    assert futures[-1].result(PATIENCE) == 1
    assert list(view.stream(numbers, 3)) == [0, 1, 2]


def test_messages_that_come_late_harm_no_other_call(make: Make) -> None:
    """The slot reads them where it expects chunks of a large call, or a shared object."""
    ex = make(1, backend=LocalBackend(shared_memory=0))
    shared = ex.share(b"shared")
    for window in (1, 2, 1024):
        stream = ex.options(stream_buffersize=window).stream(numbers, 5)
        futures = [ex.submit(len, bytes(200_000)), ex.submit(len, shared.as_argument())]
        assert list(stream) == list(range(5))
        assert [future.result(PATIENCE) for future in futures] == [200_000, 6]
    assert ex.submit(threads_here).result(PATIENCE) == 1


def test_a_child_that_the_function_forks_sends_nothing(make: Make) -> None:
    ex = make(1)
    for _ in range(3):
        assert list(ex.stream(fork_in_between)) == [1, 2]


# -- losses ------------------------------------------------------------------------------------------------------------


def test_items_precede_the_loss_of_their_slot_and_come_once(make: Make, log: Path) -> None:
    view = make(1).options(retries=3, stream_buffersize=1)
    for count in (5, 1):
        log.unlink(missing_ok=True)
        found, error = taken_from(view.stream(die_at, count, str(log)))
        assert found == list(range(count))
        assert isinstance(error, RunnerLostError)
        assert log.read_text().splitlines() == ["run"]


def test_a_stream_without_items_so_far_is_tried_again(make: Make, log: Path) -> None:
    ex = make(1)
    assert list(ex.options(retries=1).stream(die_at, 0, str(log))) == list(range(10))
    assert log.read_text().splitlines() == ["run", "run"]
    log.unlink()
    found, error = taken_from(ex.stream(die_at, 0, str(log)))
    assert (found, type(error)) == ([], RunnerLostError)


@pytest.mark.parametrize("whom", ["slot", "agent"])
def test_a_kill_in_the_middle(make: Make, mailbox: Mailbox, whom: str) -> None:
    ex = make(1)
    stream = ex.stream(stuck_after, 1000, mailbox.path)
    assert list(islice(stream, 10)) == list(range(10))
    slot = int(mailbox.read())
    assert becomes_true(ex.pool, lambda: stream._call._arrived[0] == 1000)
    agent = int(Path(f"/proc/{slot}/stat").read_text().rpartition(")")[2].split()[1])
    with watching(slot) as watches:
        os.kill(slot if whom == "slot" else agent, signal.SIGKILL)
        found, error = taken_from(stream)
        assert found == list(range(10, 1000))
        assert isinstance(error, RunnerLostError)
        assert all_ended(watches)
    assert list(ex.stream(numbers, 3)) == [0, 1, 2]


# -- the end of the pool -----------------------------------------------------------------------------------------------


def test_the_end_of_a_block_closes_the_streams_of_its_thread(mailbox: Mailbox) -> None:
    with DragonflyExecutor(1) as ex:
        stream = ex.options(stream_buffersize=2).stream(tell_end, mailbox.path)
        assert next(stream) == 0
    assert mailbox.read().startswith("closed")
    found, error = taken_from(stream)
    assert found in ([], [1], [1, 2])
    assert isinstance(error, CancelledError)

    async def main() -> None:
        async with DragonflyExecutor(1) as ex:
            stream = ex.options(stream_buffersize=2).stream(tell_end, mailbox.path)
            assert await anext(stream) == 0
        with pytest.raises(CancelledError):
            async for _ in stream:
                pass

    run_async(main)
    assert mailbox.read().startswith("closed")


def test_another_thread_takes_its_items_to_the_end(gate: Gate) -> None:
    found: list[int] = []
    begun = threading.Event()

    def take(stream: Iterator[int]) -> None:
        found.append(next(stream))
        begun.set()
        found.extend(stream)

    with DragonflyExecutor(1) as ex:
        thread = threading.Thread(target=take, args=(ex.options(stream_buffersize=3).stream(numbers, 500),))
        thread.start()
        begun.wait(PATIENCE)
    thread.join()
    assert found == list(range(500))


def test_a_pool_that_is_killed_ends_its_streams(make: Make, mailbox: Mailbox) -> None:
    ex = make(1)
    stream = ex.stream(stuck_after, 3, mailbox.path)
    mailbox.read()
    assert next(stream) == 0
    ex.kill_workers()
    found, error = taken_from(stream)
    assert found == [1, 2][: len(found)]
    assert isinstance(error, RunnerLostError)
    with pytest.raises(RuntimeError, match="shutdown"):
        ex.stream(numbers, 3)


PROGRAM = """
import asyncio, sys
from itertools import count
from dragonfly_executor import DragonflyExecutor

async def take(stream):
    return await anext(stream)

if __name__ == "__main__":
    executor = DragonflyExecutor(2)
    one, two = executor.stream(count), executor.stream(count)
    print(next(one), next(one), asyncio.run(take(two)), flush=True)
    if sys.argv[1:]:
        for _ in one:
            pass
"""


def test_a_program_ends_with_streams_open(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run([sys.executable, program], check=False, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.stdout, done.stderr, done.returncode) == ("0 1 0\n", "", 0)
    with subprocess.Popen(
        [sys.executable, program, "on"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "0 1 0\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE)
    assert said.splitlines()[-1] == "KeyboardInterrupt"
    assert process.returncode == -signal.SIGINT


def test_only_one_thread_at_a_time_waits_for_an_item(make: Make, gate: Gate) -> None:
    ex = make(1)
    stream = ex.stream(then_wait, 0, gate.path)
    thread = threading.Thread(target=lambda: next(stream))
    thread.start()
    assert becomes_true(ex.pool, lambda: stream._is_taking)
    with pytest.raises(RuntimeError, match="another thread or task"):
        next(stream)
    gate.open()
    thread.join()
