"""Makes an agent of a command on a host: finds Python there, ships what is missing, and hands over to the agent."""

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
"""Bytes that a host may print before anything sensible comes."""
MAX_LINE = 64 * 1024
OUTPUT_SIZE = 4096
"""Of what a host printed, as much is told."""
NEEDED = f"{sys.version_info.major}.{sys.version_info.minor}"
PART_SIZE = 256 * 1024
NOT_THIS_ONE = 113
"""What an interpreter of another version ends with."""


class Talk(Protocol):
    """The stream to a command on a host."""

    def recv(self, size: int, /) -> bytes:
        """At least one byte; nothing at the end. `TimeoutError` when the boot has taken too long."""

    def sendall(self, data: bytes, /) -> None:
        """Write everything."""

    def unread(self, data: bytes) -> None:
        """Let the next `recv` return this."""


def command(
    python: str | None,
    digest: str,
    cache: str | None,
    patience: float,
    options: Sequence[str] = (),
    mark: str = "",
) -> str:
    """What is run on the host, for any login shell: one line, and a word of it is one word for all of them.

    Args:
        python: the interpreter; None to look for one.
        digest: the archive's.
        cache: the folder for archives, or None for the user's own.
        patience: seconds after which nobody waits for it any more.
        options: for the interpreter, beside ``-I``.
        mark: what the environment of all that runs there says of whose it is; see `runner.orphans`. Not secret.
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
    arguments = f"{digest} {_word(cache or '')} {math.ceil(patience)}"
    # -I: the login directory is no place to import from, and another user may be able to write there.
    # A shim may be found that leads nowhere. So the shell stays, and asks what it was that failed; to ask before that
    # would start two interpreters for each runner.
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
        # In two pieces: a profile may print the command, and some shells' echo makes bytes of such numbers.
        r"""printf '\036%s\037none%s\n' dragonfly-1 "$found"; exit 127"""
    )
    return f"sh -c {shlex.quote(script)}"


def _word(text: str) -> str:
    """A word for the host's shell; a home folder in front is the one there."""
    return f'"$HOME"/{shlex.quote(text[2:])}' if text.startswith("~/") else shlex.quote(text)


class Bootstrap:
    """The parent's half of the talk with `stage0`.

    Args:
        host: what to call it in an error.
        talk: the stream to the command.
        python: the interpreter that was asked for, or None.
    """

    def __init__(self, host: str, talk: Talk, python: str | None) -> None:
        self.host = host
        self._talk = talk
        self._python = python
        self._data = b""
        self.noise = b""
        """The last of what the host printed before it said anything."""
        self.shipped = 0
        """Bytes of the archive that had to be sent."""
        self.interpreter = ""
        """What the host says of the Python that it runs."""
        self._lacks_archive = True

    def hear(self) -> None:
        """Wait for the first word of Python. It then waits for `run`, and nothing of a runner has begun.

        Raises:
            VersionMismatchError: there is only another Python there.
            BootError: there is none, or it has no place for the archive; phase "python" or "bootstrap".
        """
        first = self._first_line()
        if first.startswith(b"none"):
            raise self._no_python(first.decode("ascii", "replace").split()[1:])
        said = self._read(first)
        self.interpreter = f"{said.get('python')} ({said.get('executable')})"
        self._lacks_archive = not said.get("cached")

    def run(self, archive: Archive, env: Mapping[str, str], dial: Mapping[str, object] | None = None) -> None:
        """Get the agent going, after `hear`. What is on the stream after this is the agent's.

        Args:
            archive: what the host has to have.
            env: variables for the agent. They are nowhere but on this connection and in its memory.
            dial: whom the agent has to dial, where it does not speak on this stream; the same goes for that.

        Raises:
            BootError: the host cannot keep the archive; phase "bootstrap".
        """
        size = len(archive.data) if self._lacks_archive else 0
        self._talk.sendall(json.dumps({"size": size, "env": dict(env), "dial": dial}).encode() + b"\n")
        for start in range(0, size, PART_SIZE):
            self._talk.sendall(archive.data[start : start + PART_SIZE])
        self.shipped = size
        line = self._line().removeprefix(MAGIC)
        if self._read(line).get("ready") is not True:
            raise self._error(f"does not keep to the rules: {line[:200]!r}")
        self._talk.unread(self._data)
        self._data = b""

    def wait_until_dialed(self) -> None:
        """Wait until the agent has dialed back, where it was told to.

        Raises:
            BootError: it did not get there, or ended; phase "connect" or "handshake".
        """
        line = self._line("ended the runner before it had dialed back", "connect")
        said = self._parse(line)
        if "error" in said:
            phase = "handshake" if said.get("phase") == "handshake" else "connect"
            hint = " (parent_address= says where hosts reach this machine)" if phase == "connect" else ""
            raise self._error(f"has a runner that does not get here: {said['error']}{hint}", phase)
        if said.get("dialed") is not True:
            raise self._error(f"does not keep to the rules: {line[:200]!r}")

    def _first_line(self) -> bytes:
        """What comes first after the mark; before it is whatever the host has to say to anybody."""
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
        data = self._talk.recv(MAX_LINE)
        if not data:
            raise self._error(otherwise, phase)
        self._data += data

    def _parse(self, line: bytes) -> Mapping[str, Any]:
        try:
            said = json.loads(line)
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            raise self._error(f"does not keep to the rules: {line[:200]!r}")
        return said

    def _read(self, line: bytes) -> Mapping[str, Any]:
        said = self._parse(line)
        if "error" in said:
            hint = "cache= says where on the host there is room for what is sent there"
            raise self._error(f"cannot get ready: {said['error']} ({hint})")
        return said

    def _error(self, text: str, phase: str = "bootstrap") -> BootError:
        return BootError(f"{self.host} {text}", phase)

    def _no_python(self, versions: list[str]) -> BootError:
        candidates = [self._python] if self._python else [f"python{NEEDED}", "python3"]
        tried = ", ".join(f"{name} is {_version(found)}" for name, found in zip(candidates, versions, strict=False))
        text = f"{self.host} has no Python {NEEDED}, which the parent runs: {tried}"
        if any(version[:1].isdecimal() for version in versions):
            return VersionMismatchError(f"{text}. Install it there, or say with python= where it is", "python")
        return BootError(f"{text}. Install it there, or say with python= where it is", "python")


def _version(found: str) -> str:
    return f"Python {found}" if found[:1].isdecimal() else found
