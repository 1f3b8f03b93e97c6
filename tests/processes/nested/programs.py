"""Functions that submit calls to the pool that runs them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, as_completed, wait
from pathlib import Path
from typing import Any

from dragonfly_executor import CallTimeoutError, Parent
from tests.support.patience import PATIENCE
from tests.support.payloads import hold, log, meet, tell, wait_at


def fib(n: int) -> int:
    if n < 2:
        return n
    pool = Parent.pool()
    one, other = pool.submit(fib, n - 1), pool.submit(fib, n - 2)
    return one.result() + other.result()


def depth(n: int) -> int:
    return 0 if not n else 1 + Parent.pool().call(depth, n - 1)


def add(*values: int, more: int = 0) -> int:
    return sum(values) + more


def slot_pid(*_: object) -> int:
    return os.getpid()


def slot_number(_: object = None) -> int:
    parent = Parent.get()
    assert parent is not None
    assert parent.slot is not None
    return parent.slot


def use_executor() -> tuple[Any, ...]:
    """What a program does with an executor."""
    pool = Parent.pool()
    first = pool.submit(add, 1, 2, more=3)
    mapped = list(pool.map(add, [1, 2, 3], [10, 20, 30]))
    done = wait([pool.submit(add, 5), first]).done
    ended = sorted(future.result() for future in as_completed([pool.submit(add, n) for n in range(4)]))
    some = wait([pool.submit(add, 7) for _ in range(3)], return_when=FIRST_COMPLETED).done
    with pool as entered:
        last = entered.submit(add, 9)
    return first.result(), mapped, len(done), ended, bool(some), last.done(), pool is entered


def use_asyncio() -> list[Any]:
    import asyncio  # here: each slot imports this module, and few use it

    async def gather() -> list[Any]:
        pool = Parent.pool()
        loop = asyncio.get_running_loop()
        return [
            await pool.submit(add, 1),
            await asyncio.gather(pool.acall(add, 2), pool.acall(add, 3)),
            await loop.run_in_executor(pool, add, 4),
            await asyncio.wait_for(asyncio.wrap_future(pool.submit(add, 5)), PATIENCE),
        ]

    return asyncio.run(gather())


async def add_in_tasks(values: list[int]) -> int:
    import asyncio

    return sum(await asyncio.gather(*[Parent.pool().acall(add, value) for value in values]))


def log_times(path: str, _: object = None) -> None:
    """Log when this call began and ended."""
    began = time.monotonic()
    time.sleep(0.01)
    log(path, began, time.monotonic())


def spread(path: str, count: int) -> int:
    """Have many calls run, and wait for them."""
    return len(list(Parent.pool().map(log_times, [path] * count)))


def most_at_once(path: Path) -> int:
    """The largest number of the logged calls that ran at once."""
    edges: list[tuple[float, int]] = []
    for line in path.read_text().splitlines():
        began, ended = map(float, line.split())
        edges += [(began, 1), (ended, -1)]
    most = running = 0
    for _, change in sorted(edges):
        running += change
        most = max(most, running)
    return most


def fail(text: str) -> None:
    raise KeyError(text)


def child_error(text: str) -> str:
    future = Parent.pool().submit(fail, text)
    error = future.exception()
    assert isinstance(error, KeyError)
    assert "in fail" in str(error.__cause__)
    try:
        future.result()
    except KeyError as same:
        return str(same)
    return "no error"


def wait_for_holder(mailbox: str, gate: str) -> Any:
    """Wait for a call that waits at a gate, and tell this process before."""
    future = Parent.pool().submit(hold, mailbox, gate)
    tell(mailbox, os.getpid())
    return future.result()


def leave_behind(mailbox: str, gate: str, path: str) -> int:
    """Submit a call, and do not wait for it."""
    Parent.pool().submit(hold_and_log, mailbox, gate, path)
    return os.getpid()


def hold_and_log(mailbox: str, gate: str, path: str) -> None:
    tell(mailbox, os.getpid())
    wait_at(gate)
    log(path, "done")


def cancel_child(mailbox: str, gate: str) -> tuple[bool, bool, bool, list[str]]:
    pool, ended = Parent.pool(), threading.Event()
    called: list[str] = []
    future = pool.submit(hold, mailbox, gate)
    future.add_done_callback(lambda each: (called.append(threading.current_thread().name), ended.set()))
    wait_at(gate + ".started")
    answer = future.cancel()
    assert ended.wait(PATIENCE)
    return answer, future.cancelled(), future.cancel(), called


def callback_that_waits() -> int:
    """A callback of one child call waits for another."""
    pool, ended, values = Parent.pool(), threading.Event(), list[int]()

    def call_again(future: Future[int]) -> None:
        values.append(pool.submit(add, future.result(), 1).result())
        ended.set()

    pool.submit(add, 1).add_done_callback(call_again)
    assert ended.wait(PATIENCE)
    return values[0]


def fail_first(path: str, mailbox: str, gate: str) -> str:
    """The first attempt dies while its child call runs."""
    first = not Path(path).exists()
    Path(path).touch()
    if not first:
        return Parent.pool().call(str, "second attempt")
    future = Parent.pool().submit(hold, mailbox, gate)
    threading.Thread(target=future.result, daemon=True).start()
    wait_at(gate + ".started")
    os.kill(os.getpid(), signal.SIGKILL)
    return "unreachable"


def time_out(mailbox: str, gate: str) -> list[str]:
    pool, found = Parent.pool(), list[str]()
    timeouts: list[dict[str, Any]] = [{"run_timeout": 0.1}, {"timeout": 0.1}]
    for options in timeouts:
        try:
            pool.options(**options).call(hold, mailbox, gate)
        except CallTimeoutError as error:
            found.append(type(error).__name__)
    try:
        pool.submit(hold, mailbox, gate).result(timeout=0.05)
    except TimeoutError as error:
        found.append(type(error).__name__)
    return found


def errors_at_submit() -> list[str]:
    """The errors of calls that cannot be made."""
    pool, found = Parent.pool(), list[str]()
    attempts: list[Any] = [
        lambda: pool.submit(add, threading.Lock()),
        lambda: pool.submit(iter_nothing),
        lambda: pool.options(speed=3),
        lambda: pool.options(timeout="soon"),
        lambda: pool.options(retries=-1),
        lambda: pool.options(key=object()),
        lambda: pool.options(retry_on="all"),
        lambda: pool.options(requires={"wings": 2}).call(add),
    ]
    for attempt in attempts:
        try:
            attempt()
        except Exception as error:
            found.append(type(error).__name__)
    pool.shutdown()
    try:
        pool.submit(add)
    except RuntimeError as error:
        found.append(str(error))
    return found


def iter_nothing() -> Iterable[int]:
    yield 1


def large(size: int) -> tuple[int, bytes]:
    """Send and get much."""
    data = os.urandom(size)
    assert Parent.pool().call(echo_bytes, data) == data
    return size, data[:8]


def echo_bytes(data: bytes) -> bytes:
    return data


def submit_elsewhere(how: str) -> str:
    """Try the first `Parent.pool()` where it must not be."""
    found: list[str] = []

    def attempt() -> None:
        try:
            found.append(str(Parent.pool().call(add, 1)))
        except Exception as error:
            found.append(f"{type(error).__name__}: {error}")

    if how == "thread":
        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()
        return found[0]
    pool = Parent.pool()
    if how == "later thread":
        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()
        return found[0]
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            pool.submit(add, 1)
        except BaseException as error:
            os.write(write, f"{type(error).__name__}: {error}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with open(read, "rb") as file:
        return file.read().decode()


def call_with(pool: Any, value: int) -> int:
    """Use an executor that came with the call."""
    return pool.submit(add, value, 1).result()


def pass_the_pool() -> int:
    pool = Parent.pool()
    return pool.options(priority=1).call(call_with, pool, 4)


def wait_and_say(mailbox: str, gate: str) -> str:
    """Wait at a gate, then submit a call, and say how that ends."""
    tell(mailbox, os.getpid())
    wait_at(gate)
    try:
        return str(Parent.pool().call(add, 1, 2))
    except (CancelledError, RuntimeError) as error:
        return type(error).__name__


def numbers_of(count: int) -> list[int]:
    return list(Parent.pool().map(slot_number, range(count)))


def say_what_ends(mailbox: str, gate: str) -> list[str]:
    """Submit a call that runs, and one that waits; say how each of them ends."""
    pool, found = Parent.pool(), list[str]()
    futures = [pool.submit(hold, mailbox, gate), pool.submit(add, 1)]
    tell(mailbox, os.getpid())
    for future in futures:
        try:
            found.append(str(future.result()))
        except (CancelledError, RuntimeError) as error:
            found.append(type(error).__name__)
    return found


def meet_in_children(here: str, there: str) -> list[int]:
    """Submit two calls that wait for each other."""
    pool = Parent.pool()
    futures = [pool.submit(meet, here, there, 1), pool.submit(meet, there, here, 2)]
    return [future.result() for future in futures]
