"""Programs that end in all the ways in which programs end. ``python -m tests.lifecycle.programs NAME ARGUMENT...``

A program runs on its own, in its own session, and speaks with the test through its standard streams and FIFOs.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import os
import signal
import sys
import termios
import threading
from collections.abc import Callable
from concurrent.futures import Future, as_completed
from typing import Any

from dragonfly_executor import BootRequest, DragonflyExecutor, LocalBackend, Node, Pool
from tests import payloads
from tests.payloads import tell

HOWS = ("fork", "session", "daemon", "exec session empty")
PROGRAMS: dict[str, Callable[..., None]] = {}


def program(function: Callable[..., None]) -> Callable[..., None]:
    PROGRAMS[function.__name__] = function
    return function


def say(*words: object) -> None:
    print(*words, flush=True)


def take_terminal() -> None:
    """Make the terminal at stdin this session's own: a Ctrl-C typed there comes to this process's group."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


# -- parents that are killed -------------------------------------------------------------------------------------------


@program
def four_calls(mailbox: str, runners: str = "1") -> None:
    """Four calls, each with a process of its own that tries to stay."""
    count = int(runners)
    executor = DragonflyExecutor(max=count, max_concurrency=4 // count)
    for how in HOWS:
        executor.submit(payloads.hold_with_sleeper, mailbox, how)
    signal.pause()


@program
def runner_in_runner(mailbox: str) -> None:
    """A call that waits for a call on a runner of its own."""
    executor = DragonflyExecutor(1)
    executor.submit(payloads.in_runner_of_its_own, payloads.hold_with_sleeper, mailbox, "daemon").result()


@program
def four_calls_and_a_fork(mailbox: str, how: str) -> None:
    """The same, and a fork of this process that keeps everything open that it has."""
    executor = DragonflyExecutor(4)
    futures = [executor.submit(payloads.hold_with_sleeper, mailbox, how) for how in HOWS]
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    signal.sigwait([signal.SIGUSR1])
    child = os.fork() if how == "python" else ctypes.PyDLL(None).fork()
    if child == 0:
        # By C alone where C has forked: the interpreter knows nothing of this process.
        ctypes.PyDLL(None).pause()
    tell(mailbox, child)
    futures[0].result()


@program
def boots_slowly(python: str) -> None:
    """A runner is being booted, by a program that waits for the test."""
    DragonflyExecutor(1, backend=LocalBackend(python=python)).submit(payloads.nothing).result()


# -- Ctrl-C ------------------------------------------------------------------------------------------------------------


def _wait_for_result(executor: DragonflyExecutor, futures: list[Future[Any]]) -> None:
    futures[0].result()


def _wait_for_any(executor: DragonflyExecutor, futures: list[Future[Any]]) -> None:
    list(as_completed(futures))


def _leave_the_block(executor: DragonflyExecutor, futures: list[Future[Any]]) -> None:
    """Wait in the shutdown."""


def _wait_for_map(executor: DragonflyExecutor, futures: list[Future[Any]]) -> None:
    list(executor.map(payloads.echo, range(5)))


WAITS = {
    "result": _wait_for_result,
    "as_completed": _wait_for_any,
    "shutdown": _leave_the_block,
    "map": _wait_for_map,
}


@program
def interrupted(mailbox: str, where: str, kind: str) -> None:
    """Two calls run, two wait, and the main thread waits for them in a `with` block."""
    take_terminal()
    made: Any = DragonflyExecutor(2) if kind == "executor" else Pool("p", min=0, max=1, max_concurrency=2, timeout=None)
    futures: list[Future[Any]] = []
    try:
        with made as executor:
            futures += [executor.submit(payloads.hold_with_sleeper, mailbox, how) for how in ("daemon", "session")]
            futures += [executor.submit(payloads.nothing) for _ in range(2)]
            WAITS[where](executor, futures)
    except KeyboardInterrupt:
        say("interrupted", *("done" if future.done() else "pending" for future in futures))


@program
def interrupted_for_good(mailbox: str) -> None:
    """The same, and nobody catches it."""
    take_terminal()
    with DragonflyExecutor(2) as executor:
        executor.submit(payloads.hold_with_sleeper, mailbox, "daemon").result()


# -- interpreters that end ---------------------------------------------------------------------------------------------


def pending_calls(log: str, gate: str, **options: Any) -> DragonflyExecutor:
    """An executor with calls that log a line each, after the gate has been opened once for each."""
    executor = DragonflyExecutor(2, **options)
    for number in range(6):
        executor.submit(payloads.wait_and_log, gate, log, number)
    return executor


@program
def end(log: str, gate: str) -> None:
    pending_calls(log, gate)
    say("ends")


@program
def end_by_exception(log: str, gate: str) -> None:
    pending_calls(log, gate)
    say("ends")
    raise LookupError("nobody catches this")


@program
def end_by_exit(log: str, gate: str) -> None:
    pending_calls(log, gate)
    say("ends")
    sys.exit(3)


@program
def end_without_waiting(log: str, gate: str) -> None:
    executor = pending_calls(log, gate)
    executor.shutdown(wait=False)
    say("ends")


@program
def end_without_reference(log: str, gate: str) -> None:
    executor = pending_calls(log, gate)
    del executor
    say("ends")


@program
def end_of_a_pool(log: str, gate: str) -> None:
    """A pool with runners to keep, which nobody shuts down."""
    pool = Pool("kept", min=1, max=3, max_concurrency=2, timeout=None)
    for number in range(6):
        pool.submit(payloads.wait_and_log, gate, log, number)
    say("ends")


@program
def end_with_callbacks(log: str, gate: str) -> None:
    executor = pending_calls(log, gate)
    future = executor.submit(payloads.nothing)
    future.add_done_callback(lambda future: payloads.log(log, "callback"))
    say("ends")


@program
def end_at_once(log: str, gate: str) -> None:
    pending_calls(log, gate)
    say("ends")
    os._exit(4)


@program
def end_with_failing_boots(python: str) -> None:
    executor = DragonflyExecutor(2, backend=LocalBackend(python=python), boot_wait=lambda state: 0.01, boot_timeout=0.5)
    future = executor.submit(payloads.nothing)
    future.add_done_callback(lambda future: say(type(future.exception()).__name__))


class HangingBackend(LocalBackend):
    def boot(self, request: BootRequest) -> Node:
        threading.Event().wait()
        raise AssertionError


@program
def end_with_a_backend_that_hangs() -> None:
    executor = DragonflyExecutor(
        2, backend=HangingBackend(), boot_timeout=0.2, max_boot_failures=1, boot_wait=lambda state: 0.01
    )
    future = executor.submit(payloads.nothing)
    future.add_done_callback(lambda future: say(type(future.exception()).__name__))


@program
def exit_in_a_with_block(log: str, gate: str) -> None:
    with pending_calls(log, gate):
        say("ends")
        sys.exit(5)


@program
def end_with_a_dying_runner() -> None:
    executor = DragonflyExecutor(1)
    future = executor.submit(payloads.kill_agent)
    future.add_done_callback(lambda future: say(type(future.exception()).__name__))


@program
def submit_at_exit() -> None:
    """What was registered before the pool came up runs when the pool is gone."""

    def late() -> None:
        try:
            executor.submit(payloads.nothing)
        except RuntimeError as error:
            say(error)

    atexit.register(late)
    executor = DragonflyExecutor(1)
    executor.submit(payloads.nothing).result()


@program
def thread_outlives_main() -> None:
    """A thread that is no daemon goes on submitting when the main thread has ended."""
    executor = DragonflyExecutor(1)
    executor.submit(payloads.nothing).result()
    main = threading.main_thread()

    def go_on() -> None:
        main.join()
        say(executor.submit(pow, 2, 10).result())

    threading.Thread(target=go_on).start()


@program
def unused_pool() -> None:
    """Runners that were booted for nothing."""
    pool = Pool("kept", min=2, max=2)
    pool.submit(payloads.nothing).result()


if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](*sys.argv[2:])
