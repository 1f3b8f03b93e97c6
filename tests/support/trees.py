"""Trees for tests: as manifests, and as files."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from dragonfly_executor.protocol.file_manifest import DIRECTORY, FILE, ManifestEntry, a_directory, a_file, a_link

CONTENTS = [b"", b"x", b"import os\n", b"value = 1\n", b"value = 2\n", bytes(3000)]
NAMES = ["a", "b", "c.py", "__pycache__", ".hidden", "ä"]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


BY_DIGEST = {digest(content): content for content in CONTENTS}


def file_of(content: bytes, mode: int = 0o644) -> ManifestEntry:
    return a_file(digest(content), len(content), mode)


@st.composite
def manifests(draw: Any) -> dict[str, ManifestEntry]:
    """Any small tree."""
    modes = st.sampled_from([0o644, 0o755, 0o400, 0o600])
    leaf = st.one_of(
        st.builds(file_of, st.sampled_from(CONTENTS), modes),
        st.builds(a_link, st.sampled_from(["a", "..", "/etc", "../../b", "nowhere"])),
    )
    shape = draw(
        st.recursive(
            st.dictionaries(st.sampled_from(NAMES), leaf, max_size=3),
            lambda below: st.dictionaries(st.sampled_from(NAMES), st.one_of(leaf, below), max_size=3),
            max_leaves=8,
        )
    )
    found: dict[str, ManifestEntry] = {}
    _flatten(shape, "", found)
    return found


def _flatten(shape: dict[str, Any], prefix: str, found: dict[str, ManifestEntry]) -> None:
    for name, inner in shape.items():
        if isinstance(inner, dict):
            found[prefix + name] = a_directory()
            _flatten(inner, f"{prefix}{name}/", found)
        else:
            found[prefix + name] = inner


def on_disk(top: Path) -> dict[str, ManifestEntry]:
    """What lies below a folder."""
    found: dict[str, ManifestEntry] = {}
    for folder, folders, files in os.walk(top):
        for name in (*folders, *files):
            path = Path(folder, name)
            found[str(path.relative_to(top))] = entry_of(path)
    return found


def entry_of(path: Path) -> ManifestEntry:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        return a_link(str(path.readlink()))
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISDIR(status.st_mode):
        return ManifestEntry(DIRECTORY, mode, 0, "", "")
    content = path.read_bytes()
    return ManifestEntry(FILE, mode, len(content), digest(content), "")
