"""Messages between a parent and a slot on the same machine about the memory that they share.

Each message is one packet of a Unix socket: a kind and three numbers. A message that gives access to memory carries the
memory's file descriptor beside it (``SCM_RIGHTS``). A slot asks, the parent answers, one question at a time.

A slot connects at its first need: it makes a pair of sockets, and sends one end with CONNECT over the socket that all
slots of the runner inherit. The agent takes no part. The end of the connection is the end of the slot.
"""

from __future__ import annotations

import os
from _socket import CMSG_SPACE, MSG_CMSG_CLOEXEC, MSG_CTRUNC, SCM_RIGHTS
from collections import namedtuple
from struct import Struct

from dragonfly_executor.transport.sockets import MSG_DONTWAIT, SOL_SOCKET, Socket

_MESSAGE = Struct("=QQQQ")
_DESCRIPTOR = Struct("=i")
_NO_DESCRIPTOR = -1


class Message(namedtuple("Message", "kind number size count fd")):  # noqa: PYI024  # typing is slow to import
    """One received message. `fd` is -1 if no descriptor came with it."""

    __slots__ = ()
    kind: int
    number: int
    size: int
    count: int
    fd: int


class MessageKind:
    """Kinds of messages, as plain ints. A segment is named by its number."""

    CONNECT = 1
    """Slot to parent: `number` is the process id. The descriptor is the parent's end of the connection."""
    WANT = 2
    """Slot to parent: give me this segment. The parent answers with SEGMENT."""
    SEGMENT = 3
    """Parent to slot: `size` of a block, `count` of blocks, and the descriptor. Size 0: the segment is gone."""
    RESERVE = 4
    """Slot to parent: may I make a segment of `count` blocks of `size` bytes? The parent answers with GRANTED."""
    GRANTED = 5
    """Parent to slot: yes, with this number. 0: no."""
    OFFER = 6
    """Slot to parent: the segment that was granted, with its descriptor. The parent answers with ACCEPTED."""
    ACCEPTED = 7
    """Parent to slot: the segment may be used. 0: the parent cannot map it."""
    RELEASE = 8
    """Slot to parent: no block of this segment will be used again. There is no answer."""


def send_message(
    sock: Socket, kind: int, number: int = 0, size: int = 0, count: int = 0, *, fd: int = -1, wait: bool = True
) -> None:
    """Send a message, with a descriptor if `fd` is not -1. With ``wait=False``, do not wait for room in the queue.

    Raises:
        OSError: the other side is gone, or its queue is full.
    """
    beside = [] if fd == _NO_DESCRIPTOR else [(SOL_SOCKET, SCM_RIGHTS, _DESCRIPTOR.pack(fd))]
    sock.sendmsg([_MESSAGE.pack(kind, number, size, count)], beside, 0 if wait else MSG_DONTWAIT)


def receive_message(sock: Socket, *, wait: bool = True) -> Message | None:
    """Return the next message; None if the other side is gone. A descriptor in it belongs to the caller.

    Raises:
        BlockingIOError: with ``wait=False``: there is no message.
        OSError: the connection is broken, or the message is invalid, or this process has no descriptor left for it.
    """
    data, beside, flags, _ = sock.recvmsg(
        _MESSAGE.size, CMSG_SPACE(_DESCRIPTOR.size), MSG_CMSG_CLOEXEC | (0 if wait else MSG_DONTWAIT)
    )
    fd = _NO_DESCRIPTOR
    for level, kind, rights in beside:
        if level == SOL_SOCKET and kind == SCM_RIGHTS and len(rights) >= _DESCRIPTOR.size:
            (fd,) = _DESCRIPTOR.unpack_from(rights)
    if len(data) == _MESSAGE.size and not flags & MSG_CTRUNC:
        return Message._make((*_MESSAGE.unpack(data), fd))
    if fd != _NO_DESCRIPTOR:
        os.close(fd)
    if not data:
        return None
    raise OSError("an invalid message about shared memory, or no descriptor left to receive its memory")
