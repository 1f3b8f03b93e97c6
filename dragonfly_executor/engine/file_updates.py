"""The parent's files on one runner: sends changes ahead of calls, and knows the calls that wait for them there."""

from __future__ import annotations

from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dragonfly_executor.core.call_table import Call
    from dragonfly_executor.protocol.frames import Frame
    from dragonfly_executor.sync import Sender

    Ref = tuple[int, int]


class FileUpdates:
    """The updates of the files of one runner. It does nothing for a runner that sees the parent's disk.

    Attributes:
        held: id and attempt of each call that the runner does not start before it has all files.
    """

    def __init__(self) -> None:
        self.held: set[Ref] = set()
        self._sender: Sender | None = None
        """Sends the parent's files; None if the node sees them."""

    def use_sender(self, sender: Sender) -> None:
        """Send the parent's files with this sender from now on."""
        self._sender = sender

    @property
    def progress(self) -> tuple[str, str] | None:
        """The phase of the sync, and how far it is; None if there is none."""
        return None if self._sender is None else self._sender.progress

    def send_ahead_of(self, calls: Iterable[Call]) -> None:
        """Send file changes ahead of these calls."""
        if self._sender is not None:
            self._sender.update()
            if self._sender.is_busy:
                self.held.update((call.id, call.attempt) for call in calls)

    def answered(self, frames: Iterable[Frame]) -> None:
        """Hand the runner's answers to the sender.

        Raises:
            ProtocolError: the runner answers a sync that it does not have.
        """
        for frame in frames:
            if self._sender is None:
                raise ProtocolError("an answer to a sync from a runner that has none")
            self._sender.on_frame(frame)

    def arrived(self) -> None:
        """Stop counting calls as held back: the runner has all files."""
        self.held.clear()
