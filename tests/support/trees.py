"""File trees for tests, as manifests and as files."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from hypothesis import strategies as st

from dragonfly_executor.protocol.file_manifest import (
    DIRECTORY,
    FILE,
    ManifestEntry,
    directory_entry,
    file_entry,
    link_entry,
)

CONTENTS = [b"", b"x", b"import os\n", b"value = 1\n", b"value = 2\n", bytes(3000)]
NAMES = ["a", "b", "c.py", "__pycache__", ".hidden", "ä"]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


BY_DIGEST = {digest(content): content for content in CONTENTS}


def file_of(content: bytes, mode: int = 0o644) -> ManifestEntry:
    return file_entry(digest(content), len(content), mode)


ENTRIES = [
    *[file_of(content, mode) for content in CONTENTS for mode in (0o644, 0o755, 0o400, 0o600)],
    *[link_entry(target) for target in ("a", "..", "/etc", "../../b", "nowhere")] * 2,
    *[directory_entry()] * 4,
]
DIRECTORIES = ["", "", "a/", "b/", "__pycache__/", "ä/", "a/b/", "b/a/", "a/c.py/", ".hidden/ä/", "a/b/a/", "a/b/a/b/"]


def manifests() -> st.SearchStrategy[dict[str, ManifestEntry]]:
    """Return any small tree. Two of them often have a file at a path at which the other one has a directory."""
    paths = st.sampled_from([directory + name for directory in DIRECTORIES for name in NAMES])
    return st.lists(st.tuples(paths, st.sampled_from(ENTRIES)), max_size=8).map(_tree)


def _tree(entries: list[tuple[str, ManifestEntry]]) -> dict[str, ManifestEntry]:
    """Add the directories above the entries. Of two entries that exclude each other, the first one stays."""
    found: dict[str, ManifestEntry] = {}
    for path, entry in entries:
        above = [path[:at] for at, letter in enumerate(path) if letter == "/"]
        if all(found.get(directory, directory_entry()).kind == DIRECTORY for directory in above):
            found.update({directory: directory_entry() for directory in above if directory not in found})
            found.setdefault(path, entry)
    return found


def on_disk(top: Path) -> dict[str, ManifestEntry]:
    """Return the manifest of the files below a folder."""
    found: dict[str, ManifestEntry] = {}
    for folder, folders, files in os.walk(top):
        for name in (*folders, *files):
            path = Path(folder, name)
            found[str(path.relative_to(top))] = entry_of(path)
    return found


def entry_of(path: Path) -> ManifestEntry:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        return link_entry(str(path.readlink()))
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISDIR(status.st_mode):
        return ManifestEntry(DIRECTORY, mode, 0, "", "")
    content = path.read_bytes()
    return ManifestEntry(FILE, mode, len(content), digest(content), "")
