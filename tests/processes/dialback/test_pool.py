"""Pools whose runners dial back: they work as on any other link, and a runner that does not come is told of."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from concurrent.futures.process import BrokenProcessPool
from datetime import datetime, timedelta
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from dragonfly_executor import (
    BootError,
    BootTimeoutError,
    LocalBackend,
    Parent,
    RunnerAuthError,
    RunnerLostError,
    VersionMismatchError,
)
from dragonfly_executor.backends.base import BootRequest, Node
from dragonfly_executor.engine.boot import dialback as dialback_module
from dragonfly_executor.engine.boot.dialback import DialBack
from dragonfly_executor.protocol.dialback_auth import RefusedError
from dragonfly_executor.protocol.versions import versions
from dragonfly_executor.runner import exit_codes, process_tree
from dragonfly_executor.testing import VirtualClock
from dragonfly_executor.transport import certificate
from dragonfly_executor.transport.loop import Loop
from dragonfly_executor.transport.tcp import split_address
from tests.engine.conftest import MakeExecutor, MakePool
from tests.processes.lifecycle.conftest import start
from tests.support.dialback import DialingBackend, DialingNode, EmptyNodeBackend, dial, plain, runner_of
from tests.support.helpers import PATIENCE, SOON, Events, Gate, Mailbox, all_ended, error_of, values, watching
from tests.support.payloads import agent_pid, echo, hold, hold_for_good, leave, tell

__all__ = ["start"]

AT_ONCE: dict[str, Any] = {"boot_wait": lambda state: 0.0, "max_boot_failures": 1}
LARGE = 64 * 1024 * 1024


def test_calls_run_on_a_runner_that_has_dialed_back(make: MakeExecutor) -> None:
    executor = make(2, backend=DialingBackend())
    assert list(executor.map(echo, range(500))) == list(range(500))
    assert executor.submit(lambda: sys.stdin.read()).result(PATIENCE) == ""


def test_a_runner_knows_its_parent_and_not_the_token(make: MakeExecutor) -> None:
    """Parent.get() in slots."""
    parent = make(1, backend=DialingBackend()).submit(Parent.get).result(PATIENCE)
    assert parent.runner_id == 1
    assert parent.backend == "dialing"
    assert parent.pid == os.getpid()
    assert parent.token is None
    assert split_address(parent.address)[0] == "127.0.0.1"


def test_large_payloads_travel_both_ways(make: MakeExecutor) -> None:
    """Through many more records than any buffer holds, and heartbeats between them."""
    executor = make(2, backend=DialingBackend(), heartbeat=0.05)
    payloads = [os.urandom(LARGE) for _ in range(2)]
    returned = values([executor.submit(echo, payload) for payload in payloads])
    # Told of as a whole: of what differs there would be megabytes to print.
    assert [len(payload) for payload in returned] == [LARGE, LARGE]
    assert all(ours == theirs for ours, theirs in zip(returned, payloads, strict=True))


def test_a_slot_that_dies_fails_its_call_alone(make: MakeExecutor, mailbox: Mailbox, gate: Gate) -> None:
    """Checklist 5."""
    executor = make(2, backend=DialingBackend())
    held = executor.submit(hold, mailbox.path, gate.path, "held")
    mailbox.numbers(1)
    error = error_of(executor.submit(leave, 7))
    assert isinstance(error, RunnerLostError)
    assert error.exit_code == 7
    gate.open()
    assert held.result(PATIENCE) == "held"


def test_a_call_is_stopped_at_its_limit_and_when_it_is_cancelled(make: MakeExecutor, mailbox: Mailbox) -> None:
    """Checklist 40."""
    executor = make(2, backend=DialingBackend())
    late = executor.options(run_timeout=0.2).submit(hold_for_good, mailbox.path)
    unwanted = executor.submit(hold_for_good, mailbox.path)
    with watching(*mailbox.numbers(2)) as slots:
        assert unwanted.cancel()
        assert isinstance(error_of(late), TimeoutError)
        assert all_ended(slots)


def test_a_runner_that_is_killed_is_lost_and_replaced_by_one_with_a_token_of_its_own(
    make: MakeExecutor, mailbox: Mailbox
) -> None:
    """Checklist 5."""
    backend = DialingBackend()
    executor = make(1, backend=backend)
    running = executor.submit(hold_for_good, mailbox.path)
    slot = mailbox.numbers(1)[0]
    with watching(slot) as watches:
        backend.nodes[0].kill()
        error = error_of(running)
        assert isinstance(error, RunnerLostError)
        assert isinstance(error, BrokenProcessPool)
        assert all_ended(watches)
    assert executor.options(retries=2).submit(echo, 1).result(PATIENCE) == 1
    assert len(backend.nodes) == 2


def test_several_runners_dial_in_at_once(make_pool: MakePool, mailbox: Mailbox, gate: Gate) -> None:
    """Each runner has its own token, and all dial one listener."""
    pool = make_pool(max=3, max_concurrency=1, backend=DialingBackend())
    futures = [pool.submit(hold, mailbox.path, gate.path, number) for number in range(3)]
    assert len(set(mailbox.numbers(3))) == 3
    gate.open(3)
    assert values(futures) == [0, 1, 2]
    assert pool.stats().runners_up == 3


@pytest.mark.parametrize("days", [-400, 400])
def test_clocks_that_differ_keep_no_runner_out(make: MakeExecutor, monkeypatch: pytest.MonkeyPatch, days: int) -> None:
    """Checklist 53: the parent's is a year off, so its certificate has ended, or has yet to begin."""

    class Off(datetime):
        @classmethod
        def now(cls, zone: Any = None) -> Any:
            return datetime.now(zone) + timedelta(days=days)

    monkeypatch.setattr(certificate, "datetime", Off)
    assert make(1, backend=DialingBackend()).submit(echo, 1).result(PATIENCE) == 1


def test_nothing_is_left_after_a_shutdown(make: MakeExecutor) -> None:
    backend = DialingBackend()
    executor = make(2, backend=backend)
    agent = executor.submit(agent_pid).result(PATIENCE)
    assert agent == backend.nodes[0].process.pid
    executor.shutdown()
    assert backend.nodes[0].process.returncode == 0
    assert backend.nodes[0].left() == []


def test_a_runner_of_another_version_is_refused_by_both_sides(
    make: MakeExecutor, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Checklist 16: in JSON, both ways, before the first pickle."""
    from dragonfly_executor.engine import runner_connection

    other = versions()
    other.python = "3.9"
    monkeypatch.setattr(runner_connection, "versions_like", lambda _runner: other)
    monkeypatch.setattr(dialback_module, "versions", lambda: other)
    backend = DialingBackend()
    executor = make(1, backend=backend)
    error = error_of(executor.submit(echo, 1))
    assert isinstance(error, VersionMismatchError)
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"python is 3.9 in the parent and {own} on the runner" in str(error)
    executor.shutdown()
    assert f"versions do not match: python is 3.9 in the parent and {own} on the runner" in capfd.readouterr().err


# -- the listener --------------------------------------------------------------------------------


def test_the_door_is_closed_once_everybody_is_there(make: MakeExecutor) -> None:
    """A pool whose runners are up has no port open."""
    executor = make(1, backend=DialingBackend())
    parent = executor.submit(Parent.get).result(PATIENCE)
    with pytest.raises(ConnectionRefusedError):
        plain(parent)


def test_no_other_backend_opens_a_door_or_loads_ssl(make: MakeExecutor) -> None:
    """Checklist 69: in a runner, where nothing else has loaded it."""
    executor = make(1, backend=LocalBackend())
    assert executor.submit(eval, "'ssl' in __import__('sys').modules").result(PATIENCE) is False


class LateBackend(DialingBackend):
    """Comes back with its nodes when it is told to, though their runners are up."""

    def __init__(self, go_on: threading.Event) -> None:
        super().__init__()
        self._go_on = go_on

    def boot(self, request: BootRequest) -> Node:
        node = super().boot(request)
        assert self._go_on.wait(PATIENCE)
        return node


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when a runner has dialed in."""
    joined = threading.Event()
    real = DialBack.runner_joined

    def runner_joined(self: DialBack, runner_id: str, sock: Any) -> None:
        real(self, runner_id, sock)
        joined.set()

    monkeypatch.setattr(DialBack, "runner_joined", runner_joined)
    return joined


def test_a_runner_may_be_faster_than_its_backend(make: MakeExecutor, joined: threading.Event) -> None:
    """It is there before `boot` has come back with the node."""
    assert make(1, backend=LateBackend(joined)).submit(echo, 1).result(PATIENCE) == 1


def test_a_boot_can_be_given_up_when_its_runner_is_there_and_its_backend_is_not(
    make: MakeExecutor, joined: threading.Event
) -> None:
    """Checklist 66: the runner ends, and the connection is closed."""
    go_on = threading.Event()
    backend = LateBackend(go_on)
    executor = make(1, backend=backend)
    future = executor.submit(echo, 1)
    assert joined.wait(PATIENCE)
    assert future.cancel()
    executor.shutdown(wait=False)
    go_on.set()
    executor.shutdown()
    assert [node.stops for node in backend.nodes] == [1]


def test_a_boot_that_times_out_in_its_backend_ends_the_runner_that_had_come(make: MakeExecutor) -> None:
    """Checklist 7: nobody waits for a backend that hangs."""
    go_on = threading.Event()
    backend = LateBackend(go_on)
    executor = make(1, backend=backend, boot_timeout=1.0, **AT_ONCE)
    try:
        error = error_of(executor.submit(echo, 1))
        assert isinstance(error, BootTimeoutError)
        # Whether it was let in or not: its parent does not want it any more.
        backend.nodes[0].process.wait(PATIENCE)
    finally:
        go_on.set()


# -- who does not come -------------------------------------------------------------------------------------------------


def test_a_runner_that_never_dials_in_is_a_boot_that_timed_out_and_its_node_is_stopped_first(
    make: MakeExecutor,
) -> None:
    """Checklist 7."""
    backend = EmptyNodeBackend()
    executor = make(1, backend=backend, boot_timeout=0.2, **AT_ONCE)
    error = error_of(executor.submit(echo, 1))
    assert backend.stopped.get_nowait() == 1
    assert isinstance(error, BootTimeoutError)
    assert error.phase == "connect"
    assert "did not dial back within 0.2 s" in str(error)
    assert error.__cause__ is None


def test_the_error_says_who_was_refused_meanwhile(make: MakeExecutor) -> None:
    """Perhaps it was the runner, with the token of another boot."""
    backend = EmptyNodeBackend()
    executor = make(1, backend=backend, boot_timeout=1.0, **AT_ONCE)
    future = executor.submit(echo, 1)
    parent = backend.expected()
    impostor = dial(parent, token=b"x" * 32)
    with pytest.raises(RefusedError):
        impostor.go()
    impostor.sock.close()
    error = error_of(future)
    assert isinstance(error, BootTimeoutError)
    assert isinstance(error.__cause__, RunnerAuthError)
    assert "could not prove" in str(error.__cause__)


def test_a_runner_that_joins_and_goes_is_a_boot_that_failed_at_once(make: MakeExecutor) -> None:
    """Checklist 7: nobody waits for the rest of boot_timeout."""
    backend = EmptyNodeBackend()
    future = make(1, backend=backend, **AT_ONCE).submit(echo, 1)
    dialed = dial(backend.expected()).go()
    dialed.sock.close()
    error = error_of(future)
    assert isinstance(error, BootError)
    assert not isinstance(error, BootTimeoutError)
    assert error.phase == "handshake"


class WatchedNode(DialingNode):
    """It notices when its process ends."""

    def ended(self, wait: float) -> BootError | None:
        try:
            return BootError(f"the node exited with status {self.process.wait(wait)}", "create")
        except subprocess.TimeoutExpired:
            return None


class Watched(DialingBackend):
    node = WatchedNode


def test_a_node_that_ends_while_its_runner_is_waited_for_is_a_boot_that_failed_at_once(make: MakeExecutor) -> None:
    """Checklist 7: in the backend's own words, and nobody waits for the rest of boot_timeout."""
    backend = Watched(python=shutil.which("false"))
    executor = make(1, backend=backend, boot_timeout=3600.0, **AT_ONCE)
    error = error_of(executor.submit(echo, 1))
    assert isinstance(error, BootError)
    assert error.phase == "create"
    assert "the node exited with status 1" in str(error)
    assert backend.nodes[0].stops == 1


def test_the_error_of_a_node_that_ended_says_who_was_refused_meanwhile(make: MakeExecutor) -> None:
    """It was the runner itself, most likely."""

    class Refused(Watched):
        def boot(self, request: BootRequest) -> Node:
            return super().boot(request._replace(parent=request.parent._replace(token="00" * 32)))

    executor = make(1, backend=Refused(), boot_timeout=3600.0, **AT_ONCE)
    error = error_of(executor.submit(echo, 1))
    assert "the node exited with status" in str(error)
    assert isinstance(error.__cause__, RunnerAuthError)


class Looks:
    """Nodes that are looked at: a test hears of each look, and says what it finds."""

    def __init__(self) -> None:
        self.begun: SimpleQueue[None] = SimpleQueue()
        self.findings: SimpleQueue[BootError | None] = SimpleQueue()

    def ended(self, _wait: float) -> BootError | None:
        self.begun.put(None)
        return self.findings.get(timeout=PATIENCE)

    def of(self, node: Node) -> Node:
        kind = type(node)
        node.__class__ = type(kind.__name__, (kind,), {"ended": lambda _node, wait: self.ended(wait)})
        return node


class Watching(EmptyNodeBackend):
    def __init__(self) -> None:
        super().__init__()
        self.looks = Looks()

    def boot(self, request: BootRequest) -> Node:
        return self.looks.of(super().boot(request))


def test_a_node_is_looked_at_until_its_runner_is_there(make: MakeExecutor) -> None:
    """What ends it after that is told by its link."""
    backend = Watching()
    executor = make(1, backend=backend)
    future = executor.submit(echo, 1)
    for _ in range(2):
        backend.looks.begun.get(timeout=PATIENCE)
        backend.looks.findings.put(None)
    backend.looks.begun.get(timeout=PATIENCE)
    with runner_of(backend.expected()):
        assert future.result(PATIENCE) == 1
        # It comes too late to harm anybody.
        backend.looks.findings.put(BootError("it is gone"))
        assert executor.submit(echo, 2).result(PATIENCE) == 2
        assert executor.pool.stats().runners_up == 1
        executor.shutdown()
    assert backend.looks.begun.empty()


def test_a_node_is_not_looked_at_once_its_boot_has_failed(make: MakeExecutor) -> None:
    backend = Watching()
    executor = make(1, backend=backend, **AT_ONCE)
    future = executor.submit(echo, 1)
    backend.looks.begun.get(timeout=PATIENCE)
    dialed = dial(backend.expected()).go()
    dialed.sock.close()
    assert isinstance(error_of(future), BootError)
    backend.looks.findings.put(None)
    executor.shutdown()
    assert backend.looks.begun.empty()


def test_the_right_runner_gets_in_after_all_kinds_of_others(make: MakeExecutor, mailbox: Mailbox) -> None:
    """Checklist 2: the boot is still its own. Real runners, a real pool."""
    backend = EmptyNodeBackend()
    executor = make(1, backend=backend)
    future = executor.submit(os.getppid)
    parent = backend.expected()
    with plain(parent) as silent, plain(parent) as rude:
        rude.sendall(b"\x80\x05" + b"x" * 100)
        wrong = parent._replace(token="00" * 32)
        with runner_of(wrong) as refused:
            assert refused.wait(PATIENCE) == exit_codes.REFUSED
        with runner_of(parent) as process:
            assert future.result(PATIENCE) == process.pid
            with runner_of(parent, "--failsafe", "0.5") as second:
                # Its token is used up, or there is nobody left to ask.
                assert second.wait(PATIENCE) == exit_codes.UNREACHABLE
            assert executor.submit(os.getppid).result(PATIENCE) == process.pid
            executor.shutdown()
            assert process.wait(PATIENCE) == 0
        assert silent.fileno() >= 0


def test_an_address_that_cannot_be_bound_is_a_boot_that_failed(make: MakeExecutor) -> None:
    """Checklist 8: every boot that waited has an error of its own, and the pool tries again."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        backend = EmptyNodeBackend(port=port)
        # With a pause: as long as another boot is under way, the calls wait for that one.
        options: dict[str, Any] = {"max_boot_failures": 1, "boot_wait": lambda state: 0.1}
        executor = make(None, max=2, max_concurrency=1, backend=backend, **options)
        errors = [error_of(future) for future in [executor.submit(echo, number) for number in range(2)]]
    for error in errors:
        assert isinstance(error, BootError)
        assert "cannot listen for runners" in str(error)
        assert isinstance(error.__cause__, OSError)
    assert backend.requests.empty()
    future = executor.submit(os.getppid)
    parent = backend.expected()
    assert parent.address == f"127.0.0.1:{port}"
    with runner_of(parent) as process:
        assert future.result(PATIENCE) == process.pid
        executor.shutdown()


def test_listening_on_every_network_is_in_the_log(make_pool: MakePool, caplog: pytest.LogCaptureFixture) -> None:
    """Checklist 69."""
    backend = EmptyNodeBackend("0.0.0.0", advertised="127.0.0.1")
    pool = make_pool(backend=backend)
    future = pool.submit(echo, 1)
    with runner_of(backend.expected()):
        assert future.result(PATIENCE) == 1
        pool.shutdown()
    (record,) = [record for record in caplog.records if "every network" in record.getMessage()]
    assert record.levelname == "WARNING"


# -- who goes ----------------------------------------------------------------------------------------------------------


def dialing_parent(mailbox: str, options: dict[str, Any]) -> None:
    """A program whose runner holds a call; it tells its own process id, its runner's and its slot's."""
    from dragonfly_executor import DragonflyExecutor

    with DragonflyExecutor(backend=DialingBackend(), max=1, max_concurrency=1, **options) as executor:
        executor.submit(tell_and_hold, mailbox, os.getpid()).result()


def tell_and_hold(mailbox: str, parent: int) -> None:
    tell(mailbox, parent)
    tell(mailbox, os.getppid())
    hold_for_good(mailbox)


PROGRAM = (
    "from tests.processes.dialback.test_pool import dialing_parent; import sys; dialing_parent(sys.argv[1], {options})"
)


def run_parent(mailbox: Mailbox, **options: Any) -> Any:
    import subprocess

    root = str(Path(__file__).parents[3])
    command = [sys.executable, "-c", PROGRAM.format(options=options), mailbox.path]
    return subprocess.Popen(command, cwd=root, stdin=subprocess.DEVNULL)


def test_a_parent_that_is_killed_takes_its_runners_along(mailbox: Mailbox) -> None:
    """Checklist 3: by the end of the connection."""
    with run_parent(mailbox) as program:
        pids = mailbox.numbers(3)
        with watching(*pids) as watches:
            program.kill()
            assert all_ended(watches)


def test_a_parent_that_is_stopped_has_its_runners_until_their_lease_ends(mailbox: Mailbox) -> None:
    """Checklist 4, 52: nothing says that the parent is gone, and nothing comes from it."""
    import signal

    with run_parent(mailbox, lease=1.0, heartbeat=0.2) as program:
        parent, *runner = mailbox.numbers(3)
        assert parent == program.pid
        with watching(*runner) as watches:
            program.send_signal(signal.SIGSTOP)
            try:
                assert all_ended(watches, PATIENCE)
            finally:
                process_tree.kill(program.pid)


def test_a_runner_that_is_silent_for_too_long_is_lost(make_pool: MakePool, mailbox: Mailbox) -> None:
    """Checklist 20."""
    import signal

    backend, events = DialingBackend(), Events()
    pool = make_pool(backend=backend, max_concurrency=1, heartbeat=0.1, dead_after=1.0, on_event=events)
    future = pool.submit(hold_for_good, mailbox.path)
    slot = mailbox.numbers(1)[0]
    with watching(slot) as watches:
        backend.nodes[0].process.send_signal(signal.SIGSTOP)
        error = error_of(future)
        assert isinstance(error, RunnerLostError)
        assert "no data for" in str(error)
        assert all_ended(watches, PATIENCE + SOON)


def test_payloads_that_are_cut_short_by_the_runners_death_fail_their_call_alone(
    make: MakeExecutor, mailbox: Mailbox
) -> None:
    """Checklist 18."""
    backend = DialingBackend()
    executor = make(2, backend=backend)
    assert executor.submit(echo, 1).result(PATIENCE) == 1
    large = executor.submit(kill_agent_on_the_way, os.urandom(LARGE))
    assert isinstance(error_of(large), RunnerLostError)
    assert executor.options(retries=2).submit(echo, 2).result(PATIENCE) == 2


def kill_agent_on_the_way(payload: bytes) -> bytes:
    """Return something large through an agent that dies meanwhile."""
    agent = os.getppid()
    threading.Timer(0.05, process_tree.kill, [agent]).start()
    return payload


class Queueing(DialingBackend):
    """A backend whose boots wait for their turn until the test lets them go on. The test moves the clock."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock
        self.waits, self.turn = threading.Event(), threading.Event()

    def make_loop(self) -> Loop:
        return self._clock.make_loop()

    def boot(self, request: BootRequest) -> Node:
        request.queued()
        self.waits.set()
        assert self.turn.wait(PATIENCE)
        return self.boot_in_turn(request)

    def boot_in_turn(self, request: BootRequest) -> Node:
        request.started()
        return super().boot(request)


class StartsUnseen(Queueing):
    """A backend that sees the start of a node only after its runner has dialed back."""

    def boot_in_turn(self, request: BootRequest) -> Node:
        node = DialingBackend.boot(self, request)
        assert request.dialed_in is not None
        assert request.dialed_in.wait(PATIENCE)
        return node


@pytest.mark.parametrize("backend_class", [Queueing, StartsUnseen])
def test_a_runner_whose_boot_waited_for_long_is_admitted(make: MakeExecutor, backend_class: type[Queueing]) -> None:
    """The runner's token is valid for `boot_timeout` from the request for its node, and while the boot waits."""
    clock = VirtualClock()
    backend = backend_class(clock)
    executor = make(2, backend=backend, boot_timeout=30)
    future = executor.submit(pow, 2, 5)
    assert backend.waits.wait(PATIENCE)
    clock.advance(1000)
    backend.turn.set()
    assert future.result(PATIENCE) == 32
    assert executor.pool.stats().boots_failed == 0


class Deaf(DialingBackend):
    """A backend that does not say where to listen until the test lets it."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock
        self.asked, self.hold = threading.Event(), threading.Event()

    def make_loop(self) -> Loop:
        return self._clock.make_loop()

    def listen_address(self) -> tuple[str, int]:
        self.asked.set()
        self.hold.wait()
        return super().listen_address()


def test_a_listener_that_does_not_open_ends_the_boot(make: MakeExecutor) -> None:
    clock = VirtualClock()
    backend = Deaf(clock)
    executor = make(2, backend=backend, boot_timeout=30, max_boot_failures=1)
    future = executor.submit(pow, 2, 5)
    assert backend.asked.wait(PATIENCE)
    clock.advance(31)
    error = error_of(future)
    assert isinstance(error, BootTimeoutError)
    assert "the parent did not listen for runners within 30 s" in str(error)
    backend.hold.set()
