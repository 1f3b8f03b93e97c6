"""Networks that fail while a runner boots: the error says how far it came, the next boot works, and nothing stays."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import BootError, BootRequest, HostKeyError, SSHBackend, VersionMismatchError
from dragonfly_executor.backends.ssh import boot, host_race, node
from dragonfly_executor.backends.ssh.boot_deadline import SSHBootDeadline
from dragonfly_executor.backends.ssh.bootstrap import command
from dragonfly_executor.backends.ssh.paramiko_connect import SSHConnection
from dragonfly_executor.sync import Sync
from tests.backends.ssh.conftest import Make, MakeBackend, MakeHost
from tests.support.helpers import PATIENCE, error_of
from tests.support.sshd.faults import STAGES, FaultyConnection, at_stage, nothing_stays

Fault = Callable[[FaultyConnection], object]
HASTY: dict[str, Any] = {
    "boot_timeout": PATIENCE,
    "max_boot_failures": 1,
    "heartbeat": 0.1,
    "dead_after": 0.6,
    "lease": 1.0,
}
"""A link that is silent is soon given up, and so is a parent that is. What comes before has the time that it takes."""
BRIEF = HASTY | {"boot_timeout": 1.0}
"""Where the pool itself has to give a boot up. Its clock starts when the backend has done its part: `unhurried`."""
MOMENT = 0.7
"""Seconds that a boot still gets once it is hurried."""
HOST_PATIENCE = 4.0
"""Seconds that the host's half of such a boot has from its own beginning: nobody can tell it that the boot is over."""


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Leaves the boots that are under way a moment. They have had all of their time until then, however busy it is."""
    deadlines: list[SSHBootDeadline] = []
    connections: list[SSHConnection] = []
    cut_in, has_hurried = SSHConnection.cut_in, threading.Event()

    class Recorded(SSHBootDeadline):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            deadlines.append(self)

    def recorded(connection: SSHConnection, seconds: float) -> None:
        connections.append(connection)
        cut_in(connection, seconds)

    def impatient(*args: Any) -> str:
        python, digest, cache, patience, *rest = args
        return command(python, digest, cache, patience if has_hurried.is_set() else HOST_PATIENCE, *rest)

    monkeypatch.setattr(boot, "command", impatient)
    monkeypatch.setattr(host_race, "SSHBootDeadline", Recorded)
    monkeypatch.setattr(SSHConnection, "cut_in", recorded)

    def hurry() -> None:
        has_hurried.set()
        for deadline in deadlines:
            deadline.time.when = time.monotonic() + MOMENT
        for connection in connections:
            if connection.transport.is_active():
                cut_in(connection, MOMENT)

    return hurry


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that says nothing more is not given five seconds to end its runner."""
    monkeypatch.setattr(node, "STOP_TIMEOUT", 0.2)


def unhurried(boot: Callable[..., Any]) -> Callable[..., Any]:
    """The backend's part of a boot takes none of the pool's time."""

    def boot_without_a_clock(backend: SSHBackend, request: BootRequest) -> Any:
        request.queued()
        return boot(backend, request._replace(timeout=PATIENCE))

    return boot_without_a_clock


FAULTS: dict[str, Fault] = {
    "cut on the way there": lambda way: way.cut_after(way.up, 0),
    "cut within an answer": lambda way: way.cut_after(way.down, 30),
    "reset": lambda way: way.cut_after(way.down, 1, abrupt=True),
    "nothing comes through": lambda way: way.silence(),
    "nothing comes back": lambda way: way.silence(way.down),
    "nothing gets there": lambda way: way.silence(way.up),
    "nothing is taken": lambda way: way.stick(way.up),
}
ALWAYS = {
    "cut on the way there": {"bootstrap"},
    "cut within an answer": set(STAGES),
    "reset": {"auth", "command"},
    "nothing comes through": {"key exchange", "command", "handshake"},
    "nothing comes back": {"auth", "command"},
    "nothing gets there": {"session", "bootstrap"},
    "nothing is taken": {"sync"},
}
"""What the suite has time for: each stage, and each fault. The others are for the soak."""
CASES = [
    pytest.param(fault, stage, marks=() if stage in ALWAYS[fault] else pytest.mark.soak)
    for fault in FAULTS
    for stage in STAGES
]


@pytest.mark.parametrize(("fault", "stage"), CASES)
def test_a_boot_that_the_network_ends_says_how_far_it_came_and_the_next_one_works(
    way: FaultyConnection,
    fault: str,
    stage: str,
    make_backend: MakeBackend,
    make: Make,
    hurry: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Checklist 8, 18, 54, 56. The host's half of the boot ends though nobody can tell it to."""
    shows, backend = fault.startswith(("cut", "reset")), make_backend(way, connect_timeout=PATIENCE)

    def act() -> None:
        FAULTS[fault](way)
        if not shows:
            hurry()

    with monkeypatch.context() as patched:
        options = HASTY
        if stage == "handshake" and not shows:
            options = BRIEF
            patched.setattr(SSHBackend, "boot", unhurried(SSHBackend.boot))
        at_stage(patched, stage, act)
        executor = make(backend, **options)
        error = error_of(executor.submit(pow, 2, 10))
    assert isinstance(error, BootError)
    assert error.phase in STAGES[stage][1]
    assert way.spec in str(error)
    assert "refused" not in str(error)
    nothing_stays(way.host)
    way.heal()
    assert make(backend).submit(pow, 2, 10).result(PATIENCE) == 1024


@pytest.mark.parametrize("fault", ["cut", "silence"])
def test_an_archive_that_does_not_get_there_whole_is_not_there(
    make_host: MakeHost,
    make_backend: MakeBackend,
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    hurry: Callable[[], None],
    fault: str,
) -> None:
    """Checklist 54. Half of it is on the way when the network fails; the next boot sends it anew."""
    host = make_host()
    with FaultyConnection(host) as way:
        backend = make_backend(way)

        def spoil() -> None:
            if fault == "cut":
                way.cut_after(way.up, 100_000)
            else:
                way.silence_after(way.up, 100_000)
                hurry()

        with monkeypatch.context() as patched:
            at_stage(patched, "archive", spoil)
            error = error_of(make(backend, **HASTY).submit(pow, 2, 10))
        assert isinstance(error, BootError)
        assert error.phase == "bootstrap"
        nothing_stays(host)
        assert host.archives == []
        way.heal()
        executor = make(backend)
        assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
        executor.shutdown()
        assert len(host.archives) == 1


@pytest.mark.parametrize("fault", ["cut", "silence"])
def test_files_that_do_not_all_get_there_fail_the_boot_and_are_sent_anew(
    way: FaultyConnection,
    make_backend: MakeBackend,
    make: Make,
    tmp_path: Path,
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Checklist 54. Half of the user's own files is on the way when the network fails."""
    monkeypatch.chdir(tmp_path)
    content = os.urandom(1 << 20)  # else the host has it from before
    Path("table.bin").write_bytes(content)
    with monkeypatch.context() as patched:
        spoil = {"cut": lambda: way.cut_after(way.up, 300_000), "silence": lambda: way.silence_after(way.up, 300_000)}
        at_stage(patched, "sync", spoil[fault])
        backend = make_backend(way, sync=Sync(["table.bin"]))
        error = error_of(make(backend, **HASTY).submit(pow, 2, 10))
    assert isinstance(error, BootError)
    assert error.phase == "sync"
    assert way.spec in str(error)
    nothing_stays(way.host)
    way.heal()
    executor = make(backend)
    assert executor.submit(lambda: __import__("pathlib").Path("table.bin").read_bytes()).result(PATIENCE) == content


FLIPS = [0, 30, 300]
"""Bytes from the beginning of a stage. The banner and the algorithms come first, and nothing vouches for them alone."""


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize(
    "stage",
    ["key exchange", "bootstrap", *(pytest.param(stage, marks=pytest.mark.soak) for stage in ("auth", "sync"))],
)
def test_a_bit_that_turns_over_harms_a_boot_at_most(
    way: FaultyConnection,
    direction: str,
    stage: str,
    make_backend: MakeBackend,
    make: Make,
    hurry: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Checklist 44. It is nobody's key and no version that is wrong: a host is not refused for ever because of it."""
    places = iter(FLIPS)
    turned: list[int] = []

    def turn() -> None:
        for place in places:
            way.flip_after(getattr(way, direction), place)
            turned.append(place)
            hurry()  # one that waits for more bytes than will come
            return
        way.heal()

    at_stage(monkeypatch, stage, turn)
    options = {"max_boot_failures": len(FLIPS) + 1, "single_use": True}
    executor = make(make_backend(way, host_wait=lambda state: 0.0), **options)
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
    while len(turned) < len(FLIPS):
        # One that turned over in padding has harmed nothing.
        assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
    assert not isinstance(executor.submit(pow, 2, 10).exception(PATIENCE), HostKeyError | VersionMismatchError)
