"""Replies to the requests of slots."""

from __future__ import annotations

from dragonfly_executor.protocol.frames import CHUNK_SIZE, HEADER, MAX_INLINE, Flag, Kind, encode
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly_executor.engine.objects.request import Session


def send_reply(session: Session, number: int, data: bytes, *, is_error: bool = False) -> None:
    """Send a reply to a slot. A long one goes in parts, behind the large payloads.

    Args:
        session: the slot.
        number: the number of the request.
        data: the pickled reply.
        is_error: whether it is an exception.
    """
    flags = Flag.ERROR if is_error else 0
    if len(data) <= MAX_INLINE:
        session.runner.reply(encode(Kind.OBJECT_REPLY, number, data, flags=flags, detail=session.pid))
        return
    view = memoryview(data)
    for start in range(0, len(data), CHUNK_SIZE):
        piece = bytes(view[start : start + CHUNK_SIZE])
        more = Flag.MORE if start + CHUNK_SIZE < len(data) else 0
        header = HEADER.pack(Kind.OBJECT_REPLY, flags | Flag.LARGE | more, 0, session.pid, number, len(piece))
        session.runner.say_bulk(header, piece)
