"""The connection to a host, below SSH."""

from __future__ import annotations

import os
import socket

import pytest

from dragonfly_executor.backends.ssh.config import Config
from dragonfly_executor.backends.ssh.hosts import SSHHost
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
