"""Pieces that payloads have in common: each is known by its content, and kept within bounds."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from dragonfly_executor.protocol.piece_table import MOST_PIECES, PieceEntry, pack_table, split_table
from dragonfly_executor.serialization.content_registry import ContentRegistry
from dragonfly_executor.serialization.layout import pack, unpack, unpack_all
from dragonfly_executor.serialization.parent_codec import CallCodec
from dragonfly_executor.serialization.payload_parts import LEAST, PayloadParts, as_parts, with_buffers
from dragonfly_executor.serialization.repeated_buffers import RepeatedBuffers

SIZE = 4 * LEAST


def content(seed: int, size: int = SIZE) -> bytes:
    return bytes([seed]) * size


def table(most: int = 100 * SIZE) -> RepeatedBuffers:
    return RepeatedBuffers(ContentRegistry(), most)


def numbers(parts: Any) -> dict[int, int]:
    """The numbers of the pieces that runners get once, by their index in the payload."""
    assert isinstance(parts, PayloadParts)
    return {index: piece.entry.number for index, piece in parts.pieces.items()}


def test_a_piece_is_known_from_the_second_time_on() -> None:
    repeats = table()
    parts: list[Any] = [b"head", content(1), b"tail", content(2)]
    assert type(repeats.mark(parts)) is list
    marked = repeats.mark([b"other", content(1), content(3)])
    assert numbers(marked) == {1: 1}
    again = repeats.mark([content(1), content(2)])
    assert numbers(again) == {0: 1, 1: 2}
    assert again[0] is marked[1]


def test_a_piece_that_recurs_is_known_at_once() -> None:
    assert numbers(table().mark([b"", content(1), content(2)], 1, [1])) == {1: 1}


@pytest.mark.parametrize("piece", [bytes(LEAST - 1), bytearray(LEAST), memoryview(bytearray(LEAST))])
def test_what_is_small_or_may_still_change_is_not_kept(piece: Any) -> None:
    repeats = table()
    for _ in range(3):
        assert type(repeats.mark([piece], 0, [0])) is list


def test_a_read_only_view_is_copied_once() -> None:
    repeats = table()
    view = memoryview(content(1))[1:]
    first, second = repeats.mark([view], 0, [0]), repeats.mark([memoryview(content(1))[1:]])
    assert numbers(first) == numbers(second) == {0: 1}
    assert type(first[0]) is bytes
    assert first[0] is second[0]
    assert repeats.known([view])[0] is first[0]


def test_what_may_still_change_is_not_copied_while_it_is_the_same() -> None:
    repeats, data = table(), bytearray(content(1))
    kept = repeats.mark([content(1)], 0, [0])[0]
    assert repeats.known([memoryview(data)])[0] is kept
    data[SIZE // 3] = 9
    view = memoryview(data)
    assert repeats.known([view])[0] is view
    shorter = memoryview(content(1))[1:]
    assert repeats.known([shorter])[0] is shorter


def test_an_array_that_stays_the_same_is_copied_until_it_is_kept() -> None:
    numpy = pytest.importorskip("numpy")
    codec, array = CallCodec(), numpy.zeros(SIZE // 8)
    pieces = [max(codec.encode_call(len, (array,), {}), key=len) for _ in range(4)]
    assert pieces[1] is pieces[2] is pieces[3]
    array[SIZE // 16] = 1
    changed = max(codec.encode_call(len, (array,), {}), key=len)
    assert (changed == array.tobytes(), pieces[3] == bytes(SIZE)) == (True, True)


def test_another_content_with_the_same_samples_is_another_piece() -> None:
    repeats = table()
    one, other = bytearray(content(1)), bytearray(content(1))
    other[SIZE // 3] = 9
    for _ in range(2):
        assert numbers(repeats.mark([bytes(one)], 0, [0])) == {0: 1}
        assert numbers(repeats.mark([bytes(other)], 0, [0])) == {0: 2}


def test_what_was_used_longest_ago_goes_first() -> None:
    registry = ContentRegistry()
    repeats = RepeatedBuffers(registry, 2 * SIZE)
    for number in (1, 1, 2, 2, 1, 3, 3):
        repeats.mark([content(number)])
    assert registry.take_freed() == [2]
    assert [registry.find(number) is None for number in (1, 2, 3)] == [False, True, False]


def test_what_a_payload_has_is_not_freed() -> None:
    """More than the table keeps is known while a payload has it."""
    registry = ContentRegistry()
    repeats = RepeatedBuffers(registry, 2 * SIZE)
    payload = repeats.mark([content(4, 3 * SIZE)], 0, [0])
    assert numbers(repeats.mark([content(4, 3 * SIZE)])) == {0: 1}
    assert registry.take_freed() == []
    del payload
    assert registry.take_freed() == [1]


def test_one_is_freed_without_the_garbage_collector_and_the_engine_is_woken() -> None:
    registry = ContentRegistry()
    woken: list[int] = []
    registry.on_freed(lambda: woken.append(1))
    repeats = RepeatedBuffers(registry)
    gc.disable()
    try:
        repeats.mark([content(1)], 0, [0])
        assert woken == []
        del repeats
        assert registry.take_freed() == [1]
        assert len(woken) >= 1
    finally:
        gc.enable()


def test_no_payload_has_too_many_pieces() -> None:
    data = content(1)
    many: list[Any] = [data] * (MOST_PIECES + 5)
    marked = table().mark(many, 0, range(len(many)))
    assert len(numbers(marked)) == MOST_PIECES


# -- what a function carries -------------------------------------------------------------------------------------------


def pieces_of(fn: Any, *args: Any, codec: CallCodec | None = None) -> int:
    """The number of pieces of a call that is encoded for the first time."""
    parts = (codec or CallCodec()).encode_call(fn, args, {})
    return len(parts.pieces) if isinstance(parts, PayloadParts) else 0


def test_what_a_function_carries_is_known_at_once_and_its_arguments_are_not() -> None:
    numpy = pytest.importorskip("numpy")
    held, default, given = (numpy.full(LEAST, number, "u1") for number in (1, 2, 3))
    assert pieces_of(lambda: held[0]) == 1
    assert pieces_of(lambda data: held[0] + data[0], given) == 1
    assert pieces_of(lambda data, more=default: held[0] + data[0] + more[0], given) == 2
    assert pieces_of(lambda data: data[0], given) == 0
    assert pieces_of(len, given) == 0


def test_what_a_partial_or_a_method_carries_is_known_at_once() -> None:
    from functools import partial

    numpy = pytest.importorskip("numpy")
    held, given = numpy.full(LEAST, 1, "u1"), numpy.full(LEAST, 3, "u1")
    assert pieces_of(partial(max, held), given) == 1
    assert pieces_of(held.sum) == 1


def test_a_function_that_is_pickled_again_runs_without_a_lock() -> None:
    """To count what the function carries runs the user's code, which may encode a call of the same pool itself."""
    numpy = pytest.importorskip("numpy")
    codec = CallCodec()

    class Carrier:
        def __init__(self) -> None:
            self.data = numpy.full(LEAST, 5, "u1")

        def __call__(self) -> None: ...

        def __reduce__(self) -> Any:
            codec.encode_call(len, (numpy.full(LEAST, 6, "u1"),), {})
            return numpy.copy, (self.data,)

    assert pieces_of(Carrier(), codec=codec) == 1


# -- the table in a call -----------------------------------------------------------------------------------------------


def parts_of(*pieces: bytes, start: int, **named: int) -> PayloadParts:
    parts = with_buffers([*pieces], start)
    marked = RepeatedBuffers(ContentRegistry()).mark(as_parts(parts), start, [*named.values()])
    assert isinstance(marked, PayloadParts)
    return marked


def test_a_payload_leaves_its_pieces_out() -> None:
    """A buffer leaves a hole, so that those behind it stay at multiples of 64 bytes. A part of the pickle does not."""
    inside, beside = content(1, LEAST + 1), content(2, LEAST + 3)
    parts = parts_of(b"head", inside, b"tail", beside, b"end", start=3, inside=1, beside=3)
    assert [(entry.place, entry.size, entry.is_beside) for entry in parts.entries()] == [
        (4, LEAST + 1, False),
        (4 + LEAST + 1 + 4, LEAST + 3, True),
    ]
    assert [len(part) for part in parts.without_pieces()] == [4, 0, 4, 3, 3]
    assert parts.all_contents() == tuple(parts.pieces.values())


@pytest.mark.parametrize("count", [0, 1, MOST_PIECES])
def test_a_table_is_read_as_it_was_written(count: int) -> None:
    entries = [PieceEntry(number, 10 * number, 2**40 + number, number % 2 == 0) for number in range(count)]
    found, rest = split_table(pack_table(entries) + b"rest")
    assert (found, bytes(rest)) == (entries, b"rest")


@pytest.mark.parametrize("cut", [0, 1, 24])
def test_a_table_that_is_cut_short_is_refused(cut: int) -> None:
    with pytest.raises(ValueError, match="cut short"):
        split_table(pack_table([PieceEntry(1, 2, 3, True)])[:cut])


def test_buffers_of_definitions_stand_apart_in_a_box() -> None:
    large, own = memoryview(content(1)), memoryview(bytearray(5000))
    data = b"".join(pack(0, b"definitions", [b"body"], [large, own], copy=True, first=1))
    _, _, _, buffers, first = unpack_all(data)
    assert ([len(buffer) for buffer in buffers], first) == ([SIZE, 5000], 1)
    assert [len(buffer) for buffer in unpack(data)[3]] == [5000]
