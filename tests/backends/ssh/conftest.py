"""Hosts, backends that know them, executors on those; all of it is gone when a test ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import DragonflyExecutor, SSHBackend
from tests.backends.ssh.calls import free
from tests.support.helpers import Gate, Mailbox, ProcessHandle, ending, killing
from tests.support.sshd import namespaces
from tests.support.sshd.faults import FaultyConnection
from tests.support.sshd.host import Host, make_bare_python, make_key, missing
from tests.support.sshd.namespaces import Namespace

ROOT = Path(__file__).parents[3]


class FreeExecutor(DragonflyExecutor):
    """Sends the functions of tests without the module that they stand in: no host has that one."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return super().submit(free(fn), *args, **kwargs)


@contextmanager
def family(mailbox: Mailbox, host: Host) -> Iterator[list[ProcessHandle]]:
    """Watches on a call that `hold_with_family` made, on what it started, and on all else that runs on the host."""
    slot, agent, child, daemon = map(int, mailbox.read().split())
    running = host.processes()
    assert {slot, agent, child, daemon} <= set(running)
    with killing(agent, slot, child, daemon, *(set(running) - {agent, slot, child, daemon})) as watches:
        yield watches


MakeHost = Callable[..., Host]
MakeBackend = Callable[..., Any]
Make = Callable[..., DragonflyExecutor]


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The key that all hosts let in."""
    if reason := missing():
        pytest.skip(reason)
    return make_key(tmp_path_factory.mktemp("user") / "id_test")


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a Python with nothing but its standard library."""
    return make_bare_python(tmp_path_factory.mktemp("bare") / "python")


@pytest.fixture
def make_host(tmp_path: Path, key: Path, bare_python: Path) -> Iterator[MakeHost]:
    """Starts hosts; without `programs` the host has the bare Python."""
    made: list[Host] = []
    numbers = count(1)

    def make(*, programs: list[Path] | None = None, started: bool = True, **options: Any) -> Host:
        folder = tmp_path / f"host-{next(numbers)}"
        host = Host(folder, key, [bare_python] if programs is None else programs, **options)
        made.append(host)
        if started:
            host.start()
        return host

    yield make
    for host in made:
        host.stop()


@pytest.fixture
def host(make_host: MakeHost) -> Host:
    """One host."""
    return make_host()


@pytest.fixture(scope="module")
def lasting_host(tmp_path_factory: pytest.TempPathFactory, key: Path, bare_python: Path) -> Iterator[Host]:
    """One host for all tests of a file, which leave on it what boots leave there."""
    host = Host(tmp_path_factory.mktemp("hosts") / "lasting", key, [bare_python])
    host.start()
    yield host
    host.stop()


@pytest.fixture
def way(lasting_host: Host) -> Iterator[FaultyConnection]:
    """The way to that host, on which nothing is wrong yet."""
    with FaultyConnection(lasting_host) as way:
        yield way


@pytest.fixture
def make_backend(tmp_path: Path, key: Path) -> MakeBackend:
    """Backends for hosts that it knows, and that look at nothing of the user's own, and send nothing of it."""
    numbers = count(1)

    def make(*hosts: Any, **options: Any) -> SSHBackend:
        known = tmp_path / f"known_hosts-{next(numbers)}"
        known.write_text("".join(host.known_as for host in hosts if isinstance(host, Host | FaultyConnection)))
        defaults: dict[str, Any] = {
            "key_filename": key,
            "known_hosts": known,
            "config": None,
            "sync": None,
            "use_agent": False,
        }
        specs = [host.spec if isinstance(host, Host | FaultyConnection) else host for host in hosts]
        return SSHBackend(specs, **defaults | options)

    return make


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes executors, and ends them whatever runs there."""
    with ending() as made:

        def make(backend: Any, **options: Any) -> DragonflyExecutor:
            defaults: dict[str, Any] = {"max_concurrency": 2, "boot_wait": lambda state: 0.0}
            made.append(FreeExecutor(backend=backend, **defaults | options))
            return made[-1]

        yield make


@pytest.fixture
def user() -> str:
    """Who runs the tests, and whom the hosts let in."""
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


@pytest.fixture
def program(host: Host, key: Path, mailbox: Mailbox, gate: Gate, tmp_path: Path) -> Iterator[Any]:
    """Starts `tests.backends.ssh.program`, and kills it with all that is left of it."""
    known = tmp_path / "known"
    known.write_text(host.known_as)
    started: list[subprocess.Popen[bytes]] = []

    def start(lease: float, *more: str, connect: str = "channel") -> subprocess.Popen[bytes]:
        arguments = [host.spec, known, key, mailbox.path, gate.path, str(lease), connect, *more]
        command = [sys.executable, "-m", "tests.backends.ssh.program", *map(str, arguments)]
        started.append(subprocess.Popen(command, cwd=ROOT, start_new_session=True))
        return started[-1]

    yield start
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """A network of its own for a host."""
    if reason := namespaces.missing():
        pytest.skip(reason)
    with closing(Namespace()) as namespace:
        yield namespace
