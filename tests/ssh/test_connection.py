"""The connection to a host, below SSH."""

from __future__ import annotations

import os
import socket
import threading

import paramiko
import pytest

from dragonfly_executor.backends.ssh.config import Config
from dragonfly_executor.backends.ssh.deadline import Deadline
from dragonfly_executor.backends.ssh.hosts import SSHHost
from dragonfly_executor.backends.ssh.node import ChannelStream, StderrReader
from dragonfly_executor.backends.ssh.ways import QUICK_ACK, PromptSocket, Proxy


def test_what_a_host_sends_is_acknowledged_at_once() -> None:
    """sshd holds the next small packet back until then."""
    if QUICK_ACK is None:
        pytest.skip("this system cannot be told to")
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as plain:
        plain.settimeout(5.0)
        with PromptSocket(plain) as prompt, listener.accept()[0] as host:
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
    target = Config(None).resolve(SSHHost("host"))._replace(proxy_command="sleep 60")
    killed: list[int] = []
    killpg = os.killpg

    def record(group: int, number: int) -> None:
        killed.append(group)
        killpg(group, number)

    monkeypatch.setattr("os.killpg", record)
    proxy = Proxy(target)
    proxy.close()
    proxy.close()
    assert len(killed) == 1


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
    reader = StderrReader(deaf, "host")
    reader.pass_on(ended.set)
    assert ended.wait(5.0)
    assert reader.join(5.0)
