"""Asks the pools of this user's programs over their Unix sockets."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

from dragonfly_executor.engine.observing import runtime_directory
from dragonfly_executor.engine.observing.status_report import VERSION

TIMEOUT = 2.0
"""Seconds to wait for an answer. A program that is stopped (SIGSTOP) does not answer."""
MAX_ANSWER = 64 * 1024 * 1024
"""Maximum number of bytes of an answer."""


class StatusError(Exception):
    """A pool cannot be asked, or refuses; the text says why."""


class PoolAddress:
    """The socket of one pool.

    Args:
        path: the socket.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        pid = path.name.partition("-")[0]
        self.pid = int(pid) if pid.isdigit() else 0

    def ask(self, request: Mapping[str, Any], timeout: float = TIMEOUT) -> dict[str, Any]:
        """Return the answer to a request.

        Raises:
            FileNotFoundError, ConnectionError: the pool has ended.
            StatusError: it does not answer in time, or refuses.
        """
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(timeout)
                connection.connect(str(self.path))
                connection.sendall(json.dumps(request).encode() + b"\n")
                answer = json.loads(_line(connection))
        except TimeoutError:
            raise StatusError(f"process {self.pid} has not answered for {timeout:g} s: it may be stopped") from None
        except BlockingIOError:
            raise StatusError(f"process {self.pid} accepts no more clients") from None
        except ValueError as error:
            raise StatusError(f"process {self.pid} has sent no valid answer: {error}") from None
        if not isinstance(answer, dict):
            raise StatusError(f"process {self.pid} has sent no valid answer")
        if "error" in answer:
            raise StatusError(str(answer["error"]))
        return answer


def _line(connection: socket.socket) -> bytes:
    received = bytearray()
    while not received.endswith(b"\n"):
        data = connection.recv(256 * 1024)
        if not data:
            raise ConnectionError("the pool has hung up")
        received += data
        if len(received) > MAX_ANSWER:
            raise StatusError(f"an answer has more than {MAX_ANSWER} bytes")
    return bytes(received)


def addresses() -> Iterator[PoolAddress]:
    """Yield the sockets of all pools of this user. Folders and sockets of other users are passed over."""
    for directory in runtime_directory.directories():
        try:
            runtime_directory.check(directory)
            paths = sorted(Path(directory).iterdir())
        except OSError:
            continue
        for path in paths:
            with suppress(OSError):
                found = path.lstat()
                is_own = stat.S_ISSOCK(found.st_mode) and found.st_uid == os.geteuid()
                if is_own and path.suffix == runtime_directory.SOCKET:
                    yield PoolAddress(path)


class Answers:
    """The answers of all pools to one request.

    Attributes:
        reports: the status of each pool, with its address.
        silent: for each pool that does not answer, why.
    """

    def __init__(self) -> None:
        self.reports: list[tuple[PoolAddress, dict[str, Any]]] = []
        self.silent: list[str] = []


def ask_all(timeout: float = TIMEOUT) -> Answers:
    """Ask all pools for their status at once. The sockets of programs that were killed are removed."""
    asked = [(address, _asked(address, timeout)) for address in addresses()]
    answers = Answers()
    for address, future in asked:
        try:
            report = future.result()
            if report.get("version") == VERSION:
                answers.reports.append((address, report))
            else:
                found = report.get("version")
                answers.silent.append(f"process {address.pid} reports in version {found}, this command in {VERSION}")
        except ConnectionRefusedError:
            runtime_directory.remove_stale(str(address.path))
        except (FileNotFoundError, ConnectionError):
            continue  # it has ended meanwhile
        except (OSError, StatusError) as error:
            answers.silent.append(f"{address.path}: {error}")
    answers.reports.sort(key=lambda each: (each[1].get("pid", 0), str(each[0].path)))
    return answers


def _asked(address: PoolAddress, timeout: float) -> Future[dict[str, Any]]:
    """Ask a pool on a thread, so that a program that is stopped does not delay the others."""
    future: Future[dict[str, Any]] = Future()

    def ask() -> None:
        """Ask, and keep the answer or the error."""
        try:
            future.set_result(address.ask({"ask": "status"}, timeout))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=ask, name=f"dragonfly-ask-{address.pid}", daemon=True).start()
    return future
