"""A slot's shared objects: where their bytes come from, what is kept, and what happens if a file cannot be opened."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor.errors.base import ProtocolError, UnopenedCallError
from dragonfly_executor.protocol.frames import Decoder, Flag, Frame, Kind, encode
from dragonfly_executor.protocol.shared_entries import (
    ENTRIES_AT_ONCE,
    NO_DESCRIPTOR,
    NO_DIGEST,
    SharedEntry,
    pack_entries,
    read_entries,
)
from dragonfly_executor.runner import shared_table
from dragonfly_executor.runner.shared_table import ATTEMPTS, MAPPED_FROM, SharedTable

LARGE = MAPPED_FROM + 100


class Agent:
    """The other end of the slot's stream: it answers what `files` says, in the order of the requests."""

    def __init__(self) -> None:
        self.asked: list[Frame] = []
        self.files: dict[int, tuple[str, int]] = {}
        self._pending = b""

    def send(self, raw: bytes) -> None:
        for frame in Decoder().feed(raw):
            self.asked.append(frame)
            for entry in read_entries(frame.payload):
                text, flags = self.files[entry.number]
                self._pending += encode(Kind.SHARED_FILE, entry.number, text.encode(), flags=flags)

    def receive_into(self, view: memoryview) -> None:
        view[:], self._pending = self._pending[: len(view)], self._pending[len(view) :]

    def receive_header(self, header: memoryview) -> None:
        self.receive_into(header)

    @property
    def is_in_step(self) -> bool:
        return not self._pending


class Opener:
    """Opens pickles, and counts them."""

    def __init__(self) -> None:
        self.opened = 0

    def __call__(self, data: Any) -> Any:
        self.opened += 1
        return pickle.loads(data)


@pytest.fixture
def agent() -> Agent:
    return Agent()


@pytest.fixture
def opener(monkeypatch: pytest.MonkeyPatch) -> Opener:
    monkeypatch.delenv("DRAGONFLY_PARENT_PID", raising=False)
    return Opener()


def inline(number: int, value: object) -> SharedEntry:
    data = pickle.dumps(value)
    return SharedEntry(number, len(data), NO_DIGEST, NO_DESCRIPTOR, 0, data)


def file(agent: Agent, folder: Path, number: int, value: object) -> SharedEntry:
    """An object that the agent has as a file."""
    path, data = folder / str(number), pickle.dumps(value)
    path.write_bytes(data)
    agent.files[number] = (str(path), 0)
    return SharedEntry(number, len(data), bytes([number] * 32), NO_DESCRIPTOR, 0, b"")


def test_objects_are_opened_once_and_only_when_they_are_used(agent: Agent, opener: Opener, tmp_path: Path) -> None:
    table = SharedTable(agent, opener)  # type: ignore[arg-type]
    entries = pack_entries([inline(1, "one"), file(agent, tmp_path, 2, "two"), file(agent, tmp_path, 3, b"3" * LARGE)])
    for _ in range(3):
        table.fetch(entries, 1, 1)
    assert (len(agent.asked), opener.opened) == (1, 0)
    assert (agent.asked[0].call_id, agent.asked[0].attempt) == (1, 1)
    for _ in range(3):
        assert [table.load(1), table.load(2), len(table.load(3))] == ["one", "two", LARGE]
    assert opener.opened == 3
    assert table.load(3) is table.load(3)


def test_an_object_that_no_table_named_is_refused(agent: Agent, opener: Opener) -> None:
    with pytest.raises(UnopenedCallError, match="shared object 7"):
        SharedTable(agent, opener).load(7)  # type: ignore[arg-type]


def test_objects_beyond_the_bound_are_closed_and_opened_again(agent: Agent, opener: Opener, tmp_path: Path) -> None:
    """What the current call needs stays, even beyond the bound."""
    table = SharedTable(agent, opener, most=250)  # type: ignore[arg-type]
    entries = [file(agent, tmp_path, number, b"x" * 80) for number in range(1, 5)]
    table.fetch(pack_entries(entries), 1, 1)
    assert [len(table.load(number)) for number in range(1, 5)] == [80] * 4
    table.fetch(pack_entries(entries[3:]), 2, 1)
    with pytest.raises(UnopenedCallError):
        table.load(1)
    assert len(table.load(4)) == 80
    asked = len(agent.asked)
    table.fetch(pack_entries(entries[:1]), 3, 1)
    assert len(table.load(1)) == 80
    assert len(agent.asked) == asked + 1


def test_what_is_forgotten_is_dropped(agent: Agent, opener: Opener) -> None:
    table = SharedTable(agent, opener)  # type: ignore[arg-type]
    table.fetch(pack_entries([inline(1, "one"), inline(2, "two")]), 1, 1)
    table.load(1)
    table.forget([1, 2, 99])
    for number in (1, 2):
        with pytest.raises(UnopenedCallError):
            table.load(number)


def test_the_agents_reason_is_in_the_error(agent: Agent, opener: Opener, tmp_path: Path) -> None:
    """All answers are read, so the stream stays in step."""
    table = SharedTable(agent, opener)  # type: ignore[arg-type]
    entries = [file(agent, tmp_path, number, number) for number in (1, 2, 3)]
    agent.files[2] = ("No space left on device", Flag.ERROR)
    with pytest.raises(UnopenedCallError, match="No space left"):
        table.fetch(pack_entries(entries), 1, 1)
    assert agent.is_in_step


def test_a_file_that_is_gone_is_asked_for_again(agent: Agent, opener: Opener, tmp_path: Path) -> None:
    table = SharedTable(agent, opener)  # type: ignore[arg-type]
    good, gone, short = (file(agent, tmp_path, number, number) for number in (1, 2, 3))
    (tmp_path / "2").unlink()
    (tmp_path / "3").write_bytes(b"")
    with pytest.raises(UnopenedCallError, match="numbers 2, 3"):
        table.fetch(pack_entries([good, gone, short]), 1, 1)
    assert agent.is_in_step
    assert [frame.flags for frame in agent.asked] == [0, *[Flag.ERROR] * (ATTEMPTS - 1)]
    assert [[entry.number for entry in read_entries(frame.payload)] for frame in agent.asked[:2]] == [[1, 2, 3], [2, 3]]


def test_a_link_in_place_of_a_file_is_not_followed(agent: Agent, opener: Opener, tmp_path: Path) -> None:
    entry = file(agent, tmp_path, 1, 1)
    (tmp_path / "1").rename(tmp_path / "other")
    (tmp_path / "1").symlink_to(tmp_path / "other")
    with pytest.raises(UnopenedCallError):
        SharedTable(agent, opener).fetch(pack_entries([entry]), 1, 1)  # type: ignore[arg-type]


def test_any_number_of_objects_is_asked_for(agent: Agent, opener: Opener, tmp_path: Path) -> None:
    first = file(agent, tmp_path, 1, 1)
    entries = [first._replace(number=number) for number in range(1, 2 * ENTRIES_AT_ONCE)]
    agent.files = {entry.number: agent.files[1] for entry in entries}
    SharedTable(agent, opener).fetch(pack_entries(entries), 1, 1)  # type: ignore[arg-type]
    assert len(agent.asked) == 2


def test_without_memory_the_other_objects_are_dropped_first(
    agent: Agent, opener: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = SharedTable(agent, opener)  # type: ignore[arg-type]
    first, second = file(agent, tmp_path, 1, 1), file(agent, tmp_path, 2, 2)
    table.fetch(pack_entries([first]), 1, 1)
    read, fails = shared_table._read_file, [True]

    def read_file(path: str, size: int) -> Any:
        if fails.pop():
            fails.append(False)
            raise MemoryError
        fails.append(False)
        return read(path, size)

    monkeypatch.setattr(shared_table, "_read_file", read_file)
    table.fetch(pack_entries([second]), 2, 1)
    assert table.load(2) == 2
    with pytest.raises(UnopenedCallError):
        table.load(1)


def test_the_memory_of_a_parent_that_has_freed_it_is_no_longer_there(
    agent: Agent, opener: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a digest the agent is asked; without one the call fails."""
    monkeypatch.setenv("DRAGONFLY_PARENT_PID", str(os.getpid()))
    table = SharedTable(agent, opener)  # type: ignore[arg-type]
    entry = file(agent, tmp_path, 1, "one")._replace(descriptor=1_000_000, inode=1)
    table.fetch(pack_entries([entry]), 1, 1)
    assert table.load(1) == "one"
    with pytest.raises(UnopenedCallError, match="parent's memory"):
        table.fetch(pack_entries([entry._replace(number=2, digest=NO_DIGEST)]), 1, 1)


def test_another_frame_ends_the_slot(agent: Agent, opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "send", lambda raw: setattr(agent, "_pending", encode(Kind.PONG)))
    entry = inline(1, 1)._replace(digest=bytes([1] * 32), data=b"")
    with pytest.raises(ProtocolError):
        SharedTable(agent, opener).fetch(pack_entries([entry]), 1, 1)  # type: ignore[arg-type]


def test_a_failed_opening_is_tried_again(agent: Agent) -> None:
    fails = [errno.EIO]

    def open_object(data: Any) -> Any:
        if fails:
            raise OSError(fails.pop(), "once")
        return pickle.loads(data)

    table = SharedTable(agent, open_object)  # type: ignore[arg-type]
    table.fetch(pack_entries([inline(1, "one")]), 1, 1)
    with pytest.raises(OSError, match="once"):
        table.load(1)
    table.fetch(pack_entries([inline(1, "one")]), 2, 1)
    assert table.load(1) == "one"
