"""Programs whose end is the test: ``python -m tests.processes.drop_in_pool.programs NAME ARGUMENT...``."""

from __future__ import annotations

import gc
import itertools
import os
import sys
from collections.abc import Callable
from typing import Any

from dragonfly_executor.multiprocessing import Pool
from tests.support import payloads

PROGRAMS: dict[str, Callable[..., None]] = {}
kept: list[Any] = []


def program(function: Callable[..., None]) -> Callable[..., None]:
    PROGRAMS[function.__name__] = function
    return function


def say(*words: object) -> None:
    print(*words, flush=True)


def tried(function: Callable[..., object], *arguments: Any) -> str:
    try:
        function(*arguments)
    except Exception as error:
        return type(error).__name__
    return "fine"


@program
def end_while_a_call_runs(mailbox: str) -> None:
    pool = Pool(1)
    kept.extend([pool, pool.apply_async(payloads.hold_for_good, (mailbox,))])
    payloads.wait_at(mailbox + "-read")


@program
def end_closed_while_a_call_runs(mailbox: str) -> None:
    end_while_a_call_runs(mailbox)
    kept[0].close()


@program
def end_in_the_midst_of_endless_items() -> None:
    pool = Pool(2)
    results = pool.imap_unordered(abs, itertools.count())
    for _ in range(2000):
        next(results)
    kept.extend([pool, results])


@program
def end_with_an_unused_pool() -> None:
    kept.append(Pool(1))


@program
def end_after_join() -> None:
    pool = Pool(2)
    say(pool.map(abs, [-1]))
    pool.close()
    pool.join()
    kept.append(pool)


@program
def fork(mailbox: str, gate: str) -> None:
    """Whatever a forked child tries with the pool, and what the pool does after that."""
    pool = Pool(2)
    pending = pool.apply_async(payloads.hold, (mailbox, gate, "late"))
    chunked = pool.map_async(payloads.wait_at, [gate])
    items = pool.imap(payloads.wait_at, [gate, gate])
    child = os.fork()
    if child == 0:
        say("apply", tried(pool.apply, abs, (1,)))
        say("map", tried(pool.map, abs, [1]))
        say("imap", tried(pool.imap, abs, [1]))
        say("get", tried(pending.get), tried(chunked.get), tried(items.next))
        say("close", tried(pool.close))
        say("join", tried(pool.join))
        say("terminate", tried(pool.terminate))
        del pool
        gc.collect()
        return  # and ends as programs do, exit handlers and all
    say("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    payloads.tell(mailbox, "forked")
    say(pending.get(), chunked.get(), list(items), pool.map(abs, [-2]))
    pool.close()
    pool.join()


@program
def interrupted_in_a_block(mailbox: str) -> None:
    """A Ctrl-C ends the wait, the block, and the calls."""
    with Pool(1) as pool:
        pool.map(payloads.hold_for_good, [mailbox])


if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](*sys.argv[2:])
