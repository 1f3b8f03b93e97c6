"""Calls from tasks of asyncio: values as they come, a deadline that stops the work, and coroutines on runners.

    python examples/asyncio_calls.py

No thread waits for a call, and the event loop goes on until the end: `async with` too lets it go on.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time

from dragonfly_executor import DragonflyExecutor


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


async def greet(name: str, count: int) -> str:
    """Run on a runner, in the event loop of its slot."""
    words = await asyncio.gather(*(asyncio.sleep(0.001, f"hello {name}") for _ in range(count)))
    return f"{', '.join(words)}, by process {os.getpid()}"


async def main() -> None:
    """Await calls one by one, together, as they come, and not at all."""
    async with DragonflyExecutor(max_workers=2) as executor:
        print("one:", await executor.acall(digest, 1_000))
        print("together:", *await asyncio.gather(executor.acall(digest, 2), executor.submit(digest, rounds=3)))

        # A window of 10 calls is ahead of the values that were taken.
        shown = [value async for value in executor.amap(digest, range(1, 101), buffersize=10, ordered=False)]
        print("values as they came:", len(shown), len(set(shown)))

        try:
            async with asyncio.timeout(0.5):
                await executor.acall(sleep_for_good)
        except TimeoutError:
            print("stopped: its process is gone, and the slot is free again")

        print("coroutine:", await executor.acall(greet, "you", count=2))


if __name__ == "__main__":
    asyncio.run(main())
