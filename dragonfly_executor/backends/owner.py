"""The identity of the process that owns a node: from it, a sweep can tell whether the owner is alive.

A process id alone is reused. So a process is identified by its id, its start time, the boot of its kernel, and its
process id namespace.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from enum import Enum
from pathlib import Path
from typing import NamedTuple

ON_FLY = "fly:"
"""The prefix of the host name of a machine on Fly. The machine's id follows."""


FIRST_SPACE = "pid:[4026531836]"
"""The initial process id namespace of Linux. The number is fixed in the kernel, and no container has it."""
FIRST_TIMES = "time:[4026531834]"
"""The initial time namespace of Linux. Start times depend on the time namespace."""


class Liveness(Enum):
    """The state of an owner process."""

    ALIVE = "alive"
    GONE = "gone"
    UNKNOWN = "unknown"
    """The process is on another machine or in another container."""


class Owner(NamedTuple):
    """A process that boots nodes.

    Attributes:
        host: the unique name of its machine.
        boot: the boot id of that machine's kernel.
        space: its process id namespace, followed by its time namespace if that is not the initial one. A container has
            its own. "" if its /proc belongs to another namespace: then `pid` and `started` mean nothing.
        pid: its process id in that namespace.
        started: its start time, in clock ticks of the kernel.
    """

    host: str
    boot: str
    space: str
    pid: int
    started: int

    @classmethod
    def me(cls) -> Owner:
        """Return the owner for this process."""
        return cls.of(os.getpid())

    @classmethod
    def of(cls, pid: int) -> Owner:
        """Return the owner for a process in this process's own namespaces."""
        started = _started(pid)
        space = "" if started is None else _space()
        return cls(_host(), _read("/proc/sys/kernel/random/boot_id"), space, pid, started or 0)

    def liveness(self, me: Owner, *, is_here: bool = False) -> Liveness:
        """Return whether the process is alive.

        Args:
            me: the process that asks.
            is_here: whether the label was found on this machine's own disk. If so, the same host name with another boot
                id means this machine before a reboot. Otherwise it may be a clone.
        """
        # Even a label on this disk may be another machine's, as machines may share a home directory.
        if self.host != me.host:
            return Liveness.UNKNOWN
        if not self.boot or self.boot != me.boot:
            # Containers with the same name and disk may run on different hosts.
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
        """Return the app of this process's Fly machine; "" if there is none. Valid only for `Owner.me()`."""
        found = os.environ.get("FLY_APP_NAME", "") if self.fly_machine is not None else ""
        return found if is_app_name(found) else ""

    @property
    def fly_machine(self) -> str | None:
        """Return the id of the Fly machine that the process is on; None if it is not on Fly."""
        return self.host.removeprefix(ON_FLY) if self.host.startswith(ON_FLY) else None

    def encode(self) -> str:
        """Return the owner as text for a node's metadata."""
        return json.dumps(self, separators=(",", ":"))

    @classmethod
    def decode(cls, text: object) -> Owner | None:
        """Parse the result of `encode`. None for any other value."""
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


def is_app_name(text: str) -> bool:
    """Return True if an app on Fly may have this name."""
    return bool(text) and all(letter.isalnum() or letter in "-_" for letter in text)


def _host() -> str:
    machine = os.environ.get("FLY_MACHINE_ID")
    if machine and _is_own(os.environ.get("FLY_PRIVATE_IP")):
        return f"{ON_FLY}{machine}"
    name = os.uname().nodename
    # systemd asks programs to keep the machine id confidential, so only its hash is used.
    machine_id = hashlib.sha256(f"dragonfly {name} {_read('/etc/machine-id')}".encode()).hexdigest()[:16]
    return f"{name[:100]}:{machine_id}"


def _is_own(address: str | None) -> bool:
    """Return True if the address belongs to this machine. A Fly machine's environment may be copied to a laptop."""
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
    # NSpid has the process id in each namespace, from /proc's down to our own. If there are two, /proc is foreign.
    numbers = next((line.split()[1:] for line in status.splitlines() if line.startswith(b"NSpid:")), [])
    if len(numbers) > 1 or not space:
        return ""
    return space if times in ("", FIRST_TIMES) else f"{space} {times}"


def _link(path: str) -> str:
    """Return the text of a namespace link, which is no path; "" if this kernel has no such namespace."""
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
    """Return True if the process exists but its /proc entry is hidden from this one, such as another user's process."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return not Path(f"/proc/{pid}").exists()


def _started(pid: int) -> int | None:
    """Return the start time of a process in clock ticks; None if there is no such process or it is unknown."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The name in parentheses may contain spaces and parentheses, so count fields from its end.
    fields = stat.rpartition(b")")[2].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])
