"""Checks that a runner has room for at least one slot. If not, the runner sends a BYE in place of a HELLO."""

from __future__ import annotations

import os

from dragonfly_executor.protocol.frames import MAX_HANDSHAKE_FRAME, Kind, encode
from dragonfly_executor.transport.sockets import Socket
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly_executor.transport.streams import DescriptorPair

PIPES = 6
"""Pipes that stand for a slot's descriptors: two socket pairs, and pipes for its stack and its output."""
NO_PROGRAM = "/"
"""A directory: the kernel makes a process for it, and then refuses to execute it."""
LONGEST_REASON = MAX_HANDSHAKE_FRAME // 4


def try_process() -> None:
    """Spawn a process that fails to execute, to check that a slot could be forked.

    A spawned process shares this one's memory while it lives, so the check is fast. A fork copies each page that either
    process writes.

    Raises:
        OSError: no slot can be started here: processes, memory or descriptors have run out.
    """
    held: list[int] = []
    try:
        for _ in range(PIPES):
            held += os.pipe()
        os.posix_spawn(NO_PROGRAM, [NO_PROGRAM], {})
    except PermissionError:
        return
    finally:
        for fd in held:
            os.close(fd)


def report_failure(sock: Socket | DescriptorPair, error: OSError) -> None:
    """Tell the parent why this process cannot be a runner. After a HELLO, the parent only sees the link end."""
    reason = f"it cannot start a single slot: {error}".encode()[:LONGEST_REASON]
    try:
        sock.send(encode(Kind.BYE, payload=reason))
    except OSError:
        return  # the parent is gone, or takes nothing
