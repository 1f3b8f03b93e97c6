"""The folder in which the pools of a user have their sockets.

The engine opens the socket of a pool early, so this module imports nothing that the engine does not have.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress
from time import time

VARIABLE = "DRAGONFLY_RUNTIME_DIR"
"""Names another folder. If it is set and empty, pools have no sockets."""
SOCKET, UNFINISHED = ".sock", ".tmp"
"""The suffixes of sockets that listen, and of sockets that do not listen yet."""
MOST_SWEPT = 100
"""Maximum number of entries that a sweep reads."""
UNFINISHED_FOR = 60.0
"""Seconds after which a socket that does not listen yet is certainly left over."""


def directories() -> list[str]:
    """Return where the sockets of this user's pools may be; pools here use the first. Empty if pools have none.

    A login session has ``XDG_RUNTIME_DIR``, and a cron job of the same user has not.
    """
    given = os.environ.get(VARIABLE)
    if given is not None:
        return [given] if given else []
    own = os.geteuid()
    found = []
    for base in (os.environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{own}"):
        if base.startswith("/") and os.access(base, os.W_OK) and f"{base}/dragonfly" not in found:
            found.append(f"{base}/dragonfly")
    return [*found, f"/tmp/dragonfly-{own}"]  # noqa: S108  # `check` refuses what belongs to others


def check(directory: str) -> None:
    """Raise an error unless the folder belongs to this user, and no other user can add sockets to it.

    Raises:
        OSError: there is no such folder, or it cannot be trusted.
    """
    found = os.lstat(directory)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(
            errno.EPERM, "this must be a folder of this user that no other user can write to", directory
        )


def make_directory() -> str | None:
    """Return the folder for the sockets of this process, which is made if there is none; None if pools have none.

    Raises:
        OSError: it cannot be made, or cannot be trusted.
    """
    paths = directories()
    if not paths:
        return None
    with suppress(FileExistsError):
        os.mkdir(paths[0], 0o700)  # noqa: PTH102
    check(paths[0])
    return paths[0]


def sweep(directory: str) -> None:
    """Remove the sockets of processes that were killed.

    The process of a socket may live in another container, where it has another number. So a socket is removed only if
    nothing listens on it.
    """
    with os.scandir(directory) as entries:
        for _, entry in zip(range(MOST_SWEPT), entries, strict=False):
            pid = entry.name.lstrip(".").partition("-")[0]
            if not pid.isdigit() or _is_alive(int(pid)):
                continue
            if entry.name.endswith(SOCKET) or (entry.name.endswith(UNFINISHED) and _is_old(entry)):
                remove_stale(entry.path)


def remove_stale(path: str) -> None:
    """Remove a socket, if nothing listens on it."""
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            probe.connect(path)
    except ConnectionRefusedError:
        with suppress(OSError):
            os.unlink(path)  # noqa: PTH108
    except OSError:
        return  # it is gone, or listens and is busy


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _is_old(entry: os.DirEntry[str]) -> bool:
    try:
        return time() - entry.stat(follow_symlinks=False).st_mtime > UNFINISHED_FOR
    except OSError:
        return False
