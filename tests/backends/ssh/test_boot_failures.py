"""Boots that come to nothing say how far they came, and what the host had to say; others are used."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dragonfly_executor import BootError, BootRequest, BootTimeoutError, Parent, VersionMismatchError
from dragonfly_executor.backends.ssh import node
from dragonfly_executor.backends.ssh.bootstrap import NEEDED
from tests.backends.ssh.calls import variable
from tests.backends.ssh.conftest import Make, MakeBackend, MakeHost
from tests.support.helpers import PATIENCE, error_of
from tests.support.sshd.host import Host, free_port

REQUEST = BootRequest(1, Parent.new("test", 1, "ssh"), PATIENCE)


def boot_error(backend: object, request: BootRequest = REQUEST) -> BootError:
    """What one boot ends with."""
    with pytest.raises(BootError) as caught:
        backend.boot(request).stop()  # type: ignore[attr-defined]
    return caught.value


def other_python() -> Path | None:
    """An interpreter of another minor version: on PATH, or among pyenv's."""
    for minor in (12, 11, 13, 10):
        name = f"3.{minor}"
        if name == NEEDED:
            continue
        pyenv = Path("~/.pyenv/versions").expanduser()
        for candidate in (shutil.which(f"python{name}"), *sorted(map(str, pyenv.glob(f"{name}.*/bin/python")))):
            if candidate is None:
                continue
            # What is on PATH may be a shim: the interpreter itself is what the host gets.
            ask = [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2], sys.executable)"]
            found, _, executable = subprocess.run(ask, capture_output=True, text=True).stdout.strip().partition(" ")
            if found == name:
                return Path(executable)
    return None


# -- reaching ----------------------------------------------------------------------------------------------------------


def test_a_name_without_an_address(make_backend: MakeBackend) -> None:
    """Checklist 56."""
    name = "a" * 64  # longer than a name may be: nobody needs to be asked
    error = boot_error(make_backend(name))
    assert error.phase == "resolve"
    assert name in str(error)


def test_a_host_that_is_down_is_set_aside_and_used_again_when_it_is_up(
    make_host: MakeHost, make_backend: MakeBackend, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Checklist 56."""
    down, up = make_host(started=False), make_host()
    backend = make_backend(down, up, host_wait=lambda state: 0.0)
    first = backend.boot(REQUEST)
    assert first.host == up.spec
    assert f"host {down.spec} is set aside" in caplog.text
    error = boot_error(backend)
    assert error.phase == "connect"
    assert down.spec in str(error)
    assert f"{up.spec} has its maximum of runners" in str(error)
    down.start()
    second = backend.boot(REQUEST)
    assert second.host == down.spec
    first.stop()
    assert backend.boot(REQUEST).stop() is None
    second.stop()


def test_while_it_is_set_aside_a_host_is_left_alone(make_host: MakeHost, make_backend: MakeBackend) -> None:
    """Though it came up at once."""
    down, up = make_host(started=False), make_host()
    backend = make_backend(down, up, host_wait=lambda state: 3600.0)
    backend.boot(REQUEST).stop()
    down.start()
    for _ in range(3):
        booted = backend.boot(REQUEST)
        assert booted.host == up.spec
        booted.stop()
    assert not any("Connection from" in line for line in down.log)


def test_an_error_of_several_hosts_names_each(make_host: MakeHost, make_backend: MakeBackend) -> None:
    down, closed, bare = make_host(started=False), make_host(), make_host(programs=[])
    (closed.folder / "authorized_keys").write_text("")
    error = boot_error(make_backend(down, closed, bare))
    for host, phase in ((down, "connect"), (closed, "auth"), (bare, "python")):
        assert re.search(rf"{re.escape(host.spec)}: .*\(phase: {phase}\)", str(error))
    assert error.phase == "connect"
    assert isinstance(error.__cause__, BootError)


@contextmanager
def listening(answer: bytes) -> Iterator[int]:
    """Something that is no SSH server; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with listener.accept()[0] as sock:
                sock.sendall(answer)
                if answer:
                    sock.shutdown(socket.SHUT_WR)
                while sock.recv(4096):
                    continue

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(PATIENCE)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "no answer"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "SSH"),
        # It goes in the middle of the handshake. Nothing of that is left: the census would find it.
        (b"SSH-2.0-OpenSSH_9.6\r\n", "closed"),
    ],
)
def test_something_else_listens_there(make_backend: MakeBackend, answer: bytes, said: str) -> None:
    with listening(answer) as port:
        error = boot_error(make_backend(f"127.0.0.1:{port}", connect_timeout=0.3 if not answer else 15))
    assert error.phase == "connect"
    assert said in str(error)


# -- Python ------------------------------------------------------------------------------------------------------------


def test_a_host_without_python(make_host: MakeHost, make_backend: MakeBackend) -> None:
    """Checklist 56."""
    host = make_host(programs=[])
    error = boot_error(make_backend(host))
    assert (type(error), error.phase) == (BootError, "python")
    assert NEEDED in str(error)
    assert "python3: not found" in error.output


def test_a_host_with_another_python_is_not_used_again_and_others_are(
    make_host: MakeHost, make_backend: MakeBackend, make: Make
) -> None:
    """Checklist 16."""
    other = other_python()
    if other is None:
        pytest.skip("no other minor version of Python here")
    host, fitting = make_host(programs=[]), make_host()
    (host.bin / "python3").symlink_to(other)
    backend = make_backend(host)
    error = error_of(make(backend).submit(pow, 2, 10))
    assert isinstance(error, VersionMismatchError)
    assert error.attempts == 1
    found = re.search(r"python3 is Python (3\.\d+)", str(error))
    assert found
    assert found[1] != NEEDED
    assert f"has no Python {NEEDED}" in str(error)
    connections = sum("Connection from" in line for line in host.log)
    assert isinstance(boot_error(backend), VersionMismatchError)
    assert sum("Connection from" in line for line in host.log) == connections
    assert isinstance(boot_error(make_backend(host, python="python3")), VersionMismatchError)
    # A path is no name to look for; and a host that fits is used though the other comes first.
    assert "cannot" not in str(boot_error(make_backend(host, python=str(other))))
    executor = make(make_backend(host, fitting))
    assert executor.submit(variable("HOME")).result(PATIENCE) == str(fitting.home)


def test_an_interpreter_that_leads_nowhere_is_passed_over(
    make_host: MakeHost, make_backend: MakeBackend, make: Make
) -> None:
    """As pyenv's shims do where no version is chosen."""
    host = make_host()
    shim = host.bin / f"python{NEEDED}"
    shim.write_text("#!/bin/sh\necho 'shim: no version is set' >&2\nexit 127\n")
    shim.chmod(0o755)
    assert make(make_backend(host)).submit(pow, 2, 10).result(PATIENCE) == 1024
    host.path = [str(host.bin)]
    host.stop()
    host.start()
    error = boot_error(make_backend(host))
    assert (error.phase, "is broken" in str(error), "no version is set" in error.output) == ("python", True, True)


# -- what a host prints ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "commands",
    [
        "echo welcome",
        "echo welcome >&2",
        "printf 'no end of line'",
        "head -c 100000 /dev/urandom",
        "set -x; echo $SSH_ORIGINAL_COMMAND",
    ],
    ids=["stdout", "stderr", "no newline", "junk", "the command itself"],
)
def test_what_a_profile_prints_is_not_on_the_stream(
    host: Host, make_backend: MakeBackend, make: Make, commands: str
) -> None:
    """Checklist 63."""
    host.profile(commands.replace("head", shutil.which("head") or "head"))
    assert make(make_backend(host)).submit(pow, 2, 10).result(PATIENCE) == 1024


def test_what_a_host_printed_is_in_the_error(make_host: MakeHost, make_backend: MakeBackend) -> None:
    """The last 4 KiB of each, whichever way it was said."""
    host = make_host()
    host.profile(f"{shutil.which('seq')} 1 5000; echo 'out of order'; echo 'come back later' >&2; exit 7")
    error = boot_error(make_backend(host))
    assert error.phase == "bootstrap"
    assert "out of order" in error.output
    assert "come back later" in error.output
    assert len(error.output) < 9000
    assert host.spec in str(error)


def test_a_host_that_never_stops_printing(
    host: Host, make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "STOP_TIMEOUT", 0.1)
    host.profile("while :; do echo this is not over yet, and will not be for a long time to come; done")
    error = boot_error(make_backend(host))
    assert error.phase == "bootstrap"
    assert "printed more than" in str(error)


def test_a_host_that_never_begins(host: Host, make_backend: MakeBackend, make: Make) -> None:
    """The boot ends in its time, and so does what it began on the host."""
    host.profile("read -r line")
    error = boot_error(make_backend(host), REQUEST._replace(timeout=2.0))
    assert error.phase == "bootstrap"
    assert "within the boot timeout" in str(error)
    executor = make(make_backend(host), boot_timeout=0.5, max_boot_failures=1)
    assert isinstance(error_of(executor.submit(pow, 2, 10)), BootError | BootTimeoutError)


def test_a_connection_that_runs_no_commands(make_host: MakeHost, make_backend: MakeBackend) -> None:
    host = make_host(settings=["MaxSessions 0"])
    error = boot_error(make_backend(host))
    assert error.phase == "bootstrap"
    assert "accepted the login, but runs no command" in str(error)


def test_the_port_is_free_again(make_backend: MakeBackend) -> None:
    """Nobody listens: refused at once, with the system's own words."""
    error = boot_error(make_backend(f"127.0.0.1:{free_port()}"))
    assert error.phase == "connect"
    assert isinstance(error.__cause__, ConnectionRefusedError)
    assert sys.exc_info() == (None, None, None)
