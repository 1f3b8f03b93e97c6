"""The journal of boots on disk: an entry is written before its create request is sent, and removed with its machine.

Each entry is a file with the machine's name, so that the name is known even if the content is damaged. A write replaces
the whole file and reaches the disk before the boot goes on. Processes share the folder, but only one process writes
each file.
"""

from __future__ import annotations

import json
import os
import re
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from dragonfly_executor.backends.fly.owner import Owner, OwnerLabel
from dragonfly_executor.backends.fly.settings import is_app_name

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
MACHINE_ID = re.compile(r"[A-Za-z0-9_-]{1,63}")
SUFFIX = ".json"
MAX_SIZE = 64 * 1024
STALE = 3600.0
"""Seconds after which a temporary file is no write in progress, but the rest of an interrupted write."""
KEPT = 7 * 24 * 3600.0
"""Seconds for which a damaged entry is kept, as its expiry date is unknown."""


class JournalEntry(NamedTuple):
    """A boot.

    Attributes:
        name: the machine's unique name.
        app, host: the app and the API that got the create request.
        label: the label on the machine; None if the file is damaged.
        began: when the boot began, in seconds since the epoch.
        expires: when the machine expires, in seconds since the epoch. After that no process owns it.
        machine_id: None if it is not known. Then there may be no machine.
        region, guest: region and size, as requested, or as created once that is known.
        abandoned: True if the owner has stopped the machine but could not confirm that it is gone.
    """

    name: str
    app: str
    host: str
    label: OwnerLabel | None
    began: float
    expires: float
    machine_id: str | None = None
    region: str = ""
    guest: Mapping[str, Any] = {}
    abandoned: bool = False


class Journal:
    """The entries of all processes of this user on this machine.

    Args:
        folder: the folder of the entries. It is made if it does not exist.

    Raises:
        OSError: the folder cannot be made, or belongs to another user.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).expanduser().absolute()
        self._make_folder()

    def __repr__(self) -> str:
        return f"Journal({str(self.folder)!r})"

    def _make_folder(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = self.folder.stat()
        if status.st_uid != os.geteuid():
            raise PermissionError(f"the journal's folder {self.folder} belongs to another user")
        if stat.S_IMODE(status.st_mode) & 0o077:
            self.folder.chmod(0o700)

    def write(self, entry: JournalEntry) -> None:
        """Write an entry to the disk. It replaces an earlier entry of the same name.

        Raises:
            OSError: the entry is not on the disk.
        """
        path = self._path(entry.name)
        draft = self.folder / f".{entry.name}.{os.getpid()}.{os.urandom(4).hex()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            fd = os.open(draft, flags, 0o600)
        except FileNotFoundError:
            # A cleaner of the state directory has removed the folder.
            self._make_folder()
            fd = os.open(draft, flags, 0o600)
        try:
            with open(fd, "wb") as file:
                file.write(_encode(entry))
                file.flush()
                os.fsync(fd)
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        self._sync()

    def remove(self, name: str) -> None:
        """Remove the entry of a machine that is gone. Does nothing if there is no such entry."""
        with suppress(FileNotFoundError):
            self._path(name).unlink()
            self._sync()

    def entries(self) -> list[JournalEntry]:
        """Return all entries. Remove temporary files that are older than `STALE`."""
        found = []
        for path in sorted(self.folder.iterdir()):
            with suppress(FileNotFoundError):  # another process has removed the file
                if path.name.startswith("."):
                    if time.time() - path.stat().st_mtime > STALE:
                        path.unlink()
                elif path.suffix == SUFFIX and NAME.fullmatch(path.stem):
                    found.append(_read(path))
        return found

    def _path(self, name: str) -> Path:
        if not NAME.fullmatch(name):
            raise ValueError(f"not a machine's name: {name!r}")
        return self.folder / f"{name}{SUFFIX}"

    def _sync(self) -> None:
        """Flush the folder to the disk: otherwise a new or removed file may be undone by a power loss."""
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def open_journal(given: str | os.PathLike[str] | bool | None) -> Journal | None:
    """Open a backend's journal.

    Args:
        given: a folder; True or None for the default folder; False for no journal.

    Raises:
        OSError: the journal cannot be opened. The text says what to do.
    """
    if given is False:
        return None
    try:
        return Journal(default_folder(os.environ) if given is None or given is True else given)
    except (OSError, RuntimeError) as error:
        text = f"cannot keep a journal: {error}. Give a folder as journal=, or journal=False to go without"
        raise OSError(text) from error


def default_folder(environment: Mapping[str, str]) -> Path:
    """Return the default folder: below XDG_STATE_HOME, or below ~/.local/state."""
    given = environment.get("XDG_STATE_HOME", "")
    # The XDG specification says that a relative path must be ignored.
    state = Path(given) if given.startswith("/") else Path("~/.local/state")
    return state / "dragonfly_executor" / "fly"


def _encode(entry: JournalEntry) -> bytes:
    said = entry._asdict()
    label = entry.label
    said["label"] = None if label is None else [label.boot, label.pool, list(label.owner), *label[3:]]
    return json.dumps(said).encode()


def _read(path: Path) -> JournalEntry:
    status = path.stat()
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIZE)
        return _decode(path.stem, json.loads(data))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError, KeyError, RecursionError, OverflowError):
        # A damaged entry still has its name, and must not hide the other entries.
        return JournalEntry(path.stem, "", "", None, status.st_mtime, status.st_mtime + KEPT)


def _decode(name: str, said: Any) -> JournalEntry:
    boot, pool, owner, expires, lifetime, *more = said["label"]
    read = Owner.decode(owner)
    if read is None or not isinstance(boot, str) or not isinstance(pool, str):
        raise ValueError("the label is not valid")
    began, until = float(said["began"]), float(said["expires"])
    if not isfinite(began) or not isfinite(until):
        raise ValueError("a time is not a finite number")
    app, host, region = (_text(said[key]) for key in ("app", "host", "region"))
    machine_id, guest = said["machine_id"], said["guest"]
    # The id becomes part of a request URL, so it must be well-formed.
    if machine_id is not None and not (isinstance(machine_id, str) and MACHINE_ID.fullmatch(machine_id)):
        raise ValueError("the machine's ID is not valid")
    if not isinstance(guest, dict):
        raise TypeError("the guest is not a mapping")
    label = OwnerLabel(boot, pool, read, _whole(expires), _whole(lifetime), *_claim(*more))
    return JournalEntry(name, app, host, label, began, until, machine_id, region, guest, said["abandoned"] is True)


def _claim(app: object = "", hold: object = 0, held: object = 0) -> tuple[str, int, int]:
    name = _text(app)
    return (name if is_app_name(name) else "", _whole(hold), _whole(held))


def _text(said: object) -> str:
    if not isinstance(said, str):
        raise TypeError("a value is not a text")
    return said


def _whole(said: object) -> int:
    """Return a number of seconds from a label, once it is checked."""
    if not isinstance(said, int) or not 0 <= said < 10**15:
        raise ValueError("a time is not valid")
    return said
