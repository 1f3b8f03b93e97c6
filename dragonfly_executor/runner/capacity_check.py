"""Whether a runner has room for a single slot. If not, it says so in place of a HELLO."""

from __future__ import annotations

import os

from dragonfly_executor.protocol.frames import MAX_HANDSHAKE_FRAME, Kind, encode
from dragonfly_executor.transport.sockets import Socket

# A runner imports this, and importing typing would take as long as all the rest. Type checkers take the name for true.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from dragonfly_executor.transport.streams import DescriptorPair

PIPES = 6
"""A slot takes two pairs of sockets, and pipes for its stack and its output."""
NO_PROGRAM = "/"
"""A folder: there is a process for it, and then it is refused."""
LONGEST_REASON = MAX_HANDSHAKE_FRAME // 4


def try_process() -> None:
    """Start a process that cannot become anything, as a slot would be started, and wait for it.

    It shares the memory of this one while it lives, so it takes no time: after a fork each page that either writes is
    copied.

    Raises:
        OSError: no slot could be started here: there is no process, no memory or no descriptor left.
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


def say_why_not(sock: Socket | DescriptorPair, error: OSError) -> None:
    """Tell the parent that this cannot be a runner. After HELLO it learns only that the link ends."""
    reason = f"it has no room for a single slot: {error}".encode()[:LONGEST_REASON]
    try:
        sock.send(encode(Kind.BYE, payload=reason))
    except OSError:
        return  # the parent is gone, or takes nothing
