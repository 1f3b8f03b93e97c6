"""A Ctrl-C between any two steps of whoever uses an executor. It is undone, or completed; and the executor works on.

Each test interrupts one thing that callers do at each of its steps in turn.
"""

from __future__ import annotations

import concurrent.futures
import gc
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, as_completed, wait
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from dragonfly_executor import DragonflyExecutor, Pool, sync
from dragonfly_executor.api.pool import registry
from dragonfly_executor.engine.output.router import CapturedOutput
from dragonfly_executor.protocol.frames import Frame, Kind
from dragonfly_executor.serialization import parent_main
from dragonfly_executor.sync import FileSnapshot, Sync
from dragonfly_executor.testing import FakeBackend
from dragonfly_executor.util import condition
from tests.processes.lifecycle.everywhere import PACKAGE, everywhere
from tests.support import payloads, sharing
from tests.support.helpers import PATIENCE

FUTURES = concurrent.futures._base.__file__
lines_and_opcodes = pytest.mark.parametrize(
    "each_opcode", [False, pytest.param(True, marks=pytest.mark.exhaustive)], ids=["lines", "opcodes"]
)


class Held:
    """Calls that run until they are let go, here: runners are threads of this process."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.running = threading.Semaphore(0)

    def release_fully(self) -> None:
        self.gate.set()


held = Held()


def hold() -> int:
    gate = held.gate
    held.running.release()
    gate.wait(PATIENCE)
    return 7


@pytest.fixture(autouse=True)
def _hold_anew() -> Iterator[None]:
    held.gate, held.running = threading.Event(), threading.Semaphore(0)
    yield
    held.gate.set()


def hold_anew() -> None:
    """What was held is let go; what comes is held."""
    gate, held.gate = held.gate, threading.Event()
    gate.set()


@pytest.fixture
def executor() -> Iterator[DragonflyExecutor]:
    with DragonflyExecutor(2, backend=FakeBackend()) as executor:
        assert executor.submit(payloads.echo, 0).result(PATIENCE) == 0
        yield executor
        held.release_fully()


def hold_one(executor: DragonflyExecutor) -> Future[int]:
    """A call that runs until it is let go."""
    future = executor.submit(hold)
    assert held.running.acquire(timeout=PATIENCE)
    return future


def check(executor: DragonflyExecutor, where: str) -> None:
    """The executor works."""
    assert executor.submit(payloads.echo, where).result(PATIENCE) == where


@lines_and_opcodes
def test_submit(executor: DragonflyExecutor, each_opcode: bool) -> None:
    """Of what was interrupted each call ran or did not; none waits."""
    submitted = 0

    def submit() -> None:
        executor.submit(payloads.echo, 1)

    for where in everywhere(submit, each_opcode=each_opcode):
        submitted += 1
        check(executor, where)
    assert submitted > 50
    executor.shutdown()
    stats = executor.pool.stats()
    assert (stats.calls_queued, stats.calls_running) == (0, 0)


@lines_and_opcodes
def test_share(executor: DragonflyExecutor, each_opcode: bool) -> None:
    """What was interrupted leaves no memory and no descriptor."""
    shared = 0

    def share() -> None:
        nonlocal shared
        with executor.share(bytes(sharing.SIZE)):
            shared += 1

    for where in everywhere(share, each_opcode=each_opcode):
        if sys.platform == "linux":
            assert not sharing.open_files("dragonfly-shared"), where
        check(executor, where)
    assert shared
    with executor.share([1]) as handle:
        assert executor.submit(payloads.echo, handle).result(PATIENCE) == [1]


def test_submit_of_what_travels_by_value(executor: DragonflyExecutor) -> None:
    number = 3
    for where in everywhere(lambda: executor.submit(lambda: number), files=(PACKAGE, parent_main.__file__)):
        assert executor.submit(lambda: number).result(PATIENCE) == 3, where


def ended(executor: DragonflyExecutor, where: str) -> None:
    """Nothing of it is left once it is shut down; not a thread, even one that is ending."""
    held.release_fully()
    executor.shutdown()
    prefix = f"dragonfly-{executor.pool.name}-"
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith(prefix)]
    assert left == [], where


def each_anew(made: list[DragonflyExecutor], action: Callable[[DragonflyExecutor], object]) -> Callable[[], None]:
    """The same with an executor of its own each time; it is the last of `made`, which is to have the first already."""

    def act() -> None:
        action(made[-1])

    return act


def make_executor() -> DragonflyExecutor:
    executor = DragonflyExecutor(2, backend=FakeBackend())
    # It has looked around, as it does before its first call. That takes long under a trace.
    executor.pool._engine.codec.encode_call(payloads.echo, (1,), {})
    return executor


def make_used_executor() -> DragonflyExecutor:
    executor = make_executor()
    assert executor.submit(payloads.echo, 0).result(PATIENCE) == 0
    return executor


@lines_and_opcodes
def test_first_submit(each_opcode: bool) -> None:
    """The engine starts whole, or not at all."""
    made = [make_executor()]
    submit = each_anew(made, lambda executor: executor.submit(payloads.echo, 1))
    for where in everywhere(submit, each_opcode=each_opcode):
        check(made[-1], where)
        ended(made[-1], where)
        made[:] = [make_executor()]
    ended(made[-1], "")


def test_first_submit_while_another_thread_waits_for_the_same_start() -> None:
    made = [make_executor()]
    others: list[Future[Any]] = []

    def submit(executor: DragonflyExecutor) -> None:
        other = threading.Thread(target=lambda: others.append(executor.submit(payloads.echo, 2)))
        other.start()
        try:
            executor.submit(payloads.echo, 1)
        finally:
            other.join(PATIENCE)

    for where in everywhere(each_anew(made, submit)):
        assert others.pop().result(PATIENCE) == 2, where
        ended(made[-1], where)
        made[:] = [make_executor()]
    ended(made[-1], "")


@pytest.mark.parametrize("chunksize", [1, pytest.param(2, marks=pytest.mark.exhaustive), "auto"])
def test_map(executor: DragonflyExecutor, chunksize: Any) -> None:
    """From its begin to its last result."""
    for where in everywhere(lambda: list(executor.map(payloads.echo, range(3), chunksize=chunksize))):
        check(executor, where)
    executor.shutdown()
    stats = executor.pool.stats()
    assert (stats.calls_queued, stats.calls_running) == (0, 0)


def test_close_of_a_map(executor: DragonflyExecutor) -> None:
    """All that is left of it is cancelled."""
    results: list[Any] = []

    def begin() -> None:
        results[:] = [executor.map(_hold_one, range(5))]

    def close() -> None:
        results[-1].close()  # type: ignore[attr-defined]

    begin()
    for where in everywhere(close):
        results[-1].close()  # type: ignore[attr-defined]
        check(executor, where)
        hold_anew()
        begin()


def _hold_one(number: int) -> int:
    return hold() + number


class Cancelling:
    """A call that runs or waits, with callbacks."""

    def __init__(self, executor: DragonflyExecutor, *, runs: bool) -> None:
        self._executor = executor
        self._told: SimpleQueue[object] = SimpleQueue()
        self._in_its_way = [] if runs else [hold_one(executor) for _ in range(2)]
        self.future = hold_one(executor) if runs else executor.submit(hold)
        for _ in range(3):
            self.future.add_done_callback(lambda future: self._told.put(future))

    def check(self, where: str) -> None:
        """It is cancelled, or can be; and everybody hears of it, once.

        Between the return of a callback and the next instruction there is none that a signal could come at.
        """
        if not self.future.cancelled():
            assert self.future.cancel(), where
        assert not wait([self.future], PATIENCE).not_done, where
        with pytest.raises(CancelledError):
            self.future.result(PATIENCE)
        for _ in range(3):
            assert self._told.get(timeout=PATIENCE) is self.future, where
        # Until its runner has said that it has dropped it: what waits there is not begun when there is room.
        while sum(runner.in_flight for runner in self._executor.pool.stats().runners) > len(self._in_its_way):
            pass
        hold_anew()
        for future in self._in_its_way:
            assert future.result(PATIENCE) == 7
        assert self._told.empty() or "DeferredCallback.__call__, opcode" in where, where


@lines_and_opcodes
@pytest.mark.parametrize("runs", [True, False], ids=["running", "queued"])
def test_cancel(executor: DragonflyExecutor, each_opcode: bool, runs: bool) -> None:
    """In the standard library's half of it as well."""
    case = [Cancelling(executor, runs=runs)]
    files = (PACKAGE,) if each_opcode else (PACKAGE, FUTURES)
    for where in everywhere(lambda: case[0].future.cancel(), each_opcode=each_opcode, files=files):
        case[0].check(where)
        case[0] = Cancelling(executor, runs=runs)


@lines_and_opcodes
@pytest.mark.parametrize("what", ["result", "exception"])
@pytest.mark.parametrize("timeout", [0.0, 0.00001, None])
def test_the_wait_for_a_result(
    executor: DragonflyExecutor, each_opcode: bool, timeout: float | None, what: str
) -> None:
    """The call's end finds no lock that was left behind, in the standard library's half neither."""
    futures = [hold_one(executor)]

    def ask() -> None:
        if timeout is None:
            held.gate.set()
        with suppress(TimeoutError):
            getattr(futures[0], what)(timeout)

    files = (PACKAGE,) if each_opcode else (PACKAGE, FUTURES)
    for where in everywhere(ask, each_opcode=each_opcode, files=files):
        hold_anew()
        assert futures[0].result(PATIENCE) == 7, where
        futures[0] = hold_one(executor)


@lines_and_opcodes
def test_a_result_that_is_there(executor: DragonflyExecutor, each_opcode: bool) -> None:
    """It can be had again; and it is opened once."""
    futures = [executor.submit(payloads.echo, [1])]
    wait(futures, PATIENCE)
    for where in everywhere(lambda: futures[0].result(), each_opcode=each_opcode):
        assert futures[0].result(PATIENCE) == [1], where
        assert futures[0].result() is futures[0].result()
        futures[0] = executor.submit(payloads.echo, [1])
        wait(futures, PATIENCE)


def wait_for_one(futures: list[Future[int]]) -> None:
    wait(futures, 0, return_when=FIRST_COMPLETED)


def take_first(futures: list[Future[int]]) -> None:
    with suppress(TimeoutError):
        next(as_completed(futures, 0))


@pytest.mark.parametrize("look", [wait_for_one, take_first])
@pytest.mark.parametrize("cancel_running", [True, False])
def test_the_wait_for_several(
    executor: DragonflyExecutor, look: Callable[[list[Future[int]]], None], cancel_running: bool
) -> None:
    """The standard library locks all that it waits for, one after another. What stays locked is settled."""
    view = executor.options(cancel_running=cancel_running)

    def begin() -> list[Future[int]]:
        return [*(hold_one(executor) for _ in range(2)), view.submit(payloads.echo, 7)]

    futures = begin()
    for where in everywhere(lambda: look(futures), files=(FUTURES,)):
        hold_anew()
        # This way round: while this thread waits for one it holds the locks of others.
        assert [future.result(PATIENCE) for future in reversed(futures)] == [7, 7, 7], where
        futures[:] = begin()


def test_a_wait_that_is_taken_up_again(executor: DragonflyExecutor) -> None:
    """As at a prompt: a Ctrl-C ends a wait, and the next one begins."""
    futures = [hold_one(executor) for _ in range(2)]
    for where in everywhere(lambda: wait_for_one(futures), files=(FUTURES,)):
        hold_anew()
        assert not wait(futures, PATIENCE).not_done, where
        futures[:] = [hold_one(executor) for _ in range(2)]


def test_the_engine_waits_for_a_thread_that_still_looks_at_futures(
    executor: DragonflyExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    future: Any = hold_one(executor)
    answers: SimpleQueue[bool] = SimpleQueue()
    is_locked, may_go = threading.Event(), threading.Event()
    ask = condition.Condition._is_meant_by

    def answer(lock: condition.Condition, thread: int) -> bool:
        answers.put(ask(lock, thread))
        return True

    class Slow:
        """Another future, which takes its time to be locked."""

        _condition = property(lambda self: self)
        state = ""

        def acquire(self) -> None:
            is_locked.set()
            may_go.wait(PATIENCE)
            self.state = future._state

        def release(self) -> None:
            return

    slow = Slow()

    def look() -> None:
        both = concurrent.futures._base._AcquireFutures([])
        both.futures = [future, slow]
        with both:
            return

    monkeypatch.setattr(condition.Condition, "_is_meant_by", answer)
    looker = threading.Thread(target=look)
    looker.start()
    assert is_locked.wait(PATIENCE)
    held.release_fully()
    # The engine is at the lock now, and asks again and again.
    assert [answers.get(timeout=PATIENCE) for _ in range(3)] == [True] * 3
    may_go.set()
    looker.join()
    assert future.result(PATIENCE) == 7
    assert slow.state == "PENDING"


@lines_and_opcodes
@pytest.mark.parametrize("is_done", [False, True])
def test_add_done_callback(executor: DragonflyExecutor, each_opcode: bool, is_done: bool) -> None:
    """It is added or not; and another one can be."""
    futures: list[Future[int]] = []
    told: SimpleQueue[object] = SimpleQueue()

    def begin() -> None:
        futures[:] = [hold_one(executor)]
        if is_done:
            hold_anew()
            wait(futures, PATIENCE)

    begin()
    files = (PACKAGE,) if each_opcode else (PACKAGE, FUTURES)
    for where in everywhere(
        lambda: futures[0].add_done_callback(lambda future: None), each_opcode=each_opcode, files=files
    ):
        futures[0].add_done_callback(told.put)
        hold_anew()
        assert futures[0].result(PATIENCE) == 7, where
        assert told.get(timeout=PATIENCE) is futures[0], where
        begin()


ENDS: dict[str, Callable[[DragonflyExecutor], object]] = {
    "shutdown": lambda executor: executor.shutdown(),
    "shutdown that cancels": lambda executor: executor.shutdown(cancel_futures=True),
    "shutdown that does not wait": lambda executor: executor.shutdown(wait=False),
    "kill": lambda executor: executor.kill_workers(),
    "exit": lambda executor: executor.__exit__(None, None, None),
    "interrupted exit": lambda executor: executor.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None),
}


@pytest.mark.parametrize(
    ("how", "used", "each_opcode"),
    [
        *((how, used, False) for how in ENDS for used in (True, False) if not (used and "exit" in how)),
        pytest.param("shutdown", True, True, marks=pytest.mark.exhaustive),
        # These end as a shutdown does, or a shutdown that cancels, and take twice as long.
        pytest.param("exit", True, False, marks=pytest.mark.exhaustive),
        pytest.param("interrupted exit", True, False, marks=pytest.mark.exhaustive),
    ],
)
def test_the_end(how: str, used: bool, each_opcode: bool) -> None:
    """A shutdown after that is one, however far the first has got; all futures are done then."""
    make = make_used_executor if used else make_executor
    made, futures = [make()], []

    def end() -> None:
        ENDS[how](made[0])

    def begin() -> None:
        made[:] = [make()]
        futures[:] = [made[0].submit(payloads.echo, number) for number in range(3)] if used else []

    for where in everywhere(end, each_opcode=each_opcode):
        ended(made[0], where)
        assert all(future.done() for future in futures), where
        begin()
    ended(made[0], "")


@pytest.mark.exhaustive
def test_an_interrupted_exit_while_calls_run() -> None:
    """It stops them, wherever another interrupt comes."""
    made, futures = [make_executor()], []

    def begin() -> None:
        hold_anew()
        made[:] = [make_executor()]
        futures[:] = [made[0].submit(hold) for _ in range(3)]
        for _ in range(2):
            assert held.running.acquire(timeout=PATIENCE)

    begin()
    for where in everywhere(lambda: ENDS["interrupted exit"](made[0])):
        ended(made[0], where)
        assert all(future.done() for future in futures), where
        begin()
    ended(made[0], "")


@lines_and_opcodes
def test_the_end_of_an_executor_that_nobody_refers_to(each_opcode: bool) -> None:
    """What an interrupt hits there is lost, and something else sees to it."""
    made = [make_used_executor()]
    for where in everywhere(made.clear, each_opcode=each_opcode, files=(PACKAGE, weakref.__file__)):
        left = [thread for thread in threading.enumerate() if thread.name.endswith("-engine")]
        for thread in left:
            thread.join(PATIENCE)
            assert not thread.is_alive(), where
        made.append(make_used_executor())


def test_questions_and_changes(executor: DragonflyExecutor) -> None:
    """Of the pool: how it stands, and how many runners it may have."""

    def ask() -> None:
        executor.pool.stats()
        executor.pool.resize(max=2)

    for where in everywhere(ask):
        check(executor, where)
        assert executor.pool.stats().max in (1, 2)


@pytest.mark.exhaustive
def test_pools_with_names() -> None:
    """Their names are theirs, or free; and other threads find it so."""
    backend = FakeBackend()

    def live(least: int = 1) -> None:
        with Pool("anywhere", min=least, max=1, backend=backend):
            registry.find("anywhere")

    def live_again() -> None:
        with suppress(KeyError):
            registry.find("anywhere").shutdown()
        live(0)

    for where in everywhere(live):
        other = threading.Thread(target=live_again)
        other.start()
        other.join(PATIENCE)
        assert not other.is_alive(), where
    assert backend.running == []


def in_another_thread(action: Callable[[], object], where: str) -> None:
    """Whoever else needs what this thread may have left locked gets it."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), where


def test_the_look_at_what_has_changed(tmp_path: Path) -> None:
    """A boot looks as well, on its own thread, and finds what there is."""
    (tmp_path / "file").write_text("text")
    file_snapshot = FileSnapshot(Sync([str(tmp_path)], check_every=0))
    for where in everywhere(file_snapshot.scan, files=(sync.file_snapshot.__file__, condition.__file__)):
        in_another_thread(file_snapshot.scan, where)
        file_snapshot.require()


def test_the_text_of_a_call() -> None:
    """More of it may come."""
    captured = CapturedOutput()
    for where in everywhere(captured.text):
        in_another_thread(lambda: captured.add(Frame(Kind.OUTPUT, 0, 0, 0, 1, b"")), where)


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="there is no memfd")
def test_submit_of_a_large_argument() -> None:
    """What was interrupted leaves no descriptor, and takes no room."""
    argument = bytes(sharing.SIZE)
    with DragonflyExecutor(1) as executor:
        assert executor.submit(len, argument).result(PATIENCE) == len(argument)
        engine = executor.pool._engine
        memory = engine.payloads.shared_memory()
        assert memory is not None
        for where in everywhere(lambda: executor.submit(len, argument)):
            assert executor.submit(len, argument).result(PATIENCE) == len(argument), where
            engine.ask(lambda _machine: memory._pool.trim())  # so that the next one makes a segment
        del where
        assert executor.submit(abs, -1).result(PATIENCE) == 1  # those that were accepted have ended
        gc.collect()
        engine.ask(lambda _machine: memory._pool.trim())
        assert memory.account._taken == {}
        assert sharing.open_files("dragonfly-data") == []
