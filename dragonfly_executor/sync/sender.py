"""The sync of one runner: the files that it has, the files that it lacks, and their transfer.

The engine thread owns a sender. Worker threads read the files, some chunks at a time, as the link takes them.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator
from importlib.machinery import all_suffixes
from typing import TYPE_CHECKING, Any, Protocol

from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.protocol.file_manifest import FILE, ManifestEntry, SyncStep, diff, read_bits
from dragonfly_executor.protocol.frames import CHUNK_SIZE, HEADER, Flag, Frame, Kind, encode
from dragonfly_executor.protocol.stdlib_json import json

if TYPE_CHECKING:
    from dragonfly_executor.sync.file_snapshot import FileSnapshot
    from dragonfly_executor.sync.scan import Snapshot

logger = logging.getLogger("dragonfly_executor")
CODE = tuple(all_suffixes())
READ_AHEAD = 4 * 1024 * 1024
"""Bytes that are read before the link takes them."""
ROUNDS = 5
"""Number of attempts at a file that keeps changing while it is read, before it is left out."""
Piece = tuple[bytes, bytes]


class FrameSender(Protocol):
    """The part of a link that a sender uses."""

    def say(self, frame: bytes) -> None:
        """Send a frame ahead of all large payloads."""

    def say_bulk(self, header: bytes, piece: bytes = b"") -> None:
        """Send a frame behind the queued large payloads."""

    def when_drained(self, callback: Callable[[], None]) -> None:
        """Call back whenever little of the large payloads is left to be written."""


class SyncListener(Protocol):
    """The receiver of a sender's results."""

    def synced(self) -> None:
        """Handle a completed sync: the runner has all files."""

    def sync_failed(self, phase: str, text: str) -> None:
        """Handle a failed sync."""


class _Transfer:
    """A step that the runner has not finished."""

    def __init__(self, number: int, step: SyncStep, sources: dict[str, str]) -> None:
        self.number = number
        self.step = step
        self.sources = sources
        self.wanted = list(step.difference.digests.items())
        self.is_asked = True
        """True until the runner has answered which contents it has."""
        self.is_sent = False
        self.size = sum(step.difference.digests.values())


class Sender:
    """A sender that brings one runner's files to the state of the pool's snapshot.

    Args:
        file_snapshot: the source of the snapshot.
        outlet: the link to the runner.
        listener: the receiver of results.
        run: runs a function on a thread that may read files.
        on_engine: runs a function on the engine thread; any thread may call it.
    """

    def __init__(
        self,
        file_snapshot: FileSnapshot,
        outlet: FrameSender,
        listener: SyncListener,
        run: Callable[..., None],
        on_engine: Callable[[Callable[[], object]], None],
    ) -> None:
        self._file_snapshot = file_snapshot
        self._outlet = outlet
        self._listener = listener
        self._run = run
        self._on_engine = on_engine
        self._last: Snapshot | None = None
        self._manifest: dict[str, ManifestEntry] = {}
        self._import_path: list[str] = []
        self._transfers: deque[_Transfer] = deque()
        self._number = 0
        self._sending: tuple[_Transfer, Iterator[Piece]] | None = None
        self._reading = False
        self._heard = 0
        """The number of the last step that the runner has finished."""
        self._doubts = 0
        """Number of repeated scans of doubted files whose outcome the runner has not been told yet."""
        self._rounds = 0
        self._left_out: set[str] = set()
        """Files that are not tried again in this sync."""
        self._restless: set[str] = set()
        """Files that were left out once. Next time there is only one attempt."""
        self.is_busy = False
        """True while the runner holds back calls, because it has not reported yet that it has all files."""
        self.sent = 0
        """Number of bytes of contents sent."""
        outlet.when_drained(self._read_on)

    @property
    def progress(self) -> tuple[str, str]:
        """Return the boot phase of this sync, and a text that tells its progress."""
        lacking = sum(transfer.size for transfer in self._transfers)
        if self._file_snapshot.requirements and self._transfers and self._transfers[0].is_sent:
            return "requirements", "it was installing the requirements"
        return "sync", f"it had been sent {self.sent} bytes of files, of {lacking} at most"

    def update(self, *, always: bool = False) -> None:
        """Send the changes since the last update.

        Args:
            always: send a step even if nothing has changed.
        """
        snapshot = self._file_snapshot.snapshot
        if snapshot is None or (snapshot is self._last and not always):
            return
        first = self._last is None
        wanted = {path: entry for path, entry in snapshot.manifest.items() if path not in self._left_out}
        difference = diff(self._manifest, wanted)
        moved = snapshot.import_path != self._import_path
        self._last, self._manifest, self._import_path = snapshot, wanted, snapshot.import_path
        if not (first or moved or always or difference.changed or difference.deleted):
            return
        # Existing slots go on if only data has changed: the state that they have loaded may have been costly.
        fresh = moved or any(path.endswith(CODE) for path in (*difference.changed, *difference.deleted))
        self._number += 1
        self.is_busy = True
        step = SyncStep(difference, snapshot.import_path, fresh, self._file_snapshot.requirements, self._heard)
        self._transfers.append(_Transfer(self._number, step, snapshot.sources))
        data = step.dump()
        for start in range(0, len(data), CHUNK_SIZE):
            more = Flag.MORE if start + CHUNK_SIZE < len(data) else 0
            piece = data[start : start + CHUNK_SIZE]
            self._outlet.say(encode(Kind.SYNC_BEGIN, payload=piece, flags=more, detail=self._number))

    def on_frame(self, frame: Frame) -> None:
        """Handle a frame of the runner about the sync.

        Raises:
            ProtocolError: the frame is invalid.
        """
        if frame.kind == Kind.SYNC_END and frame.flags & Flag.ERROR:
            self._failed(bytes(frame.payload))
            return
        if not self._transfers or self._transfers[0].number != frame.detail:
            raise ProtocolError("an answer to a sync that did not begin")
        transfer = self._transfers[0]
        if frame.kind == Kind.SYNC_HAVE and transfer.is_asked:
            transfer.is_asked = False
            have = read_bits(bytes(frame.payload), len(transfer.wanted))
            if all(have):
                # The runner continues without further data.
                transfer.is_sent = True
                return
            pieces = pieces_of(transfer.step.difference.changed, transfer.sources, transfer.wanted, have)
            self._sending = transfer, pieces
            self._read_on()
        elif frame.kind == Kind.SYNC_HAVE or not transfer.is_sent:
            raise ProtocolError("an answer to a sync that was not asked for")
        else:
            changed = transfer.step.difference.changed
            stale = read_bits(bytes(frame.payload), len(changed))
            self._transfers.popleft()
            self._ended(transfer, [path for path, is_stale in zip(changed, stale, strict=True) if is_stale])

    def _failed(self, payload: bytes) -> None:
        try:
            said: Any = json.loads(payload)
            phase, text = str(said["phase"]), str(said["text"])
        except (LookupError, TypeError, ValueError, RecursionError) as error:
            raise ProtocolError(f"a SYNC_END that cannot be read: {error!r}") from None
        self._listener.sync_failed(phase, text)

    def _ended(self, transfer: _Transfer, stale: list[str]) -> None:
        self._heard = transfer.number
        if not stale:
            if not self._transfers and not self._doubts:
                self._rounds = 0
                self._left_out = set()
                self.is_busy = False
                self._listener.synced()
            return
        # These files did not arrive as announced, because they changed while they were read. Scan again.
        self._rounds += 1
        self._doubts += 1
        doubted = [transfer.sources[path] for path in stale]
        given_up = set(stale) if self._rounds >= ROUNDS else self._restless.intersection(stale)
        for path in sorted(given_up - self._restless):
            logger.warning("%s changed each time it was read, so it is not sent to runners", transfer.sources[path])
        self._left_out |= given_up
        self._restless |= given_up
        self._manifest = {path: entry for path, entry in self._manifest.items() if path not in set(stale)}
        self._run(self._scan_again, doubted)

    def _scan_again(self, doubted: list[str]) -> None:
        """Scan the doubted files again, on a worker thread."""
        self._file_snapshot.refresh(doubted)
        self._on_engine(self._scanned_again)

    def _scanned_again(self) -> None:
        self._doubts -= 1
        self.update(always=True)

    # -- contents -----------------------------------------------------------------------------------------------------

    def _read_on(self) -> None:
        if self._sending is not None and not self._reading:
            self._reading = True
            self._run(self._read, *self._sending)

    def _read(self, transfer: _Transfer, pieces: Iterator[Piece]) -> None:
        """Read some pieces on a worker thread, and hand them over to the engine thread."""
        batch: list[Piece] = []
        size = 0
        for piece in pieces:
            batch.append(piece)
            size += len(piece[1])
            if size >= READ_AHEAD:
                break
        self._on_engine(lambda: self._send(transfer, batch, is_last=size < READ_AHEAD))

    def _send(self, transfer: _Transfer, batch: list[Piece], *, is_last: bool) -> None:
        self._reading = False
        for header, piece in batch:
            self.sent += len(piece)
            self._outlet.say_bulk(header, piece)
        if is_last:
            self._sending = None
            transfer.is_sent = True
            # Queue this frame behind the contents. Control frames go ahead of them.
            self._outlet.say_bulk(encode(Kind.SYNC_END, detail=transfer.number))


def pieces_of(
    changed: dict[str, ManifestEntry], sources: dict[str, str], wanted: list[tuple[str, int]], have: list[bool]
) -> Iterator[Piece]:
    """Yield the frames, as header and bytes, with the contents that a runner lacks.

    If a file cannot be read, or is shorter than announced, the available bytes are sent. The runner then finds that the
    digest does not match.
    """
    lacking = {digest: place for place, ((digest, _), has) in enumerate(zip(wanted, have, strict=True), 1) if not has}
    for path, entry in changed.items():
        place = lacking.pop(entry.digest, None) if entry.kind == FILE else None
        if place is not None:
            yield from _file_pieces(sources[path], place, entry.size)


def _file_pieces(source: str, place: int, size: int) -> Iterator[Piece]:
    left = size
    try:
        with open(source, "rb", opener=_open) as file:
            while True:
                piece = file.read(min(left, CHUNK_SIZE))
                left -= len(piece)
                more = Flag.MORE if left and piece else 0
                yield HEADER.pack(Kind.SYNC_DATA, more, 0, 0, place, len(piece)), piece
                if not more:
                    return
    except OSError:
        yield HEADER.pack(Kind.SYNC_DATA, 0, 0, 0, place, 0), b""


def _open(path: str, flags: int) -> int:
    # The file may have become a pipe since. Opening a pipe must not block.
    return os.open(path, flags | os.O_NONBLOCK)
