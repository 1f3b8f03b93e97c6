"""What the two ends tell each other before the first pickle: JSON, small, and never trusted.

A runner says HELLO with its versions. The parent compares them with its own and answers WELCOME, with the numbers of
the session, or REFUSE, with the reason. Bytecode and pickles of another minor version of Python do not fail cleanly,
they crash or run wrong code, so a difference that matters ends the boot. One in the rest is told, and lets the runner
in. A runner that dials in over a network has proved before that it may speak (`dialback_auth`).
"""

from __future__ import annotations

from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.protocol.memory_bounds import MAX_SLOTS
from dragonfly_executor.protocol.stdlib_json import json

# A runner imports this, and importing typing would take as long as all the rest. Type checkers take the name for true.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Versions:
    """What has to match, what better did, and what the parent wants to know of a machine.

    Attributes:
        protocol, python, implementation, byteorder: have to match; of Python, its minor version.
        release: the whole version of Python, which better did.
        package, packages: the versions of this package, and of others that have a part in pickling, by name, as far as
            they are known. They better matched too, and this one and cloudpickle must in their minor versions.
        cpus, pid: of the machine, and on it.
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
    """A runner's first frame."""

    __slots__ = ("runner_id", "versions")

    def __init__(self, runner_id: str, versions: Versions) -> None:
        self.runner_id = runner_id
        self.versions = versions


class Greeting:
    """What the parent says of itself to a runner that has dialed back, and how many seconds WELCOME may take."""

    __slots__ = ("patience", "versions")

    def __init__(self, versions: Versions, patience: float) -> None:
        self.versions = versions
        self.patience = patience


CLOUDPICKLE = "cloudpickle"
UNREADABLE = (ArithmeticError, AttributeError, ValueError, KeyError, TypeError, RecursionError)
"""What reading foreign JSON may raise. Arithmetic: JSON knows Infinity, and int() of that overflows."""


def hello(runner_id: str, versions: Versions) -> bytes:
    """HELLO's payload."""
    return json.dumps({"runner": runner_id, "versions": _fields(versions)}).encode()


def read_hello(payload: bytes) -> Hello:
    """What a HELLO says; `ProtocolError` if it is none."""
    try:
        said = json.loads(payload)
        return Hello(str(said["runner"]), _versions(said))
    except UNREADABLE as error:
        raise ProtocolError(f"not a HELLO: {error}") from None


def greeting(versions: Versions, patience: float) -> bytes:
    """VERSIONS' payload."""
    return json.dumps({"patience": patience, "versions": _fields(versions)}).encode()


def read_greeting(payload: bytes) -> Greeting:
    """What a VERSIONS says; `ProtocolError` if it is none."""
    try:
        said = json.loads(payload)
        return Greeting(_versions(said), float(said["patience"]))
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
        # They are shown in errors and log lines.
        raise ValueError("versions with control characters")
    if not 1 <= needed["cpus"] <= MAX_SLOTS:
        raise ValueError(f"{needed['cpus']} processors, where 1 to {MAX_SLOTS} are possible")
    return Versions(**needed, release=str(found.get("release", "")), packages=packages)


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
    """Why these two must not exchange pickles, naming both sides; None where they may."""
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
    """What is not the same though the two may exchange pickles, naming both sides; only what both of them know."""
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
) -> bytes:
    """WELCOME's payload: seconds, seconds, calls at once, and calls in a slot's life (0 for any number).

    `output`: "inherit" leaves what slots write alone, "drop" throws it away, "send" sends it to the parent; then with
    records of the root logger from `log_level` on, unless that is None.
    """
    session = {
        "lease": lease,
        "setup_timeout": setup_timeout,
        "slots": slots,
        "calls_per_slot": calls_per_slot,
        "output": output,
        "log_level": log_level,
    }
    return json.dumps(session).encode()
