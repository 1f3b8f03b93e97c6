"""Whatever fails while nothing can be imported: every future is done, with the error that belongs there.

An import needs memory and a descriptor, and they are what is short when things fail. So all that takes part in failing
is loaded when a pool starts.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest

from dragonfly_executor import (
    BootError,
    BootRequest,
    CallDeserializationError,
    CallTimeoutError,
    DragonflyExecutor,
    FrameTooLargeError,
    LocalBackend,
    Node,
    PoolBrokenError,
    RunnerLostError,
)
from dragonfly_executor.testing import FakeBackend, FakeRunner
from dragonfly_executor.util.backoff import exponential
from tests.engine.conftest import MakeExecutor
from tests.support import payloads
from tests.support.helpers import PATIENCE, Events, Gate, Mailbox, error_of
from tests.support.no_imports import no_imports
from tests.support.payloads import agent_pid, echo, hold


class Piped:
    """A stream that is no socket: threads move its bytes."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.recv, self.sendall = sock.recv, sock.sendall

    def close(self) -> None:
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()


class PipedBackend(FakeBackend):
    """Its nodes' links need a socket pair and two threads."""

    def boot(self, request: BootRequest) -> Node:
        node = super().boot(request)
        stream: Any = node.stream
        node.stream = Piped(stream)
        return node


@contextmanager
def no_descriptors(but: int = 0) -> Iterator[None]:
    """This process can open no descriptor any more, except for so many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    numbers = [os.dup(0) for _ in range(but + 1)]
    # Those below the lowest number that is free are all in use.
    resource.setrlimit(resource.RLIMIT_NOFILE, (numbers[-1], hard))
    for number in numbers:
        os.close(number)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def fail_engine(executor: DragonflyExecutor) -> None:
    """Have the engine's thread run out of memory."""
    executor.pool._engine._loop.call_soon_threadsafe(lambda: bytearray(1 << 62))


def test_an_engine_that_fails_tells_everybody(make: MakeExecutor, mailbox: Mailbox, gate: Gate) -> None:
    executor = make(1)
    running = executor.submit(hold, mailbox.path, gate.path, 1)
    mailbox.read()
    waiting = [executor.submit(echo, n) for n in range(3)]
    with no_imports():
        fail_engine(executor)
        for future in (running, *waiting):
            error = error_of(future)
            assert type(error) is PoolBrokenError
            assert isinstance(error.__cause__, MemoryError)
        with pytest.raises(PoolBrokenError):
            executor.submit(echo, 1)
        executor.shutdown()


def test_an_engine_that_fails_before_its_first_runner_is_up_tells_everybody() -> None:
    hold_boot = threading.Event()
    with DragonflyExecutor(1, backend=FakeBackend(FakeRunner(hold=hold_boot))) as executor:
        waiting = executor.submit(echo, 1)
        with no_imports():
            fail_engine(executor)
            assert type(error_of(waiting)) is PoolBrokenError
        hold_boot.set()


def test_a_bug_that_cannot_be_described_is_told_all_the_same() -> None:
    class Bug(Exception):
        def __repr__(self) -> str:
            raise MemoryError

    def fail() -> None:
        raise Bug

    with DragonflyExecutor(1, backend=FakeBackend()) as executor:
        executor.submit(echo, 1).result(PATIENCE)
        executor.pool._engine._loop.call_soon_threadsafe(fail)
        executor.pool._engine.join(PATIENCE)
        with pytest.raises(PoolBrokenError, match=r"Bug, whose repr\(\) raised MemoryError"):
            executor.submit(echo, 1)


def test_a_call_whose_runner_is_lost(make: MakeExecutor, mailbox: Mailbox, gate: Gate) -> None:
    executor = make(2)
    agent = executor.submit(agent_pid).result(PATIENCE)
    running = executor.submit(hold, mailbox.path, gate.path, 1)
    mailbox.read()
    with no_imports():
        os.kill(agent, signal.SIGKILL)
        assert type(error_of(running)) is RunnerLostError
        assert executor.submit(echo, 2).result(PATIENCE) == 2


def test_a_call_whose_slot_dies(make: MakeExecutor) -> None:
    executor = make(1)
    executor.submit(echo, 1).result(PATIENCE)
    with no_imports():
        error = error_of(executor.submit(payloads.die_by, signal.SIGSEGV))
        assert type(error) is RunnerLostError
        assert "SIGSEGV" in str(error)


FAILING_CALLS: dict[str, tuple[type[BaseException], dict[str, Any], Callable[..., Any], tuple[Any, ...]]] = {
    "raises": (ValueError, {}, payloads.fail, (ValueError("no"),)),
    "cannot be opened": (CallDeserializationError, {}, echo, (payloads.Harm("open on slot", "raise"),)),
    "runs too long": (CallTimeoutError, {"run_timeout": 0.2}, payloads.hold_for_good, ("",)),
    "waits too long": (CallTimeoutError, {"queue_timeout": 0.01}, echo, (1,)),
    "is lost on all attempts": (RunnerLostError, {"retries": 2}, payloads.die_by, (signal.SIGKILL,)),
    "is too large": (FrameTooLargeError, {}, echo, (bytes(300_000),)),
    "returns too much": (FrameTooLargeError, {}, bytes, (300_000,)),
}


@pytest.mark.parametrize("what", FAILING_CALLS)
def test_a_call_that_fails(make: MakeExecutor, mailbox: Mailbox, gate: Gate, what: str) -> None:
    kind, options, fn, args = FAILING_CALLS[what]
    executor = make(1, max_payload=200_000)
    executor.submit(echo, 1).result(PATIENCE)
    if what == "waits too long":
        executor.submit(hold, mailbox.path, gate.path, 1)
        mailbox.read()
    if what == "runs too long":
        args = (mailbox.path,)
    with no_imports():
        assert isinstance(error_of(executor.options(**options).submit(fn, *args)), kind)
    gate.open()
    assert executor.submit(echo, 2).result(PATIENCE) == 2


@pytest.mark.parametrize("order", ["added before the end", "added after the end"])
def test_a_callback_that_raises_is_logged_and_harms_nothing(
    make: MakeExecutor, caplog: pytest.LogCaptureFixture, mailbox: Mailbox, gate: Gate, order: str
) -> None:
    """After the end it is called at once, and the standard library logs what it raised, with the future's repr."""
    executor = make(1)
    future = executor.submit(hold, mailbox.path, gate.path, 1)
    mailbox.read()
    called = threading.Event()

    def fail(_future: object) -> None:
        called.set()
        raise LookupError("from the callback")

    with no_imports(), caplog.at_level(logging.ERROR):
        if order == "added after the end":
            gate.open()
            wait([future], PATIENCE)
        future.add_done_callback(fail)
        gate.open()
        assert called.wait(PATIENCE)
        assert executor.submit(echo, 3).result(PATIENCE) == 3
        executor.shutdown()  # the callback thread has logged then
    assert "from the callback" in caplog.text


def test_a_question_that_raises_ends_nothing(make: MakeExecutor) -> None:
    executor = make(1, backend=FakeBackend())
    executor.submit(echo, 1).result(PATIENCE)
    with pytest.raises(ZeroDivisionError):
        executor.pool._engine.ask(lambda _machine: 1 // 0)
    assert executor.submit(echo, 2).result(PATIENCE) == 2


def lose_runner(backend: FakeBackend, events: Events) -> None:
    """Lose the runner that is up, and wait until the pool knows that."""
    backend.nodes[0].kill()
    events.wait("down")


def boot_fails(backend: FakeBackend) -> BaseException:
    """Lose the first runner, so that others are booted in vain. The error of a call that waits."""
    with DragonflyExecutor(1, backend=backend, on_event=(events := Events())) as executor:
        executor.submit(echo, 1).result(PATIENCE)
        with no_imports():
            lose_runner(backend, events)
            return error_of(executor.submit(echo, 2))


def test_a_boot_that_fails() -> None:
    error = boot_fails(FakeBackend(FakeRunner(), then=FakeRunner(error=OSError("none"))))
    assert type(error) is BootError
    assert error.attempts == 3


def test_a_backend_that_raises_anything() -> None:
    class Raising(FakeBackend):
        def boot(self, request: BootRequest) -> Node:
            if self.nodes:
                raise SystemExit(3)
            return super().boot(request)

    error = boot_fails(Raising())
    assert type(error) is BootError
    assert "SystemExit" in str(error)


def test_a_runner_of_another_version() -> None:
    error = boot_fails(FakeBackend(FakeRunner(), then=FakeRunner(python="3.9")))
    assert "3.9" in str(error)


def test_the_pause_after_a_failed_boot_takes_no_import_and_is_never_the_same() -> None:
    with no_imports():
        pauses = {exponential(1) for _ in range(100)}
    assert len(pauses) > 90
    assert all(0.1 <= pause <= 0.2 for pause in pauses)


# -- no descriptor left ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [2, 4, 6])
def test_a_first_boot_with_few_descriptors_left_is_an_error_or_works(left: int) -> None:
    """The loop itself takes two. Nobody waits for ever, and nothing is broken when there are more again."""
    executor = DragonflyExecutor(1, backend=LocalBackend(), boot_timeout=5)
    with no_descriptors(but=left):
        try:
            outcome = executor.submit(echo, 1).exception(PATIENCE)
        except OSError as error:
            outcome = error
    assert outcome is None or isinstance(outcome, (BootError, OSError))
    assert executor.submit(echo, 2).result(PATIENCE) == 2
    executor.shutdown()


def test_a_boot_without_a_descriptor_for_the_link_fails_as_a_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that is no socket needs a socket pair beside it, which the engine makes."""
    backend = PipedBackend()
    real = PipedBackend.boot
    events = Events()
    with DragonflyExecutor(1, backend=backend, on_event=events) as executor, ExitStack() as limit:

        def boot(self: PipedBackend, request: BootRequest) -> Node:
            node = real(self, request)
            if len(self.nodes) == 2:
                limit.enter_context(no_descriptors())
            return node

        executor.submit(echo, 1).result(PATIENCE)
        with monkeypatch.context() as patch:
            patch.setattr(PipedBackend, "boot", boot)
            lose_runner(backend, events)
            error = error_of(executor.submit(echo, 2))
        limit.close()
        assert type(error) is BootError
        assert "Too many open files" in str(error)
        assert executor.submit(echo, 3).result(PATIENCE) == 3


def test_a_boot_without_a_thread_for_the_link_fails_as_a_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = PipedBackend()
    with DragonflyExecutor(1, backend=backend, on_event=(events := Events())) as executor:
        executor.submit(echo, 1).result(PATIENCE)
        start = threading.Thread.start

        def refuse(thread: threading.Thread) -> None:
            if thread.name == "dragonfly-pump-out":
                raise RuntimeError("can't start new thread")
            start(thread)

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            lose_runner(backend, events)
            error = error_of(executor.submit(echo, 2))
        assert type(error) is BootError
        assert "can't start new thread" in str(error)
        assert executor.submit(echo, 3).result(PATIENCE) == 3


# -- no error loaded yet -----------------------------------------------------------------------------------------------

PROGRAM = """
import os, sys, threading

class Refusing:
    left = {refused}

    def find_spec(self, name, path=None, target=None):
        if name == "concurrent.futures.process" and self.left:
            self.left -= 1
            raise {shortage}

from dragonfly_executor import DragonflyExecutor, LocalBackend

class Backend(LocalBackend):
    def boot(self, request):
        {boot}

sys.meta_path.insert(0, Refusing())
executor = DragonflyExecutor(1, backend=Backend())
error = executor.submit(abs, -1).exception(30)
print(type(error).__name__, error)
try:
    print(executor.submit(abs, -2).result(30))
except Exception as error:
    print(type(error).__name__)
executor.shutdown()
print(sum(thread.is_alive() for thread in threading.enumerate()))
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("no child")
"""
SHORTAGES = ["ImportError('no room')", "MemoryError()", "OSError(24, 'Too many open files')"]


def run(refused: int, shortage: str, boot: str) -> tuple[list[str], str]:
    """What a program prints that cannot load the module of `BrokenProcessPool` so many times, and its stderr."""
    program = PROGRAM.format(refused=refused, shortage=shortage, boot=boot)
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert ran.returncode == 0
    return ran.stdout.splitlines(), ran.stderr


@pytest.mark.parametrize("shortage", SHORTAGES)
@pytest.mark.parametrize("boot", ["return super().boot(request)", "raise OSError('no node')"])
def test_a_pool_that_can_never_load_its_errors_tells_everybody(shortage: str, boot: str) -> None:
    """The error that is always there stands for those that cannot be loaded, and nothing is left."""
    (first, *rest), stderr = run(1_000_000, shortage, boot)
    assert first.startswith("StartError the pool cannot start, and was cleaned up")
    assert first.endswith("Calls on its first runner may have begun") == ("super" in boot)
    assert rest == ["StartError", "1", "no child"]
    assert stderr.startswith("pool executor-1: the pool cannot start")
    assert stderr.count("\n") == 1


@pytest.mark.parametrize("shortage", SHORTAGES)
def test_a_boot_during_which_the_errors_cannot_be_loaded_has_failed_and_is_tried_again(shortage: str) -> None:
    assert run(1, shortage, "return super().boot(request)") == (["NoneType None", "2", "1", "no child"], "")


def test_a_boot_that_fails_while_the_errors_can_be_loaded_is_an_ordinary_failure() -> None:
    (first, *rest), stderr = run(0, SHORTAGES[0], "raise OSError('no node')")
    assert first.startswith("BootError")
    assert "no node" in first
    assert (rest, stderr) == (["BootError", "1", "no child"], "")
