"""The payloads that calls keep, and their CALL frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dragonfly_executor import errors
from dragonfly_executor.core.call_table import Call
from dragonfly_executor.protocol.frames import CALL_OPTIONS, MAX_INLINE, TOTAL, Flag, Kind, encode
from dragonfly_executor.protocol.piece_table import pack_table
from dragonfly_executor.serialization.payload_parts import PayloadParts, joined
from dragonfly_executor.transport.sockets import Buffer

INFINITY = float("inf")


def call_frame(call: Call, number: int, now: float, special: tuple[int, bytes] | None = None) -> bytes:
    """Return the CALL frame of a call: with its payload, or with only the head of a large payload.

    Args:
        call: the call. The time left of its timeout, its run_timeout, its key, and the memory and the number of GPUs
            that it requires go in front of the payload.
        number: its number in the runner's table of call starts.
        now: the time, in monotonic seconds.
        special: flags and body in place of the whole payload: of one in shared memory, or of one with pieces that its
            runner gets once. None for any other payload.
    """
    payload, limits = call.payload, call.limits
    flags, prefix, required = Flag.ITEM if call.is_item else 0, b"", limits.requirements
    if limits.concern_runner:
        flags |= Flag.OPTIONS
        time_left = INFINITY if call.deadline is None else max(0.0, call.deadline - now)
        run_timeout = INFINITY if limits.run_timeout is None else limits.run_timeout
        memory, gpus = (0, 0) if required is None else (required.memory, required.gpus)
        prefix = CALL_OPTIONS.pack(time_left, run_timeout, limits.key, memory, gpus)
    if special is not None:
        flags, body = flags | special[0], special[1]
    elif isinstance(payload, bytes):
        body = payload
    else:
        flags |= Flag.LARGE
        body = TOTAL.pack(sum(map(len, payload)))
    return encode(Kind.CALL, call.id, prefix + body, flags=flags, attempt=call.attempt, detail=number)


def without_pieces(payload: PayloadParts) -> tuple[int, bytes, Sequence[Buffer]]:
    """Return what is sent of a payload with pieces that its runner gets once.

    Returns:
        The flags and the body of the CALL frame, and the parts of the rest if that is too large for the frame.
    """
    table, rest = pack_table(payload.entries()), payload.without_pieces()
    size = sum(map(len, rest))
    if len(table) + size <= MAX_INLINE:
        return Flag.PIECES, b"".join((table, *rest)), ()
    return Flag.PIECES | Flag.LARGE, table + TOTAL.pack(size), rest


def sendable(
    parts: Sequence[Buffer], max_payload: int, keep: Callable[[Sequence[Buffer], int], Sequence[Buffer]]
) -> bytes | Sequence[Buffer]:
    """Return a payload in the form that a call keeps: one `bytes` if it fits into a frame.

    Args:
        parts: the encoded call.
        max_payload: maximum size in bytes.
        keep: called with the parts of a larger payload and their size, to return the form in which it is kept.

    Raises:
        FrameTooLargeError: the payload is larger than `max_payload` bytes.
    """
    size = len(parts[0]) if len(parts) == 1 else sum(map(len, parts))
    if size > max_payload:
        text = f"the call's arguments take {size} bytes, more than max_payload={max_payload}"
        raise errors.FrameTooLargeError(text)
    if len(parts) == 1 and size <= MAX_INLINE and type(parts[0]) is bytes and type(parts) is not PayloadParts:
        return parts[0]
    return joined(parts) if size <= MAX_INLINE else keep(parts, size)
