"""The runner's side: it tries until its time is over, tells nobody else anything, and goes when it is refused."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from contextlib import closing
from typing import Any

import pytest

from dragonfly_executor.protocol.parent import Parent
from dragonfly_executor.runner import exit_codes
from tests.processes.dialback.conftest import Receive
from tests.support.dialback import dial, plain, start_runner
from tests.support.helpers import PATIENCE

ADDRESSLESS = Parent("pool", 1, "held", 1, "host")


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Its exit status and what it said on stderr."""
    with process:
        _, said = process.communicate(timeout=PATIENCE)
    return process.returncode, said.decode()


def run(parent: Parent, *arguments: str, **options: Any) -> tuple[int, str]:
    return ended(start_runner(parent, *arguments, stderr=subprocess.PIPE, **options))


def taken_port() -> tuple[socket.socket, int]:
    sock = socket.create_server(("127.0.0.1", 0))
    return sock, sock.getsockname()[1]


def test_a_runner_joins_and_ends_with_its_connection(receive: Receive) -> None:
    reception = receive()
    process = start_runner(reception.expect(), stderr=subprocess.PIPE)
    assert reception.joined.get(timeout=PATIENCE) == 1
    sock = reception.take()
    assert sock is not None
    sock.close()
    assert ended(process) == (0, "")


def test_a_parent_that_is_late_is_waited_for(receive: Receive) -> None:
    """There are only connections that end at once, before there is one that leads to the parent."""
    reception = receive()
    real = reception.expect()
    door, port = taken_port()
    with door:
        late = real._replace(address=f"127.0.0.1:{port}")
        process = start_runner(late, "--failsafe", "60", stderr=subprocess.PIPE)
        for _ in range(3):
            door.accept()[0].close()
        with door.accept()[0] as theirs, plain(real) as ours:
            pumps = [threading.Thread(target=pump, args=ends) for ends in ((theirs, ours), (ours, theirs))]
            for thread in pumps:
                thread.start()
            assert reception.joined.get(timeout=PATIENCE) == 1
            sock = reception.take()
            assert sock is not None
            sock.close()
            assert ended(process) == (0, "")
            for thread in pumps:
                thread.join()


def pump(source: socket.socket, target: socket.socket) -> None:
    """Hand on what comes, and its end, of whatever kind."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def test_a_runner_without_a_parent_gives_up_when_its_failsafe_ends() -> None:
    """Nothing is billed for ever."""
    taken, port = taken_port()
    taken.close()
    parent = ADDRESSLESS._replace(address=f"127.0.0.1:{port}", fingerprint="00" * 32, token="00" * 32)
    status, said = run(parent, "--failsafe", "0.3")
    assert status == exit_codes.UNREACHABLE
    assert f"could not reach the parent at 127.0.0.1:{port} within 0.3 s" in said
    assert "Connection refused" in said
    assert "Traceback" not in said


def test_a_parent_that_never_answers_does_not_keep_a_runner() -> None:
    taken, port = taken_port()
    with taken:
        parent = ADDRESSLESS._replace(address=f"127.0.0.1:{port}", fingerprint="00" * 32, token="00" * 32)
        status, said = run(parent, "--failsafe", "0.3")
    assert status == exit_codes.UNREACHABLE
    assert "could not reach the parent" in said


def test_a_runner_that_comes_too_late_is_refused_and_ends(receive: Receive) -> None:
    """Long before its failsafe, while the door is still open for others."""
    reception = receive()
    late, other = reception.expect(1), reception.expect(2)
    reception.forget(1)
    status, said = run(late, "--failsafe", "600")
    assert status == exit_codes.REFUSED
    assert said == "dragonfly runner: the parent does not expect this runner, or no longer does\n"
    with closing(dial(other).go().sock):
        assert reception.joined.get(timeout=PATIENCE) == 2


def test_whoever_has_another_certificate_is_told_nothing(receive: Receive) -> None:
    """Checklist 2: an impostor at the parent's address."""
    reception = receive()
    parent = reception.expect()
    status, said = run(parent._replace(fingerprint="00" * 32), "--failsafe", "2")
    assert status == exit_codes.UNREACHABLE
    assert "the certificate at the parent's address is not the parent's" in said
    assert "closed before it had authenticated" in reception.warnings.get(timeout=PATIENCE)


def test_whoever_has_the_certificate_and_not_the_token_is_not_believed(receive: Receive) -> None:
    """Checklist 2: then it is refused itself, and the runner does not go on."""
    reception = receive()
    status, said = run(reception.expect()._replace(token="00" * 32))
    assert status == exit_codes.REFUSED
    assert "does not expect this runner" in said


@pytest.mark.parametrize(
    "parent",
    [
        ADDRESSLESS,
        ADDRESSLESS._replace(address="127.0.0.1:1", fingerprint="00" * 32),
        ADDRESSLESS._replace(address="127.0.0.1:1", token="00" * 32),
        ADDRESSLESS._replace(address="nowhere", fingerprint="00" * 32, token="00" * 32),
        ADDRESSLESS._replace(address="127.0.0.1:1", fingerprint="no number", token="00" * 32),
        ADDRESSLESS._replace(address="127.0.0.1:1", fingerprint="00" * 32, token="canary-7d1e"),
    ],
    ids=["nothing", "no-token", "no-fingerprint", "no-address", "fingerprint", "token"],
)
def test_a_parent_that_is_described_badly_is_said_so(parent: Parent) -> None:
    status, said = run(parent)
    assert status == 1
    assert said.startswith("dragonfly runner: DRAGONFLY_PARENT ")
    assert "Traceback" not in said
    assert "canary" not in said


class Nonsense:
    """What was to be a parent."""

    def __init__(self, text: str) -> None:
        self.text = text

    def encode(self) -> str:
        return self.text


@pytest.mark.parametrize("text", ["", "bm90IGpzb24=", "canary-7d1e"])
def test_a_description_that_is_none_is_said_so(text: str) -> None:
    nonsense: Any = Nonsense(text)
    status, said = run(nonsense)
    assert status == 1
    assert said.startswith("dragonfly runner: ")
    assert "DRAGONFLY_PARENT" in said
    assert "Traceback" not in said
    assert "canary" not in said


@pytest.mark.parametrize(
    "arguments", [["--fd"], ["--fd", "x"], ["--failsafe"], ["--failsafe", "x"], ["--failsafe", "1", "2"], ["--help"]]
)
def test_what_cannot_be_understood_is_answered_with_the_usage(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "dragonfly_executor.runner", *arguments]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    status, said = ended(process)
    assert status == 1
    assert said.startswith("usage: python -m dragonfly_executor.runner")


def test_the_agents_patience_until_it_is_welcomed_is_the_boots(receive: Receive) -> None:
    """A backend may take its time to come back, while its runner is there already; and not longer than that."""
    reception = receive()
    process = start_runner(reception.expect(timeout=1.0), stderr=subprocess.PIPE)
    # It was let in before its second was over, and is not welcomed then.
    assert reception.joined.get(timeout=PATIENCE) == 1
    with process:
        assert process.wait(PATIENCE) == 0
    sock = reception.take()
    assert sock is not None
    sock.close()


def test_threads_are_none_of_a_runners_business(receive: Receive) -> None:
    """It may fork: dialing has left no thread behind."""
    reception = receive()
    process = start_runner(reception.expect(), stderr=subprocess.PIPE)
    assert reception.joined.get(timeout=PATIENCE) == 1
    assert len(os.listdir(f"/proc/{process.pid}/task")) == 1  # noqa: PTH208
    sock = reception.take()
    assert sock is not None
    sock.close()
    assert ended(process) == (0, "")
