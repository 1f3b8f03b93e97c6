"""The agent's memory for pieces: bounded, sealed, without a name if the system can; and how slots open it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dragonfly_executor.protocol.frames import Flag
from dragonfly_executor.protocol.shared_entries import PIECE_PLACE
from dragonfly_executor.runner.piece_memory import MOST_KEPT, PieceRoom, PieceWriter
from dragonfly_executor.runner.slot_pieces import OpenPiece, _opened

SIZE = 10_000
DATA = bytes(range(250)) * (SIZE // 250)


@pytest.fixture(params=["memory", "file"])
def written(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PieceWriter]:
    """A piece that is complete: in memory, and in a file as on a system without memfd."""
    if request.param == "memory" and sys.platform != "linux":
        pytest.skip("only Linux has memfd")
    with monkeypatch.context() as patch:
        if request.param == "file":
            patch.setattr(sys, "platform", "darwin")
        writer = PieceWriter(SIZE, lambda: str(tmp_path))
    for start in range(0, SIZE, 3000):
        assert writer.write(memoryview(DATA)[start : start + 3000])
    assert writer.finish()
    yield writer
    writer.drop()
    assert list(tmp_path.iterdir()) == []


def test_a_slot_opens_a_piece_and_writes_only_into_its_own_view(written: PieceWriter) -> None:
    where, flags = written.where()
    piece = OpenPiece(_opened(where, flags, SIZE), SIZE)
    first, second = piece.view(), piece.view()
    assert bytes(first) == bytes(second) == bytes(piece.constant()) == DATA
    first[0] = 77
    assert (second[0], piece.constant()[0], piece.view()[0]) == (0, 0, 0)
    assert piece.constant().readonly
    assert piece.constant().obj is piece.constant().obj


def test_a_piece_of_another_size_is_not_opened(written: PieceWriter) -> None:
    where, flags = written.where()
    with pytest.raises(OSError, match="another"):
        _opened(where, flags, SIZE + 1)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has memfd")
def test_a_descriptor_that_is_another_piece_by_now_is_not_opened(tmp_path: Path) -> None:
    writers = [PieceWriter(SIZE, lambda: str(tmp_path)) for _ in range(2)]
    for writer in writers:
        assert writer.write(memoryview(DATA))
        assert writer.finish()
    _, _, inode = PIECE_PLACE.unpack(writers[0].where()[0])
    with pytest.raises(OSError, match="another"):
        _opened(PIECE_PLACE.pack(os.getpid(), writers[1].fd, inode), Flag.PIECES, SIZE)
    for writer in writers:
        writer.drop()


def test_a_piece_that_cannot_be_mapped_again_is_copied(written: PieceWriter) -> None:
    """A mapping takes a descriptor, and none may be left."""
    where, flags = written.where()
    piece = OpenPiece(_opened(where, flags, SIZE), SIZE)
    os.close(piece._fd)
    found = piece.view()
    assert type(found) is bytearray
    assert found == DATA


@pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1])
def test_a_piece_of_another_length_than_announced_is_given_up(size: int, tmp_path: Path) -> None:
    writer = PieceWriter(SIZE, lambda: str(tmp_path))
    if writer.write(memoryview(bytes(size))):
        assert not writer.finish()
    else:
        writer.drop()


# -- the bounds --------------------------------------------------------------------------------------------------------


def room(tmp_path: Path, most: int = 3 * SIZE) -> PieceRoom:
    return PieceRoom(lambda: str(tmp_path), most)


def test_the_least_recently_used_pieces_make_room(tmp_path: Path) -> None:
    pieces, writers = room(tmp_path), []
    for number in (1, 2, 3):
        writer, evicted = pieces.open(number, SIZE, {number})
        writers.append(writer)
        assert evicted == []
    pieces.use(1)
    writer, evicted = pieces.open(4, SIZE, {4})
    assert evicted == [2]
    pieces.remove(4)
    other, evicted = pieces.open(5, SIZE, {5})
    assert evicted == []
    for each in (*writers, writer, other):
        each.drop()


def test_without_room_nothing_is_taken(tmp_path: Path) -> None:
    pieces = room(tmp_path)
    with pytest.raises(OSError, match=str(3 * SIZE)):
        pieces.open(1, 3 * SIZE + 1, {1})
    writer, _ = pieces.open(2, 2 * SIZE, {2})
    # A slot waits for the other one, so that one stays.
    with pytest.raises(OSError, match="may take"):
        pieces.open(3, 2 * SIZE, {2, 3})
    small, _ = pieces.open(5, SIZE, {5})
    with pytest.raises(OSError, match="may take"):
        pieces.open(3, 2 * SIZE, {2, 3})
    # No piece has gone for nothing.
    pieces.use(5)
    small.drop()
    pieces.remove(5)
    pieces.use(2)
    last, evicted = pieces.open(4, SIZE, {2, 4})
    assert evicted == []
    writer.drop()
    last.drop()


def test_the_number_of_pieces_is_bounded(tmp_path: Path) -> None:
    pieces = room(tmp_path, 10**9)
    gone: list[int] = []
    for number in range(1, MOST_KEPT + 3):
        writer, evicted = pieces.open(number, 1, {number})
        writer.drop()
        gone += evicted
    assert gone == [1, 2]
