"""A program written for multiprocessing.Pool, run with that class and with the one of dragonfly_executor.

    python examples/swap_multiprocessing_pool.py

`count_words` and everything below it was written for `multiprocessing.Pool`: an initializer that sets a module-level
global, `map`, `imap_unordered`, and `apply_async` with a callback. Its argument is the class to use. The last part
shows the differences: a lambda travels, endless items are read only as far as they are needed, and a process that is
killed fails its own call, for which multiprocessing would wait without end.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any

from dragonfly_executor import RunnerLostError
from dragonfly_executor.multiprocessing import Pool

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


def count_all(make_pool: Callable[..., Any]) -> dict[str, int]:
    """Run the unchanged program."""
    heard: list[int] = []
    with make_pool(2, load_stop_words, ("the it of and its",)) as pool:
        counts = pool.map(count_words, LINES)
        assert sorted(pool.imap_unordered(count_words, LINES, chunksize=2)) == sorted(counts)
        for line in LINES:
            pool.apply_async(count_words, (line,), callback=heard.append)
        pool.close()
        pool.join()
    assert sorted(heard) == sorted(counts)
    return dict(zip(LINES, counts, strict=True))


def main() -> None:
    """Run the same program with both classes, then show the differences."""
    counted = count_all(Pool)
    assert counted == count_all(multiprocessing.Pool)
    for line, words in sorted(counted.items()):
        print(f"{words:3} words that count: {line}")
    with Pool(2) as pool:
        factor = 3
        print("a lambda travels:", pool.map(lambda number: number * factor, range(5)))
        squares = pool.imap(lambda number: number**2, itertools.count())
        print("endless items:", [next(squares) for _ in range(5)])
        try:
            pool.apply(crash)
        except RunnerLostError as error:
            print("a crash fails its own call, by signal", error.signal)
        print("and the pool goes on:", pool.apply(pow, (2, 10)))


if __name__ == "__main__":
    main()
