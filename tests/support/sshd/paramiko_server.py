"""An SSH server of paramiko's own, for what a real one cannot be made to show: passwords, and what it was shown."""

from __future__ import annotations

import socket
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import paramiko

from tests.support.sshd.host import public_half


class PasswordServer(paramiko.ServerInterface):
    """Takes one password, and runs commands in a folder as their home.

    Attributes:
        shown: what clients have tried to be let in with, as (method, text).
    """

    def __init__(self, folder: Path, key: Path, password: str, path: str) -> None:
        self.shown: list[tuple[str, str]] = []
        self.commands: list[str] = []
        self._password = password
        self._environment = {"HOME": str(folder), "PATH": path}
        self._folder = folder
        self._key = paramiko.PKey.from_path(key)
        self.known_as_key = public_half(key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._transports: list[paramiko.Transport] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    @property
    def known_as(self) -> str:
        """Its line in a known_hosts file."""
        return f"[127.0.0.1]:{self.port} {self.known_as_key}\n"

    def _start(self, target: Any, *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, name="password-server", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            transport = paramiko.Transport(sock)
            transport.set_log_channel("dragonfly_executor.paramiko")
            transport.add_server_key(self._key)
            self._transports.append(transport)
            transport.start_server(threading.Event(), server=self)

    def close(self) -> None:
        """End everything."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for transport in self._transports:
            transport.close()
            transport.join(5.0)
        for thread in self._threads:
            thread.join(5.0)

    # -- what paramiko asks -------------------------------------------------------------------------------------------

    def get_allowed_auths(self, username: str) -> str:
        return "publickey,password"

    def check_auth_password(self, username: str, password: str) -> int:
        self.shown.append(("password", password))
        return paramiko.AUTH_SUCCESSFUL if password == self._password else paramiko.AUTH_FAILED

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        self.shown.append(("publickey", key.get_base64()))
        return paramiko.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self.commands.append(command.decode())
        process = subprocess.Popen(
            ["/bin/sh", "-c", command.decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd=self._folder,
            env=self._environment,
        )
        self._start(self._pump_in, channel, process)
        self._start(self._pump_out, channel, process)
        return True

    def _pump_in(self, channel: paramiko.Channel, process: Any) -> None:
        with process.stdin:
            try:
                while data := channel.recv(65536):
                    process.stdin.write(data)
            except OSError:
                return

    def _pump_out(self, channel: paramiko.Channel, process: Any) -> None:
        with process.stdout:
            try:
                while data := process.stdout.read(65536):
                    channel.sendall(data)
                channel.send_exit_status(process.wait())
            except OSError:
                process.wait()
        with suppress(EOFError):  # the connection is gone already
            channel.close()
