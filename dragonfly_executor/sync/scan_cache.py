"""What earlier scans of the parent's files found, so that the next scan need not read all of them again."""

from __future__ import annotations

from typing import NamedTuple

from dragonfly_executor.protocol.file_manifest import Entry

Status = tuple[int, ...]


class Known(NamedTuple):
    """A path as it was when it was last looked at."""

    status: Status | None
    settled: bool
    entry: Entry | None


class Seen(NamedTuple):
    """What was found from one working directory: files, folders, what lies in folders, what files import."""

    cwd: str
    files: dict[str, Known]
    folders: dict[str, Known]
    listed: dict[str, list[str]]
    imports: dict[tuple[str, str], frozenset[str]]
