"""What a runner may have its parent keep, as pure numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.protocol.frames import MAX_INLINE, TOTAL, Decoder, Flag, Frame, Kind, encode
from dragonfly_executor.protocol.memory_bounds import (
    ALL_OUTPUT,
    ERROR_ROOM,
    OUTPUT_SLACK,
    SPARE_SLOTS,
    Download,
    OutputAccount,
    check_inline,
    max_result_bytes,
)
from dragonfly_executor.protocol.output_window import WINDOW
from dragonfly_executor.transport.codecs import Codecs
from dragonfly_executor.transport.payload_buffer import PayloadBuffer


def frame(kind: Kind, payload: bytes, flags: int = 0) -> Frame:
    (found,) = Decoder().feed(encode(kind, 1, payload, flags=flags, attempt=1))
    return found


def head(total: int, flags: int = 0) -> Frame:
    return frame(Kind.RESULT, TOTAL.pack(total), flags | Flag.LARGE | Flag.MORE)


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=8), st.integers(-3, 3))
def test_a_download_is_as_long_as_was_announced_or_an_error(pieces: list[bytes], off: int) -> None:
    data = b"".join(pieces)
    total = max(0, len(data) + off)
    download = Download(head(total), 1000, PayloadBuffer, Codecs().open)
    try:
        for number, piece in enumerate(pieces, 1):
            is_last = number == len(pieces)
            assert download.add(frame(Kind.CHUNK, piece, 0 if is_last else Flag.MORE)) is is_last
        assert download.data == data
        assert total == len(data)
    except ProtocolError:
        assert total != len(data)


@given(st.integers(1, 2**40), st.integers(0, 2**64 - 1), st.sampled_from([0, Flag.ERROR]))
def test_no_more_is_announced_than_fits(max_payload: int, total: int, flags: int) -> None:
    fits = total <= max_payload or (flags == Flag.ERROR and total <= ERROR_ROOM)
    assert (total <= max_result_bytes(max_payload, flags)) is fits
    if fits:
        assert Download(head(total, flags), max_payload, PayloadBuffer, Codecs().open).data == b""
    else:
        with pytest.raises(ProtocolError, match="was announced"):
            Download(head(total, flags), max_payload, PayloadBuffer, Codecs().open)


def test_an_error_in_one_frame_has_its_room_beside_max_payload() -> None:
    check_inline(frame(Kind.RESULT, b"x" * MAX_INLINE, Flag.ERROR), 10)
    for strange in (frame(Kind.RESULT, b"x" * 11), frame(Kind.RESULT, b"x" * (MAX_INLINE + 1), Flag.ERROR)):
        with pytest.raises(ProtocolError, match="in one frame, more than 10"):
            check_inline(strange, 10)


# -- output ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def account() -> OutputAccount:
    account = OutputAccount()
    account.slots = 4
    account.slot_is_up(7)
    return account


def test_a_slot_may_have_its_window_and_what_was_read_with_it(account: OutputAccount) -> None:
    account.arrived(7, WINDOW + OUTPUT_SLACK)
    with pytest.raises(ProtocolError, match="beyond the window of slot 7"):
        account.arrived(7, 1)


def test_what_is_consumed_makes_room(account: OutputAccount) -> None:
    for _ in range(100):
        account.arrived(7, WINDOW + OUTPUT_SLACK)
        assert account.consumed(7, WINDOW + OUTPUT_SLACK)


def test_a_slot_that_has_ended_leaves_what_it_wrote(account: OutputAccount) -> None:
    each, most = WINDOW, ALL_OUTPUT + 2 * WINDOW * 4
    for _ in range(most // each):
        account.slot_is_up(8)
        account.arrived(8, each)
        assert account.slot_is_down(8)
    account.arrived(7, most % each)
    with pytest.raises(ProtocolError, match="far beyond the windows of all"):
        account.arrived(7, 1)


def test_what_a_slot_that_has_ended_left_is_consumed_later(account: OutputAccount) -> None:
    for _ in range(1000):
        account.slot_is_up(8)
        account.arrived(8, 2 * WINDOW)
        assert account.slot_is_down(8)
        assert not account.consumed(8, WINDOW), "its agent need not hear of it"
        account.forgotten(WINDOW)


def test_no_slot_no_output(account: OutputAccount) -> None:
    assert account.slot_is_down(7)
    assert not account.slot_is_down(7)
    with pytest.raises(ProtocolError, match="an unknown slot: 7"):
        account.arrived(7, 1)


def test_the_same_slot_twice_is_one(account: OutputAccount) -> None:
    for _ in range(2 * SPARE_SLOTS):
        account.slot_is_up(7)
    for slot in range(8, 8 + SPARE_SLOTS + 7):
        account.slot_is_up(slot)
    with pytest.raises(ProtocolError, match="the parent set 4"):
        account.slot_is_up(1)
