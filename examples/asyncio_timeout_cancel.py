"""From asyncio: a result, a timeout that stops the work, and a cancel that stops the work.

    python examples/asyncio_timeout_cancel.py

`run_in_executor` takes any `concurrent.futures.Executor`. With threads or a `ProcessPoolExecutor`, a call that was
given up goes on running. With this executor, its process is killed, and so are the processes that it has started.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import tempfile
from functools import partial
from pathlib import Path

from dragonfly_executor import CallTimeoutError, DragonflyExecutor


def digest(rounds: int) -> str:
    """Take a moment and return."""
    value = b""
    for _ in range(rounds):
        value = hashlib.sha256(value).digest()
    return value.hex()[:16]


def run_forever(fifo: str) -> None:
    """Never return: wait for a process of its own. Both hold the named pipe open."""
    with open(fifo, "w") as pipe:
        print(f"process {os.getpid()} and its child", file=pipe, flush=True)
        subprocess.run(["sleep", "infinity"], stdout=pipe, check=False)


async def until_gone(fifo: str, give_up: asyncio.Future[None], *, cancel: bool) -> None:
    """Wait until the call has started, and then until it is stopped: a named pipe ends when no process has it open."""
    with await asyncio.to_thread(open, fifo) as pipe:
        who = (await asyncio.to_thread(pipe.readline)).strip()
        print("started:", who)
        if cancel:
            give_up.cancel()
        try:
            await give_up
        except CallTimeoutError as error:
            print("timed out:", error)
        except asyncio.CancelledError:
            print("cancelled")
        await asyncio.wait_for(asyncio.to_thread(pipe.read), 10)
        print("gone:", who)


async def main(folder: Path) -> None:
    """Run three calls: one ends, one is stopped by its timeout, and one by cancelling the future that waits for it."""
    loop = asyncio.get_running_loop()
    fifo = str(folder / "fifo")
    os.mkfifo(fifo)
    with DragonflyExecutor(max_workers=2) as executor:
        results = await asyncio.gather(
            loop.run_in_executor(executor, digest, 1_000),
            loop.run_in_executor(executor, partial(digest, rounds=2_000)),
        )
        print("results:", *results)

        late = loop.run_in_executor(executor.options(timeout=3), run_forever, fifo)
        await until_gone(fifo, late, cancel=False)

        unwanted = loop.run_in_executor(executor, run_forever, fifo)
        await until_gone(fifo, unwanted, cancel=True)

        # Both slots are free again.
        print("after that:", await loop.run_in_executor(executor, digest, 1_000))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(main(Path(name)))
