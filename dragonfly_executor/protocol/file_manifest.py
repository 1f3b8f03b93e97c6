"""What lies in a tree of files, and how one tree becomes another.

A manifest names every directory, file and link of a tree by its path from the top: ``cwd/src/app.py``. Files are known
by the digest of their contents, so what two trees share need not travel. Whatever is read here comes from a peer, and
is believed only as far as it has been checked.
"""

from __future__ import annotations

from collections import namedtuple

from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.protocol.stdlib_json import json

# A runner imports this, and importing typing would take as long as all the rest. Type checkers take the name for true.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, TypeAlias

    Manifest: TypeAlias = Mapping[str, "Entry"]

FILE = "file"
DIRECTORY = "directory"
LINK = "link"
MODE_BITS = 0o777
"""What of a mode travels: no set-user-id, no sticky bit."""
MAX_ENTRIES = 200_000
MAX_PATH = 4096
MAX_SIZE = 2**50
DIGEST_LENGTH = 64
_HEX = frozenset("0123456789abcdef")


class Entry(namedtuple("Entry", "kind mode size digest target")):  # noqa: PYI024  # typing is slow to import
    """One directory, file or link.

    Attributes:
        kind: `FILE`, `DIRECTORY` or `LINK`.
        mode: permission bits; 0 for a link.
        size: bytes of a file; else 0.
        digest: SHA-256 of a file's contents, as hex digits; else "".
        target: where a link leads; else "".
    """

    __slots__ = ()
    kind: str
    mode: int
    size: int
    digest: str
    target: str


def a_file(digest: str, size: int, mode: int = 0o644) -> Entry:
    """The entry of a file."""
    return Entry(FILE, mode & MODE_BITS, size, digest, "")


def a_directory(mode: int = 0o755) -> Entry:
    """The entry of a directory. Its owner may always use it: else nothing could be put there."""
    return Entry(DIRECTORY, mode & MODE_BITS | 0o700, 0, "", "")


def a_link(target: str) -> Entry:
    """The entry of a symbolic link."""
    return Entry(LINK, 0, 0, "", target)


class Difference(namedtuple("Difference", "changed deleted")):  # noqa: PYI024
    """What makes one tree out of another.

    Attributes:
        changed: the entries that are new or not as they were, by path, directories before what is in them.
        deleted: the paths that are no longer there, what is in a directory before the directory.
    """

    __slots__ = ()
    changed: dict[str, Entry]
    deleted: list[str]

    @property
    def digests(self) -> dict[str, int]:
        """The contents that the changed files need: digest and size, in an order on which both ends agree."""
        files = {entry.digest: entry.size for entry in self.changed.values() if entry.kind == FILE}
        return dict(sorted(files.items()))


def diff(old: Manifest, new: Manifest) -> Difference:
    """What makes the tree `new` out of the tree `old`."""
    changed = {path: entry for path, entry in sorted(new.items()) if old.get(path) != entry}
    return Difference(changed, sorted((path for path in old if path not in new), reverse=True))


def merged(old: Manifest, difference: Difference) -> dict[str, Entry]:
    """The tree that `difference` makes out of `old`.

    Raises:
        ProtocolError: that would be no tree: something lies in what is no directory, or there is too much.
    """
    new = dict(old)
    for path in difference.deleted:
        new.pop(path, None)
    new.update(difference.changed)
    if len(new) > MAX_ENTRIES:
        raise ProtocolError(f"a tree of {len(new)} entries, where {MAX_ENTRIES} are allowed")
    for path in new:
        above = path.rpartition("/")[0]
        if above and (above not in new or new[above].kind != DIRECTORY):
            raise ProtocolError(f"{path!r} lies in what is no directory of the tree")
    return new


def dump(difference: Difference) -> dict[str, Any]:
    """A difference as JSON can hold it."""
    changed = [[path, *entry] for path, entry in difference.changed.items()]
    return {"changed": changed, "deleted": difference.deleted}


def read(said: Any) -> Difference:
    """What `dump` made; `ProtocolError` for anything else, and for any path that leads out of the tree."""
    try:
        rows, gone = said["changed"], said["deleted"]
        if len(rows) > MAX_ENTRIES or len(gone) > MAX_ENTRIES:
            raise ProtocolError(f"a change of {len(rows)} and {len(gone)} entries, where {MAX_ENTRIES} are allowed")
        changed = {checked_path(row[0]): _entry(*row[1:]) for row in rows}
        deleted = sorted({checked_path(path) for path in gone}, reverse=True)
    except (LookupError, TypeError, ValueError) as error:
        raise ProtocolError(f"no difference between trees: {error!r}") from None
    return Difference(dict(sorted(changed.items())), deleted)


def checked_path(path: Any) -> str:
    """A path that stays in the tree, whatever it is joined to; `ProtocolError` for any other."""
    if not isinstance(path, str) or not path or not _is_name(path):
        raise ProtocolError(f"not a path: {str(path)[:80]!r}")
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise ProtocolError(f"a path that may lead out of the tree: {path[:80]!r}")
    return path


def _is_name(text: str) -> bool:
    """Whether a file system could have this as a path."""
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return len(text) <= MAX_PATH and "\0" not in text


def _entry(kind: Any, mode: Any, size: Any, digest: Any, target: Any) -> Entry:
    numbers = type(mode) is int and type(size) is int and 0 <= mode <= MODE_BITS and 0 <= size <= MAX_SIZE
    texts = isinstance(digest, str) and isinstance(target, str) and _is_name(target)
    if numbers and texts:
        if kind == FILE and len(digest) == DIGEST_LENGTH and _HEX.issuperset(digest) and not target:
            return Entry(kind, mode, size, digest, "")
        if kind == DIRECTORY and not (size or digest or target):
            return a_directory(mode)
        if kind == LINK and target and not (mode or size or digest):
            return a_link(target)
    raise ProtocolError(f"not an entry of a tree: {str(kind)[:20]!r}")


class Step(namedtuple("Step", "difference import_path fresh requirements heard", defaults=(0,))):  # noqa: PYI024
    """What a SYNC_BEGIN says: how the runner's tree changes, and what that means for its slots.

    Attributes:
        difference: what changes in the tree.
        import_path: where slots import from, as paths in the tree, in this order.
        fresh: whether slots from before must not run the calls that come after: code has changed.
        requirements: lines of a requirements file for which the slots get an environment; none for no environment.
        heard: the number of the last step of whose end the parent knew then; 0 for none.
    """

    __slots__ = ()
    difference: Difference
    import_path: list[str]
    fresh: bool
    requirements: list[str]
    heard: int

    def dump(self) -> bytes:
        """The step as bytes."""
        said = {"path": self.import_path, "fresh": self.fresh, "requirements": self.requirements, "heard": self.heard}
        return json.dumps({**dump(self.difference), **said}).encode()


def read_step(data: bytes) -> Step:
    """The inverse of `Step.dump`; `ProtocolError` for anything else."""
    try:
        said = json.loads(data)
        path, lines, fresh, heard = said["path"], said["requirements"], said["fresh"], int(said["heard"])
    except (ArithmeticError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise ProtocolError(f"a SYNC_BEGIN that cannot be read: {error!r}") from None
    if not isinstance(path, list) or not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise ProtocolError("a SYNC_BEGIN without its lists")
    return Step(read(said), [checked_path(entry) for entry in path], bool(fresh), lines, heard)


def pack_bits(answers: list[bool]) -> bytes:
    """Yes and no, eight to a byte."""
    data = bytearray((len(answers) + 7) // 8)
    for number, answer in enumerate(answers):
        if answer:
            data[number // 8] |= 1 << number % 8
    return bytes(data)


def read_bits(data: bytes, count: int) -> list[bool]:
    """The inverse of `pack_bits`; `ProtocolError` where there are not as many."""
    if len(data) != (count + 7) // 8:
        raise ProtocolError(f"{len(data)} bytes of answers to {count} questions")
    return [bool(data[number // 8] >> number % 8 & 1) for number in range(count)]
