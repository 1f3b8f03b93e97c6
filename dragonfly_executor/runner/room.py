"""Whether a runner has room for a single slot. If not, it says so in place of a HELLO."""

from __future__ import annotations

import os
import socket

from dragonfly_executor.core.wire import MAX_HANDSHAKE_FRAME, Kind, encode

# A runner imports this, and importing typing would take as long as all the rest. Type checkers take the name for true.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from dragonfly_executor.transport.streams import DescriptorPair

PIPES = 6
"""A slot takes two pairs of sockets, and pipes for its stack and its output."""
LONGEST_REASON = MAX_HANDSHAKE_FRAME // 4


def start_trial() -> int:
    """Start a process that ends at once, as a slot would be started. It counts as one until somebody waits for it.

    Returns:
        Its process id.

    Raises:
        OSError: no slot could be started here: there is no process, no memory or no descriptor left.
    """
    held: list[int] = []
    try:
        for _ in range(PIPES):
            held += os.pipe()
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        return pid
    finally:
        for fd in held:
            os.close(fd)


def end_trial(pid: int) -> None:
    """Wait for that process, which has ended or is about to."""
    os.waitpid(pid, 0)


def say_why_not(sock: socket.socket | DescriptorPair, error: OSError) -> None:
    """Tell the parent that this cannot be a runner. After HELLO it learns only that the link ends."""
    reason = f"it has no room for a single slot: {error}".encode()[:LONGEST_REASON]
    try:
        sock.send(encode(Kind.BYE, payload=reason))
    except OSError:
        return  # the parent is gone, or takes nothing
