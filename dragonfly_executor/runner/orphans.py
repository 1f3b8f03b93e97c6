"""Ends the orphans of a runner on its host, if its supervisor and its agent were both killed: the next boot does this.

All processes of a runner on a host have a mark in their environment. The supervisor writes a record: a file that names
the mark, the supervisor and the agent. If both of these processes are gone, every process with the mark is an orphan.
"""

from __future__ import annotations

import os
import re
import stat
import time
from contextlib import suppress

from dragonfly_executor.protocol.stdlib_json import json
from dragonfly_executor.runner import process_tree, session_directory

MARK = "DRAGONFLY_HOST_RUNNER"
"""Environment variable that holds the mark of a process's runner."""
PREFIX = "dragonfly-runner-"
STALE = 30 * 24 * 3600.0
"""Seconds after which a record is removed if its processes cannot be checked from here, as in another container."""
SWEEPS = 20
"""Maximum searches for remaining processes, because a process may fork while it is being killed."""
_MAX_SIZE = 4096
_STARTED = 19
"""Field of /proc/PID/stat with the start time, counted from the field after the name."""


class RunnerRecord:
    """The record of this runner, in the folder for temporary files.

    Args:
        agent: the process id of its agent, which is a child of this process.
        within: the folder; None for the system's temporary folder.
    """

    def __init__(self, agent: int, within: str | None = None) -> None:
        self._path = ""
        mark, space = os.environ.get(MARK, ""), _space()
        if not re.fullmatch("[0-9a-f]{16}", mark) or not space:
            return
        folder = session_directory.temporary_folder() if within is None else within
        path = os.path.join(folder, f"{PREFIX}{os.geteuid()}-{mark}")
        said = {"space": space, "alive": [[pid, _started(pid)] for pid in (os.getpid(), agent)]}
        with suppress(OSError):  # the disk may be full; then orphans of this runner are not found
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            self._path = path
            try:
                os.write(fd, json.dumps(said).encode())
            finally:
                os.close(fd)

    def remove(self) -> None:
        """Remove the record: the runner ended in order and has no orphans."""
        if self._path:
            with suppress(OSError):
                os.unlink(self._path)


def sweep(within: str | None = None) -> list[str]:
    """Kill the orphans of this user's runners whose supervisor and agent are gone.

    Also remove the records and the session directories of these runners.

    Args:
        within: the folder of the records; None for the system's temporary folder.

    Returns:
        The marks of these runners.
    """
    within = session_directory.temporary_folder() if within is None else within
    prefix = f"{PREFIX}{os.geteuid()}-"
    swept = []
    for name in session_directory.listed(within):
        if not re.fullmatch(re.escape(prefix) + "[0-9a-f]{16}", name):
            continue
        path, mark = os.path.join(within, name), name[len(prefix) :]
        if _is_over(path):
            _kill(mark)
            with suppress(OSError):
                os.unlink(path)
            swept.append(mark)
    if swept:
        # A process that was only forked may have held the lock on a session directory.
        session_directory.sweep(within)
    return swept


def _kill(mark: str) -> None:
    for _ in range(SWEEPS):
        left = process_tree.members((), f"{MARK}={mark}".encode())
        if not left:
            return
        for pid in left:
            process_tree.kill(pid)


def _is_over(path: str) -> bool:
    """Return True if the runner of a record is certainly gone, or if the record is stale."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            found, text = os.fstat(fd), os.read(fd, _MAX_SIZE)
        finally:
            os.close(fd)
    except OSError:
        return False
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
        return False
    is_stale = found.st_mtime < time.time() - STALE
    try:
        said = json.loads(text)
        # In another process namespace the process ids mean other processes.
        if said["space"] != _space():
            return is_stale
        return all(started is None or _started(int(pid)) != started for pid, started in said["alive"])
    except (ValueError, KeyError, TypeError):
        # The record is being written, or was never written completely.
        return is_stale


def _started(pid: int) -> int | None:
    """Return the start time of a process in clock ticks since boot; None if it has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as status:
            # The name in parentheses may contain anything.
            fields = status.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[_STARTED])


def _space() -> str:
    """Return an identifier of this boot and process namespace, in which process ids are valid; "" if unknown."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as boot:
            return f"{boot.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
