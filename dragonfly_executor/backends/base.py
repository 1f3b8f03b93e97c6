"""What a backend is: it gets a node and a running agent on it, and gives it back. It knows nothing of calls."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple, Protocol

from dragonfly_executor.parent import Parent

if TYPE_CHECKING:
    from dragonfly_executor.transport.loop import Loop

Buffer = bytes | bytearray | memoryview


class Stream(Protocol):
    """A two-way byte stream, named after `socket.socket`; a paramiko channel is one as well."""

    def recv(self, size: int, /) -> bytes:
        """At least one byte, at most `size`; nothing at the end of the stream. Blocks."""

    def sendall(self, data: bytes, /) -> None:
        """Write everything. Blocks."""

    def close(self) -> None:
        """End the stream in both directions."""


class BootRequest(NamedTuple):
    """What a backend is told about the runner it shall boot.

    Attributes:
        runner_id: the runner's number in its pool.
        parent: what the runner is to find in its environment, as ``DRAGONFLY_PARENT``.
        timeout: seconds that the boot may take; the pool gives up on it after that.
    """

    runner_id: int
    parent: Parent
    timeout: float


class Node:
    """A booted node with a running agent on it.

    Attributes:
        stream: the link's bytes; None where the runner dials back to the parent's listener.
        sessions: the process sessions of the slots that live there, as the agent has reported them; kept by the pool.
        shares_disk: whether the node sees the files of the parent's machine.
    """

    stream: Stream | None = None
    sessions: Collection[int] = ()
    shares_disk: bool = True

    def stop(self) -> None:
        """Give the node back, and leave nothing running on it. Twice is fine, never raises; blocks until it is done."""
        raise NotImplementedError

    def output(self) -> str:
        """The last of what the node printed, for the error of a boot that failed; "" where nobody knows."""
        return ""


class Backend:
    """Boots nodes. Subclasses give `boot`; the rest are defaults that they may change.

    Attributes:
        name: the word for it in logs and in `Parent`.
        default_max: runners at most where the user does not say; None where the user has to say it.
        default_boot_timeout: seconds.
    """

    name: str = "backend"
    default_max: int | None = None
    default_boot_timeout: float = 30.0

    def default_slots(self) -> int | None:
        """Calls at once on a runner where the user does not say; None for the CPU count that the runner reports."""
        return None

    def make_loop(self) -> Loop:
        """The loop of a pool on this backend. A backend for tests may have one that goes by a clock of its own."""
        from dragonfly_executor.transport.loop import Loop

        return Loop()

    def boot(self, request: BootRequest) -> Node:
        """Boot a node and start an agent on it; blocks, on a thread that may. Raises `BootError`."""
        raise NotImplementedError
