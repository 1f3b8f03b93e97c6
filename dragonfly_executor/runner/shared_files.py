"""The contents that a runner's slots ask for: shared objects, and pieces of payloads.

A shared object is a file, by its digest, beside the contents of the sync. A piece lies in the agent's memory
(`piece_memory`).

A slot on the parent's machine maps the parent's memory and does not ask. For any other slot the agent looks into the
cache of its host. If the object is not there, the agent asks the parent for it, some chunks at a time. So an object
comes once for all slots of the host, and is still there for the next runner.
"""

from __future__ import annotations

import os
from collections import deque
from itertools import islice

from dragonfly_executor.errors.base import ProtocolError
from dragonfly_executor.protocol.compression import split_place
from dragonfly_executor.protocol.frames import FORGOTTEN_AT_ONCE, RESULT_OF, Flag, Frame, Kind, encode
from dragonfly_executor.protocol.shared_entries import IN_AGENT, pack_numbers, read_entries, read_numbers
from dragonfly_executor.runner import session_directory
from dragonfly_executor.runner.content_cache import ContentCache, ContentWriter, cache_folder, private_folder
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dragonfly_executor.core.slot_records import SlotCall
    from dragonfly_executor.protocol.shared_entries import SharedEntry
    from dragonfly_executor.runner.dispatch import Dispatcher
    from dragonfly_executor.runner.kept_results import KeptResults
    from dragonfly_executor.runner.piece_memory import PieceRoom, PieceWriter
    from dragonfly_executor.runner.slot_handle import Slot
    from dragonfly_executor.transport.codecs import Codecs

    Helper = Callable[[Callable[[], int], Callable[[int], None]], None]

WINDOW = 32
"""Chunks of an object that are requested ahead."""
AT_ONCE = 4
"""Objects that are received at the same time."""
COPIED_AT_ONCE = 16
"""Chunks of a kept result that are copied in one pass of the loop."""
ATTEMPTS = 3
"""Number of times that an object is received whose digest does not match."""
TRIM_AFTER = 256 * 1024 * 1024
"""Bytes that are received before the cache is trimmed again."""


class SharedFile:
    """A shared object or a piece, on its way to the slots that wait for it.

    Attributes:
        entry: the object.
        is_piece: whether it is a piece.
        where: what a slot is told of the place of its bytes, and the flags of the frame; None while they are not there.
        memory: the memory of a piece that is complete.
        waiting: the slots that wait for it, each with its call.
        writer: writes its file or its memory while it is received.
        place: the place of the next chunk.
        owed: chunks that were received and not replaced by a request.
        is_sent: whether the parent is to send it, although it is a result that this runner has sent.
        attempts: number of times that it was received.
        followers: other numbers of the same content, which wait for this one. The values of futures have many.
    """

    __slots__ = (
        "attempts",
        "entry",
        "followers",
        "is_piece",
        "is_sent",
        "memory",
        "owed",
        "place",
        "waiting",
        "where",
        "writer",
    )

    def __init__(self, entry: SharedEntry) -> None:
        self.entry = entry
        self.is_piece = entry.descriptor == IN_AGENT
        self.where: tuple[bytes, int] | None = None
        self.memory: PieceWriter | None = None
        self.waiting: list[tuple[Slot, SlotCall | None]] = []
        self.writer: ContentWriter | PieceWriter | None = None
        self.place = 0
        self.owed = 0
        self.attempts = 0
        self.is_sent = False
        self.followers: list[SharedFile] = []


class SharedFiles:
    """The shared objects and the pieces of one runner.

    Args:
        send: sends a frame to the parent.
        dispatcher: knows the slots and their calls.
        run_helper: runs a function in a child of the agent, and calls back with its wait status.
        codecs: those that the parent and this runner have.
        kept: returns the results that the agent keeps, if it does.
        later: runs a callback in the next pass of the loop.
    """

    def __init__(
        self,
        send: Callable[[bytes], None],
        dispatcher: Dispatcher,
        run_helper: Helper,
        codecs: Codecs,
        kept: Callable[[], KeptResults | None],
        later: Callable[[Callable[[], None]], object],
    ) -> None:
        self._kept = kept
        self._later = later
        self._codecs = codecs
        self._send = send
        self._dispatcher = dispatcher
        self._run_helper = run_helper
        self._files: dict[int, SharedFile] = {}
        self._leaders: dict[bytes, SharedFile] = {}
        """By digest, the objects that are looked for, or received. Others with this digest follow them."""
        self._verified: set[bytes] = set()
        """Digests of files in the cache that this agent has verified."""
        self._queue: deque[SharedFile] = deque()
        """Objects that are to be received once fewer than `AT_ONCE` are."""
        self._session: session_directory.SessionDirectory | None = None
        self._cache: ContentCache | None = None
        self._room: PieceRoom | None = None
        self._untrimmed = TRIM_AFTER
        self._answered: set[int] = set()
        """Objects that a slot of this runner has had from the agent."""
        self._sees_parent = "DRAGONFLY_PARENT_PID" in os.environ
        """True if slots may map the parent's memory, without the agent."""

    def descriptors(self) -> list[int]:
        """Return the descriptors that slots must not keep open."""
        open_files = [file.writer or file.memory for file in self._files.values()]
        fds = [open_file.fd for open_file in open_files if open_file is not None]
        return fds if self._session is None else [*fds, self._session.fd]

    def remove(self) -> None:
        """Remove the files that are not complete, and the cache if it is this runner's own."""
        for file in self._files.values():
            if file.writer is not None:
                file.writer.drop()
        if self._session is not None:
            self._session.remove()

    # -- frames -------------------------------------------------------------------------------------------------------

    def wanted(self, slot: Slot, frame: Frame) -> None:
        """Handle a slot's request for the objects of its call."""
        call = self._dispatcher.call(frame.call_id, frame.attempt)
        for entry in read_entries(frame.payload):
            file = self._files.setdefault(entry.number, SharedFile(entry))
            if frame.flags & Flag.ERROR and file.where is not None:
                # The slot could not open this file. So the object is received again.
                self._open_cache().forget(entry.digest.hex())
                self._verified.discard(entry.digest)
                file.where = None
            if call is not None:
                self._dispatcher.shared_requested(call)
            file.waiting.append((slot, call))
            if file.where is not None:
                if file.is_piece and self._room is not None:
                    self._room.use(entry.number)
                self._answer(file, *file.where)
            elif len(file.waiting) == 1:
                self._find(file)

    def receive(self, frame: Frame) -> None:
        """Handle a frame of the parent."""
        if frame.kind == Kind.SHARED_DATA:
            self._arrived(frame)
        elif frame.kind == Kind.KEPT_RESULT:
            self._find_kept(frame)
        else:
            self._forget(frame)

    def _arrived(self, frame: Frame) -> None:
        file = self._files.get(frame.call_id)
        place, data = split_place(frame)
        if file is None or file.writer is None or place != file.place:
            return  # a piece of a transfer that was given up
        file.place += 1
        try:
            if not file.writer.write(memoryview(self._codecs.open(frame.flags, data, frame.detail))):
                self._fail(file, "the parent sends more than its size")
            elif not frame.flags & Flag.MORE:
                self._finish(file, file.writer)
            else:
                self._request_more(file)
        except OSError as error:
            self._fail(file, f"{error.strerror or error} ({self._where()})")
        except (MemoryError, ProtocolError) as error:
            self._fail(file, f"{type(error).__name__}: {error}")

    def _forget(self, frame: Frame) -> None:
        """Drop the objects that the parent does not have any more. Their files stay in the cache."""
        numbers = read_numbers(frame.payload)
        self._answered.difference_update(numbers)
        for number in numbers:
            file = self._files.get(number)
            if file is not None:
                self._fail(file, "the parent has freed it")
        for start in range(0, len(numbers), FORGOTTEN_AT_ONCE):
            packet = encode(Kind.SHARED_FORGET, payload=pack_numbers(numbers[start : start + FORGOTTEN_AT_ONCE]))
            for slot in self._dispatcher.slots.values():
                slot.notify(packet)

    # -- one object ---------------------------------------------------------------------------------------------------

    def _find(self, file: SharedFile) -> None:
        """Look for an object in the cache of this host, and verify it there, or receive it."""
        entry = file.entry
        digest = entry.digest.hex()
        try:
            if file.is_piece:
                self._receive(file)
                return
            leader = self._leaders.setdefault(entry.digest, file)
            if leader is not file:
                leader.followers.append(file)
                return
            cache = self._open_cache()
            if not cache.has(digest, entry.size):
                self._receive(file)
                return
            if entry.digest in self._verified:
                self._looked_at(file, cache.path(digest), is_valid=True)
                return
            # In a child, because it reads the whole file.
            self._run_helper(
                lambda: 0 if cache.verify(digest, entry.size) else 1,
                lambda status: self._looked_at(file, cache.path(digest), is_valid=not status),
            )
        except OSError as error:
            self._fail(file, f"{error.strerror or error} ({self._where()})")

    def _looked_at(self, file: SharedFile, path: str, *, is_valid: bool) -> None:
        if self._files.get(file.entry.number) is not file:
            return
        if is_valid:
            file.where = os.fsencode(path), 0
            self._answer(file, *file.where)
            return
        try:
            self._receive(file)
        except OSError as error:
            self._fail(file, f"{error.strerror or error} ({self._where()})")

    def _receive(self, file: SharedFile) -> None:
        """Ask the parent for an object from its start, unless enough objects are being received."""
        if sum(other.writer is not None for other in self._files.values()) >= AT_ONCE:
            self._queue.append(file)
            return
        entry = file.entry
        if file.is_piece:
            file.writer = self._memory_for(entry)
        else:
            file.writer = self._open_cache().receive(entry.digest.hex(), entry.size)
        file.place = file.owed = 0
        file.attempts += 1
        is_first = (file.is_piece or not self._sees_parent) and entry.number not in self._answered
        flags = (Flag.RETRYABLE if is_first else 0) | (Flag.ERROR if file.is_sent else 0)
        self._send(encode(Kind.SHARED_WANT, entry.number, flags=flags, detail=WINDOW))

    def _find_kept(self, frame: Frame) -> None:
        """Copy a kept result into the file of the object that it is, or ask the parent for the bytes."""
        file = self._files.get(frame.call_id)
        if file is None or file.writer is None or file.place:
            return  # it was given up
        kept, file.is_sent = self._kept(), True
        chunks = None if kept is None else kept.chunks_of(RESULT_OF.unpack(frame.payload))
        if chunks is None:
            self._send(encode(Kind.SHARED_WANT, file.entry.number, flags=Flag.ERROR, detail=WINDOW))
        else:
            self._copy(file, file.writer, iter(chunks))

    def _copy(self, file: SharedFile, writer: ContentWriter | PieceWriter, chunks: Iterator[Frame]) -> None:
        """Copy some chunks, and the others in later passes of the loop: other calls go on meanwhile."""
        if file.writer is not writer:
            return  # it was given up
        try:
            for chunk in islice(chunks, COPIED_AT_ONCE):
                writer.write(memoryview(self._codecs.open(chunk.flags, chunk.payload, chunk.detail)))
                if not chunk.flags & Flag.MORE:
                    self._finish(file, writer)
                    return
        except (OSError, MemoryError, ProtocolError) as error:
            self._fail(file, f"{getattr(error, 'strerror', None) or error} ({self._where()})")
        else:
            self._later(lambda: self._copy(file, writer, chunks))

    def _memory_for(self, entry: SharedEntry) -> PieceWriter:
        """Return memory for a piece. The least recently used pieces make room.

        Raises:
            OSError: there is no room.
        """
        if self._room is None:
            # Imported only if a call has a piece.
            from dragonfly_executor.runner.piece_memory import PieceRoom

            self._room = PieceRoom(lambda: self._open_session().path)
        pinned = {number for number, file in self._files.items() if file.waiting}
        writer, evicted = self._room.open(entry.number, entry.size, pinned)
        for number in evicted:
            file = self._files.pop(number, None)
            if file is not None and file.memory is not None:
                file.memory.drop()
        return writer

    def _request_more(self, file: SharedFile) -> None:
        file.owed += 1
        if file.owed >= WINDOW // 4:
            self._send(encode(Kind.SHARED_WANT, file.entry.number, flags=Flag.MORE, detail=file.owed))
            file.owed = 0

    def _finish(self, file: SharedFile, writer: ContentWriter | PieceWriter) -> None:
        """Keep an object whose last piece has arrived, if its digest matches."""
        file.writer = None
        if writer.finish():
            file.where = self._keep(file, writer)
            self._answer(file, *file.where)
            self._receive_next()
        elif file.attempts < ATTEMPTS:
            self._receive(file)
        else:
            self._fail(file, f"it was received {ATTEMPTS} times, and its digest never matched")

    def _keep(self, file: SharedFile, writer: ContentWriter | PieceWriter) -> tuple[bytes, int]:
        """Keep a complete object, and return its place in the form that a slot gets."""
        if isinstance(writer, ContentWriter):
            self._trim(file.entry.size)
            return os.fsencode(self._open_cache().path(file.entry.digest.hex())), 0
        file.memory = writer
        return writer.where()

    def _fail(self, file: SharedFile, reason: str) -> None:
        """Give up an object. The next call that needs it tries again."""
        self._files.pop(file.entry.number, None)
        if file.is_piece and self._room is not None:
            self._room.remove(file.entry.number)
        for open_file in (file.writer, file.memory):
            if open_file is not None:
                open_file.drop()
        file.writer = file.memory = None
        if file in self._queue:
            self._queue.remove(file)
        self._answer(file, os.fsencode(reason), Flag.ERROR)
        self._receive_next()

    def _receive_next(self) -> None:
        if self._queue:
            file = self._queue.popleft()
            try:
                self._receive(file)
            except OSError as error:
                self._fail(file, f"{error.strerror or error} ({self._where()})")

    def _answer(self, file: SharedFile, where: bytes, flags: int) -> None:
        """Tell the slots that wait for an object where it is, or why there is none."""
        waiting, file.waiting = file.waiting, []
        if not flags & Flag.ERROR:
            self._answered.add(file.entry.number)
        for slot, call in waiting:
            if self._dispatcher.slots.get(slot.pid) is slot:
                slot.link.send(encode(Kind.SHARED_FILE, file.entry.number, where, flags=flags))
            if call is not None:
                self._dispatcher.shared_answered(call)
        if self._leaders.get(file.entry.digest) is file:
            del self._leaders[file.entry.digest]
            self._lead(file, where, flags)

    def _lead(self, file: SharedFile, where: bytes, flags: int) -> None:
        """Answer the requests for the same content under other numbers, or have the first of them look for it."""
        if not flags & Flag.ERROR:
            self._verified.add(file.entry.digest)
        followers, file.followers = file.followers, []
        for follower in followers:
            if self._files.get(follower.entry.number) is not follower:
                continue
            if flags & Flag.ERROR:
                self._find(follower)
            else:
                follower.where = where, flags
                self._answer(follower, where, flags)

    # -- the cache ----------------------------------------------------------------------------------------------------

    def _open_cache(self) -> ContentCache:
        if self._cache is not None:
            return self._cache
        cache = cache_folder()
        if cache is None or not private_folder(cache) or not private_folder(os.path.join(cache, "blobs")):
            # Without a home directory the cache lasts as long as the runner.
            cache = self._open_session().path
            os.mkdir(os.path.join(cache, "blobs"), 0o700)
        self._cache = ContentCache(os.path.join(cache, "blobs"))
        return self._cache

    def _open_session(self) -> session_directory.SessionDirectory:
        if self._session is None:
            session_directory.sweep()
            self._session = session_directory.SessionDirectory()
        return self._session

    def _trim(self, size: int) -> None:
        """Remove the least recently used contents of the cache, now and then: that reads its whole folder."""
        self._untrimmed += size
        if self._untrimmed >= TRIM_AFTER and self._cache is not None:
            self._untrimmed = 0
            self._cache.trim()

    def _where(self) -> str:
        return session_directory.temporary_folder() if self._cache is None else self._cache.folder
