"""The results that an agent keeps: whole ones, large ones, no errors, within bounds."""

from __future__ import annotations

from dragonfly_executor.protocol.frames import KEPT_FROM, TOTAL, Decoder, Flag, Frame, Kind, encode
from dragonfly_executor.runner.kept_results import MOST_KEPT, KeptResults


def frame(kind: Kind, call: int, payload: bytes, flags: int = 0) -> Frame:
    return Decoder().feed(encode(kind, call, payload, attempt=1, flags=flags))[0]


def add(kept: KeptResults, call: int, size: int = KEPT_FROM, *, flags: int = 0, ends: bool = True) -> list[Frame]:
    """Let a result of two chunks pass, of which the second one may be missing."""
    kept.begin(frame(Kind.RESULT, call, TOTAL.pack(size), Flag.LARGE | flags))
    chunks = [frame(Kind.CHUNK, call, b"first", Flag.MORE), frame(Kind.CHUNK, call, b"last")][: 1 + ends]
    assert [bytes(kept.add(chunk)) for chunk in chunks] == [chunk.raw for chunk in chunks], "they are forwarded"
    return chunks


def test_a_large_result_is_kept_once_it_is_complete() -> None:
    kept = KeptResults(10 * KEPT_FROM)
    chunks = add(kept, 1)
    assert kept.chunks_of((1, 1)) == chunks
    assert kept.chunks_of((1, 2)) is None, "another attempt"
    add(kept, 2, ends=False)
    assert kept.chunks_of((2, 1)) is None
    # The memory of a chunk that is kept must not become that of another one.
    last = kept.add(frame(Kind.CHUNK, 2, b"last"))
    assert isinstance(last, memoryview)
    assert last.readonly


def test_errors_and_small_results_are_not_kept() -> None:
    kept = KeptResults(10 * KEPT_FROM)
    add(kept, 1, flags=Flag.ERROR)
    add(kept, 2, KEPT_FROM - 1)
    add(kept, 3, 11 * KEPT_FROM)
    kept.begin(frame(Kind.RESULT, 4, b"no size", Flag.LARGE))
    assert [kept.chunks_of((call, 1)) for call in (1, 2, 3, 4)] == [None] * 4
    assert kept.total == 0


def test_the_least_recently_used_results_make_room() -> None:
    kept = KeptResults(3 * KEPT_FROM)
    for call in (1, 2, 3):
        add(kept, call)
    assert kept.chunks_of((1, 1)) is not None
    add(kept, 4)
    assert kept.total == 3 * KEPT_FROM
    assert [kept.chunks_of((call, 1)) is not None for call in (1, 2, 3, 4)] == [True, False, True, True]
    add(kept, 5, 3 * KEPT_FROM)
    assert [call for call in range(1, 6) if kept.chunks_of((call, 1))] == [5]
    # The chunks of a result that has gone meanwhile pass.
    add(kept, 6, ends=False)
    add(kept, 7, 3 * KEPT_FROM)
    kept.add(frame(Kind.CHUNK, 6, b"last"))
    assert kept.chunks_of((6, 1)) is None
    many = KeptResults(10 * MOST_KEPT * KEPT_FROM)
    for call in range(MOST_KEPT + 5):
        add(many, call)
    assert many.total == MOST_KEPT * KEPT_FROM
