"""Calls from tasks of Trio, by a bridge of one function.

    python examples/trio_calls.py

`await future` and `acall` need an asyncio event loop. `wait_in_trio` waits for a future in Trio instead. No thread
waits, and a cancelled task cancels its call, which is stopped if it runs.
"""

from __future__ import annotations

import hashlib
import time
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

import outcome
import trio

from dragonfly_executor import DragonflyExecutor

T = TypeVar("T")


async def wait_in_trio(future: Future[T]) -> T:
    """Wait for a call in a task of Trio, and return its value or raise its exception."""
    task = trio.lowlevel.current_task()
    token = trio.lowlevel.current_trio_token()
    is_waiting = True

    def resume() -> None:
        nonlocal is_waiting
        if is_waiting:
            is_waiting = False
            trio.lowlevel.reschedule(task, outcome.Value(None))

    def when_done(_: Future[T]) -> None:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(resume)

    def abort(_: Any) -> trio.lowlevel.Abort:
        nonlocal is_waiting
        is_waiting = False
        future.cancel()
        return trio.lowlevel.Abort.SUCCEEDED

    if not future.done():
        future.add_done_callback(when_done)
        await trio.lowlevel.wait_task_rescheduled(abort)
    else:
        await trio.lowlevel.checkpoint()
    return future.result()


def digest(rounds: int) -> str:
    """Take a moment and return."""
    value = b""
    for _ in range(rounds):
        value = hashlib.sha256(value).digest()
    return value.hex()[:16]


def sleep_for_good() -> None:
    """Never return."""
    while True:
        time.sleep(3600)


async def main() -> None:
    """Wait for calls one by one, together, and not at all."""
    executor = DragonflyExecutor(max_workers=2)
    try:
        print("one:", await wait_in_trio(executor.submit(digest, 1_000)))

        async def show(rounds: int) -> None:
            print("together:", await wait_in_trio(executor.submit(digest, rounds)))

        async with trio.open_nursery() as nursery:
            for rounds in (2, 3):
                nursery.start_soon(show, rounds)

        with trio.move_on_after(0.5):
            await wait_in_trio(executor.submit(sleep_for_good))
        print("stopped: its process is gone, and the slot is free again")
        print("after that:", await wait_in_trio(executor.submit(digest, 1)))
    finally:
        # It waits for the runners, so it has a thread.
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(executor.shutdown)


if __name__ == "__main__":
    trio.run(main)
