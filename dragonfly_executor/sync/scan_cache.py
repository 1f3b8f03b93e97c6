"""Results of earlier scans of the parent's files. With them the next scan reads only what has changed."""

from __future__ import annotations

from typing import NamedTuple

from dragonfly_executor.protocol.file_manifest import ManifestEntry

Status = tuple[int, ...]


class PathState(NamedTuple):
    """The state of a path at the last scan."""

    status: Status | None
    settled: bool
    entry: ManifestEntry | None


class ScanCache(NamedTuple):
    """The results of scans from one working directory: files, folders, listings of folders, imports of files."""

    cwd: str
    files: dict[str, PathState]
    folders: dict[str, PathState]
    listed: dict[str, list[str]]
    imports: dict[tuple[str, str], frozenset[str]]
