"""Advice for the doctor's findings."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly_executor import errors

LITTLE_DISK = 256 * 1024 * 1024
"""Bytes of free disk space below which a scratch directory is too full for a project and its segments."""
FREE_DISK = "free some space there, or point TMPDIR at a larger disk in the backend's env="

_BY_PHASE = {
    "create": "check the backend's own message: no runner could be started",
    "start": "see the platform's message: the node was created, and ended before its runner had dialed back",
    "resolve": "check the name: ssh HOST must find it; names in ~/.ssh/config count",
    "queue": "see why the scheduler keeps the job waiting, and ask for less; queue_timeout= limits the wait",
    "connect": "check that the host is up and its port is open from here: ssh -v HOST",
    "host key": (
        "compare the fingerprint with the host's own (there: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), then "
        "add it: ssh-keyscan HOST >> ~/.ssh/known_hosts, or give host_key=. A key that has changed may be an attack"
    ),
    "auth": "check user=, key_filename= and the agent: ssh -o BatchMode=yes HOST true must work without a prompt",
    "python": "install a Python of the same minor version there, or name one with python=",
    "bootstrap": "check that the home directory there can be written to, and has room",
    "handshake": "check the host's output; a longer boot_timeout= may be enough",
    "sync": "check the free space on the disk there, and the files that sync= sends",
    "requirements": "the installer's last lines stand above; try the same requirements there by hand",
    "initializer": "the initializer itself failed there: its traceback stands above",
}


def for_boot(error: errors.BootError) -> str:
    """Return advice on a failed boot."""
    return _BY_PHASE.get(error.phase, "see the message; a longer boot_timeout= may be enough")


def for_call(error: errors.DragonflyError) -> str:
    """Return advice on a runner that came up but failed its first call."""
    return f"the runner came up, and its first call ended with {type(error).__name__}: check limits and memory there"
