"""A boot that hangs at any of its steps ends when it is given up, and nothing of it is left.

All waits that a boot has are made endless here: a step that is not cut does not end, and neither does its test.
"""

from __future__ import annotations

import base64
import selectors
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import BootError, BootRequest, Parent, SSHBackend
from dragonfly_executor.backends import child_processes
from dragonfly_executor.backends.base import CancelToken
from dragonfly_executor.backends.ssh import node, paramiko_connect, ssh_agent
from tests.backends.ssh.conftest import Make, MakeBackend, MakeHost
from tests.support.helpers import PATIENCE, Mailbox, all_ended, killing
from tests.support.sshd.faults import STAGES, FaultyConnection, at_stage, nothing_stays
from tests.support.sshd.host import Host, public_half

FOR_EVER = 3600.0
"""Seconds: a test that waits for them does not end."""


@pytest.fixture(autouse=True)
def _endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """No wait ends by itself."""
    for module, name in (
        (node, "STOP_TIMEOUT"),
        (node, "GIVEN_UP_TIMEOUT"),
        (node, "JOIN_TIMEOUT"),
        (paramiko_connect, "JOIN_TIMEOUT"),
        (child_processes, "END_TIMEOUT"),
        (ssh_agent, "LIST_TIMEOUT"),
    ):
        monkeypatch.setattr(module, name, FOR_EVER)


class Boot:
    """A boot on a thread of its own, that is given up when it hangs."""

    def __init__(self, backend: SSHBackend) -> None:
        self.given_up = CancelToken()
        self._backend = backend
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._boot, name="boot", daemon=True)
        self._thread.start()

    def _boot(self) -> None:
        request = BootRequest(1, Parent.new("test", 1, "ssh"), FOR_EVER, self.given_up)
        try:
            self._backend.boot(request).stop()
        except BaseException as error:
            self._error = error

    def give_up(self) -> BootError:
        """Give it up; what it ends with."""
        self.given_up.set()
        return self.error()

    def error(self) -> BootError:
        """What it ends with."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "it was given up, and goes on"
        assert isinstance(self._error, BootError)
        return self._error


@pytest.fixture
def backend(make_backend: MakeBackend) -> Callable[..., SSHBackend]:
    """Backends that wait for as long as it takes."""

    def make(*hosts: Any, **options: Any) -> SSHBackend:
        backend: SSHBackend = make_backend(*hosts, connect_timeout=FOR_EVER, **options)
        return backend

    return make


Backend = Callable[..., SSHBackend]


# -- on the way to the host --------------------------------------------------------------------------------------------


def hanging_program(folder: Path, name: str, mailbox: Mailbox) -> Path:
    """A program that says its process number, and then neither ends nor minds being asked to; with a child."""
    program = folder / name
    lines = ["#!/bin/sh", "trap '' TERM HUP INT", "sleep 3600 &", f"echo $$ $! > {mailbox.path}", "wait", "sleep 3600"]
    program.write_text("\n".join(lines))
    program.chmod(0o755)
    return program


def test_a_lookup(backend: Backend, tmp_path: Path, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    hanging_program(tmp_path, "getent", mailbox)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    boot = Boot(backend("gpu1.test"))
    with killing(*map(int, mailbox.read().split())) as processes:
        assert boot.give_up().phase == "resolve"
        assert all_ended(processes)


def test_a_connect(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full backlog: the kernel answers no SYN."""
    begun = threading.Event()
    select = selectors.DefaultSelector.select
    monkeypatch.setattr(selectors.DefaultSelector, "select", _announcing(select, begun.set))
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for sock in (first, second):
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        boot = Boot(backend(f"127.0.0.1:{listener.getsockname()[1]}"))
        assert boot.give_up().phase == "connect"


@contextmanager
def mute(says: bytes = b"") -> Iterator[tuple[int, threading.Event]]:
    """Something that listens, says this, and nothing after that; its port, and when a client has spoken."""
    heard = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with listener.accept()[0] as sock:
                sock.sendall(says)
                while sock.recv(4096):
                    heard.set()

        thread = threading.Thread(target=serve, name="mute")
        thread.start()
        yield listener.getsockname()[1], heard
        thread.join(PATIENCE)
        assert not thread.is_alive(), "the connection was not ended"


@pytest.mark.parametrize("says", [b"", b"Welcome\r\n", b"SSH-2.0-OpenSSH_9.6\r\n"], ids=["nothing", "line", "banner"])
def test_a_server_that_says_no_more(backend: Backend, says: bytes) -> None:
    with mute(says) as (port, heard):
        boot = Boot(backend(f"127.0.0.1:{port}"))
        assert heard.wait(PATIENCE)
        assert boot.give_up().phase == "connect"


def test_a_proxy_command_that_ignores_signals(
    backend: Backend, tmp_path: Path, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config"
    config.write_text(f"Host gpu1\n  ProxyCommand {hanging_program(tmp_path, 'proxy', mailbox)}\n")
    boot = Boot(backend("gpu1", config=config))
    with killing(*map(int, mailbox.read().split())) as processes:
        assert boot.give_up().phase == "connect"
        assert all_ended(processes)


# -- agents ------------------------------------------------------------------------------------------------------------


@contextmanager
def agent(folder: Path, *answers: bytes) -> Iterator[tuple[Path, threading.Event]]:
    """An agent that gives these answers, and to the next request none; where it is, and when that has come."""
    path, asked = folder / "agent", threading.Event()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)

        def serve() -> None:
            with listener.accept()[0] as sock:
                for answer in answers:
                    sock.recv(65536)
                    sock.sendall(struct.pack(">I", len(answer)) + answer)
                while sock.recv(65536):
                    asked.set()

        thread = threading.Thread(target=serve, name="agent")
        thread.start()
        yield path, asked
        thread.join(PATIENCE)
        assert not thread.is_alive(), "the connection to the agent was not ended"


def list_of(key: Path) -> bytes:
    """An agent's list of one key."""
    blob = base64.b64decode(public_half(key).split()[1])
    return b"\x0c" + struct.pack(">II", 1, len(blob)) + blob + struct.pack(">I", 4) + b"test"


@pytest.mark.parametrize("step", ["list", "signature"])
def test_an_agent_that_does_not_answer(
    host: Host, key: Path, backend: Backend, tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """paramiko signs on the connection's own thread."""
    with agent(tmp_path, *([] if step == "list" else [list_of(key)])) as (path, asked):
        monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
        boot = Boot(backend(host, key_filename=None, use_agent=True))
        assert asked.wait(PATIENCE)
        assert boot.give_up().phase == "auth"
    nothing_stays(host)


def test_an_agent_that_takes_no_connection(
    host: Host, backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "agent"
    monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
    begun = threading.Event()
    monkeypatch.setattr(ssh_agent, "_connect", _announcing(ssh_agent._connect, begun.set))
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(path))
        listener.listen(0)
        first.connect(str(path))
        boot = Boot(backend(host, key_filename=None, use_agent=True))
        assert begun.wait(PATIENCE)
        assert boot.give_up().phase == "auth"


def _announcing(step: Callable[..., Any], announce: Callable[[], object]) -> Callable[..., Any]:
    def announced(*args: Any, **kwargs: Any) -> Any:
        announce()
        return step(*args, **kwargs)

    return announced


# -- the host ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["silence", "stick"])
@pytest.mark.parametrize("stage", ["key exchange", "auth", "session", "command", "bootstrap"])
def test_a_host_that_falls_silent(
    way: FaultyConnection, backend: Backend, stage: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers no more, or takes no more bytes either."""
    begun = threading.Event()

    def fall_silent() -> None:
        way.silence() if fault == "silence" else way.stick(way.up)
        begun.set()

    at_stage(monkeypatch, stage, fall_silent)
    boot = Boot(backend(way))
    assert begun.wait(PATIENCE)
    assert boot.give_up().phase in STAGES[stage][1]
    # Nothing that the parent does gets through to the host. Its end of the connection ends when the network says so.
    way.cut()
    nothing_stays(way.host)


@pytest.mark.parametrize("stage", ["key exchange", "auth", "session", "command"])
def test_a_host_on_the_way_that_falls_silent(
    way: FaultyConnection, backend: Backend, host: Host, tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each step on the host itself, and on the host that it is reached through."""
    config = tmp_path / "config"
    config.write_text(f"Host gpu1\n  HostName {host.address}\n  Port {host.port}\n  ProxyJump {way.spec}\n")
    known = tmp_path / "known"
    known.write_text(way.known_as + host.known_as)
    for connection in (1, 2):
        if connection == 2 and stage in ("key exchange", "auth"):
            continue
        with monkeypatch.context() as patched:
            begun = threading.Event()
            at_stage(patched, stage, lambda: (way.silence(), begun.set()))  # noqa: B023
            boot = Boot(backend("gpu1", config=config, known_hosts=known))
            assert begun.wait(PATIENCE)
            boot.give_up()
        way.cut()
        way.heal()
        nothing_stays(host)


def test_a_way_through_a_host_that_is_not_answered(backend: Backend, host: Host, tmp_path: Path) -> None:
    """The host on the way is well, and waits for its own connect."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for sock in (first, second):
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        config = tmp_path / "config"
        port = listener.getsockname()[1]
        config.write_text(f"Host gpu1\n  HostName 127.0.0.1\n  Port {port}\n  ProxyJump {host.spec}\n")
        known = tmp_path / "known"
        known.write_text(host.known_as)
        begun = threading.Event()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(
                paramiko_connect.Connector,
                "_channel_through",
                _announcing(paramiko_connect.Connector._channel_through, begun.set),
            )
            boot = Boot(backend("gpu1", config=config, known_hosts=known))
            assert begun.wait(PATIENCE)
            assert boot.give_up().phase == "connect"


def test_a_shell_that_never_comes_to_the_command(host: Host, backend: Backend, mailbox: Mailbox) -> None:
    host.profile(f"echo here > {mailbox.path}; read -r line")
    boot = Boot(backend(host))
    assert mailbox.read() == "here"
    assert boot.give_up().phase == "bootstrap"
    nothing_stays(host)


def test_a_runner_that_never_says_hello(
    way: FaultyConnection, make: Make, make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backend has done its part, and the pool gives its node back: the runner has a second to end by itself."""
    monkeypatch.setattr(node, "GIVEN_UP_TIMEOUT", 0.2)
    monkeypatch.setattr(node, "JOIN_TIMEOUT", PATIENCE)
    silent = threading.Event()
    at_stage(monkeypatch, "handshake", lambda: (way.silence(), silent.set()))
    executor = make(make_backend(way), boot_timeout=FOR_EVER)
    call = executor.submit(pow, 2, 10)
    assert silent.wait(PATIENCE)
    assert call.cancel()
    executor.shutdown()
    way.cut()
    nothing_stays(way.host)


def test_leaving_a_block_while_a_host_does_not_answer(host: Host, make: Make, make_backend: MakeBackend) -> None:
    """As the first users saw it: two hosts, one of which is mute."""
    with mute() as (port, heard):
        backend = make_backend(f"127.0.0.1:{port}", host, connect_timeout=FOR_EVER)
        with make(backend, max_concurrency=1, boot_timeout=2 * FOR_EVER) as executor:
            assert [future.result(PATIENCE) for future in [executor.submit(abs, -i) for i in range(4)]] == [0, 1, 2, 3]
            assert heard.wait(PATIENCE)
    nothing_stays(host)


def test_a_host_whose_boot_was_given_up_has_not_failed(
    make_host: MakeHost, make_backend: MakeBackend, caplog: pytest.LogCaptureFixture, mailbox: Mailbox
) -> None:
    """The next boot goes there as if nothing had been, and no warning says that something is wrong with it."""
    host = make_host()
    host.profile(f"echo here > {mailbox.path}; read -r line")
    backend = make_backend(host)
    boot = Boot(backend)
    assert mailbox.read() == "here"
    assert "given up" in str(boot.give_up())
    assert caplog.text == ""
    host.profile("")
    backend.boot(BootRequest(1, Parent.new("test", 1, "ssh"), PATIENCE)).stop()


def test_what_was_given_up_before_it_began_goes_nowhere(host: Host, backend: Backend) -> None:
    given_up = CancelToken()
    given_up.set()
    with pytest.raises(BootError, match="given up"):
        backend(host).boot(BootRequest(1, Parent.new("test", 1, "ssh"), FOR_EVER, given_up))
    assert not any("Connection from" in line for line in host.log)
    assert host.archives == []
