"""Programs that end in all the ways in which programs end.

``python -m tests.processes.lifecycle.programs NAME ARGUMENT...``

A program runs on its own, in its own session, and speaks with the test through its standard streams and FIFOs.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import gc
import multiprocessing
import os
import queue
import signal
import sys
import termios
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, as_completed
from contextlib import suppress
from pathlib import Path
from typing import Any

from dragonfly_executor import BootRequest, DragonflyExecutor, LocalBackend, Node, Pool
from dragonfly_executor.api.assembly import EnginePlan
from dragonfly_executor.backends import local
from dragonfly_executor.engine.engine import Engine
from tests.support import payloads
from tests.support.payloads import tell

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


@program
def interrupted_without_a_block(mailbox: str) -> None:
    """The same, without a `with` block."""
    take_terminal()
    DragonflyExecutor(2).submit(payloads.hold_with_sleeper, mailbox, "daemon").result()


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
    local.STOP_TIMEOUT = 0.2
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


class Finalized:
    """Uses its executor when it is collected, which is at the interpreter's end, after the modules were cleared."""

    def __init__(self, *, warm: bool) -> None:
        self.executor = DragonflyExecutor(1)
        self.call = payloads.nothing
        if warm:
            self.executor.submit(self.call).result()
        self.itself = self

    def __del__(self, write: Callable[[int, bytes], object] = os.write) -> None:
        executor, call = self.executor, self.call
        for use in (
            lambda: executor.submit(call),
            lambda: executor.options(timeout=5).submit(call),
            lambda: executor.map(call, [1]),
            lambda: executor.pool.submit(call),
            lambda: executor.pool.call(call),
            executor.shutdown,
            lambda: executor.__exit__(None, None, None),
            executor.kill_workers,
        ):
            try:
                use()
            except RuntimeError as error:
                write(1, f"{error}\n".encode())
            else:
                write(1, b"fine\n")


@program
def use_in_finalizers(warm: str) -> None:
    globals()["kept"] = Finalized(warm=warm == "warm")


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


# -- the first runner, before there is an engine ---------------------------------------------------------------------


def agents() -> list[int]:
    """The agents that this process has started, on whatever thread."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            status = (process / "stat").read_text().rpartition(")")[2].split()
            if int(status[1]) == os.getpid() and b"dragonfly" in _command_line(process):
                found.append(int(process.name))
    return found


def _command_line(process: Path) -> bytes:
    """The command line of a process, which has none for an instant in the middle of its exec, and none as a zombie."""
    while not (line := (process / "cmdline").read_bytes()):
        if (process / "stat").read_text().rpartition(")")[2].split()[0] in "ZX":
            break
    return line


def after_launch(action: Callable[[], object]) -> None:
    """Have this done when the first runner is launched, before the engine is made."""
    make = EnginePlan.make

    def make_after_action(plan: EnginePlan) -> Engine:
        action()
        return make(plan)

    EnginePlan.make = make_after_action  # type: ignore[method-assign]


@program
def fork_after_launch() -> None:
    """A fork while the launched runner waits for an engine."""
    executor = DragonflyExecutor(1)
    before = descriptors()
    children = []

    def split() -> None:
        child = fork()
        if child == 0:
            refused = tried(executor.submit, payloads.nothing)
            ends = tried(executor.shutdown), tried(executor.__exit__, None, None, None)
            say(sorted(descriptors() - before), refused, *ends)
            os._exit(0)
        children.append(child)

    after_launch(split)
    future = executor.submit(pow, 2, 10)
    say(fate_of(children.pop()), future.result())


@program
def hang_after_launch(mailbox: str) -> None:
    """No engine comes."""

    def hang() -> None:
        tell(mailbox, str(agents()[0]))
        signal.pause()

    after_launch(hang)
    DragonflyExecutor(1).submit(payloads.nothing)


def never() -> Iterator[int]:
    """A function that no submit accepts."""
    yield 1


@program
def end_after_launch(mailbox: str, how: str) -> None:
    """The program ends, and no boot has asked for the runner."""

    def note() -> None:
        tell(mailbox, str(agents()[0]))
        if how == "interrupted":
            os.kill(os.getpid(), signal.SIGINT)

    after_launch(note)
    executor = DragonflyExecutor(1)
    if how == "refused":
        assert tried(executor.submit, never) == "TypeError"
    else:
        executor.submit(payloads.nothing).result()


# -- sleep -------------------------------------------------------------------------------------------------------------


@program
def sleeps(mailbox: str, gate: str, lease: str, dead_after: str) -> None:
    """Two calls run while the test stops this process for a while."""
    executor = DragonflyExecutor(2, lease=float(lease), heartbeat=0.1, dead_after=float(dead_after))
    futures = [executor.submit(payloads.hold, mailbox, gate, "held") for _ in range(2)]
    for future in futures:
        error = future.exception()
        say(future.result() if error is None else type(error).__name__)
    say(executor.submit(pow, 2, 10).result(), executor.pool.stats().boots_attempted)


# -- forks -------------------------------------------------------------------------------------------------------------


def fork() -> int:
    with warnings.catch_warnings():
        # That there are threads is the point.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def fate_of(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def tried(what: Callable[..., object], *args: Any, **kwargs: Any) -> str:
    """What comes of it, in a word."""
    try:
        what(*args, **kwargs)
    except BaseException as error:
        return type(error).__name__
    return "fine"


def descriptors() -> set[str]:
    """The open ones, by number. The one that lists them is among them, and the same each time."""
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def use_up_descriptors(path: str) -> list[int]:
    """Open a file so often that every number which was given back is taken."""
    return [os.open(path, os.O_RDWR | os.O_CREAT) for _ in range(64)]


@program
def use_in_fork(mailbox: str, gate: str) -> None:
    """Whatever a forked child tries with the pool, and what the pool does after that."""
    executor = DragonflyExecutor(2)
    done = executor.submit(payloads.echo, "early")
    assert done.result() == "early"
    held = executor.submit(payloads.hold, mailbox, gate, "late")
    child = fork()
    if child == 0:
        say("submit", tried(executor.submit, payloads.nothing))
        say("map", tried(executor.map, payloads.echo, [1, 2]))
        say("view", tried(executor.options(timeout=5).submit, payloads.nothing))
        say("result", tried(held.result))
        say("exception", tried(held.exception))
        say("resize", tried(executor.pool.resize, max=3))
        say("done", tried(done.result))
        say("shutdown", tried(executor.shutdown))
        say("kill", tried(executor.kill_workers))
        os._exit(7)
    say(fate_of(child))
    tell(mailbox, "forked")
    say(held.result(), executor.submit(payloads.echo, "again").result())


@program
def fork_that_returns(mailbox: str) -> None:
    """A child that ends as programs do, exit handlers and all."""
    executor = DragonflyExecutor(2)
    agent = executor.submit(payloads.agent_pid).result()
    child = fork()
    if child:
        say(fate_of(child), executor.submit(payloads.agent_pid).result() == agent)


@program
def pool_of_a_fork() -> None:
    """A child makes a pool of its own."""
    executor = DragonflyExecutor(1)
    executor.submit(payloads.nothing).result()
    child = fork()
    if child == 0:
        with DragonflyExecutor(1) as own:
            say(own.submit(pow, 2, 10).result())
        os._exit(0)
    say(fate_of(child), executor.submit(pow, 2, 11).result())


@program
def descriptors_of_a_fork(path: str) -> None:
    """A child keeps none of the pool's descriptors, and does nothing to those that get their numbers."""
    before = descriptors()
    executor = DragonflyExecutor(1)
    held = executor.submit(payloads.echo, 1)
    held.result()
    child = fork()
    if child == 0:
        say(sorted(descriptors() - before))
        own = use_up_descriptors(path)
        tried(executor.pool.resize, max=2)
        tried(executor.submit, payloads.nothing)
        held.cancel()
        executor.shutdown()
        del executor, held
        gc.collect()
        say(len([fd for fd in own if os.fstat(fd)]), Path(path).stat().st_size)
        os._exit(0)
    say(fate_of(child), executor.submit(pow, 2, 11).result())


@program
def hundred_forks() -> None:
    """Forks while all threads of the pool are busy, in the middle of whatever they do."""
    executor = DragonflyExecutor(2)
    enough = threading.Event()

    def keep_busy() -> None:
        while not enough.is_set():
            assert list(executor.map(payloads.echo, range(200))) == list(range(200))

    busy = [threading.Thread(target=keep_busy) for _ in range(2)]
    for thread in busy:
        thread.start()
    fates = set()
    for _ in range(100):
        pending = executor.submit(payloads.nothing)
        child = fork()
        if child == 0:
            known = {"ForkedExecutorError"}
            os._exit(0 if {tried(executor.submit, payloads.nothing), tried(pending.result)} <= {*known, "fine"} else 1)
        fates.add(fate_of(child))
    enough.set()
    for thread in busy:
        thread.join()
    say(fates, executor.submit(pow, 2, 10).result())


@program
def fork_in_a_callback() -> None:
    """On the pool's own callback thread."""
    executor = DragonflyExecutor(1)
    forked: queue.SimpleQueue[int] = queue.SimpleQueue()

    def callback(_future: Any) -> None:
        child = fork()
        if child == 0:
            os._exit(3 if tried(executor.submit, payloads.nothing) == "ForkedExecutorError" else 1)
        forked.put(fate_of(child))

    executor.submit(payloads.nap, 0.01).add_done_callback(callback)
    say(forked.get(), executor.submit(pow, 2, 10).result())


@program
def multiprocessing_fork() -> None:
    """A forked process of multiprocessing's, with the executor among its arguments."""
    executor = DragonflyExecutor(1)
    executor.submit(payloads.nothing).result()
    process = multiprocessing.get_context("fork").Process(target=_use_inherited, args=(executor,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    process.join()
    say(process.exitcode, executor.submit(pow, 2, 10).result())


def _use_inherited(executor: DragonflyExecutor) -> None:
    say(tried(executor.submit, payloads.nothing))


# -- several backends --------------------------------------------------------------------------------------------------


class SecondBackend(LocalBackend):
    """A backend that boots for calls that wait for half a second."""

    name = "second"
    expected_boot_time = 0.5


@program
def interrupted_tiers(mailbox: str) -> None:
    """A call runs on each of two backends, and the main thread waits for them in a `with` block."""
    take_terminal()
    futures: list[Future[Any]] = []
    try:
        with DragonflyExecutor(backend=[LocalBackend(slots=1), SecondBackend(slots=1)]) as executor:
            futures += [executor.submit(payloads.hold_with_sleeper, mailbox, how) for how in ("daemon", "session")]
            futures[0].result()
    except KeyboardInterrupt:
        say("interrupted", *("done" if future.done() else "pending" for future in futures))


@program
def two_tiers(mailbox: str) -> None:
    """A call on each of two backends, each with a process of its own that tries to stay."""
    executor = DragonflyExecutor(backend=[LocalBackend(slots=1), SecondBackend(slots=1)])
    for how in ("daemon", "session"):
        executor.submit(payloads.hold_with_sleeper, mailbox, how)
    signal.pause()


@program
def loaded_for_one_backend() -> None:
    """A pool with one backend loads nothing that only pools with several need."""
    with DragonflyExecutor(1, backend=[LocalBackend()]) as executor:
        say(executor.submit(pow, 2, 10).result())
    say(
        [
            name
            for name in sys.modules
            if name in ("dragonfly_executor.api.tiers", "dragonfly_executor.backends.tier_limits")
        ]
    )


@program
def tiers_at_exit(log: str) -> None:
    """Ends while the call that a later backend boots for waits."""
    executor = DragonflyExecutor(backend=[LocalBackend(slots=1), SecondBackend(slots=1)])
    for _ in range(2):
        executor.submit(payloads.log_backend_and_nap, log, 2.0)


@program
def descriptors_of_tiers_after_a_fork() -> None:
    """A child keeps no descriptor: of the link to a runner, and of the listener for one of another backend."""
    from tests.support.dialback import EmptyNodeBackend

    before, empty = descriptors(), EmptyNodeBackend()
    empty.expected_boot_time = 0.5
    executor = DragonflyExecutor(backend=[LocalBackend(slots=1), empty])
    futures = [executor.submit(payloads.nap, 2.0, number) for number in range(2)]
    empty.requests.get()
    child = fork()
    if child == 0:
        say(sorted(descriptors() - before))
        os._exit(0)
    say(fate_of(child), [future.result() for future in futures])


if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](*sys.argv[2:])
