"""The handshake: small, untrusted JSON that both ends exchange before the first pickle.

A runner sends HELLO with its versions. The parent compares them with its own and answers WELCOME, with the session's
numbers, or REFUSE, with the reason. Bytecode and pickles of another minor version of Python do not fail cleanly: they
crash or run wrong code. So a difference that matters fails the boot. Any other difference is reported, and the runner
is admitted. A runner that dials in over a network has authenticated before (`dialback_auth`).
"""

from __future__ import annotations

import struct

from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.protocol.compression import CODEC_FLAGS
from dragonfly_executor.protocol.json_text import to_json
from dragonfly_executor.protocol.memory_bounds import MAX_SLOTS
from dragonfly_executor.protocol.stdlib_json import json
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


class Versions:
    """The versions of one end, and the properties of its machine that the parent needs.

    Attributes:
        protocol, python, implementation, byteorder: must match. `python` is the minor version ("3.12").
        release: the full version of Python, which should match.
        package, packages: the versions of this package, and of other packages that take part in pickling, by name, if
            known. They should match too; the minor versions of this package and of cloudpickle must match.
        cpus: number of CPUs of the machine.
        pid: process id on the machine.
    """

    __slots__ = ("byteorder", "cpus", "implementation", "package", "packages", "pid", "protocol", "python", "release")

    def __init__(
        self,
        *,
        protocol: int,
        package: str,
        python: str,
        implementation: str,
        byteorder: str,
        cpus: int,
        pid: int,
        release: str = "",
        packages: dict[str, str] | None = None,
    ) -> None:
        self.protocol = protocol
        self.package = package
        self.packages = packages or {}
        self.python = python
        self.release = release
        self.implementation = implementation
        self.byteorder = byteorder
        self.cpus = cpus
        self.pid = pid


class Hello:
    """The content of a runner's first frame.

    Attributes:
        runner_id: the runner's number as it was told to it; "" if it was told none.
        versions: the runner's.
        capacity: number of CPUs, number of GPUs, and bytes of memory that the runner may use; None if unknown.
        codecs: the names of the codecs by which the runner can compress.
    """

    __slots__ = ("capacity", "codecs", "runner_id", "versions")

    def __init__(
        self,
        runner_id: str,
        versions: Versions,
        capacity: tuple[float, int, int] | None = None,
        codecs: tuple[str, ...] = (),
    ) -> None:
        self.runner_id = runner_id
        self.versions = versions
        self.capacity = capacity
        self.codecs = codecs


class Greeting:
    """The parent's versions for a runner that has dialed back, and the seconds that WELCOME may take."""

    __slots__ = ("timeout", "versions")

    def __init__(self, versions: Versions, timeout: float) -> None:
        self.versions = versions
        self.timeout = timeout


OUTPUTS = ("inherit", "drop", "send")
"""Values of WELCOME's `output`."""
_SESSION = struct.Struct("!ddIIBq???")
"""WELCOME: the arguments of `welcome`, of which `log_level` is a number, and whether it is one."""
CLOUDPICKLE = "cloudpickle"
MAX_GPUS = 1024
MAX_MEMORY = 2**62
"""Largest values of a runner's capacity that a parent takes."""
UNREADABLE = (ArithmeticError, AttributeError, ValueError, KeyError, TypeError, RecursionError)
"""Exceptions that reading untrusted JSON may raise. ArithmeticError: JSON allows Infinity, and int() overflows."""


def hello(
    runner_id: str,
    versions: Versions,
    capacity: tuple[float, int, int] | None = None,
    codecs: Sequence[str] = (),
) -> bytes:
    """Return the payload of HELLO."""
    said = {"runner": runner_id, "versions": _fields(versions), "capacity": capacity, "codecs": list(codecs)}
    return to_json(said)


def read_hello(payload: bytes) -> Hello:
    """Return the content of a HELLO.

    Raises:
        ProtocolError: the payload is not a HELLO.
    """
    try:
        said = json.loads(payload)
        return Hello(str(said["runner"]), _versions(said), _capacity(said.get("capacity")), _codecs(said))
    except UNREADABLE as error:
        raise ProtocolError(f"not a HELLO: {error}") from None


def greeting(versions: Versions, timeout: float) -> bytes:
    """Return the payload of VERSIONS.

    Args:
        versions: the parent's versions.
        timeout: seconds that WELCOME may take.
    """
    return json.dumps({"timeout": timeout, "versions": _fields(versions)}).encode()


def read_greeting(payload: bytes) -> Greeting:
    """Return the content of a VERSIONS.

    Raises:
        ProtocolError: the payload is not a VERSIONS.
    """
    try:
        said = json.loads(payload)
        return Greeting(_versions(said), float(said["timeout"]))
    except UNREADABLE as error:
        raise ProtocolError(f"not a VERSIONS: {error}") from None


def _fields(versions: Versions) -> dict[str, object]:
    return {name: getattr(versions, name) for name in Versions.__slots__}


def _versions(said: Any) -> Versions:
    found = said["versions"]
    packages = {str(name): str(version) for name, version in dict(found.get("packages", {})).items()}
    needed: dict[str, Any] = {name: kind(found[name]) for name, kind in _FIELDS.items()}
    texts = [*packages, *packages.values(), str(found.get("release", "")), *map(str, needed.values())]
    if not all(text.isprintable() for text in texts):
        # Errors and log lines show these texts.
        raise ValueError("versions with control characters")
    if not 1 <= needed["cpus"] <= MAX_SLOTS:
        raise ValueError(f"{needed['cpus']} processors, not 1 to {MAX_SLOTS}")
    return Versions(**needed, release=str(found.get("release", "")), packages=packages)


def _capacity(said: Any) -> tuple[float, int, int] | None:
    """Return the capacity that a runner reports; None if it reports none, or one that cannot be."""
    try:
        cpus, gpus, memory = float(said[0]), int(said[1]), int(said[2])
    except (*UNREADABLE, IndexError):
        return None
    is_possible = 0 < cpus <= MAX_SLOTS and 0 <= gpus <= MAX_GPUS and 0 <= memory <= MAX_MEMORY
    return (cpus, gpus, memory) if is_possible else None


def _codecs(said: Any) -> tuple[str, ...]:
    """Return the known codecs that a runner has."""
    found = said.get("codecs", ())
    return tuple(name for name in CODEC_FLAGS if name in found) if isinstance(found, list) else ()


_FIELDS: dict[str, type] = {
    "protocol": int,
    "package": str,
    "python": str,
    "implementation": str,
    "byteorder": str,
    "cpus": int,
    "pid": int,
}


def mismatch(parent: Versions, runner: Versions) -> str | None:
    """Return why these two ends must not exchange pickles, naming both; None if they may."""
    for what in ("protocol", "python", "implementation", "byteorder"):
        ours, theirs = getattr(parent, what), getattr(runner, what)
        if ours != theirs:
            return f"{what} is {ours} in the parent and {theirs} on the runner"
    ours, theirs = parent.packages.get(CLOUDPICKLE, ""), runner.packages.get(CLOUDPICKLE, "")
    for name, own, other in (("dragonfly-executor", parent.package, runner.package), (CLOUDPICKLE, ours, theirs)):
        if own and other and own.split(".")[:2] != other.split(".")[:2]:
            return f"{name} is {own} in the parent and {other} on the runner"
    return None


def differences(parent: Versions, runner: Versions) -> list[str]:
    """Return the differences between two ends that may exchange pickles, naming both. Unknown versions are skipped."""
    pairs = [("Python", parent.release, runner.release), ("dragonfly-executor", parent.package, runner.package)]
    pairs += [(name, parent.packages.get(name, ""), version) for name, version in sorted(runner.packages.items())]
    return [
        f"{what} is {ours} in the parent and {theirs} on the runner"
        for what, ours, theirs in pairs
        if ours and theirs and ours != theirs
    ]


def welcome(
    *,
    lease: float,
    setup_timeout: float,
    slots: int,
    calls_per_slot: int,
    output: str = "inherit",
    log_level: int | None = None,
    limit_threads: bool = True,
    divide_gpus: bool = True,
) -> bytes:
    """Return the payload of WELCOME.

    Args:
        lease: seconds after which a runner ends if it gets no data from its parent.
        setup_timeout: seconds that the set-up of a slot, or the opening of a call, may take.
        slots: number of calls that run at once.
        calls_per_slot: number of calls in a slot's life; 0 for any number.
        output: "inherit" leaves the output of slots alone, "drop" discards it, "send" sends it to the parent.
        log_level: with "send", the lowest level of root logger records that are sent; None sends no records.
        limit_threads: whether libraries in a slot use no more threads than the slot's share of the runner's CPUs.
        divide_gpus: whether a slot sees its share of the runner's GPUs alone.
    """
    sends_records, level = log_level is not None, log_level or 0
    numbers = (lease, setup_timeout, slots, calls_per_slot, OUTPUTS.index(output), level)
    return _SESSION.pack(*numbers, sends_records, limit_threads, divide_gpus)


def read_welcome(payload: bytes) -> dict[str, Any]:
    """Return the content of a WELCOME: the arguments of `welcome` by name.

    Raises:
        ProtocolError: the payload is not a WELCOME.
    """
    try:
        lease, setup_timeout, slots, calls, output, level, sends_records, limits, divides = _SESSION.unpack(payload)
        return {
            "lease": lease,
            "setup_timeout": setup_timeout,
            "slots": slots,
            "calls_per_slot": calls,
            "output": OUTPUTS[output],
            "log_level": level if sends_records else None,
            "limit_threads": limits,
            "divide_gpus": divides,
        }
    except (struct.error, IndexError) as error:
        raise ProtocolError(f"not a WELCOME: {error}") from None
