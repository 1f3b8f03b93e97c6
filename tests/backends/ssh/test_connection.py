"""The connection to a host, below SSH."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import paramiko
import pytest

from dragonfly_executor import BootError, BootRequest, Parent
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.ssh.config import SSHConfig
from dragonfly_executor.backends.ssh.hosts import SSHHost
from dragonfly_executor.backends.ssh.node import StderrReader
from dragonfly_executor.backends.ssh.paramiko_connect import SSHConnection
from dragonfly_executor.backends.ssh.paramiko_session import ChannelSession, ChannelStream
from dragonfly_executor.backends.ssh.proxies import QUICK_ACK, ProxyProgram, QuickAckSocket
from tests.backends.ssh.conftest import MakeBackend
from tests.support.helpers import PATIENCE
from tests.support.sshd.host import Host


def test_what_a_host_sends_is_acknowledged_at_once() -> None:
    """sshd holds the next small packet back until then."""
    if QUICK_ACK is None:
        pytest.skip("this system cannot be told to")
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as plain:
        plain.settimeout(5.0)
        with QuickAckSocket(plain) as prompt, listener.accept()[0] as host:
            assert plain.fileno() == -1
            assert prompt.gettimeout() == 5.0
            # To send and to receive by turns is what makes the kernel wait.
            for _ in range(5):
                prompt.sendall(b"?")
                assert host.recv(1) == b"?"
                host.sendall(b"!")
                assert prompt.recv(1) == b"!"
                assert prompt.getsockopt(socket.IPPROTO_TCP, QUICK_ACK) == 1


def test_a_program_on_the_way_is_ended_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it has been waited for its number may be that of somebody else's process group."""
    target = SSHConfig(None).resolve(SSHHost("host"))._replace(proxy_command="sleep 60")
    killed: list[bool] = []
    killpg = os.killpg

    def record(group: int, number: int) -> None:
        # It fails for a process that was waited for. This does not wait for it.
        killed.append(os.waitid(os.P_PID, group, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None)
        killpg(group, number)

    monkeypatch.setattr("os.killpg", record)
    proxy = ProxyProgram(target)
    proxy.close()
    assert killed
    killed.clear()
    proxy.close()
    proxy.abandon()
    assert killed == []


class BrokenTransport:
    """What a channel stands on, once nothing can be sent there."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def get_log_channel(self) -> str:
        return "paramiko"

    def _send_user_message(self, message: paramiko.Message) -> None:
        raise self._error


@pytest.fixture(params=[EOFError(), paramiko.SSHException("Key-exchange timed out")], ids=["end", "key exchange"])
def deaf(request: pytest.FixtureRequest) -> paramiko.Channel:
    """A channel with bytes to read, more than fit its window: to read them is to tell the host so, and that fails."""
    channel = paramiko.Channel(0)
    channel._set_transport(BrokenTransport(request.param))  # type: ignore[arg-type]
    channel._set_window(1024, 1024)
    channel.remote_chanid, channel.active = 0, True
    return channel


def test_a_connection_that_breaks_while_bytes_are_read_is_a_link_that_ends(deaf: paramiko.Channel) -> None:
    """Nothing of paramiko's gets out, whatever it was about when the connection went."""
    deaf._feed(b"x" * 1024)
    with pytest.raises(ConnectionError, match=r"^the connection is gone: (EOFError|Key-exchange timed out)$"):
        ChannelStream(deaf, Deadline(5.0)).recv(1024)


def test_a_connection_that_breaks_while_stderr_is_read_ends_its_reader(deaf: paramiko.Channel) -> None:
    """Its thread ends, and says that it has."""
    deaf.in_stderr_buffer.feed(b"x" * 1024)
    ended = threading.Event()
    connection = SSHConnection(SSHConfig(None).resolve(SSHHost("host")), None, None)  # type: ignore[arg-type]
    reader = StderrReader(ChannelSession(connection, deaf, Deadline(5.0)).read_stderr, "host")
    reader.pass_on(ended.set)
    assert ended.wait(5.0)
    assert reader.join(5.0)


def test_a_connection_that_breaks_right_after_the_keys_were_agreed_on_is_a_boot_error(
    host: Host, make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which other hosts are tried after; what is paramiko's own says nothing of that."""

    def gone(transport: paramiko.Transport) -> paramiko.PKey:
        raise paramiko.SSHException("No existing session")

    monkeypatch.setattr(paramiko.Transport, "get_remote_server_key", gone)
    with pytest.raises(BootError, match="No existing session") as caught:
        make_backend(host).boot(BootRequest(1, Parent.new("test", 1, "ssh"), PATIENCE))
    assert caught.value.phase == "connect"


# -- the end of the interpreter ----------------------------------------------------------------------------------------

PROGRAM = """
import sys
from dragonfly_executor import DragonflyExecutor, SSHBackend
spec, known, key, connect, when = sys.argv[1:]
backend = SSHBackend(
    [spec], known_hosts=known, key_filename=key, config=None, use_agent=False, sync=None, connect=connect
)
future = DragonflyExecutor(backend=backend, max_concurrency=1).submit(pow, 2, 10)
future.add_done_callback(lambda future: print(future.result()))
if when == "after":
    future.result()
"""


@pytest.mark.parametrize(("when", "connect"), [("before", "channel"), ("after", "channel"), ("after", "direct")])
def test_a_program_ends_and_gives_its_runners_back(
    host: Host, key: Path, tmp_path: Path, when: str, connect: str
) -> None:
    """Before its call has run, or after that. Python 3.12 starts no threads any more then, and others do."""
    if when == "before" and sys.version_info[:2] == (3, 12):
        pytest.skip("what speaks SSH has a thread for each connection, and here none can be started then")
    known = tmp_path / "known"
    known.write_text(host.known_as)
    command = [sys.executable, "-c", PROGRAM, host.spec, str(known), str(key), connect, when]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, cwd=tmp_path)
    assert (done.stdout, done.stderr, done.returncode) == ("1024\n", "", 0)
