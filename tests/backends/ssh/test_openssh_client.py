"""`SSHBackend(client="openssh")`: what the installed ssh can do counts, and what it says is in our errors."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import (
    BootError,
    BootRequest,
    HostKeyError,
    Parent,
    RunnerLostError,
    SSHBackend,
)
from dragonfly_executor.backends import child_processes
from dragonfly_executor.runner.process_tree import children
from tests.backends.ssh.calls import hold, hold_with_family, variable
from tests.backends.ssh.conftest import Make, MakeBackend, MakeHost, family
from tests.support.helpers import PATIENCE, Gate, Mailbox, all_ended, error_of, kill_and_wait, watching
from tests.support.sshd.faults import FaultyConnection, nothing_stays
from tests.support.sshd.host import Host, descendants, find, make_key, public_half

REQUEST = BootRequest(1, Parent.new("test", 1, "ssh"), PATIENCE)


@pytest.fixture
def backend(make_backend: MakeBackend) -> Callable[..., SSHBackend]:
    """Backends with this client."""
    return lambda *hosts, **options: make_backend(*hosts, client="openssh", **options)


Backend = Callable[..., SSHBackend]


def boot_error(backend: SSHBackend, kind: type[BootError] = BootError) -> BootError:
    """What a boot ends with."""
    with pytest.raises(kind) as caught:
        backend.boot(REQUEST).stop()
    return caught.value


def clients() -> list[int]:
    """The processes of ssh that this one has."""
    found = []
    for pid in descendants(os.getpid()):
        with suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().strip() == "ssh":
                found.append(pid)
    return found


# -- what it can do ----------------------------------------------------------------------------------------------------


def test_a_connection_is_encrypted_with_aes_gcm(host: Host, backend: Backend) -> None:
    node = backend(host).boot(REQUEST)
    try:
        (client,) = clients()
        words = Path(f"/proc/{client}/cmdline").read_text().split("\0")
        assert [word for word in words if word.startswith("Ciphers=aes128-gcm@openssh.com,")]
    finally:
        node.stop()


def test_a_host_is_known_by_its_certificate(make_host: MakeHost, backend: Backend, make: Make, tmp_path: Path) -> None:
    """paramiko knows no certificates of hosts: there, such a line is named in the error."""
    authority = make_key(tmp_path / "authority")
    host = make_host(started=False, settings=[f"HostCertificate {tmp_path}/host-1/host_key-cert.pub"])
    sign = [
        str(find("ssh-keygen")),
        "-q",
        "-s",
        str(authority),
        "-I",
        "host",
        "-h",
        "-n",
        "127.0.0.1",
        f"{host.key}.pub",
    ]
    subprocess.run(sign, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    host.start()
    known = tmp_path / "known"
    known.write_text(f"@cert-authority * {public_half(authority)}\n")
    executor = make(backend(host.spec, known_hosts=known))
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024


def test_a_master_that_is_there_is_used(host: Host, backend: Backend, make: Make, key: Path, tmp_path: Path) -> None:
    """ControlMaster: no second login. The runner's end is not the master's."""
    known, config, path = tmp_path / "known", tmp_path / "config", tmp_path / "master"
    known.write_text(host.known_as)
    config.write_text(
        f"Host gpu1\n  HostName {host.address}\n  Port {host.port}\n  IdentityFile {key}\n  ControlPath {path}\n"
        f"  UserKnownHostsFile {known}\n  ControlMaster auto\n  ControlPersist yes\n"
    )
    options = ["-F", str(config), "-o", "BatchMode=yes", "-o", "ControlPersist=no"]
    master = subprocess.Popen(
        [str(find("ssh")), *options, "-T", "gpu1", "echo up; read -r line"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert master.stdout
        assert master.stdout.readline() == "up\n"
        backed = SSHBackend(["gpu1"], client="openssh", config=config, sync=None)
        with make(backed) as executor:
            assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
        assert master.poll() is None
        assert sum("Accepted publickey" in line for line in host.log) == 1
    finally:
        master.communicate("")
    # And it becomes none.
    with make(SSHBackend(["gpu1"], client="openssh", config=config, sync=None)) as executor:
        assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
        assert not path.exists()


def test_the_way_leads_through_another_host(
    make_host: MakeHost, backend: Backend, make: Make, key: Path, tmp_path: Path
) -> None:
    gate, host = make_host(), make_host()
    known, config = tmp_path / "known", tmp_path / "config"
    known.write_text(gate.known_as + host.known_as)
    config.write_text(
        f"Host gate\n  HostName {gate.address}\n  Port {gate.port}\n  IdentityFile {key}\n"
        f"  UserKnownHostsFile {known}\n"
        f"Host gpu1\n  HostName {host.address}\n  Port {host.port}\n  ProxyJump gate\n"
    )
    executor = make(backend("gpu1", config=config, known_hosts=known))
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
    assert any("Accepted publickey" in line for line in gate.log)
    executor.shutdown()
    assert clients() == []


@pytest.mark.parametrize("connect", ["channel", "direct"])
def test_variables_and_tokens_are_in_no_command_line(
    host: Host, backend: Backend, make: Make, mailbox: Mailbox, gate: Gate, connect: str
) -> None:
    """Checklist 57."""
    executor = make(backend(host, env={"TOKEN": "canary"}, connect=connect), max_concurrency=1)
    assert executor.submit(variable("TOKEN")).result(PATIENCE) == "canary"
    future = executor.submit(hold(mailbox.path, gate.path))
    mailbox.read()
    lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in (*clients(), *host.processes())]
    assert len(clients()) == 1
    assert not any(b"canary" in line for line in lines)
    gate.open()
    future.result(PATIENCE)


def test_large_payloads_come_back_whole(host: Host, backend: Backend, make: Make) -> None:
    payload = os.urandom(20 << 20)
    assert make(backend(host)).submit(lambda data: data, payload).result(PATIENCE) == payload


def test_a_chatty_profile_is_no_link(host: Host, backend: Backend, make: Make) -> None:
    host.profile("echo welcome; printf 'no end of line'")
    assert make(backend(host)).submit(pow, 2, 10).result(PATIENCE) == 1024


def test_a_server_that_refuses_logins_is_asked_again(
    make_host: MakeHost, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    host = make_host(settings=["MaxStartups 1"])
    booter = backend(host, runners_per_host=4)
    with ThreadPoolExecutor(4) as threads:
        requests = [REQUEST._replace(runner_id=number) for number in range(4)]
        nodes = list(threads.map(booter.boot, requests))
        list(threads.map(lambda node: node.stop(), nodes))
    assert any("MaxStartups" in line for line in host.log), "it refused nothing"
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


# -- what it says ------------------------------------------------------------------------------------------------------


def test_an_unknown_host_is_refused_whatever_the_configuration_says(
    host: Host, backend: Backend, tmp_path: Path
) -> None:
    config = tmp_path / "config"
    config.write_text("Host *\n  StrictHostKeyChecking no\n")
    (tmp_path / "empty").write_text("")
    booter = backend(host.spec, known_hosts=tmp_path / "empty", config=config)
    error = boot_error(booter, HostKeyError)
    assert error.phase == "host key"
    assert "Host key verification failed" in str(error)
    assert host.spec in str(error)
    assert (tmp_path / "empty").read_text() == ""


def test_a_key_that_has_changed_is_refused(make_host: MakeHost, backend: Backend) -> None:
    host = make_host(started=False)
    booter = backend(host)
    host.change_key()
    host.start()
    assert "IDENTIFICATION HAS CHANGED" in str(boot_error(booter, HostKeyError))


def test_any_key_will_do_if_that_is_asked_for(host: Host, backend: Backend, make: Make, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    booter = backend(host.spec, known_hosts=tmp_path / "empty", insecure_accept_any_host_key=True)
    assert make(booter).submit(pow, 2, 10).result(PATIENCE) == 1024


def test_a_host_that_lets_nobody_in(host: Host, backend: Backend) -> None:
    (host.folder / "authorized_keys").write_text("")
    error = boot_error(backend(host))
    assert (error.phase, "Permission denied" in str(error)) == ("auth", True)
    assert "Permission denied" in error.output


def test_a_host_that_is_down(make_host: MakeHost, backend: Backend) -> None:
    error = boot_error(backend(make_host(started=False)))
    assert (error.phase, "Connection refused" in str(error)) == ("connect", True)


def test_a_name_without_an_address(backend: Backend) -> None:
    error = boot_error(backend("a" * 64))
    assert (error.phase, "Could not resolve" in str(error)) == ("resolve", True)


def test_a_host_without_python(make_host: MakeHost, backend: Backend) -> None:
    assert boot_error(backend(make_host(programs=[]))).phase == "python"


def test_what_a_shell_says_is_not_ssh_s_own(host: Host, backend: Backend) -> None:
    """Its words may be the same."""
    host.profile("echo Permission denied >&2; exit 3")
    error = boot_error(backend(host))
    assert error.phase == "bootstrap"
    assert "ended the command before anything ran" in str(error)
    assert error.output == "Permission denied"


@pytest.mark.parametrize("option", [{"password": "canary"}, {"passphrase": "canary"}, {"host_key": "ssh-ed25519 AAAA"}])
def test_what_could_be_told_in_a_command_line_only_is_refused(backend: Backend, option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match='client="openssh" takes no') as caught:
        backend("gpu1", **option)
    assert "canary" not in str(caught.value)


def test_without_an_ssh_the_client_is_refused(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="needs the program ssh"):
        backend("gpu1")
    with pytest.raises(ValueError, match="client must be one of"):
        SSHBackend(["gpu1"], client="putty")


PROGRAM = """
import sys
sys.modules["paramiko"] = None
from dragonfly_executor import DragonflyExecutor, SSHBackend
spec, known, key = sys.argv[1:]
backend = SSHBackend(
    [spec], client="openssh", key_filename=key, known_hosts=known, config=None, sync=None, use_agent=False
)
with DragonflyExecutor(backend=backend, max_concurrency=1) as executor:
    print(executor.submit(pow, 2, 10).result())
"""


def test_paramiko_is_not_needed(host: Host, key: Path, tmp_path: Path) -> None:
    known = tmp_path / "known"
    known.write_text(host.known_as)
    command = [sys.executable, "-c", PROGRAM, host.spec, str(known), str(key)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.stdout, done.stderr) == ("1024\n", "")


# -- the end -----------------------------------------------------------------------------------------------------------


def test_an_ssh_that_is_killed_is_a_lost_runner_and_nothing_stays(
    host: Host, backend: Backend, make: Make, mailbox: Mailbox, gate: Gate
) -> None:
    executor = make(backend(host))
    future = executor.submit(hold_with_family(mailbox.path, gate.path))
    with family(mailbox, host) as watches:
        (client,) = clients()
        os.kill(client, signal.SIGKILL)
        assert isinstance(error_of(future), RunnerLostError)
        assert all_ended(watches)
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024


def test_an_ssh_that_ends_while_calls_run_over_a_connection_of_their_own_is_told(
    host: Host, backend: Backend, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    executor = make(backend(host, connect="direct"))
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
    (client,) = clients()
    kill_and_wait(client)
    assert executor.submit(pow, 2, 11).result(PATIENCE) == 2048
    executor.shutdown()
    assert f"the SSH connection to {host.spec} broke" in caplog.text


def test_an_ssh_that_ignores_its_end_is_killed(
    host: Host, backend: Backend, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what it has started, a ProxyCommand above all."""
    monkeypatch.setattr(child_processes, "END_TIMEOUT", 0.1)
    fake, real = tmp_path / "bin" / "ssh", find("ssh")
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\ntrap \'\' TERM HUP INT\n[ $1 = -G ] && exec {real} "$@"\n{real} "$@"\nsleep 3600\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(fake.parent), prepend=":")
    monkeypatch.setattr("dragonfly_executor.backends.ssh.node.STOP_TIMEOUT", 0.5)
    before = set(children(os.getpid()))
    executor = make(backend(host))
    assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
    (client,) = set(children(os.getpid())) - before
    with watching(client, *descendants(client)) as watches:
        assert len(watches) == 2
        executor.shutdown()
        assert all_ended(watches)


def test_a_link_that_breaks_is_a_lost_runner(
    host: Host, backend: Backend, make: Make, mailbox: Mailbox, gate: Gate
) -> None:
    with FaultyConnection(host) as way:
        executor = make(backend(way))
        future = executor.submit(hold_with_family(mailbox.path, gate.path))
        with family(mailbox, host) as watches:
            way.cut_after(way.down, 0, abrupt=True)
            way.cut_after(way.up, 0, abrupt=True)
            gate.open(1)
            assert isinstance(error_of(future), RunnerLostError)
            assert all_ended(watches)
        way.heal()
        executor.shutdown()
    nothing_stays(host)


@pytest.mark.parametrize("fork", [[], ["fork"]], ids=["alone", "with a fork that keeps its descriptors"])
def test_when_the_parent_is_killed_nothing_stays_here_or_there(
    program: Any, host: Host, mailbox: Mailbox, fork: list[str]
) -> None:
    parent = program(3600.0, *fork, connect="openssh")
    with family(mailbox, host) as watches:
        (client,) = clients()
        with watching(client) as here:
            os.kill(parent.pid, signal.SIGKILL)
            assert all_ended([*watches, *here])
