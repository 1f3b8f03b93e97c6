"""Finds the calls and the shared objects that the peer of a closed link cannot have received completely."""

from __future__ import annotations

from collections.abc import Iterable

from dragonfly_executor.protocol.frames import HEADER, HEADER_SIZE, Kind
from dragonfly_executor.transport.sockets import Buffer


def call_of(header: Buffer) -> tuple[int, int]:
    """Return id and attempt of the call that a frame belongs to."""
    _, _, attempt, _, call_id, _ = HEADER.unpack_from(header)
    return call_id, attempt


def calls_not_written(rest: memoryview, queued: Iterable[Buffer]) -> set[tuple[int, int]]:
    """Return id and attempt of each call whose CALL frame was not written to its end.

    Args:
        rest: the part of a batch of whole frames that was not written. It is a view of the batch.
        queued: frames of which nothing was written.
    """
    found = set()
    batch: bytes = rest.obj  # type: ignore[assignment]
    written = len(batch) - len(rest)
    for frames in (batch, *queued):
        position = 0
        while position < len(frames):
            kind, _, attempt, _, call_id, length = HEADER.unpack_from(frames, position)
            position += HEADER_SIZE + length
            if kind == Kind.CALL and position > written:
                found.add((call_id, attempt))
        written = 0
    return found


def objects_not_written(queued: Iterable[tuple[Buffer, Buffer]]) -> set[int]:
    """Return the number of each shared object of which a piece is among these frames, each a header and a piece."""
    headers = (HEADER.unpack_from(header) for header, _ in queued)
    return {number for kind, _, _, _, number, _ in headers if kind == Kind.SHARED_DATA}
