"""The bootstrap command and its protocol: find Python on the host, send missing files, and start the agent."""

from __future__ import annotations

import binascii
import importlib.resources
import math
import shlex
import sys
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from dragonfly_executor.backends.ssh.archive import Archive
from dragonfly_executor.backends.ssh.stage0 import MAGIC
from dragonfly_executor.errors import BootError, VersionMismatchError
from dragonfly_executor.protocol.stdlib_json import json
from dragonfly_executor.runner.orphans import MARK

MAX_NOISE = 1024 * 1024
"""Bytes that a host may print before the bootstrap's first line."""
MAX_LINE = 64 * 1024
OUTPUT_SIZE = 4096
"""Bytes of a host's output that an error quotes."""
NEEDED = f"{sys.version_info.major}.{sys.version_info.minor}"
PART_SIZE = 256 * 1024
NOT_THIS_ONE = 113
"""The exit status of an interpreter of another version."""


class CommandStream(Protocol):
    """The stream to the command on the host."""

    def recv(self, size: int, /) -> bytes:
        """Return 1 to `size` bytes, or ``b""`` at the end. Raises `TimeoutError` if the boot has taken too long."""
        ...

    def sendall(self, data: bytes, /) -> None:
        """Send all of `data`."""

    def unread(self, data: bytes) -> None:
        """Make the next `recv` return `data`."""


def command(
    python: str | None,
    digest: str,
    cache: str | None,
    timeout: float,
    options: Sequence[str] = (),
    mark: str = "",
) -> str:
    """Return the command to run on the host. It is one line, whose words are the same for every login shell.

    Args:
        python: the interpreter; None to search for one.
        digest: the digest of the archive.
        cache: the folder for archives, or None for the user's own.
        timeout: seconds after which the parent no longer waits for the command.
        options: options for the interpreter, in addition to ``-I``.
        mark: identifies the runner in the environment of all its processes; see `runner.orphans`. Not secret.
    """
    candidates = [python] if python else [f"python{NEEDED}", "python3"]
    source = importlib.resources.files("dragonfly_executor.backends.ssh").joinpath("stage0.py").read_bytes()
    packed = binascii.b2a_base64(zlib.compress(source, 9), newline=False).decode()
    scope = '{"__name__": "dragonfly_stage0"}'
    code = (
        f"import sys; sys.version_info[:2] == {sys.version_info[:2]} or sys.exit({NOT_THIS_ONE}); "
        f"import binascii, zlib; scope = {scope}; "
        f'exec(zlib.decompress(binascii.a2b_base64("{packed}")), scope); scope["main"](*sys.argv[1:])'
    )
    ask = 'import sys; print("%d.%d" % sys.version_info[:2])'
    arguments = f"{digest} {_word(cache or '')} {math.ceil(timeout)}"
    # -I: do not import from the login directory, to which another user may be able to write.
    # The shell stays, as the Python found may be a shim that does not work. After a failure, the shell asks for its
    # version. Asking first starts two interpreters per runner.
    script = (
        f"{MARK}={shlex.quote(mark)}; export {MARK}; "
        f"found=; for python in {' '.join(map(_word, candidates))}; do version=missing; "
        'if command -v "$python" >/dev/null 2>&1; then '
        f'"$python" -I {shlex.join(options)} -c {shlex.quote(code)} {arguments} && exit; status=$?; '
        f'version=$("$python" -I -S -c {shlex.quote(ask)} </dev/null) || version=broken; '
        f'if [ "$version" = {NEEDED} ]; then exit $status; fi; '
        r"else printf '%s: not found\n' "
        '"$python" >&2; fi; '
        'found="$found $version"; done; '
        # MAGIC is printed in two pieces. Otherwise, if a profile echoes the command, the echo looks like our output, as
        # some shells' echo turns \036 into its byte.
        r"""printf '\036%s\037none%s\n' dragonfly-1 "$found"; exit 127"""
    )
    return f"sh -c {shlex.quote(script)}"


def _word(text: str) -> str:
    """Return a word for the host's shell. A leading ``~/`` is the home directory on the host."""
    return f'"$HOME"/{shlex.quote(text[2:])}' if text.startswith("~/") else shlex.quote(text)


class Bootstrap:
    """The parent's half of the protocol with `stage0`.

    Args:
        host: the host's name, for errors.
        stream: the stream to the command.
        python: the interpreter that the user asked for, or None.
    """

    def __init__(self, host: str, stream: CommandStream, python: str | None) -> None:
        self.host = host
        self._stream = stream
        self._python = python
        self._data = b""
        self.noise = b""
        """The last bytes of the host's output before the first line of the protocol."""
        self.shipped = 0
        """The number of archive bytes that had to be sent."""
        self.interpreter = ""
        """The version and the path of Python on the host, as reported."""
        self._lacks_archive = True

    def hear(self) -> None:
        """Wait for the first line from Python. Python then waits for `run`, and no part of a runner has started.

        Raises:
            VersionMismatchError: the host has only Pythons of other versions.
            BootError: the host has no Python, or no room for the archive; phase "python" or "bootstrap".
        """
        first = self._first_line()
        if first.startswith(b"none"):
            raise self._no_python(first.decode("ascii", "replace").split()[1:])
        said = self._read(first)
        self.interpreter = f"{said.get('python')} ({said.get('executable')})"
        self._lacks_archive = not said.get("cached")

    def run(self, archive: Archive, env: Mapping[str, str], dial: Mapping[str, object] | None = None) -> None:
        """Start the agent. Call it after `hear`. After this, the stream belongs to the agent.

        Args:
            archive: the archive, which is sent if the host lacks it.
            env: environment variables for the agent. They exist only on this connection and in the agent's memory.
            dial: instructions for an agent that dials back instead of using this stream. They are kept in the same way.

        Raises:
            BootError: the host cannot store the archive; phase "bootstrap".
        """
        size = len(archive.data) if self._lacks_archive else 0
        self._stream.sendall(json.dumps({"size": size, "env": dict(env), "dial": dial}).encode() + b"\n")
        for start in range(0, size, PART_SIZE):
            self._stream.sendall(archive.data[start : start + PART_SIZE])
        self.shipped = size
        line = self._line().removeprefix(MAGIC)
        if self._read(line).get("ready") is not True:
            raise self._error(f"broke the protocol of the bootstrap: {line[:200]!r}")
        self._stream.unread(self._data)
        self._data = b""

    def wait_until_dialed(self) -> None:
        """Wait until an agent that was told to dial back has done so.

        Raises:
            BootError: the agent could not connect, or ended; phase "connect" or "handshake".
        """
        line = self._line("ended the runner before it had dialed back", "connect")
        said = self._parse(line)
        if "error" in said:
            phase = "handshake" if said.get("phase") == "handshake" else "connect"
            hint = " (parent_address= says where hosts reach this machine)" if phase == "connect" else ""
            raise self._error(f"has a runner that cannot reach this machine: {said['error']}{hint}", phase)
        if said.get("dialed") is not True:
            raise self._error(f"broke the protocol of the bootstrap: {line[:200]!r}")

    def _first_line(self) -> bytes:
        """Return the line after the mark. Bytes before the mark are output of the host's shell, and go into `noise`."""
        while (place := self._data.find(MAGIC)) < 0:
            self.noise = self._data[-OUTPUT_SIZE:]
            if len(self._data) > MAX_NOISE:
                raise self._error(f"printed more than {MAX_NOISE} bytes, and never ran the command")
            self._more("ended the command before anything ran")
        self.noise = self._data[:place][-OUTPUT_SIZE:]
        self._data = self._data[place + len(MAGIC) :]
        return self._line()

    def _line(self, otherwise: str = "ended the bootstrap", phase: str = "bootstrap") -> bytes:
        while b"\n" not in self._data:
            if len(self._data) > MAX_LINE:
                raise self._error("sends a line without an end")
            self._more(otherwise, phase)
        line, _, self._data = self._data.partition(b"\n")
        return line

    def _more(self, otherwise: str, phase: str = "bootstrap") -> None:
        data = self._stream.recv(MAX_LINE)
        if not data:
            raise self._error(otherwise, phase)
        self._data += data

    def _parse(self, line: bytes) -> Mapping[str, Any]:
        try:
            said = json.loads(line)
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            raise self._error(f"broke the protocol of the bootstrap: {line[:200]!r}")
        return said

    def _read(self, line: bytes) -> Mapping[str, Any]:
        said = self._parse(line)
        if "error" in said:
            hint = "give cache= a folder of the host that has room for the files"
            raise self._error(f"cannot prepare a runner: {said['error']} ({hint})")
        return said

    def _error(self, text: str, phase: str = "bootstrap") -> BootError:
        return BootError(f"{self.host} {text}", phase)

    def _no_python(self, versions: list[str]) -> BootError:
        candidates = [self._python] if self._python else [f"python{NEEDED}", "python3"]
        tried = ", ".join(f"{name} is {_version(found)}" for name, found in zip(candidates, versions, strict=False))
        text = f"{self.host} has no Python {NEEDED}, which the parent runs: {tried}"
        if any(version[:1].isdecimal() for version in versions):
            return VersionMismatchError(f"{text}. Install it there, or give its path as python=", "python")
        return BootError(f"{text}. Install it there, or give its path as python=", "python")


def _version(found: str) -> str:
    return f"Python {found}" if found[:1].isdecimal() else found
