"""The parent's shared objects on their way to a runner: what it asks for is sent, and no more."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from typing import Any

import pytest

from dragonfly_executor import LocalBackend
from dragonfly_executor.engine.call_frames import sendable
from dragonfly_executor.engine.shared_contents import SEALED_FROM, SharedContents
from dragonfly_executor.engine.shared_uploads import CALLS_SLACK, MOST_KEPT, SharedUploads
from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.protocol.compression import AT_ONCE, split_place
from dragonfly_executor.protocol.frames import CHUNK_SIZE, KEPT_FROM, RESULT_OF, Decoder, Flag, Frame, Kind, encode
from dragonfly_executor.protocol.shared_entries import INLINE_SIZE, read_numbers
from dragonfly_executor.serialization import CallCodec
from dragonfly_executor.serialization.layout import unpack
from dragonfly_executor.transport.bulk_rate import BulkRate
from dragonfly_executor.transport.codecs import Codecs


class Tier:
    """A tier of a pool, with this backend."""

    def __init__(self, backend: object) -> None:
        self.backend = backend


class Link:
    """A link that only notes what it sends."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.unwritten_objects: set[int] = set()
        self.bulk_rate = BulkRate()

    def send_bulk(self, header: bytes, piece: memoryview) -> None:
        self.frames += Decoder().feed(header + bytes(piece))

    def reply(self, raw: bytes) -> None:
        self.frames += Decoder().feed(raw)

    def sent(self) -> list[Frame]:
        frames, self.frames = self.frames, []
        return frames


class Elsewhere(LocalBackend):
    """A backend whose runners might be anywhere."""


@pytest.fixture
def contents() -> SharedContents:
    return SharedContents(CallCodec(), 1 << 30, [Tier(Elsewhere())])  # type: ignore[list-item]


class Uploads(SharedUploads):
    """Uploads whose requests a test makes. `gone` are calls that have ended."""

    def __init__(self, contents: SharedContents) -> None:
        self.gone: set[tuple[int, int]] = set()
        self.later: list[Callable[[], object]] = []
        super().__init__(contents._codec.contents, lambda ref: ref not in self.gone, self.later.append)

    def send(self, number: int, chunks: int, *, from_start: bool, is_first: bool = False) -> None:
        flags = (0 if from_start else Flag.MORE) | (Flag.RETRYABLE if is_first else 0)
        self.requested(Decoder().feed(encode(Kind.SHARED_WANT, number, flags=flags, detail=chunks))[0])


def start(contents: SharedContents) -> tuple[Uploads, Link]:
    uploads, link = Uploads(contents), Link()
    uploads.send(1, 5, from_start=True)  # without a link nothing is sent
    uploads.attach(link)  # type: ignore[arg-type]
    return uploads, link


@pytest.mark.parametrize("size", [INLINE_SIZE + 1, CHUNK_SIZE, 3 * CHUNK_SIZE, SEALED_FROM + 5])
def test_an_object_is_sent_piece_by_piece(contents: SharedContents, size: int) -> None:
    data = os.urandom(size)
    handle = contents.share(data)
    uploads, link = start(contents)
    uploads.send(1, 1, from_start=True)
    frames = link.sent()
    while frames[-1].flags & Flag.MORE:
        uploads.send(1, 2, from_start=False)
        frames += link.sent()
    assert {frame.kind for frame in frames} == {Kind.SHARED_DATA}
    assert [frame.detail for frame in frames] == list(range(len(frames)))
    # A call has an attempt from 1 on, so no frame here is taken for a piece of one.
    assert {(frame.call_id, frame.attempt) for frame in frames} == {(1, 0)}
    whole = b"".join(bytes(frame.payload) for frame in frames)
    assert len(whole) == handle.size
    assert data in bytes(unpack(whole)[2])
    uploads.send(1, 2, from_start=False)
    assert link.sent() == []


def test_chunks_are_compressed_some_at_a_time(contents: SharedContents) -> None:
    """Each says its place, and the rest follows in later passes of the loop, unless the object is gone."""
    pytest.importorskip("lz4")
    data = bytes(9 * CHUNK_SIZE)
    handle = contents.share(data)
    uploads, link = start(contents)
    uploads.codecs = codecs = Codecs(["lz4"])
    uploads.send(1, 100, from_start=True, is_first=True)
    uploads.call_sent((1, 1), payload(contents, handle))
    frames = link.sent()
    assert len(frames) == AT_ONCE
    assert uploads.waiting_calls() == {(1, 1)}
    while uploads.later:
        uploads.later.pop()()
    frames += link.sent()
    assert uploads.waiting_calls() == set()
    places, pieces = zip(*map(split_place, frames), strict=True)
    assert list(places) == list(range(len(frames)))
    opened = [codecs.open(frame.flags, piece, frame.detail) for frame, piece in zip(frames, pieces, strict=True)]
    assert data in bytes(unpack(b"".join(opened))[2])
    assert sum(len(frame.raw) for frame in frames) < CHUNK_SIZE
    uploads.send(1, 100, from_start=True)
    handle.close()
    link.sent()
    for callback in uploads.later:
        callback()
    assert link.sent() == []


def test_a_compressed_chunk_without_its_place_is_refused() -> None:
    frame = Decoder().feed(encode(Kind.SHARED_DATA, 1, b"abc", flags=Flag.LZ4, detail=10))[0]
    with pytest.raises(ProtocolError, match="without its number"):
        split_place(frame)


def test_a_runner_that_starts_again_gets_all(contents: SharedContents) -> None:
    handle = contents.share(bytes(3 * CHUNK_SIZE))
    uploads, link = start(contents)
    uploads.send(1, 2, from_start=True)
    uploads.send(1, 100, from_start=True)
    assert [frame.detail for frame in link.sent()] == [0, 1, 0, 1, 2, 3]
    assert handle.size > 3 * CHUNK_SIZE


def test_an_object_that_is_gone_is_said_to_be(contents: SharedContents) -> None:
    handle: Any = contents.share(bytes(3 * CHUNK_SIZE))
    uploads, link = start(contents)
    uploads.send(1, 2, from_start=True)
    link.sent()
    handle.close()
    for number in (1, 77):
        uploads.send(number, 2, from_start=False)
        [frame] = link.sent()
        assert (frame.kind, read_numbers(frame.payload)) == (Kind.SHARED_FORGET, [number])


def payload(contents: SharedContents, *handles: object) -> object:
    """The payload of a call with these handles, as a call keeps it."""
    codec = contents._codec
    return sendable(codec.encode_call(len, handles, {}), 1 << 30, lambda parts, size: codec.keep(parts))


def test_calls_whose_object_is_on_its_way_for_the_first_time_have_not_begun(contents: SharedContents) -> None:
    one, two = contents.share(bytes(3 * CHUNK_SIZE)), contents.share(bytes(3 * CHUNK_SIZE))
    uploads, link = start(contents)
    uploads.call_sent((1, 1), payload(contents, one))
    uploads.call_sent((2, 1), payload(contents, two))
    uploads.call_sent((3, 2), payload(contents, [one, two], bytes(100_000)))
    uploads.call_sent((4, 1), payload(contents))
    assert uploads.waiting_calls() == set()
    uploads.send(1, 2, from_start=True, is_first=True)
    uploads.send(2, 2, from_start=True)
    assert uploads.waiting_calls() == {(1, 1), (3, 2)}
    uploads.send(1, 2, from_start=False)
    assert uploads.waiting_calls() == set()
    link.unwritten_objects = {1, 2}
    assert uploads.waiting_calls() == {(1, 1), (3, 2)}
    # A slot had the object, and its file is gone: a call of that slot may have begun.
    uploads.send(1, 2, from_start=True)
    assert uploads.waiting_calls() == set()


def test_calls_that_have_ended_are_forgotten(contents: SharedContents) -> None:
    handle = contents.share(bytes(3 * CHUNK_SIZE))
    uploads, _ = start(contents)
    call = payload(contents, handle)
    for number in range(5 * CALLS_SLACK):
        uploads.call_sent((number, 1), call)
        uploads.gone.add((number - 10, 1))
    uploads.send(1, 1, from_start=True, is_first=True)
    assert len(uploads.waiting_calls()) <= CALLS_SLACK + 20


def test_each_object_that_is_freed_is_told_of_once(contents: SharedContents) -> None:
    woken: list[int] = []
    contents._codec.contents.on_freed(lambda: woken.append(1))
    handles = [contents.share(bytes(size)) for size in (1, INLINE_SIZE + 1, SEALED_FROM)]
    outer: Any = contents.share(handles)
    for handle in handles:
        handle.close()
    assert contents._codec.contents.take_freed() == []
    outer.close()
    gc.collect()
    assert sorted(contents._codec.contents.take_freed()) == [1, 2, 3, 4]
    assert woken
    assert contents._codec.contents.take_freed() == []


def test_only_an_object_that_may_travel_has_a_digest() -> None:
    local = SharedContents(CallCodec(), 1 << 30, [Tier(LocalBackend())])  # type: ignore[list-item]
    mixed = SharedContents(CallCodec(), 1 << 30, [Tier(LocalBackend()), Tier(Elsewhere())])  # type: ignore[list-item]
    data = bytes(SEALED_FROM)
    here, there = local.share(data), mixed.share(data)
    ours = here.content_for(local._codec._main).entry
    theirs = there.content_for(mixed._codec._main).entry
    assert any(theirs.digest)
    if ours.descriptor >= 0:
        assert not any(ours.digest)


def test_without_sealed_memory_the_bytes_stay_in_this_process(
    contents: SharedContents, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object) -> int:
        raise OSError("no descriptor")

    monkeypatch.setattr(os, "memfd_create", none_left, raising=False)
    handle = contents.share(bytes(SEALED_FROM))
    found = contents._codec.contents.find(1)
    assert found is not None
    assert len(found) == handle.size
    del found
    contents._codec.contents.close()
    assert contents._codec.contents.find(1) is None


def value(contents: SharedContents, ref: tuple[int, int]) -> Any:
    """The content of the unopened value of a call."""
    codec = contents._codec
    data = b"\x80\x05B" + (KEPT_FROM + CHUNK_SIZE).to_bytes(4, "little") + bytes(KEPT_FROM + CHUNK_SIZE) + b"\x94."
    encoded = codec.forwarded(data)
    assert encoded is not None
    return contents._content(encoded, codec.contents.next_number(), 0, ref)


def test_a_result_that_the_runner_may_keep_is_named_and_not_sent(contents: SharedContents) -> None:
    kept = value(contents, (7, 1))
    uploads, link = start(contents)
    number = kept.entry.number
    uploads.keeps_results = True
    uploads.result_arrived((7, 1), KEPT_FROM)
    uploads.send(number, 2, from_start=True, is_first=True)
    [frame] = link.sent()
    assert (frame.kind, frame.call_id, RESULT_OF.unpack(frame.payload)) == (Kind.KEPT_RESULT, number, (7, 1))
    # The runner does not keep it any more.
    uploads.requested(Decoder().feed(encode(Kind.SHARED_WANT, number, flags=Flag.ERROR, detail=2))[0])
    assert [frame.kind for frame in link.sent()] == [Kind.SHARED_DATA] * 2


def test_a_result_of_another_runner_or_a_small_one_is_sent(contents: SharedContents) -> None:
    kept = value(contents, (7, 1))
    uploads, link = start(contents)
    uploads.result_arrived((7, 1), KEPT_FROM)  # the runner was not told to keep anything
    uploads.keeps_results = True
    uploads.result_arrived((7, 2), KEPT_FROM)
    uploads.result_arrived((7, 1), KEPT_FROM - 1)
    uploads.send(kept.entry.number, 1, from_start=True)
    assert [frame.kind for frame in link.sent()] == [Kind.SHARED_DATA]
    uploads.result_arrived((7, 1), KEPT_FROM)
    for call in range(100, 100 + MOST_KEPT):
        uploads.result_arrived((call, 1), KEPT_FROM)
    uploads.send(kept.entry.number, 1, from_start=True)
    assert [frame.kind for frame in link.sent()] == [Kind.SHARED_DATA], "the oldest ones are forgotten"
