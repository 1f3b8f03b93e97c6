"""Hosts that are not as one would like them: crowded, full, odd, strict, or behind another one that goes away."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import BootError, RunnerLostError
from dragonfly_executor.backends.ssh import node
from dragonfly_executor.backends.ssh.paramiko_connect import Connector
from dragonfly_executor.sync import Sync
from tests.backends.ssh.calls import hold, hold_with_family
from tests.backends.ssh.conftest import Make, MakeBackend, MakeHost
from tests.backends.ssh.test_boot_failures import REQUEST, boot_error
from tests.backends.ssh.test_bootstrap import small_disk, whole
from tests.backends.ssh.test_life import family
from tests.support.helpers import PATIENCE, Gate, Mailbox, all_ended, error_of, values, watching
from tests.support.sshd.faults import FaultyConnection, at_stage, nothing_stays
from tests.support.sshd.host import Host, make_bare_python

QUICK: dict[str, Any] = {"heartbeat": 0.1, "dead_after": 0.6, "lease": 1.0}


# -- what is kept there ------------------------------------------------------------------------------------------------


def test_parents_that_come_at_once_to_a_host_that_has_nothing_are_all_served(
    host: Host, make_backend: MakeBackend, make: Make
) -> None:
    """Each ships the archive, none finds half of another's."""
    backends = [make_backend(host) for _ in range(6)]
    nodes: list[Any] = []
    errors: list[BootError] = []

    def boot(backend: Any) -> None:
        try:
            nodes.append(backend.boot(REQUEST))
        except BootError as error:
            errors.append(error)

    threads = [threading.Thread(target=boot, args=(backend,)) for backend in backends]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert errors == []
    assert len(nodes) == len(backends)
    (archive,) = host.archives
    assert whole(archive)
    for booted in nodes:
        booted.stop()


def test_a_cache_of_somebody_elses_is_refused(host: Host, make_backend: MakeBackend) -> None:
    """Who could put anything there."""
    if os.getuid() != 0:
        pytest.skip("only root can give a folder away")
    folder = host.cache / "dragonfly_executor"
    folder.mkdir()
    os.chown(folder, 65534, -1)
    assert "no folder of this user's" in str(boot_error(make_backend(host)))
    assert list(folder.iterdir()) == []


def test_a_disk_that_has_no_room_for_the_users_files(
    host: Host, make_backend: MakeBackend, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checklist 56: told in the words of that disk; less is taken, and nothing of the attempt stays."""
    monkeypatch.chdir(tmp_path)
    Path("large.bin").write_bytes(os.urandom(48 << 20))
    Path("small.bin").write_bytes(b"small")
    # Enough for all modules of the tests, which a full run has imported: they are sent, too.
    with small_disk(host.cache, "size=32m"):
        executor = make(make_backend(host, sync=Sync(["large.bin"])), max_boot_failures=1)
        error = error_of(executor.submit(pow, 2, 10))
        assert isinstance(error, BootError)
        assert error.phase == "sync"
        assert "No space left" in str(error)
        assert host.spec in str(error)
        executor.shutdown()
        # A process of that runner holds its files open until it has ended.
        with watching(*host.processes()) as watches:
            assert all_ended(watches)
        sizes = [path.stat().st_size for path in host.cache.rglob("*") if path.is_file() and path.suffix != ".zip"]
        assert sum(sizes) < 1 << 20
        second = make(make_backend(host, sync=Sync(["small.bin"])))
        assert second.submit(lambda: __import__("pathlib").Path("small.bin").read_bytes()).result(PATIENCE) == b"small"
        second.shutdown()


# -- what is odd there -------------------------------------------------------------------------------------------------


def test_a_host_whose_clock_is_wrong(
    make_host: MakeHost, make_backend: MakeBackend, make: Make, tmp_path: Path
) -> None:
    """Checklist 53: by two hours. Only durations are ever told."""
    programs = make_bare_python(tmp_path / "python")
    (packages,) = programs.parent.glob("lib/python*/site-packages")
    ahead = "import time\nreal = time.time\ntime.time = lambda: real() + 7200\n"
    (packages / "sitecustomize.py").write_text(ahead)
    executor = make(make_backend(make_host(programs=[programs])), **QUICK)
    here = __import__("time").time()
    assert executor.submit(lambda: __import__("time").time()).result(PATIENCE) > here + 7000
    assert values(executor.submit(pow, 2, number) for number in range(20)) == [2**number for number in range(20)]
    assert executor.pool.stats().boots_attempted == 1


def test_where_signals_are_ignored_nothing_stays_either(
    make_host: MakeHost, make_backend: MakeBackend, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checklist 4. Whoever starts a command may leave that to it, and then the network falls silent while it boots."""
    monkeypatch.setattr(node, "STOP_TIMEOUT", 0.2)
    host = make_host()
    host.profile("trap '' ALRM HUP PIPE TERM")
    with FaultyConnection(host) as way:
        at_stage(monkeypatch, "bootstrap", way.silence)
        executor = make(make_backend(way), boot_timeout=1.0, max_boot_failures=1)
        assert isinstance(error_of(executor.submit(pow, 2, 10)), BootError)
        nothing_stays(host)


def test_where_nothing_is_allowed_but_a_command(
    make_host: MakeHost, make_backend: MakeBackend, make: Make, mailbox: Mailbox, gate: Gate
) -> None:
    """One session a connection, no terminal, no forwarding of anything; and several runners still."""
    host = make_host(settings=["MaxSessions 1", "DisableForwarding yes", "PermitTTY no", "PermitUserRC no"])
    executor = make(make_backend(host, runners_per_host=2), max=2, max_concurrency=1)
    futures = [executor.submit(hold(mailbox.path, gate.path)) for _ in range(2)]
    agents = {mailbox.read().split()[1] for _ in futures}
    assert len(agents) == 2
    gate.open(2)
    values(futures)


@pytest.mark.parametrize("stage", ["auth", "command", "sync"])
def test_a_host_that_goes_down_while_it_boots_a_runner_is_used_when_it_is_up(
    make_host: MakeHost, make_backend: MakeBackend, make: Make, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """Checklist 56."""
    host = make_host()
    with monkeypatch.context() as patched:
        at_stage(patched, stage, host.stop)
        executor = make(make_backend(host, host_wait=lambda state: 0.0), max_boot_failures=1)
        error = error_of(executor.submit(pow, 2, 10))
    assert isinstance(error, BootError)
    assert host.spec in str(error)
    host.start()
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024


# -- what is on the way ------------------------------------------------------------------------------------------------


def behind(gate: FaultyConnection, host: Host, tmp_path: Path) -> dict[str, Any]:
    """A configuration in which this way leads to a host that has the keys of both."""
    config, known = tmp_path / "config", tmp_path / "known"
    config.write_text(f"Host target\n  HostName {host.address}\n  Port {host.port}\n  ProxyJump {gate.spec}\n")
    known.write_text(gate.known_as + host.known_as)
    return {"config": config, "known_hosts": known}


@pytest.mark.parametrize("fault", ["goes down", "falls silent"])
def test_a_host_on_the_way_that_fails_loses_the_runner_behind_it(
    make_host: MakeHost, make_backend: MakeBackend, make: Make, mailbox: Mailbox, gate: Gate, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, fault: str,
) -> None:  # fmt: skip
    """Checklist 18, 54. The runner behind it goes, too."""
    monkeypatch.setattr(node, "STOP_TIMEOUT", 0.2)
    jump, host = make_host(), make_host()
    with FaultyConnection(jump) as way:
        executor = make(make_backend("target", **behind(way, host, tmp_path), connect_timeout=1.0), **QUICK)
        future = executor.submit(hold_with_family(mailbox.path, gate.path))
        with family(mailbox, host) as watches:
            if fault == "goes down":
                jump.stop()
            else:
                way.silence()
            error = error_of(future)
            assert isinstance(error, RunnerLostError)
            assert "on target" in str(error)
            assert all_ended(watches)
        if fault == "goes down":
            jump.start()
        way.heal()
        assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
        executor.shutdown()
        nothing_stays(host)


def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """On loopback the kernel holds more than SSH sends unasked; on a network that loses packets it holds less."""
    dial = Connector._dial

    def dial_with_small_buffer(*args: Any) -> socket.socket:
        sock = dial(*args)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        return sock

    monkeypatch.setattr(Connector, "_dial", dial_with_small_buffer)


@pytest.mark.parametrize("through", [False, True], ids=["directly", "through another host"])
def test_a_way_that_takes_nothing_more_does_not_hold_up_who_gives_its_runner_back(
    make_host: MakeHost, make_backend: MakeBackend, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    through: bool,
) -> None:  # fmt: skip
    """Checklist 18, 23. A thread is in the middle of sending then, with locks of paramiko's that others need."""
    monkeypatch.setattr(node, "STOP_TIMEOUT", 0.2)
    small_buffers(monkeypatch)
    first, host = make_host(), make_host()
    with FaultyConnection(first) as way:
        way.hold_little()
        options = behind(way, host, tmp_path)
        backend = make_backend("target" if through else way.spec, host, **options, connect_timeout=1.0)
        executor = make(backend, max=1, **QUICK | {"max_concurrency": 100})
        executor.submit(pow, 2, 10).result(PATIENCE)
        way.stick(way.up)
        retried = executor.options(retries=3, retry_wait=lambda state: 0.0)
        futures = [retried.submit(len, os.urandom(60_000)) for _ in range(60)]
        # There may be one runner only: another is booted, on the other host, when this one has been given back.
        assert values(futures, PATIENCE / 2) == [60_000] * 60
        executor.shutdown()


def test_a_program_on_the_way_that_says_nothing_is_given_up_and_ended(
    make_backend: MakeBackend, make: Make, tmp_path: Path
) -> None:
    """ProxyCommand. That it is gone is for the census to say."""
    config = tmp_path / "config"
    config.write_text("Host target\n  ProxyCommand sleep 3600\n")
    error = boot_error(make_backend("target", config=config, connect_timeout=0.3))
    assert error.phase == "connect"
    assert "no answer within 0.3 s" in str(error)
