"""The agent's shared objects, frame by frame: found in the cache, received, refused, given up."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor.core.slot_records import SlotCall
from dragonfly_executor.protocol.frames import (
    FORGOTTEN_AT_ONCE,
    KEPT_FROM,
    RESULT_OF,
    TOTAL,
    Decoder,
    Flag,
    Frame,
    Kind,
    encode,
)
from dragonfly_executor.protocol.shared_entries import (
    IN_AGENT,
    NO_DESCRIPTOR,
    NO_DIGEST,
    PIECE_PLACE,
    SharedEntry,
    pack_entries,
    pack_numbers,
    read_numbers,
)
from dragonfly_executor.runner import shared_files
from dragonfly_executor.runner.content_cache import ContentWriter
from dragonfly_executor.runner.kept_results import KeptResults
from dragonfly_executor.runner.piece_memory import PieceRoom
from dragonfly_executor.runner.shared_files import AT_ONCE, ATTEMPTS, WINDOW, SharedFiles
from dragonfly_executor.transport.codecs import Codecs

ONE, TWO = os.urandom(100), os.urandom(200)


class Slot:
    """A slot that only notes what it is sent."""

    def __init__(self, number: int) -> None:
        self.pid = number
        self.link = self
        self.frames: list[Frame] = []
        self.packets: list[Frame] = []

    def send(self, raw: bytes) -> None:
        self.frames += Decoder().feed(raw)

    def notify(self, packet: bytes) -> None:
        self.packets += Decoder().feed(packet)

    def answers(self) -> list[tuple[int, bool, str]]:
        """Return the answers since the last call: number, whether it is an error, text."""
        frames, self.frames = self.frames, []
        return [(frame.call_id, bool(frame.flags & Flag.ERROR), bytes(frame.payload).decode()) for frame in frames]


class Agent:
    """What is around the files: a link, a dispatcher with two slots, helpers."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.helpers: list[tuple[Callable[[], int], Callable[[int], None]]] = []
        self.one, self.two = Slot(1), Slot(2)
        self.slots = {1: self.one, 2: self.two}
        self.kept: KeptResults | None = None
        self.later: list[Callable[[], None]] = []
        self.calls = {number: SlotCall(number, 1, b"", 0) for number in range(1, 20)}
        self.files = SharedFiles(self.send, self, self.run_helper, Codecs(), lambda: self.kept, self.later.append)  # type: ignore[arg-type]

    def send(self, raw: bytes) -> None:
        self.frames += Decoder().feed(raw)

    def call(self, call_id: int, attempt: int) -> SlotCall | None:
        return self.calls.get(call_id)

    def shared_requested(self, call: SlotCall) -> None:
        call.missing += 1

    def shared_answered(self, call: SlotCall) -> None:
        call.missing -= 1

    def run_helper(self, job: Callable[[], int], on_end: Callable[[int], None]) -> None:
        self.helpers.append((job, on_end))

    def want(self, slot: Slot, *entries: SharedEntry, call: int = 1, flags: int = 0) -> None:
        raw = encode(Kind.SHARED_WANT, call, pack_entries(entries), attempt=1, flags=flags)
        self.files.wanted(slot, Decoder().feed(raw)[0])  # type: ignore[arg-type]

    def data(self, number: int, data: bytes, place: int = 0, flags: int = 0) -> None:
        raw = encode(Kind.SHARED_DATA, number, data, detail=place, flags=flags)
        self.files.receive(Decoder().feed(raw)[0])

    def forget(self, *numbers: int) -> None:
        self.files.receive(Decoder().feed(encode(Kind.SHARED_FORGET, payload=pack_numbers(numbers)))[0])

    def asked(self) -> list[tuple[int, int, bool]]:
        """Return what the parent was asked for since the last call: number, chunks, whether it goes on."""
        frames, self.frames = self.frames, []
        assert {frame.kind for frame in frames} <= {Kind.SHARED_WANT}
        return [(frame.call_id, frame.detail, bool(frame.flags & Flag.MORE)) for frame in frames]

    def help(self) -> None:
        """Run the helpers, as the children of the agent would."""
        helpers, self.helpers = self.helpers, []
        for job, on_end in helpers:
            on_end(job() << 8)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("DRAGONFLY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "blobs"


@pytest.fixture
def agent(cache: Path) -> Iterator[Agent]:
    agent = Agent()
    yield agent
    agent.files.remove()
    assert not list(cache.glob(".*"))


def entry(number: int, data: bytes) -> SharedEntry:
    return SharedEntry(number, len(data), hashlib.sha256(data).digest(), NO_DESCRIPTOR, 0, b"")


def name(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_an_object_is_received_once_for_all_slots(agent: Agent, cache: Path) -> None:
    agent.want(agent.one, entry(1, ONE))
    agent.want(agent.two, entry(1, ONE), call=2)
    assert agent.asked() == [(1, WINDOW, False)]
    assert [agent.calls[number].missing for number in (1, 2)] == [1, 1]
    agent.data(1, ONE[:40], 0, Flag.MORE)
    assert not agent.one.answers()
    agent.data(1, ONE[40:], 1)
    path = str(cache / name(ONE))
    assert agent.one.answers() == agent.two.answers() == [(1, False, path)]
    assert [agent.calls[number].missing for number in (1, 2)] == [0, 0]
    assert Path(path).read_bytes() == ONE
    agent.want(agent.one, entry(1, ONE), call=3)
    assert agent.one.answers() == [(1, False, path)]
    assert agent.asked() == []


def test_chunks_are_requested_as_they_arrive(agent: Agent) -> None:
    data = bytes(WINDOW * 3)
    agent.want(agent.one, entry(1, data))
    requested = agent.asked()[0][1]
    for place in range(len(data)):
        assert place < requested
        agent.data(1, data[place : place + 1], place, Flag.MORE if place < len(data) - 1 else 0)
        requested += sum(chunks for _, chunks, goes_on in agent.asked() if goes_on)
        assert requested <= place + 1 + WINDOW
    assert [is_error for _, is_error, _ in agent.one.answers()] == [False]


def test_what_is_in_the_cache_is_verified_and_not_received(agent: Agent, cache: Path) -> None:
    cache.mkdir(parents=True, mode=0o700)
    (cache / name(ONE)).write_bytes(ONE)
    agent.want(agent.one, entry(1, ONE))
    assert not agent.one.answers()
    agent.help()
    assert agent.one.answers() == [(1, False, str(cache / name(ONE)))]
    assert agent.asked() == []


@pytest.mark.parametrize("found", [ONE[:-1], bytes(len(ONE)), b""], ids=["cut short", "changed", "empty"])
def test_what_is_damaged_in_the_cache_is_received(agent: Agent, cache: Path, found: bytes) -> None:
    cache.mkdir(parents=True, mode=0o700)
    (cache / name(ONE)).write_bytes(found)
    agent.want(agent.one, entry(1, ONE))
    agent.help()
    assert agent.asked() == [(1, WINDOW, False)]
    agent.data(1, ONE)
    assert agent.one.answers() == [(1, False, str(cache / name(ONE)))]
    assert (cache / name(ONE)).read_bytes() == ONE


def test_a_slot_that_cannot_open_the_file_has_it_received_again(agent: Agent, cache: Path) -> None:
    agent.want(agent.one, entry(1, ONE))
    agent.data(1, ONE)
    agent.one.answers()
    agent.asked()
    (cache / name(ONE)).unlink()
    agent.want(agent.one, entry(1, ONE), flags=Flag.ERROR)
    assert agent.asked() == [(1, WINDOW, False)]
    agent.data(1, ONE)
    assert agent.one.answers() == [(1, False, str(cache / name(ONE)))]


def test_an_object_whose_digest_never_matches_is_given_up(agent: Agent, cache: Path) -> None:
    """And tried anew for the next call."""
    agent.want(agent.one, entry(1, ONE))
    for _ in range(ATTEMPTS):
        assert agent.asked() == [(1, WINDOW, False)]
        agent.data(1, bytes(len(ONE)))
    [(number, is_error, text)] = agent.one.answers()
    assert (number, is_error) == (1, True)
    assert "digest" in text
    assert agent.calls[1].missing == 0
    assert not list(cache.iterdir())
    agent.want(agent.one, entry(1, ONE))
    assert agent.asked() == [(1, WINDOW, False)]


def test_more_than_the_size_is_refused(agent: Agent) -> None:
    agent.want(agent.one, entry(1, ONE))
    agent.data(1, ONE + b"x", 0, Flag.MORE)
    [(_, is_error, text)] = agent.one.answers()
    assert is_error
    assert "size" in text


def test_a_full_disk_fails_the_calls_that_wait(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces that still come are ignored, and the next call starts from the beginning."""
    agent.want(agent.one, entry(1, ONE))
    agent.want(agent.two, entry(1, ONE), call=2)
    with monkeypatch.context() as patched:

        def full(*_: Any) -> bool:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patched.setattr(ContentWriter, "write", full)
        agent.data(1, ONE[:40], 0, Flag.MORE)
    for slot in (agent.one, agent.two):
        [(_, is_error, text)] = slot.answers()
        assert is_error
        assert "No space left" in text
    agent.asked()
    agent.want(agent.one, entry(1, ONE))
    assert agent.asked() == [(1, WINDOW, False)]
    agent.data(1, ONE[40:60], 1, Flag.MORE)
    agent.data(1, ONE[:40], 0, Flag.MORE)
    agent.data(1, ONE[40:], 1)
    assert [is_error for _, is_error, _ in agent.one.answers()] == [False]


def test_no_folder_for_the_cache_fails_the_call(agent: Agent, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DRAGONFLY_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "file"))
    monkeypatch.setattr(shared_files.session_directory, "temporary_folder", lambda: str(tmp_path / "file"))
    agent.want(agent.one, entry(1, ONE))
    [(_, is_error, text)] = agent.one.answers()
    assert is_error
    assert str(tmp_path / "file") in text


def test_without_a_home_the_cache_lasts_as_long_as_the_runner(
    agent: Agent, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DRAGONFLY_CACHE", str(tmp_path / "file"))
    agent.want(agent.one, entry(1, ONE))
    assert len(agent.files.descriptors()) == 2
    agent.data(1, ONE)
    [(_, _, path)] = agent.one.answers()
    assert Path(path).read_bytes() == ONE
    agent.files.remove()
    assert not Path(path).exists()
    session = agent.files._session
    assert session is not None
    os.close(session.fd)


def test_few_objects_are_received_at_a_time(agent: Agent) -> None:
    contents = [os.urandom(50) for _ in range(AT_ONCE + 3)]
    agent.want(agent.one, *(entry(number, data) for number, data in enumerate(contents, 1)))
    assert [number for number, _, _ in agent.asked()] == list(range(1, AT_ONCE + 1))
    assert agent.calls[1].missing == AT_ONCE + 3
    for number, data in enumerate(contents, 1):
        agent.data(number, data)
        assert [asked for asked, _, _ in agent.asked()] == ([number + AT_ONCE] if number <= 3 else [])
    assert [number for number, _, _ in agent.one.answers()] == list(range(1, AT_ONCE + 4))
    assert agent.calls[1].missing == 0


def test_an_object_that_the_parent_has_freed_fails_the_calls_that_wait(agent: Agent) -> None:
    agent.want(agent.one, entry(1, ONE))
    agent.forget(1)
    [(_, is_error, text)] = agent.one.answers()
    assert is_error
    assert "freed" in text
    agent.data(1, ONE)
    assert not agent.one.answers()


def test_all_slots_are_told_what_was_freed(agent: Agent) -> None:
    numbers = list(range(1, 2 * FORGOTTEN_AT_ONCE))
    agent.forget(*numbers)
    for slot in (agent.one, agent.two):
        assert [len(read_numbers(packet.payload)) for packet in slot.packets] == [
            FORGOTTEN_AT_ONCE,
            FORGOTTEN_AT_ONCE - 1,
        ]
        assert [number for packet in slot.packets for number in read_numbers(packet.payload)] == numbers


def test_a_slot_that_has_died_is_not_answered(agent: Agent) -> None:
    """Its call may wait in another slot by now."""
    agent.want(agent.one, entry(1, ONE))
    del agent.slots[1]
    agent.want(agent.two, entry(1, ONE))
    assert agent.calls[1].missing == 2
    agent.data(1, ONE)
    assert agent.one.answers() == []
    assert [number for number, _, _ in agent.two.answers()] == [1]
    assert agent.calls[1].missing == 0


def test_a_runner_that_ends_removes_what_is_incomplete(agent: Agent, cache: Path) -> None:
    agent.want(agent.one, entry(1, ONE))
    agent.data(1, ONE[:40], 0, Flag.MORE)
    assert len(list(cache.iterdir())) == 1
    agent.files.remove()
    assert not list(cache.iterdir())
    agent.files._files.clear()


# -- pieces of payloads ------------------------------------------------------------------------------------------------


def piece(number: int, data: bytes) -> SharedEntry:
    return SharedEntry(number, len(data), NO_DIGEST, IN_AGENT, 0, b"")


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="there is no memfd")
def test_a_piece_is_received_once_for_all_slots_and_leaves_no_file(agent: Agent, cache: Path) -> None:
    agent.want(agent.one, piece(1, ONE))
    agent.want(agent.two, piece(1, ONE), call=2)
    assert agent.asked() == [(1, WINDOW, False)]
    agent.data(1, ONE[:40], 0, Flag.MORE)
    agent.data(1, ONE[40:], 1)
    (answer,) = agent.one.frames
    assert (answer.call_id, answer.flags) == (1, Flag.PIECES)
    pid, descriptor, inode = PIECE_PLACE.unpack(answer.payload)
    assert (pid, os.fstat(descriptor).st_ino, os.pread(descriptor, 1000, 0)) == (os.getpid(), inode, ONE)
    assert agent.files.descriptors() == [descriptor]
    assert not cache.exists()
    agent.want(agent.one, piece(1, ONE), call=3)
    assert [bytes(frame.payload) for frame in agent.one.frames] == [bytes(answer.payload)] * 2
    agent.forget(1)
    assert agent.files.descriptors() == []


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="there is no memfd")
def test_pieces_make_room_and_are_received_again(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    agent.files._room = PieceRoom(lambda: "", len(TWO) + len(ONE) - 1)
    for number, data in ((1, ONE), (2, TWO), (1, ONE)):
        agent.want(agent.one, piece(number, data))
        assert agent.asked() == [(number, WINDOW, False)]
        agent.data(number, data)
        assert len(agent.files.descriptors()) == 1
    agent.want(agent.one, piece(3, ONE + TWO))
    assert agent.asked() == []
    assert [frame.flags for frame in agent.one.frames] == [Flag.PIECES] * 3 + [Flag.ERROR]
    agent.forget(1)


# -- kept results ------------------------------------------------------------------------------------------------------


def keep(agent: Agent, data: bytes, ref: tuple[int, int] = (5, 1)) -> None:
    """Have the agent keep a result of 1 MiB, whose two chunks are these bytes."""
    agent.kept = agent.kept or KeptResults(1 << 30)
    agent.kept.begin(frame(encode(Kind.RESULT, *ref[:1], TOTAL.pack(KEPT_FROM), attempt=ref[1], flags=Flag.LARGE)))
    half = len(data) // 2
    agent.kept.add(frame(encode(Kind.CHUNK, ref[0], data[:half], attempt=ref[1], flags=Flag.MORE)))
    agent.kept.add(frame(encode(Kind.CHUNK, ref[0], data[half:], attempt=ref[1])))


def frame(raw: bytes) -> Frame:
    return Decoder().feed(raw)[0]


def name_result(agent: Agent, number: int, ref: tuple[int, int] = (5, 1)) -> None:
    agent.files.receive(frame(encode(Kind.KEPT_RESULT, number, RESULT_OF.pack(*ref))))


def asked_with_flags(agent: Agent) -> list[int]:
    frames, agent.frames = agent.frames, []
    return [each.flags & Flag.ERROR for each in frames]


def test_a_kept_result_is_copied_and_not_received(agent: Agent, cache: Path) -> None:
    keep(agent, ONE)
    agent.want(agent.one, entry(1, ONE))
    assert asked_with_flags(agent) == [0]
    name_result(agent, 1)
    assert agent.one.answers() == [(1, False, str(cache / name(ONE)))]
    assert (cache / name(ONE)).read_bytes() == ONE
    assert agent.asked() == []
    name_result(agent, 1)  # again, or of an object that no slot wants
    name_result(agent, 2)
    assert not agent.one.answers()


def test_a_result_that_is_not_kept_is_received(agent: Agent) -> None:
    """Or one with other bytes. The agent asks for the bytes, and gets no other name."""
    agent.want(agent.one, entry(1, ONE))
    agent.asked()
    name_result(agent, 1)
    assert asked_with_flags(agent) == [Flag.ERROR]
    agent.data(1, ONE)
    assert [is_error for _, is_error, _ in agent.one.answers()] == [False]
    keep(agent, ONE)
    agent.want(agent.one, entry(2, TWO))
    agent.asked()
    name_result(agent, 2)
    assert asked_with_flags(agent) == [Flag.ERROR]
    agent.data(2, TWO)
    assert [is_error for _, is_error, _ in agent.one.answers()] == [False]


def test_a_long_result_is_copied_in_several_passes(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_files, "COPIED_AT_ONCE", 1)
    keep(agent, ONE)
    for number in (1, 2):
        agent.want(agent.one, entry(1, ONE))
        name_result(agent, 1)
        assert not agent.one.answers()
        if number == 1:
            agent.forget(1)
            assert [is_error for _, is_error, _ in agent.one.answers()] == [True]
        while agent.later:
            agent.later.pop()()
    assert [is_error for _, is_error, _ in agent.one.answers()] == [False]
