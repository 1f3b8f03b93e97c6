"""Results of earlier scans of the parent's files. With them the next scan reads only what has changed."""

from __future__ import annotations

from typing import NamedTuple

from dragonfly_executor.protocol.file_manifest import ManifestEntry

Status = tuple[int, ...]


class Known(NamedTuple):
    """The state of a path at the last scan."""

    status: Status | None
    settled: bool
    entry: ManifestEntry | None


class Seen(NamedTuple):
    """The results of scans from one working directory: files, folders, listings of folders, imports of files."""

    cwd: str
    files: dict[str, Known]
    folders: dict[str, Known]
    listed: dict[str, list[str]]
    imports: dict[tuple[str, str], frozenset[str]]
