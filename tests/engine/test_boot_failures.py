"""Boots that fail, hang, come too late, or are given up while something else happens to them."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import Backend, BootError, BootRequest, BootTimeoutError, LocalBackend, Node
from dragonfly_executor.backends import local
from dragonfly_executor.engine.boot.node_release import RELEASE_TIMEOUT
from dragonfly_executor.testing import FakeBackend, FakeRunner, VirtualClock
from dragonfly_executor.testing.fake import FakeNode
from tests.engine.conftest import MakeExecutor, MakePool
from tests.support.helpers import PATIENCE, Events, Mailbox, becomes_true, error_of, watching
from tests.support.payloads import echo

AT_ONCE: dict[str, Any] = {"boot_wait": lambda state: 0.0}
WRITE_TO_ALL = """
import os, stat, sys
for fd in range(3, 256):
    try:
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            os.write(fd, sys.argv[1].encode())
    except OSError:
        pass
"""


def script(path: Path, text: str) -> str:
    """A program that stands in for the interpreter."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that does not go by itself is killed soon."""
    monkeypatch.setattr(local, "STOP_TIMEOUT", 0.1)


class Hold(threading.Event):
    """What a boot hangs on; tells when it does."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.reached.set()
        return super().wait(timeout)


class ObservedBackend(FakeBackend):
    """Tells when a boot begins, and when the engine takes a node and gives it back."""

    def __init__(self, runner: FakeRunner, clock: VirtualClock) -> None:
        super().__init__(runner, clock=clock)
        self.begun = threading.Event()
        self.taken = threading.Event()
        self.stopping = threading.Event()

    def boot(self, request: BootRequest) -> Node:
        self.begun.set()
        return ObservedNode(super().boot(request), self)


class ObservedNode(Node):
    def __init__(self, node: Node, backend: ObservedBackend) -> None:
        self._node = node
        self._backend = backend

    @property
    def stream(self) -> Any:
        self._backend.taken.set()
        return self._node.stream

    def stop(self) -> None:
        self._backend.stopping.set()
        self._node.stop()

    def output(self) -> str:
        return self._node.output()


# -- on this machine ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attempts", [1, 3])
def test_calls_learn_that_the_interpreter_does_not_exist(make: MakeExecutor, attempts: int) -> None:
    """Checklist 8: every call that waits gets the error, with how far the boots came and how many there were."""
    executor = make(backend=LocalBackend(python="/nowhere/python"), max_boot_failures=attempts, **AT_ONCE)
    for future in [executor.submit(echo, number) for number in range(3)]:
        error = error_of(future)
        assert isinstance(error, BootError)
        assert isinstance(error, BrokenProcessPool)
        assert (error.phase, error.attempts) == ("create", attempts)
        assert "/nowhere/python" in str(error)
        assert isinstance(error.__cause__, FileNotFoundError)


def test_later_calls_try_again(make: MakeExecutor, tmp_path: Path) -> None:
    """Checklist 8: the pool is not broken for good."""
    python = tmp_path / "python"
    executor = make(backend=LocalBackend(python=str(python)), **AT_ONCE)
    assert isinstance(error_of(executor.submit(echo, 1)), BootError)
    python.symlink_to(sys.executable)
    assert executor.submit(echo, 2).result(PATIENCE) == 2
    stats = executor.pool.stats()
    assert (stats.boots_failed, stats.boots_attempted) == (3, 4)


def test_a_program_that_never_says_hello_is_given_up_and_killed(
    make: MakeExecutor, impatient: None, tmp_path: Path, mailbox: Mailbox
) -> None:
    """Checklist 7: BootTimeoutError, and the node is given back before that is said."""
    python = script(tmp_path / "python", f"echo $$ > {mailbox.path}\nexec sleep 1000")
    executor = make(backend=LocalBackend(python=python), boot_timeout=0.5, max_boot_failures=2, **AT_ONCE)
    future = executor.submit(echo, 1)
    with watching(int(mailbox.read())) as first, watching(int(mailbox.read())) as second:
        error = error_of(future)
        assert first[0].ended(0.0)
        assert second[0].ended(0.0)
    assert isinstance(error, BootTimeoutError)
    assert isinstance(error, TimeoutError)
    assert (error.phase, error.attempts) == ("handshake", 2)
    assert "did not say hello within 0.5 s" in str(error)


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("exit 1", "exited with status 1"),
        ("kill -9 $$", "was killed by SIGKILL"),
        ("echo no such library >&2; exit 127", "exited with status 127"),
    ],
)
def test_a_program_that_ends_at_once_is_a_boot_that_failed(
    make: MakeExecutor, tmp_path: Path, text: str, end: str
) -> None:
    """Checklist 8: the stream ends before the hello, and the error says how the program ended."""
    executor = make(backend=LocalBackend(python=script(tmp_path / "python", text)), **AT_ONCE)
    error = error_of(executor.submit(echo, 1))
    assert isinstance(error, BootError)
    assert not isinstance(error, BootTimeoutError)
    assert (error.phase, error.attempts) == ("handshake", 3)
    assert error.output.endswith(end)
    assert end in str(error)


def test_a_program_that_says_something_else_is_a_boot_that_failed(make: MakeExecutor, tmp_path: Path) -> None:
    """Checklist 44: a banner, say, on the stream."""
    # The agent's descriptor is the only one beyond the standard streams.
    text = "Welcome to this machine. Last login: yesterday."
    python = script(tmp_path / "python", f'exec {sys.executable} -S -c "{WRITE_TO_ALL}" "{text}"')
    error = error_of(make(backend=LocalBackend(python=python), **AT_ONCE).submit(echo, 1))
    assert isinstance(error, BootError)
    assert "unknown kind of frame" in str(error)


def test_min_runners_that_cannot_boot_leave_the_pool_usable(make_pool: MakePool, tmp_path: Path) -> None:
    """Checklist 8: nobody waits, so nobody is told; it goes on trying, and in the end it succeeds."""
    events = Events()
    python = tmp_path / "python"
    pool = make_pool(min=1, backend=LocalBackend(python=str(python)), boot_wait=lambda state: 0.01, on_event=events)
    for _ in range(5):
        events.wait("boot failed")
    python.symlink_to(sys.executable)
    events.wait("up")
    assert pool.call(echo, 1) == 1


def test_the_error_carries_what_the_node_printed_last(make: MakeExecutor) -> None:
    """Checklist 7: the console's tail."""
    clock = VirtualClock()
    backend = ObservedBackend(FakeRunner(silent=True, output="kernel panic: no root"), clock)
    future = make(backend=backend, boot_timeout=30, max_boot_failures=1).submit(echo, 1)
    assert backend.taken.wait(PATIENCE)
    clock.advance(31)
    error = error_of(future)
    assert isinstance(error, BootTimeoutError)
    assert error.output == "kernel panic: no root"
    assert str(error).endswith("\nkernel panic: no root")


def test_pauses_between_boots_grow(make: MakeExecutor) -> None:
    """Design §6: tenacity's strategies are told the number of the attempt."""
    seen: list[int] = []

    def wait(state: Any) -> float:
        seen.append(state.attempt_number)
        return 0.0

    broken = FakeRunner(error=OSError("no capacity"))
    executor = make(backend=FakeBackend(*[broken] * 4, slots=1), max_boot_failures=9, boot_wait=wait)
    assert executor.submit(echo, 1).result(PATIENCE) == 1
    assert seen == [1, 2, 3, 4]


# -- backends that are not as they should be ---------------------------------------------------------------------------


class Rude(Backend):
    """Raises whatever it is told to."""

    name = "rude"
    default_max = 1

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def boot(self, request: BootRequest) -> Node:
        raise self._error


@pytest.mark.parametrize("error", [OSError("no disk"), SystemExit(3), KeyboardInterrupt(), GeneratorExit()], ids=repr)
def test_whatever_a_backend_raises_is_a_boot_that_failed(make: MakeExecutor, error: BaseException) -> None:
    """Checklist 8: a backend may be anybody's code."""
    caught = error_of(make(backend=Rude(error), **AT_ONCE).submit(echo, 1))
    assert isinstance(caught, BootError)
    assert caught.__cause__ is error
    assert type(error).__name__ in str(caught)


class CannotTell(BootError):
    """A `BootError` that fails at one of the questions that a pool asks of it."""

    def __str__(self) -> str:
        raise LookupError("no text")


class HasNoParts(BootError):
    def __init__(self, code: int) -> None:
        self.code = code


class HasNoArgs(BootError):
    def __init__(self) -> None:
        super().__init__("no host")
        self.args = ()


class Untold(Exception):
    def __repr__(self) -> str:
        raise LookupError("no text")

    __str__ = __repr__


class Nameless(type):
    def __getattribute__(cls, name: str) -> Any:
        if name in ("__module__", "__name__", "__qualname__"):
            raise LookupError("no name")
        return super().__getattribute__(name)


class Unnamed(Exception, metaclass=Nameless):
    pass


@pytest.mark.parametrize(
    "error",
    [CannotTell("x"), HasNoParts(3), HasNoArgs(), Untold(), Unnamed("why")],
    ids=["CannotTell", "HasNoParts", "HasNoArgs", "Untold", "Unnamed"],
)
def test_an_error_that_cannot_be_described_is_a_boot_that_failed(
    make: MakeExecutor, error: BaseException, request: pytest.FixtureRequest
) -> None:
    """Its class is the backend's, and the pool asks it on the engine thread."""
    executor = make(backend=Rude(error), log=logging.INFO, **AT_ONCE)
    for _ in range(2):
        caught = error_of(executor.submit(echo, 1))
        assert type(caught) is BootError
        assert caught.__cause__ is error
        assert request.node.callspec.id in str(caught)
    assert request.node.callspec.id in str(executor.pool.stats().last_boot_error)


def test_a_node_that_cannot_say_what_it_printed_is_a_boot_that_failed(
    make: MakeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def output(_node: FakeNode) -> str:
        raise LookupError("no output")

    monkeypatch.setattr(FakeNode, "output", output)
    executor = make(backend=FakeBackend(then=FakeRunner(python="3.9")), **AT_ONCE)
    assert "3.9" in str(error_of(executor.submit(echo, 1)))


def test_a_backend_that_hangs_is_not_waited_for_longer_than_boot_timeout(make: MakeExecutor) -> None:
    """Checklist 7, 8: and what it comes back with in the end is given back."""
    clock, hold = VirtualClock(), Hold()
    backend = FakeBackend(FakeRunner(hold=hold), clock=clock)
    executor = make(backend=backend, boot_timeout=30, max_boot_failures=1, **AT_ONCE)
    future = executor.submit(echo, 1)
    # One that has yet to begin when its time is over does not begin, and the next would hang in its place.
    assert hold.reached.wait(PATIENCE)
    clock.advance(29)
    assert not future.done()
    clock.advance(2)
    error = error_of(future)
    assert isinstance(error, BootTimeoutError)
    assert error.phase == "create"
    assert executor.submit(echo, 2).result(PATIENCE) == 2
    hold.set()
    executor.shutdown()
    assert backend.running == []
    assert [node.stops for node in backend.nodes] == [1, 1]


def test_a_node_that_comes_after_the_pools_end_is_given_back(make: MakeExecutor) -> None:
    """Checklist 30: its backend hung until then."""
    clock, hold = VirtualClock(), threading.Event()
    backend = ObservedBackend(FakeRunner(hold=hold), clock)
    executor = make(backend=backend, boot_timeout=30, max_boot_failures=1)
    future = executor.submit(echo, 1)
    assert backend.begun.wait(PATIENCE)
    clock.advance(31)
    error_of(future)
    executor.shutdown(wait=False)
    _wait_for_thread("-engine")
    hold.set()
    _wait_for_thread("-boots-")
    assert backend.running == []
    assert [node.stops for node in backend.nodes] == [1]


def _wait_for_thread(part: str) -> None:
    for thread in threading.enumerate():
        if part in thread.name:
            thread.join(PATIENCE)
            assert not thread.is_alive()


def test_a_boot_error_that_is_final_fails_the_call_without_another_boot(make: MakeExecutor) -> None:
    """A backend says so by a flag: `max_boot_failures` is for what another boot may mend."""
    final = BootError("the licence has run out", final=True)
    backend = FakeBackend(FakeRunner(error=final), FakeRunner(error=OSError("busy")))
    executor = make(backend=backend, max_boot_failures=5, **AT_ONCE)
    assert error_of(executor.submit(echo, 1)) is final
    assert len(backend.requests) == 1
    assert executor.submit(echo, 1).result(PATIENCE) == 1
    assert len(backend.requests) == 3


# -- two things at once ------------------------------------------------------------------------------------------------


def _pending(make: MakeExecutor, clock: VirtualClock, backend: ObservedBackend) -> tuple[Any, Future[int]]:
    executor = make(backend=backend, boot_timeout=30, **AT_ONCE)
    future = executor.submit(echo, 1)
    assert backend.taken.wait(PATIENCE)
    clock.advance(0)
    return executor, future


def test_a_boot_can_be_given_up_while_its_failure_is_being_cleared_away(make: MakeExecutor) -> None:
    """Checklist 66: the node is given back once, and the engine goes on."""
    clock, hold = VirtualClock(), threading.Event()
    backend = ObservedBackend(FakeRunner(silent=True, hold_stop=hold), clock)
    executor, future = _pending(make, clock, backend)
    clock.advance(31)
    assert backend.stopping.wait(PATIENCE)
    executor.kill_workers()
    clock.advance(0)
    hold.set()
    executor.shutdown()
    assert future.cancelled()
    assert [node.stops for node in backend.nodes] == [1]
    assert executor.pool.stats().limits_that_bind == ("shutdown",)


def test_a_boot_can_time_out_while_it_is_being_given_up(make: MakeExecutor) -> None:
    """Checklist 66: the node is given back once, and the engine goes on."""
    clock, hold = VirtualClock(), threading.Event()
    backend = ObservedBackend(FakeRunner(silent=True, hold_stop=hold), clock)
    executor, future = _pending(make, clock, backend)
    assert future.cancel()
    executor.shutdown(wait=False)
    assert backend.stopping.wait(PATIENCE)
    clock.advance(31)
    hold.set()
    executor.shutdown()
    assert [node.stops for node in backend.nodes] == [1]


def test_a_backend_that_does_not_give_a_node_back_holds_nobody_up(
    make: MakeExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    """Checklist 7: the call hears of its boot all the same, and the pool says who is late."""
    clock, hold = VirtualClock(), threading.Event()
    backend = ObservedBackend(FakeRunner(silent=True, hold_stop=hold), clock)
    _, future = _pending(lambda **options: make(max_boot_failures=1, **options), clock, backend)
    clock.advance(31)
    assert backend.stopping.wait(PATIENCE)
    assert not future.done()
    clock.advance(RELEASE_TIMEOUT + 1)
    assert isinstance(error_of(future), BootTimeoutError)
    hold.set()
    assert "the fake backend did not stop the node of runner 1 within 60 s" in caplog.text


def test_the_agent_is_started_with_a_session_of_its_own_and_an_empty_stdin(make: MakeExecutor, tmp_path: Path) -> None:
    """Checklist 33: whatever reads the terminal, it is not a runner."""
    answer = make(1).submit(lambda: (os.getsid(os.getppid()) == os.getppid(), sys.stdin.read())).result(PATIENCE)
    assert answer == (True, "")


class _Channel:
    """A stream that is no socket, and so has to be pumped."""

    def __init__(self, sock: socket.socket) -> None:
        self.recv, self.sendall, self._sock = sock.recv, sock.sendall, sock

    def close(self) -> None:
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()


class _ChannelBackend(FakeBackend):
    def boot(self, request: BootRequest) -> Node:
        node = super().boot(request)
        assert isinstance(node.stream, socket.socket)
        node.stream = _Channel(node.stream)
        return node


@pytest.mark.parametrize("had", [0, 1])
def test_a_link_without_threads_is_a_boot_that_failed(
    make: MakeExecutor, monkeypatch: pytest.MonkeyPatch, had: int
) -> None:
    """Its bytes are moved by two; the pool goes on, and the next boot has them."""
    backend = _ChannelBackend()
    executor = make(2, backend=backend, **AT_ONCE)
    real, started = threading.Thread.start, []

    def start(thread: threading.Thread) -> None:
        if thread.name.startswith("dragonfly-pump"):
            started.append(thread.name)
            if len(started) == had + 1:
                raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    assert executor.submit(echo, 1).result(PATIENCE) == 1
    # A thread of the pool stops the first node, beside the next boot.
    assert becomes_true(executor.pool, lambda: [node.stops for node in backend.nodes] == [1, 0])
    assert len(started) == had + 3
