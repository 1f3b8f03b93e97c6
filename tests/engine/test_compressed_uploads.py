"""Calls that are compressed on the engine thread: some chunks at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dragonfly_executor.engine.large_payloads import AT_ONCE, LargePayloads
from dragonfly_executor.protocol.frames import CHUNK_SIZE, HEADER, Flag
from dragonfly_executor.transport.bulk_rate import BulkRate
from dragonfly_executor.transport.codecs import Codecs

REF = (1, 1)
CHUNKS = 3 * AT_ONCE


class Upload:
    """The parent's end of a link that keeps what is sent, and a loop that runs when it is told to."""

    def __init__(self) -> None:
        self.bulk_rate = BulkRate()
        self.sent: list[bytes] = []
        self.later: list[Callable[[], object]] = []
        codec: Any = None
        self.payloads = LargePayloads(codec, 1, self.later.append)
        link: Any = self
        self.payloads.attach(link)
        self.payloads.codecs = Codecs(["lz4"])
        self.payloads.offer(REF, [bytes(CHUNKS * CHUNK_SIZE)])

    def send_bulk(self, header: bytes, piece: bytes = b"") -> None:
        self.sent.append(header)

    def drop_bulk(self, call_id: int, attempt: int) -> None:
        """The chunks have left already."""

    def passes(self) -> list[int]:
        """Run the loop until it has nothing to do; the number of chunks that were sent after each pass."""
        counts = [len(self.sent)]
        while self.later:
            callbacks = self.later.copy()
            self.later.clear()
            for callback in callbacks:
                callback()
            counts.append(len(self.sent))
        return counts


@pytest.fixture
def upload() -> Upload:
    return Upload()


def test_a_pass_of_the_loop_compresses_few_chunks(upload: Upload) -> None:
    upload.payloads.upload(REF, 2 * AT_ONCE + 1)
    assert upload.passes() == [AT_ONCE, 2 * AT_ONCE, 2 * AT_ONCE + 1]
    assert all(HEADER.unpack(header)[1] & Flag.LZ4 for header in upload.sent)


def test_a_request_that_comes_meanwhile_is_added(upload: Upload) -> None:
    upload.payloads.upload(REF, 2 * AT_ONCE)
    upload.payloads.upload(REF, 2 * AT_ONCE)
    # The last pass finds that nothing is left.
    assert upload.passes() == [AT_ONCE, 2 * AT_ONCE, CHUNKS, CHUNKS]
    assert [HEADER.unpack(header)[1] & Flag.MORE for header in upload.sent] == [Flag.MORE] * (CHUNKS - 1) + [0]


@pytest.mark.parametrize("end", [lambda payloads: payloads.stop_upload(REF), lambda payloads: payloads.close()])
def test_nothing_is_sent_after_the_end(upload: Upload, end: Callable[[LargePayloads], object]) -> None:
    upload.payloads.upload(REF, CHUNKS)
    end(upload.payloads)
    assert upload.passes()[-1] == AT_ONCE


def test_without_codecs_all_is_sent_at_once(upload: Upload) -> None:
    upload.payloads.codecs = Codecs()
    upload.payloads.offer(REF, [bytes(CHUNKS * CHUNK_SIZE)])
    upload.payloads.upload(REF, CHUNKS)
    assert len(upload.sent) == CHUNKS
    assert not upload.later
