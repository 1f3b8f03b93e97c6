"""The boots of this machine's pools, on disk: written before Fly is asked for a machine, gone when that is.

A file for each, named after the machine, so that its name is known even if what it says is not. Files are replaced as a
whole and reach the disk before anything follows. Processes share the folder, and each file has one that writes it.
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

from dragonfly_executor.backends.fly.owner import Label, Owner
from dragonfly_executor.backends.fly.settings import is_app_name

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
MACHINE_ID = re.compile(r"[A-Za-z0-9_-]{1,63}")
SUFFIX = ".json"
MAX_SIZE = 64 * 1024
STALE = 3600.0
"""Seconds after which half a write is not going on any more."""
KEPT = 7 * 24 * 3600.0
"""Seconds that a file is kept that does not say when it expires."""


class Entry(NamedTuple):
    """A boot.

    Attributes:
        name: the machine's: no other has it.
        app, host: where it was asked for.
        label: what is written on the machine; None where the file is damaged.
        began: when, in seconds since the epoch.
        expires: after that nobody has it any more.
        machine_id: None where it is not known: perhaps there is none.
        region, guest: what was asked for, or what came.
        abandoned: its owner has let go of it, and could not tell whether it is gone.
    """

    name: str
    app: str
    host: str
    label: Label | None
    began: float
    expires: float
    machine_id: str | None = None
    region: str = ""
    guest: Mapping[str, Any] = {}
    abandoned: bool = False


class Journal:
    """The entries of all processes of this user on this machine.

    Args:
        folder: where they lie; made if need be.

    Raises:
        OSError: it cannot be made, or is not this user's own.
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

    def write(self, entry: Entry) -> None:
        """Have this on the disk, instead of what there was of it.

        Raises:
            OSError: it is not.
        """
        path = self._path(entry.name)
        draft = self.folder / f".{entry.name}.{os.getpid()}.{os.urandom(4).hex()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            fd = os.open(draft, flags, 0o600)
        except FileNotFoundError:
            # Somebody has cleared it away, as one does with state that nobody seems to need.
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
        """The machine is gone; fine if there is no such entry."""
        with suppress(FileNotFoundError):
            self._path(name).unlink()
            self._sync()

    def entries(self) -> list[Entry]:
        """All that there are; what has expired long ago is cleared away."""
        found = []
        for path in sorted(self.folder.iterdir()):
            with suppress(FileNotFoundError):  # another process was faster
                if path.name.startswith("."):
                    if time.time() - path.stat().st_mtime > STALE:
                        path.unlink()
                elif path.suffix == SUFFIX and NAME.fullmatch(path.stem):
                    found.append(_read(path))
        return found

    def _path(self, name: str) -> Path:
        if not NAME.fullmatch(name):
            raise ValueError(f"no machine has such a name: {name!r}")
        return self.folder / f"{name}{SUFFIX}"

    def _sync(self) -> None:
        """That a file was made or removed stands in the folder, which has to reach the disk, too."""
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def open_journal(given: str | os.PathLike[str] | bool | None) -> Journal | None:
    """A backend's, as it was given: a folder, True or None for the default one, False for none.

    Raises:
        OSError: there cannot be one; it says what to do about it.
    """
    if given is False:
        return None
    try:
        return Journal(default_folder(os.environ) if given is None or given is True else given)
    except (OSError, RuntimeError) as error:
        text = f"cannot keep a journal: {error}. Give a folder as journal=, or journal=False to go without"
        raise OSError(text) from error


def default_folder(environment: Mapping[str, str]) -> Path:
    """Where programs keep what they have to remember: below XDG_STATE_HOME, or ~/.local/state."""
    given = environment.get("XDG_STATE_HOME", "")
    # A relative path there is to be ignored: the standard says so.
    state = Path(given) if given.startswith("/") else Path("~/.local/state")
    return state / "dragonfly_executor" / "fly"


def _encode(entry: Entry) -> bytes:
    said = entry._asdict()
    label = entry.label
    said["label"] = None if label is None else [label.boot, label.pool, list(label.owner), *label[3:]]
    return json.dumps(said).encode()


def _read(path: Path) -> Entry:
    status = path.stat()
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIZE)
        return _decode(path.stem, json.loads(data))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError, KeyError, RecursionError, OverflowError):
        # Its name is known all the same, and the others' entries have nothing to do with it.
        return Entry(path.stem, "", "", None, status.st_mtime, status.st_mtime + KEPT)


def _decode(name: str, said: Any) -> Entry:
    boot, pool, owner, expires, lifetime, *more = said["label"]
    read = Owner.decode(owner)
    if read is None or not isinstance(boot, str) or not isinstance(pool, str):
        raise ValueError("the label is none")
    began, until = float(said["began"]), float(said["expires"])
    if not isfinite(began) or not isfinite(until):
        raise ValueError("those are no times")
    app, host, region = (_text(said[key]) for key in ("app", "host", "region"))
    machine_id, guest = said["machine_id"], said["guest"]
    # It becomes a part of addresses that are asked for.
    if machine_id is not None and not (isinstance(machine_id, str) and MACHINE_ID.fullmatch(machine_id)):
        raise ValueError("there is no such machine")
    if not isinstance(guest, dict):
        raise TypeError("the machine is none")
    label = Label(boot, pool, read, _whole(expires), _whole(lifetime), *_claim(*more))
    return Entry(name, app, host, label, began, until, machine_id, region, guest, said["abandoned"] is True)


def _claim(app: object = "", hold: object = 0, held: object = 0) -> tuple[str, int, int]:
    name = _text(app)
    return (name if is_app_name(name) else "", _whole(hold), _whole(held))


def _text(said: object) -> str:
    if not isinstance(said, str):
        raise TypeError("that is no text")
    return said


def _whole(said: object) -> int:
    """Seconds, as a label has them."""
    if not isinstance(said, int) or not 0 <= said < 10**15:
        raise ValueError("that is no time")
    return said
