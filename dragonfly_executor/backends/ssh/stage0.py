"""The first program on a host: it receives the archive if it is missing, and becomes a runner's agent.

It is sent in a command line, so it is short, has no secret, and imports only the standard library. It sends lines of
JSON to the parent. The first line follows `MAGIC`, as a host may have printed any text before.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import stat
import sys
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MAGIC = b"\x1edragonfly-1\x1f"
KEPT = 4
"""The number of most recently used archives that stay in the cache."""
STALE = 3600.0
"""Seconds after which an unfinished file is abandoned."""


def main(digest: str, cache: str, timeout: str) -> None:
    """Talk to the parent, then run the agent. Does not return.

    Args:
        digest: the digest of the archive.
        cache: the folder for archives, or "" for the user's own.
        timeout: seconds after which the parent has given up, and may be unable to report that.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(int(timeout))
    reading, writing = _move_aside()
    try:
        folder = _cache_folder(cache)
        path = os.path.join(folder, digest + ".zip")
        lock = _verified(path, digest)
        version = "{}.{}.{}".format(*sys.version_info)
        _say(writing, {"cached": lock >= 0, "python": version, "executable": sys.executable}, MAGIC)
        # Import now, while the parent's answer is in transit.
        run = _load(path) if lock >= 0 else None
        order, rest = _hear(reading)
        if lock < 0:
            _store(path, digest, _read(reading, order["size"], rest))
            lock = _verified(path, digest)
            if lock < 0:
                raise OSError(f"the data written to {path} cannot be read again")
            with suppress(OSError):  # a later runner cleans up
                _clean_up(folder)
        os.environ.update(order["env"])
        os.environ["DRAGONFLY_CACHE"] = folder
        os.environ.pop("DRAGONFLY_PARENT_PID", None)
        run = run or _load(path)
    except BaseException as error:
        _say(writing, {"error": f"{type(error).__name__}: {error}"}, MAGIC)
        os._exit(1)
    _say(writing, {"ready": True})
    signal.alarm(0)
    run(reading, writing, int(timeout), order["dial"])


def _load(path: str) -> Callable[[int, int, float, dict[str, Any] | None], None]:
    """Return the archive's function that becomes an agent.

    From here on, the process imports only from the archive and the standard library. Slots get the rest of the host's
    path.
    """
    library, dynamic = os.path.dirname(os.__file__), os.sep + "lib-dynload"
    archive = "python{}{}.zip".format(*sys.version_info)
    own = [p for p in sys.path if p == library or p.endswith(dynamic) or os.path.basename(p) == archive] or sys.path
    os.environ["DRAGONFLY_HOST_PATH"] = json.dumps([entry for entry in sys.path if entry not in own])
    sys.path[:] = [path, *own]
    from dragonfly_executor.runner import ssh_supervisor

    return ssh_supervisor.run


def _move_aside() -> tuple[int, int]:
    """Move the parent's stream to unused descriptors. Output to stdout goes to stderr from now on."""
    reading, writing = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100) for fd in (0, 1))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    if null > 2:
        os.close(null)
    return reading, writing


def _say(writing: int, message: dict[str, object], before: bytes = b"") -> None:
    data = before + json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(writing, data) :]


def _hear(reading: int) -> tuple[dict[str, Any], bytes]:
    """Return a line from the parent, and the bytes read after it."""
    data = b""
    while b"\n" not in data:
        data += _some(reading)
    line, _, rest = data.partition(b"\n")
    return json.loads(line), rest


def _read(reading: int, size: int, data: bytes) -> bytes:
    pieces, missing = [data], size - len(data)
    while missing:
        pieces.append(_some(reading))
        missing -= len(pieces[-1])
    return b"".join(pieces)


def _some(reading: int) -> bytes:
    data = os.read(reading, 1 << 20)
    if not data:
        os._exit(1)  # the parent has closed the stream
    return data


def _cache_folder(cache: str) -> str:
    """Return the folder of the archives. Only this user can write to it."""
    above = os.path.expanduser(cache or os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    folder = os.path.join(above, "dragonfly_executor")
    if not os.path.isabs(above):
        raise OSError(f"{above} is not an absolute path, so there is no folder for the cache")
    os.makedirs(folder, 0o700, exist_ok=True)
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise OSError(f"{folder} is no folder of this user's")
    if found.st_mode & 0o077:
        os.chmod(folder, 0o700)
    return folder


def _verified(path: str, digest: str) -> int:
    """Return a descriptor of the archive if it is intact, otherwise -1. An open one keeps the file from clean-up."""
    while True:
        fd, is_there = _opened(path, digest)
        # If it is not, another runner has just replaced the file: open the new one.
        if fd < 0 or is_there:
            return fd
        os.close(fd)


def _opened(path: str, digest: str) -> tuple[int, bool]:
    """Return a descriptor like `_verified`, and whether its file is still at this path."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return -1, False
    with suppress(OSError):  # a clean-up has locked it, or the file system has no locks
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    with open(fd, "rb", closefd=False) as file:
        if hashlib.sha256(file.read()).hexdigest() == digest:
            with suppress(OSError):  # it then only seems less recently used
                os.utime(path)
            return fd, os.fstat(fd).st_nlink > 0
    os.close(fd)
    return -1, False


def _store(path: str, digest: str, data: bytes) -> None:
    if hashlib.sha256(data).hexdigest() != digest:
        raise OSError("the archive was changed on its way over the connection")
    part = f"{path}.{os.getpid()}.{os.urandom(4).hex()}.part"
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(data)
        os.rename(part, path)
    except BaseException:
        os.unlink(part)
        raise


def _clean_up(folder: str) -> None:
    """Remove the least recently used archives, except those that a runner uses."""
    found = []
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        try:
            found.append((os.lstat(path).st_mtime, path))
        except OSError:
            continue
    # Now, by the clock of the file system: the newest file is the archive that was just written.
    now = max((used for used, _ in found), default=0.0)
    parts = [path for used, path in found if path.endswith(".part") and used < now - STALE]
    archives = [path for used, path in sorted(found, reverse=True) if path.endswith(".zip")]
    for path in parts + archives[KEPT:]:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)
            finally:
                os.close(fd)
        except OSError:
            continue
