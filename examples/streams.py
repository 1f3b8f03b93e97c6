"""Streams: items of a generator that runs on a runner, taken while it runs.

    python examples/streams.py

The generator is at most a window ahead of the loop here. Leaving the loop closes it, and its `finally` block runs.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from itertools import islice

from dragonfly_executor import DragonflyExecutor


def primes(start: int = 2) -> Iterator[int]:
    """Yield prime numbers without end."""
    try:
        number = start
        while True:
            if all(number % divisor for divisor in range(2, int(number**0.5) + 1)):
                yield number
            number += 1
    finally:
        print(f"process {os.getpid()} closes the generator", flush=True)


async def ticks(count: int) -> AsyncIterator[float]:
    """Yield the time, every few milliseconds."""
    for _ in range(count):
        await asyncio.sleep(0.005)
        yield time.time()


async def measure_delays(executor: DragonflyExecutor) -> float:
    """Return how long a tick is on its way, at most, in seconds."""
    return max([time.time() - tick async for tick in executor.stream(ticks, 20)])


def main() -> None:
    """Take items in a loop, up to some of an endless generator, and in a task."""
    with DragonflyExecutor(max_workers=2) as executor:
        print(*islice(executor.stream(primes), 10))
        for prime in executor.options(stream_buffersize=16).stream(primes, 1_000_000):
            print(prime)
            break
        began = time.perf_counter()
        total = sum(executor.stream(range, 1_000_000))
        print(f"{total} from a million items in {time.perf_counter() - began:.1f} s")
        print(f"a tick is here after {asyncio.run(measure_delays(executor)) * 1000:.1f} ms at most")


if __name__ == "__main__":
    main()
