"""A program written for ProcessPoolExecutor, run with ProcessPoolExecutor and with DragonflyExecutor.

    python examples/swap_process_pool.py

`count_words` and everything below it was written for `ProcessPoolExecutor`: an initializer that sets a module-level
global, `map`, `submit` with `as_completed`, and an `except BrokenProcessPool`. Its argument is the class to use. The
last part shows the differences: a lambda can be submitted, and a call that crashes fails no other call.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from dragonfly_executor import DragonflyExecutor

LINES = [
    "the dragonfly has four wings and moves each of them alone",
    "it can fly backwards and it can hover",
    "most of its life it spends under water",
]
stop_words: frozenset[str] = frozenset()


def load_stop_words(text: str) -> None:
    """Prepare a process: the pool calls this once in each, before its first call."""
    global stop_words  # noqa: PLW0603  # the most common use of an initializer
    stop_words = frozenset(text.split())


def count_words(line: str) -> int:
    """Return the words of a line, without the stop words that the initializer has set."""
    return sum(word not in stop_words for word in line.split())


def crash() -> None:
    """End the process that runs this call, as a fault in a C library would."""
    os.kill(os.getpid(), signal.SIGKILL)


def count_all(make_executor: Callable[..., Executor]) -> dict[str, int]:
    """Run the unchanged program."""
    with make_executor(max_workers=2, initializer=load_stop_words, initargs=("the it of and its",)) as executor:
        total = sum(executor.map(count_words, LINES))
        futures = {executor.submit(count_words, line): line for line in LINES}
        counted = {futures[future]: future.result() for future in as_completed(futures)}
    assert total == sum(counted.values())
    return counted


def survivors(make_executor: Callable[..., Executor]) -> int:
    """Return how many of five calls have a result after a call before them has crashed."""
    alive = 0
    with make_executor(max_workers=1) as executor:
        futures: list[Future[Any]] = [executor.submit(crash)]
        try:
            futures += [executor.submit(len, line) for line in [*LINES, "", "end"]]
        except BrokenProcessPool:
            return alive
        for future in futures:
            try:
                future.result()
            except BrokenProcessPool:
                continue
            alive += 1
    return alive


def main() -> None:
    """Run the same program with both classes, then show the differences."""
    counted = count_all(DragonflyExecutor)
    assert counted == count_all(ProcessPoolExecutor)
    for line, words in sorted(counted.items()):
        print(f"{words:3} words that count: {line}")
    with DragonflyExecutor(max_workers=2) as executor:
        factor = 3
        print("a lambda travels:", list(executor.map(lambda number: number * factor, range(5))))
    print("calls that survive a crash beside them, ProcessPoolExecutor:", survivors(ProcessPoolExecutor), "of 5")
    print("calls that survive a crash beside them, DragonflyExecutor:  ", survivors(DragonflyExecutor), "of 5")


if __name__ == "__main__":
    main()
