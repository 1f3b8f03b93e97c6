"""The journal of boots on disk: an entry is written before its create request is sent, and removed with its node.

Each entry is a file with the node's name, so that the name is known even if the content is damaged. A write replaces
the whole file and reaches the disk before the boot goes on. Processes share the folder, but only one process writes
each file.
"""

from __future__ import annotations

import json
import os
import re
import stat
import time
from abc import abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from math import isfinite
from pathlib import Path
from typing import Any, BinaryIO, Generic, NamedTuple, TypeVar

from dragonfly_executor.backends.label import OwnerLabel
from dragonfly_executor.backends.owner import Owner, is_app_name

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
NODE_ID = re.compile(r"[A-Za-z0-9_.-]{1,127}")
SUFFIX = ".json"
MAX_SIZE = 64 * 1024
STALE = 3600.0
"""Seconds after which a temporary file is no write in progress, but the rest of an interrupted write."""
KEPT = 7 * 24 * 3600.0
"""Seconds for which a damaged entry is kept, as its expiry date is unknown."""

Entry = TypeVar("Entry")


class JournalFolder(Generic[Entry]):
    """The entries of all processes of this user on this machine. A subclass defines an entry and its encoding.

    Args:
        folder: the folder of the entries. It is made if it does not exist.

    Raises:
        OSError: the folder cannot be made, or belongs to another user.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).expanduser().absolute()
        self._make_folder()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.folder)!r})"

    @abstractmethod
    def abandoned(self, entry: Entry) -> Entry:
        """Return the entry, marked as abandoned by its owner."""

    @abstractmethod
    def name_of(self, entry: Entry) -> str:
        """Return the name of an entry's node."""

    @abstractmethod
    def _encode(self, entry: Entry) -> Mapping[str, object]:
        """Return the content of an entry's file."""

    @abstractmethod
    def _decode(self, name: str, said: Any) -> Entry:
        """Return an entry from the content of its file. ValueError, TypeError or KeyError if it is damaged."""

    @abstractmethod
    def _damaged(self, name: str, since: float) -> Entry:
        """Return an entry of which only the name, and the time of its last write, are known."""

    def _make_folder(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = self.folder.stat()
        if status.st_uid != os.geteuid():
            raise PermissionError(f"the journal's folder {self.folder} belongs to another user")
        if stat.S_IMODE(status.st_mode) & 0o077:
            self.folder.chmod(0o700)

    def write(self, *entries: Entry, reaches_disk: bool = True) -> None:
        """Write entries. Each replaces an earlier entry of the same name.

        Args:
            entries: the entries.
            reaches_disk: whether to wait until the entries are on the disk. Otherwise they outlive this process, and
                perhaps not a power cut.

        Raises:
            OSError: not all entries are written.
        """
        drafts: list[tuple[Path, Path, BinaryIO]] = []
        try:
            drafts.extend(map(self._write_draft, entries))
            for _, _, file in drafts:
                if reaches_disk:
                    os.fsync(file.fileno())
            for draft, path, _ in drafts:
                draft.replace(path)
        finally:
            for draft, _, file in drafts:
                file.close()
                draft.unlink(missing_ok=True)
        if reaches_disk:
            self._sync()

    def _write_draft(self, entry: Entry) -> tuple[Path, Path, BinaryIO]:
        """Write a temporary file. Returns its path, the path that it is to replace, and the open file."""
        name = self.name_of(entry)
        path = self._path(name)
        draft = self.folder / f".{name}.{os.getpid()}.{os.urandom(4).hex()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            fd = os.open(draft, flags, 0o600)
        except FileNotFoundError:
            # A cleaner of the state directory has removed the folder.
            self._make_folder()
            fd = os.open(draft, flags, 0o600)
        file = open(fd, "wb")  # noqa: SIM115  # the caller closes it after the fsync
        try:
            file.write(json.dumps(self._encode(entry)).encode())
            file.flush()
        except BaseException:
            file.close()
            draft.unlink(missing_ok=True)
            raise
        return draft, path, file

    def remove(self, name: str) -> None:
        """Remove the entry of a node that is gone. Does nothing if there is no such entry."""
        with suppress(FileNotFoundError):
            self._path(name).unlink()
            self._sync()

    def entries(self) -> list[Entry]:
        """Return all entries. Remove temporary files that are older than `STALE`."""
        found = []
        for path in sorted(self.folder.iterdir()):
            with suppress(FileNotFoundError):  # another process has removed the file
                if path.name.startswith("."):
                    if time.time() - path.stat().st_mtime > STALE:
                        path.unlink()
                elif path.suffix == SUFFIX and NAME.fullmatch(path.stem):
                    found.append(self._read(path))
        return found

    def _read(self, path: Path) -> Entry:
        status = path.stat()
        try:
            with path.open("rb") as file:
                data = file.read(MAX_SIZE)
            return self._decode(path.stem, json.loads(data))
        except FileNotFoundError:
            raise
        except (OSError, ValueError, TypeError, KeyError, RecursionError, OverflowError):
            # A damaged entry still has its name, and must not hide the other entries.
            return self._damaged(path.stem, status.st_mtime)

    def _path(self, name: str) -> Path:
        if not NAME.fullmatch(name):
            raise ValueError(f"not a node's name: {name!r}")
        return self.folder / f"{name}{SUFFIX}"

    def _sync(self) -> None:
        """Flush the folder to the disk: otherwise a new or removed file may be undone by a power loss."""
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


class JournalEntry(NamedTuple):
    """A boot.

    Attributes:
        name: the node's unique name.
        place: the platform that got the create request, such as a cluster's name; entries of other places are ignored.
        label: the label on the node; None if the file is damaged.
        began: when the boot began, in seconds since the epoch.
        expires: when the entry expires, in seconds since the epoch. After that a node that is not found is forgotten.
        node_id: the platform's id of the node; None if it is not known. Then there may be no node.
        abandoned: True if the owner has stopped the node but could not confirm that it is gone.
    """

    name: str
    place: str
    label: OwnerLabel | None
    began: float
    expires: float
    node_id: str | None = None
    abandoned: bool = False


class Journal(JournalFolder[JournalEntry]):
    """The journal of a backend without an entry format of its own."""

    def name_of(self, entry: JournalEntry) -> str:
        """See `JournalFolder.name_of`."""
        return entry.name

    def abandoned(self, entry: JournalEntry) -> JournalEntry:
        """See `JournalFolder.abandoned`."""
        return entry._replace(abandoned=True)

    def _encode(self, entry: JournalEntry) -> Mapping[str, object]:
        return {**entry._asdict(), "label": encode_label(entry.label)}

    def _decode(self, name: str, said: Any) -> JournalEntry:
        label, began, expires = decode_label(said["label"]), decode_time(said["began"]), decode_time(said["expires"])
        node_id = said["node_id"]
        if node_id is not None and not (isinstance(node_id, str) and NODE_ID.fullmatch(node_id)):
            raise ValueError("the node's ID is not valid")
        return JournalEntry(name, decode_text(said["place"]), label, began, expires, node_id, said["abandoned"] is True)

    def _damaged(self, name: str, since: float) -> JournalEntry:
        return JournalEntry(name, "", None, since, since + KEPT)


def check_journal(given: str | os.PathLike[str] | bool | None, backend: str) -> Path | None:
    """Return the folder of a backend's journal, which is not made yet.

    Args:
        given: a folder; True or None for the default folder; False for no journal.
        backend: the backend's name.
    """
    if given is False:
        return None
    return default_folder(os.environ, backend) if given is None or given is True else Path(given)


def explain_no_journal(error: Exception) -> OSError:
    """Return the error for a journal that cannot be opened, with what to do."""
    return OSError(f"cannot keep a journal: {error}. Give a folder as journal=, or journal=False to go without")


def open_journal(given: str | os.PathLike[str] | bool | None, backend: str) -> Journal | None:
    """Open a backend's journal. See `check_journal` for the arguments.

    Raises:
        OSError: the journal cannot be opened. The text says what to do.
    """
    try:
        folder = check_journal(given, backend)
        return None if folder is None else Journal(folder)
    except (OSError, RuntimeError) as error:
        raise explain_no_journal(error) from error


def default_folder(environment: Mapping[str, str], backend: str) -> Path:
    """Return the default folder of a backend: below XDG_STATE_HOME, or below ~/.local/state."""
    given = environment.get("XDG_STATE_HOME", "")
    # The XDG specification says that a relative path must be ignored.
    state = Path(given) if given.startswith("/") else Path("~/.local/state")
    return state / "dragonfly_executor" / backend


# -- encoding ----------------------------------------------------------------------------------------------------------


def encode_label(label: OwnerLabel | None) -> list[object] | None:
    """Return a label as JSON-compatible data."""
    return None if label is None else [label.boot, label.pool, list(label.owner), *label[3:]]


def decode_label(said: Any) -> OwnerLabel:
    """Return the label of `encode_label`. ValueError or TypeError for other data."""
    boot, pool, owner, expires, lifetime, *more = said
    read = Owner.decode(owner)
    if read is None or not isinstance(boot, str) or not isinstance(pool, str):
        raise ValueError("the label is not valid")
    return OwnerLabel(boot, pool, read, _whole(expires), _whole(lifetime), *_claim(*more))


def decode_time(said: Any) -> float:
    """Return a time in seconds since the epoch, once it is checked."""
    found = float(said)
    if not isfinite(found):
        raise ValueError("a time is not a finite number")
    return found


def decode_text(said: object) -> str:
    """Return a text, once it is checked."""
    if not isinstance(said, str):
        raise TypeError("a value is not a text")
    return said


def _claim(app: object = "", hold: object = 0, held: object = 0) -> tuple[str, int, int]:
    name = decode_text(app)
    return (name if is_app_name(name) else "", _whole(hold), _whole(held))


def _whole(said: object) -> int:
    """Return a number of seconds from a label, once it is checked."""
    if not isinstance(said, int) or not 0 <= said < 10**15:
        raise ValueError("a time is not valid")
    return said
