"""What tests run on hosts, which cannot import this module: each of these makes a function that travels by value.

PYTEST_DONT_REWRITE: a rewritten ``assert`` needs pytest on the host.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any


def free(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The same function with globals of its own, so that it belongs to no module; what is none stays as it is."""
    if not isinstance(fn, FunctionType):
        return fn
    return FunctionType(fn.__code__, dict(fn.__globals__), fn.__name__, fn.__defaults__, fn.__closure__)


def runner_id() -> int:
    """Return the number of its runner."""
    from dragonfly_executor import Parent

    parent = Parent.get()
    assert parent is not None
    return parent.runner_id


def hold(mailbox: str, gate: str) -> Callable[[], int]:
    """Says its own number and its agent's, then waits to be let through."""

    def call() -> int:
        import os

        with open(mailbox, "w") as box:
            box.write(f"{os.getpid()} {os.getppid()}\n")
        os.read(os.open(gate, os.O_RDONLY), 1)
        return os.getpid()

    return call


def hold_with_family(mailbox: str, gate: str) -> Callable[[], None]:
    """The same, having started a child and a daemon; says slot, agent, child and daemon."""

    def call() -> None:
        import os
        import subprocess
        import sys

        child = subprocess.Popen([sys.executable, "-I", "-c", "import signal; signal.pause()"])
        # In a session of its own, and its parent gone.
        daemon = "import os, signal; os.setsid(); pid = os.fork(); pid and print(pid, flush=True); signal.pause()"
        started = subprocess.Popen([sys.executable, "-I", "-c", daemon], stdout=subprocess.PIPE, text=True)
        assert started.stdout
        number = started.stdout.readline().strip()
        started.kill()
        started.wait()
        with open(mailbox, "w") as box:
            box.write(f"{os.getpid()} {os.getppid()} {child.pid} {number}\n")
        os.read(os.open(gate, os.O_RDONLY), 1)

    return call


def variable(name: str) -> Callable[[], str | None]:
    """What a variable of the environment is."""

    def call() -> str | None:
        import os

        return os.environ.get(name)

    return call


def write(fd: int, data: bytes) -> Callable[[], int]:
    """Writes to a descriptor."""

    def call() -> int:
        import os

        return os.write(fd, data)

    return call


def close_descriptors(first: int, last: int) -> Callable[[], None]:
    """Closes whatever there is."""

    def call() -> None:
        import os

        os.closerange(first, last)

    return call


def say_on_stderr_of_the_agent() -> Callable[[], int]:
    """Writes where the agent would."""

    def call() -> int:
        import os

        with open(f"/proc/{os.getppid()}/fd/2", "w") as stderr:
            return stderr.write("from the agent\n")

    return call


def log_run(path: str, name: object, filler: bytes = b"") -> Callable[[], object]:
    """Adds a line to a file: that it ran."""

    def call() -> object:
        import os

        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(fd, f"{name} {len(filler)}\n".encode())
        os.close(fd)
        return name

    return call


def digest_of(data: bytes, path: str) -> str:
    """What came here; and a line in a file that something did."""
    import hashlib
    import os

    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, b"ran\n")
    os.close(fd)
    return hashlib.sha256(data).hexdigest()


def make_bytes(size: int, mailbox: str, path: str) -> bytes:
    """Much to send back: says that it is made, here and in a file."""
    import os

    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, b"ran\n")
    os.close(fd)
    with open(mailbox, "w") as box:
        box.write("made\n")
    return bytes(range(256)) * (size // 256)


def hold_the_interpreter(seconds: float) -> str:
    """Lets no other thread of its process run meanwhile."""
    import ctypes

    ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    return "done"
