"""Who has a machine: written on it, so that whoever finds it later can tell whether anybody still does.

A process is known by its number only together with when it was started, on which boot of which kernel, and in which
namespace of numbers: a number alone is given out again.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from dragonfly_executor.backends.fly.settings import is_app_name

PREFIX = "dragonfly_"
KIND = f"{PREFIX}kind"
RUNNER = "runner"
BOOT = f"{PREFIX}boot"
POOL = f"{PREFIX}pool"
OWNER = f"{PREFIX}owner"
EXPIRES = f"{PREFIX}expires"
LIFETIME = f"{PREFIX}lifetime"
APP = f"{PREFIX}app"
HOLD = f"{PREFIX}hold"
HELD = f"{PREFIX}held"
HOLD_FOR = 2 * 3600.0
"""Seconds for which a machine is its owner's without another word. An owner that lives renews that far more often."""
ON_FLY = "fly:"
"""How the name of a host begins that is a machine on Fly: the machine's id follows."""


FIRST_SPACE = "pid:[4026531836]"
"""The namespace of process numbers that a kernel starts with: the number is part of Linux, and no container has it."""
FIRST_TIMES = "time:[4026531834]"
"""The same of clocks: start times are told by them."""


class Liveness(Enum):
    """Whether a process is still there."""

    ALIVE = "alive"
    GONE = "gone"
    UNKNOWN = "unknown"
    """It is another machine's, or another container's."""


class Owner(NamedTuple):
    """A process that boots machines.

    Attributes:
        host: the machine that it is on, by a name that no other has.
        boot: which boot of that machine's kernel.
        space: its namespace of process numbers, and of clocks where that is not the kernel's own: a container has one
            of its own. "" where its /proc speaks of others: then its number and its start mean nothing.
        pid: its number there.
        started: when it was started, in the kernel's ticks.
    """

    host: str
    boot: str
    space: str
    pid: int
    started: int

    @classmethod
    def me(cls) -> Owner:
        """This process."""
        started = _started(os.getpid())
        space = "" if started is None else _space()
        return cls(_host(), _read("/proc/sys/kernel/random/boot_id"), space, os.getpid(), started or 0)

    def liveness(self, me: Owner, *, is_here: bool = False) -> Liveness:
        """Whether it is still there.

        Args:
            me: who asks.
            is_here: whether it was found on this machine's own disk: then a host of this name on another boot is this
                one, earlier. Otherwise it may be a clone.
        """
        # Also what is found on this machine's disk may be another's, where a home directory is shared.
        if self.host != me.host:
            return Liveness.UNKNOWN
        if not self.boot or self.boot != me.boot:
            # Containers with the same name and the same disk may be on hosts that differ.
            is_same_host = is_here and self.space == me.space == FIRST_SPACE
            here = is_same_host or self.host.startswith(ON_FLY)
            return Liveness.GONE if here and self.boot and me.boot else Liveness.UNKNOWN
        if not self.space or self.space != me.space:
            return Liveness.UNKNOWN
        started = _started(self.pid)
        if started is None and _is_hidden(self.pid):
            return Liveness.UNKNOWN
        return Liveness.ALIVE if started == self.started else Liveness.GONE

    @property
    def app(self) -> str:
        """The app of this process's machine on Fly; "" if it is on none. Only of the process itself."""
        found = os.environ.get("FLY_APP_NAME", "") if self.fly_machine is not None else ""
        return found if is_app_name(found) else ""

    @property
    def fly_machine(self) -> str | None:
        """The machine on Fly that it is on; None if it is on none."""
        return self.host.removeprefix(ON_FLY) if self.host.startswith(ON_FLY) else None

    def encode(self) -> str:
        """As it is written on a machine."""
        return json.dumps(self, separators=(",", ":"))

    @classmethod
    def decode(cls, text: object) -> Owner | None:
        """The inverse; None for anything else."""
        try:
            said = json.loads(text) if isinstance(text, str) else text
        except (ValueError, RecursionError):
            return None
        if not isinstance(said, list) or len(said) != len(cls._fields):
            return None
        host, boot, space, pid, started = said
        if not all(isinstance(word, str) for word in (host, boot, space)):
            return None
        if not all(isinstance(number, int) for number in (pid, started)):
            return None
        return cls(host, boot, space, pid, started)


class Label(NamedTuple):
    """What is written on a machine, as its metadata.

    Attributes:
        boot: the boot that it was made for: no other machine has this one.
        pool: the pool's name.
        owner: the process whose pool that is.
        expires: seconds since the epoch, by its owner's clock. After that it is nobody's any more, unless its owner is
            known to live.
        lifetime: the same in seconds from when it was made, for clocks that differ; 0 where it is not known.
        app: the app of the owner's own machine on Fly; "" if it is on none, or nothing says which.
        hold: seconds from when it was made for which it is held without another word; 0 if its owner renews nothing.
        held: until when its owner has held it since: seconds since the epoch, by Fly's clock; 0 if it has not yet.
    """

    boot: str
    pool: str
    owner: Owner
    expires: int
    lifetime: int = 0
    app: str = ""
    hold: int = 0
    held: int = 0

    def expires_on(self, created: float | None) -> float:
        """The same by Fly's clock, which says when the machine was created (seconds since the epoch), if it does."""
        return created + self.lifetime if created is not None and self.lifetime else self.expires

    def held_until(self, created: float | None) -> float | None:
        """Until when its owner holds it, by Fly's clock, and renews that before; None where nobody can tell."""
        if not self.hold or (created is None and not self.held):
            return None
        return max(self.held, 0.0 if created is None else created + self.hold)

    def encode(self) -> dict[str, str]:
        """As metadata."""
        more = {APP: self.app, HOLD: str(self.hold or ""), HELD: str(self.held or "")}
        return {
            **{key: value for key, value in more.items() if value},
            KIND: RUNNER,
            BOOT: self.boot,
            POOL: self.pool[:200],
            OWNER: self.owner.encode(),
            EXPIRES: str(self.expires),
            LIFETIME: str(self.lifetime),
        }

    @classmethod
    def decode(cls, metadata: Mapping[str, str] | None) -> Label | None:
        """The inverse; None for the metadata of a machine that is none of ours, or that cannot be read."""
        if not metadata or metadata.get(KIND) != RUNNER:
            return None
        boot, owner = metadata.get(BOOT), Owner.decode(metadata.get(OWNER))
        expires, lifetime = _seconds(metadata.get(EXPIRES, "")), _seconds(metadata.get(LIFETIME, "0"))
        if not boot or owner is None or expires is None or lifetime is None:
            return None
        app, hold, held = metadata.get(APP, ""), *(_seconds(metadata.get(key, "0")) for key in (HOLD, HELD))
        # It becomes a part of addresses that are asked for; and what cannot be read holds nothing, and ends nothing.
        known = app if is_app_name(app) else ""
        return cls(boot, metadata.get(POOL, ""), owner, expires, lifetime, known, hold or 0, held or 0)


def _seconds(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def _host() -> str:
    machine = os.environ.get("FLY_MACHINE_ID")
    if machine and _is_own(os.environ.get("FLY_PRIVATE_IP")):
        return f"{ON_FLY}{machine}"
    name = os.uname().nodename
    # A machine's id is not for others to see: systemd says so. What it hashes to is.
    machine_id = hashlib.sha256(f"dragonfly {name} {_read('/etc/machine-id')}".encode()).hexdigest()[:16]
    return f"{name[:100]}:{machine_id}"


def _is_own(address: str | None) -> bool:
    """Whether an address is this machine's. An environment can be copied to a laptop, which is not the machine then."""
    if not address:
        return True
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def _space() -> str:
    try:
        status = Path("/proc/self/status").read_bytes()
        space, times = (_link(f"/proc/self/ns/{kind}") for kind in ("pid", "time"))
    except OSError:
        return ""
    # One number for each namespace, from that of /proc down to its own: with more than one, /proc has other numbers.
    numbers = next((line.split()[1:] for line in status.splitlines() if line.startswith(b"NSpid:")), [])
    if len(numbers) > 1 or not space:
        return ""
    return space if times in ("", FIRST_TIMES) else f"{space} {times}"


def _link(path: str) -> str:
    """Where it links to, which is no path; "" where this kernel has none."""
    try:
        return os.readlink(path)  # noqa: PTH115
    except FileNotFoundError:
        return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _is_hidden(pid: int) -> bool:
    """Whether there is a process with this number whose /proc this one may not see, such as another user's."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return not Path(f"/proc/{pid}").exists()


def _started(pid: int) -> int | None:
    """When the process with this number was started; None if there is none, or nobody tells."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The name in parentheses may hold anything, so fields are counted from its end.
    fields = stat.rpartition(b")")[2].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])
