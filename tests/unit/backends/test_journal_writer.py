"""The journal entries of nodes that come with one request."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor.backends.journal import Journal, JournalEntry
from dragonfly_executor.backends.journal_writer import JournalWriter
from dragonfly_executor.backends.label import OwnerLabel
from dragonfly_executor.backends.owner import Owner
from dragonfly_executor.errors import BootError

LABEL = OwnerLabel("boot", "pool", Owner.me(), int(time.time()) + 1000, 1000)


def entries(count: int) -> list[JournalEntry]:
    return [JournalEntry(f"node-{index}", "here", LABEL, 1.0, 1e12) for index in range(count)]


def writer_of(journal: Journal) -> JournalWriter[JournalEntry]:
    return JournalWriter(journal, lambda: None, noun="job", command="destroy")


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The descriptors that were waited for."""
    real, found = os.fsync, list[int]()

    def fsync(fd: int) -> None:
        found.append(fd)
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    return found


def test_each_node_has_an_entry_and_the_disk_is_waited_for_once(tmp_path: Path, synced: list[int]) -> None:
    journal = Journal(tmp_path)
    writer, asked = writer_of(journal), entries(50)
    writer.begin(*asked)
    assert journal.entries() == sorted(asked)
    assert len(synced) == 2, "one file, and the folder"
    known = [entry._replace(node_id=f"7_{index}") for index, entry in enumerate(asked)]
    writer.complete(known[0], "job 7", *known[1:])
    assert journal.entries() == sorted(known)
    assert len(synced) == 2
    writer.forget(known[3])
    assert known[3] not in journal.entries()
    assert len(journal.entries()) == 49


def test_a_single_entry_reaches_the_disk_each_time(tmp_path: Path, synced: list[int]) -> None:
    writer, (entry,) = writer_of(Journal(tmp_path)), entries(1)
    writer.begin(entry)
    writer.complete(entry._replace(node_id="7"), "job 7")
    assert len(synced) == 4


def test_a_journal_that_cannot_be_written_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request is not sent, so no entry may say that it was."""
    journal = Journal(tmp_path)
    real = Path.replace
    left = 2

    def replace(path: Path, target: Any) -> Path:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError("no space left")
        return real(path, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(BootError, match="so no job was requested: no space left"):
        writer_of(journal).begin(*entries(4))
    assert [*tmp_path.iterdir()] == []
