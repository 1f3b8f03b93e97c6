"""Packs CALL frames."""

from __future__ import annotations

from dragonfly_executor.core.call_table import Call
from dragonfly_executor.protocol.frames import CALL_OPTIONS, TOTAL, Flag, Kind, encode
from dragonfly_executor.serialization.buffer_cache import PayloadParts

INFINITY = float("inf")


def call_frame(call: Call, number: int, now: float, location: bytes = b"") -> bytes:
    """Return the CALL frame of a call: with its payload, or with only the head of a large payload.

    Args:
        call: the call. The time left of its timeout, its run_timeout, its key, and the memory and the number of GPUs
            that it requires go in front of the payload.
        number: its number in the runner's table of call starts.
        now: the time, in monotonic seconds.
        location: where the payload is in shared memory; empty if it is not there.
    """
    payload, limits = call.payload, call.limits
    flags, prefix, required = 0, b"", limits.requirements
    if limits.concern_runner:
        flags = Flag.OPTIONS
        time_left = INFINITY if call.deadline is None else max(0.0, call.deadline - now)
        run_timeout = INFINITY if limits.run_timeout is None else limits.run_timeout
        memory, gpus = (0, 0) if required is None else (required.memory, required.gpus)
        prefix = CALL_OPTIONS.pack(time_left, run_timeout, limits.key, memory, gpus)
    if isinstance(payload, bytes):
        body = payload
    elif location:
        flags |= Flag.SHARED
        body = location
    else:
        flags |= Flag.LARGE
        if isinstance(payload, PayloadParts):
            prefix += payload.table()
        body = TOTAL.pack(sum(map(len, payload)))
    return encode(Kind.CALL, call.id, prefix + body, flags=flags, attempt=call.attempt, detail=number)
