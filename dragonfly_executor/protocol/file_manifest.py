"""Manifests of file trees, and the difference between two trees.

A manifest names every directory, file and link of a tree by its path from the top: ``cwd/src/app.py``. Files are
identified by the digest of their contents, so contents that two trees share need not be sent. All input comes from a
peer and is trusted only after it was checked.
"""

from __future__ import annotations

from collections import namedtuple

from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.protocol.stdlib_json import json
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, TypeAlias

    Manifest: TypeAlias = Mapping[str, "ManifestEntry"]

FILE = "file"
DIRECTORY = "directory"
LINK = "link"
MODE_BITS = 0o777
"""Mode bits that are sent: no set-user-id bit, no sticky bit."""
MAX_ENTRIES = 200_000
MAX_PATH = 4096
MAX_SIZE = 2**50
DIGEST_LENGTH = 64
_HEX = frozenset("0123456789abcdef")


class ManifestEntry(namedtuple("ManifestEntry", "kind mode size digest target")):  # noqa: PYI024  # typing is slow to import
    """One directory, file or link.

    Attributes:
        kind: `FILE`, `DIRECTORY` or `LINK`.
        mode: permission bits; 0 for a link.
        size: size of a file in bytes; otherwise 0.
        digest: SHA-256 of a file's contents, as hex digits; otherwise "".
        target: target of a link; otherwise "".
    """

    __slots__ = ()
    kind: str
    mode: int
    size: int
    digest: str
    target: str


def file_entry(digest: str, size: int, mode: int = 0o644) -> ManifestEntry:
    """Return the entry of a file."""
    return ManifestEntry(FILE, mode & MODE_BITS, size, digest, "")


def directory_entry(mode: int = 0o755) -> ManifestEntry:
    """Return the entry of a directory. Its owner gets all permissions: otherwise no file could be created in it."""
    return ManifestEntry(DIRECTORY, mode & MODE_BITS | 0o700, 0, "", "")


def link_entry(target: str) -> ManifestEntry:
    """Return the entry of a symbolic link."""
    return ManifestEntry(LINK, 0, 0, "", target)


class TreeDifference(namedtuple("TreeDifference", "changed deleted")):  # noqa: PYI024
    """The difference between two trees.

    Attributes:
        changed: new or changed entries by path, directories before their contents.
        deleted: removed paths, the contents of a directory before the directory.
    """

    __slots__ = ()
    changed: dict[str, ManifestEntry]
    deleted: list[str]

    @property
    def digests(self) -> dict[str, int]:
        """Return digest and size of the contents that the changed files need. Both ends agree on the order."""
        files = {entry.digest: entry.size for entry in self.changed.values() if entry.kind == FILE}
        return dict(sorted(files.items()))


def diff(old: Manifest, new: Manifest) -> TreeDifference:
    """Return the difference that turns the tree `old` into the tree `new`."""
    changed = {path: entry for path, entry in sorted(new.items()) if old.get(path) != entry}
    return TreeDifference(changed, sorted((path for path in old if path not in new), reverse=True))


def merged(old: Manifest, difference: TreeDifference) -> dict[str, ManifestEntry]:
    """Return the tree that results from applying `difference` to `old`.

    Raises:
        ProtocolError: the result is not a tree (the parent of an entry is not a directory), or has too many entries.
    """
    new = dict(old)
    for path in difference.deleted:
        new.pop(path, None)
    new.update(difference.changed)
    if len(new) > MAX_ENTRIES:
        raise ProtocolError(f"a tree of {len(new)} entries, more than {MAX_ENTRIES}")
    for path in new:
        above = path.rpartition("/")[0]
        if above and (above not in new or new[above].kind != DIRECTORY):
            raise ProtocolError(f"the parent of {path!r} is not a directory of the tree")
    return new


def dump(difference: TreeDifference) -> dict[str, Any]:
    """Return a difference as JSON values."""
    changed = [[path, *entry] for path, entry in difference.changed.items()]
    return {"changed": changed, "deleted": difference.deleted}


def read(said: Any) -> TreeDifference:
    """Return the difference that `dump` encoded.

    Raises:
        ProtocolError: the input is not a difference, or a path leads out of the tree.
    """
    try:
        rows, gone = said["changed"], said["deleted"]
        if len(rows) > MAX_ENTRIES or len(gone) > MAX_ENTRIES:
            raise ProtocolError(f"a change of {len(rows)} and {len(gone)} entries, more than {MAX_ENTRIES}")
        changed = {checked_path(row[0]): _entry(*row[1:]) for row in rows}
        deleted = sorted({checked_path(path) for path in gone}, reverse=True)
    except (LookupError, TypeError, ValueError) as error:
        raise ProtocolError(f"not a difference between trees: {error!r}") from None
    return TreeDifference(dict(sorted(changed.items())), deleted)


def checked_path(path: Any) -> str:
    """Return `path` if it stays in the tree.

    Raises:
        ProtocolError: the path may lead out of the tree, or is not a path.
    """
    if not isinstance(path, str) or not path or not _is_name(path):
        raise ProtocolError(f"not a path: {str(path)[:80]!r}")
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise ProtocolError(f"a path that may lead out of the tree: {path[:80]!r}")
    return path


def _is_name(text: str) -> bool:
    """Return whether a file system can have this text as a path."""
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return len(text) <= MAX_PATH and "\0" not in text


def _entry(kind: Any, mode: Any, size: Any, digest: Any, target: Any) -> ManifestEntry:
    numbers = type(mode) is int and type(size) is int and 0 <= mode <= MODE_BITS and 0 <= size <= MAX_SIZE
    texts = isinstance(digest, str) and isinstance(target, str) and _is_name(target)
    if numbers and texts:
        if kind == FILE and len(digest) == DIGEST_LENGTH and _HEX.issuperset(digest) and not target:
            return ManifestEntry(kind, mode, size, digest, "")
        if kind == DIRECTORY and not (size or digest or target):
            return directory_entry(mode)
        if kind == LINK and target and not (mode or size or digest):
            return link_entry(target)
    raise ProtocolError(f"not an entry of a tree: {str(kind)[:20]!r}")


class SyncStep(namedtuple("SyncStep", "difference import_path fresh requirements heard", defaults=(0,))):  # noqa: PYI024
    """The content of a SYNC_BEGIN: how the runner's tree changes, and the consequences for its slots.

    Attributes:
        difference: the changes of the tree.
        import_path: the import path of slots, as paths in the tree, in order.
        fresh: True if code has changed, so that existing slots must not run later calls.
        requirements: lines of a requirements file for the environment of the slots; empty for no environment.
        heard: the number of the last step whose end the parent knew of when it sent this step; 0 for none.
    """

    __slots__ = ()
    difference: TreeDifference
    import_path: list[str]
    fresh: bool
    requirements: list[str]
    heard: int

    def dump(self) -> bytes:
        """Return the step as bytes."""
        said = {"path": self.import_path, "fresh": self.fresh, "requirements": self.requirements, "heard": self.heard}
        return json.dumps({**dump(self.difference), **said}).encode()


def read_step(data: bytes) -> SyncStep:
    """Return the step that `SyncStep.dump` encoded.

    Raises:
        ProtocolError: the bytes are not a step.
    """
    try:
        said = json.loads(data)
        path, lines, fresh, heard = said["path"], said["requirements"], said["fresh"], int(said["heard"])
    except (ArithmeticError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise ProtocolError(f"a SYNC_BEGIN that cannot be read: {error!r}") from None
    if not isinstance(path, list) or not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise ProtocolError("a SYNC_BEGIN without its lists")
    return SyncStep(read(said), [checked_path(entry) for entry in path], bool(fresh), lines, heard)


def pack_bits(answers: list[bool]) -> bytes:
    """Return the answers as bits, eight to a byte."""
    data = bytearray((len(answers) + 7) // 8)
    for number, answer in enumerate(answers):
        if answer:
            data[number // 8] |= 1 << number % 8
    return bytes(data)


def read_bits(data: bytes, count: int) -> list[bool]:
    """Return the `count` answers that `pack_bits` encoded.

    Raises:
        ProtocolError: the number of bytes does not match `count`.
    """
    if len(data) != (count + 7) // 8:
        raise ProtocolError(f"{len(data)} bytes of answers to {count} questions")
    return [bool(data[number // 8] >> number % 8 & 1) for number in range(count)]
