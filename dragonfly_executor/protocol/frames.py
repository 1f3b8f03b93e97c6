"""Bytes <-> frames.

One frame is a fixed plain header and an opaque payload:

    kind     u8    what the frame is (`Kind`)
    flags    u8    `Flag` bits
    attempt  u16   which attempt of the call, 1 for the first; 0 where no call is meant
    detail   u32   a number whose meaning the kind gives
    call id  u64   the call; 0 where no call is meant
    length   u64   bytes of payload that follow

The same frames travel on both hops (parent to agent, agent to slot), so an agent forwards them as they are. Ids and
lengths stand outside the pickle: a payload that cannot be opened fails one call, and the stream stays in step.

No frame is longer than `MAX_FRAME`. What is larger than `MAX_INLINE` travels as a head that carries `Flag.LARGE`,
whose payload ends with the total length, and chunks, of which the last lacks `Flag.MORE`. So control frames always
find a gap, and nothing is ever allocated from a length that the peer claims.
"""

from __future__ import annotations

import struct
from collections import namedtuple
from collections.abc import Iterator, Sequence
from enum import IntEnum

from dragonfly_executor.errors import ProtocolError

PROTOCOL_VERSION = 2
"""Number of what both ends have to agree on: the kinds and flags below, and the modules of this package that payloads
name. Whoever changes one of these raises the number. Ends with different numbers refuse each other in the handshake, so
an unknown kind is a broken peer, never a newer one: it ends the link."""
HEADER = struct.Struct("!BBHIQQ")
HEADER_SIZE = HEADER.size
MAX_HANDSHAKE_FRAME = 4 * 1024
MAX_INLINE = 64 * 1024
"""Largest payload that travels in one frame; a call's packet to a slot must also fit a default socket buffer."""
CHUNK_SIZE = 256 * 1024
MAX_FRAME = 1024 * 1024
MAX_DETAIL = 2**32 - 1
LIMITS = struct.Struct("!dd")
"""What `Flag.LIMITS` puts in front of a call: seconds left of its budget, seconds it may run (infinity for none)."""
TOTAL = struct.Struct("!Q")
"""What `Flag.LARGE` puts at the end of a head's payload: how many bytes the chunks will carry."""
SETUP_HEAD = struct.Struct("!QQB")
"""What SETUP begins with: the pool's ``max_payload``, the bytes of the codec's part, and a `Script`. The initializer's
call follows the codec's part (nothing for none)."""


class Kind(IntEnum):
    """What a frame is. The arrows say who sends it; `detail` is 0 unless said."""

    HELLO = 1  # runner -> parent: JSON, versions and what the runner is
    WELCOME = 2  # parent -> runner: JSON, the session's numbers
    REFUSE = 3  # parent -> runner: JSON, why not; the link ends
    SETUP = 4  # parent -> agent: what each slot needs before its first call; Flag.MORE until the last part
    PING = 5  # both ways: answered by PONG with the same detail
    PONG = 6
    CALL = 7  # parent -> agent -> slot
    CHUNK = 8  # a piece of a large payload, of the call named
    # slot's side -> parent: send `detail` more chunks of this call. The first says which of its parts are there already
    PULL = 9
    KILL = 10  # parent -> agent: stop this call
    # parent -> agent: go away; detail = milliseconds that running calls may take. agent -> parent: somebody wants this
    # runner to go (SIGTERM), so send no more calls; what has not started comes back; say STOP when no call is left here
    STOP = 11
    READY = 12  # slot -> agent: the initializer is done, calls may come; where output is read: answered by the same
    STARTED = 13  # agent -> parent: the call is running
    RESULT = 14  # slot -> agent -> parent: detail = microseconds that the call took
    # agent -> parent: the call was never started; here it is back. slot -> agent: the same, since files that the slot
    # has loaded have changed; it ends now
    RETURNED = 15
    LOST = 16  # agent -> parent: JSON, the call's slot died under it
    # agent -> parent: the call was stopped at its limit. If its function never began since opening the call took too
    # long: detail = the milliseconds that it took
    TIMED_OUT = 17
    GONE = 18  # agent -> parent: the call that KILL named is no longer here
    SETUP_FAILED = 19  # slot -> agent -> parent: the initializer failed; an error payload; without Flag.ERROR text
    CHECK_IDLE = 20  # parent -> agent: run this check in a slot
    IDLE = 21  # agent -> parent: detail = 1 if the check says that the runner may go; else perhaps a warning, as text
    SLOT_UP = 22  # agent -> parent: detail = the process id of a new slot
    SLOT_DOWN = 23  # agent -> parent: detail = the process id of a slot that ended
    BYE = (
        24  # agent -> parent: this runner goes now, nothing is left on it. Before HELLO: text, why it can be no runner
    )
    # slot -> agent -> parent: what a call wrote (call 0: the runner); detail = process id of the slot. And parent ->
    # agent: of what this slot wrote so much (call id: a weight, see `protocol.output_window`) has been consumed.
    OUTPUT = 25
    SYNC_BEGIN = 26  # parent -> agent: JSON, a step: how the files there change; detail = its number; Flag.MORE
    SYNC_HAVE = 27  # agent -> parent: one bit for each content of the step: is it there? All set: nothing need follow
    SYNC_DATA = 28  # parent -> agent: a piece of a content; call id = its place among those, from 1; Flag.MORE
    # parent -> agent: what was missing was sent. agent -> parent: one bit for each change: was it not as announced?
    SYNC_END = 29
    # Where a runner dials back, these come before its HELLO; see `protocol/dialback_auth.py`.
    DIAL = 30  # runner -> parent: version of the handshake, nonce, number of the runner
    CHALLENGE = 31  # parent -> runner: nonce
    PROOF = 32  # runner -> parent: MAC under the boot's token
    PARENT_PROOF = 33  # parent -> runner: MAC under the same token
    VERSIONS = 34  # parent -> runner: JSON, the parent's versions, and how long WELCOME may take
    LOG_LEVEL = 35  # parent -> agent: detail = the level from which on calls that follow send log records


class Script:
    """Whether a slot imports the parent's script in its set-up."""

    SKIP = 0  # a call that needs the script imports it when it is opened
    IMPORT = 1
    LATE = 2  # a slot before this one did not finish the import in time: calls that need the script fail


class Flag:
    """Bits of a frame's flags. Plain numbers: an IntFlag's operators run in Python, at every frame."""

    ERROR = 1  # the payload is an error
    RETRYABLE = 2  # ... which the caller said may be tried again
    MORE = 4  # chunks follow
    LIMITS = 8  # the payload starts with `LIMITS`
    LARGE = 16  # the payload ends with `TOTAL`; ahead of that a CALL names the parts that its slot may have already
    STDERR = 32  # an OUTPUT is from stderr, not stdout
    LOG = 64  # an OUTPUT is a log record: JSON
    END = 128  # an OUTPUT is empty: there is no more of this call's


KIND_NUMBERS = frozenset(int(kind) for kind in Kind)


class Frame(namedtuple("Frame", "kind flags attempt detail call_id raw")):  # noqa: PYI024  # typing is slow to import
    """One frame as it arrived; `raw` is header and payload together, so that it can be forwarded as it is."""

    __slots__ = ()
    kind: int
    flags: int
    attempt: int
    detail: int
    call_id: int
    raw: bytes

    @property
    def payload(self) -> memoryview:
        """The payload, not copied."""
        return memoryview(self.raw)[HEADER_SIZE:]


def encode(
    kind: int, call_id: int = 0, payload: bytes = b"", *, flags: int = 0, attempt: int = 0, detail: int = 0
) -> bytes:
    """One frame as bytes."""
    return HEADER.pack(kind, flags, attempt, detail, call_id, len(payload)) + payload


def split_bulk(
    call_id: int, attempt: int, parts: Sequence[bytes | bytearray | memoryview]
) -> Iterator[tuple[bytes, memoryview]]:
    """The chunk frames, as header and bytes, that carry `parts`; nothing is copied."""
    views = [memoryview(part).cast("B") for part in parts if len(part)]
    for number, view in enumerate(views):
        for start in range(0, len(view), CHUNK_SIZE):
            piece = view[start : start + CHUNK_SIZE]
            last = number == len(views) - 1 and start + CHUNK_SIZE >= len(view)
            flags = 0 if last else Flag.MORE
            yield HEADER.pack(Kind.CHUNK, flags, attempt, 0, call_id, len(piece)), piece


class Decoder:
    """Turns bytes, split anywhere, into frames.

    After a `ProtocolError` the decoder stays in error, since a stream that is
    out of step cannot be trusted again. It holds at most what has arrived.
    """

    def __init__(self, max_frame: int = MAX_FRAME, *, one_by_one: bool = False) -> None:
        self.max_frame = max_frame
        self.one_by_one = one_by_one
        """Whether `feed` gives one frame at a time: the limit for the next one may hang on what this one says."""
        self._pending = bytearray()
        self._failure: str | None = None

    @property
    def pending(self) -> int:
        """Bytes of an incomplete frame."""
        return len(self._pending)

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are complete with `data`.

        Raises:
            ProtocolError: the bytes make no sense.
            MemoryError: there is no memory for them. None were taken: the same may be fed again.
        """
        if self._failure is not None:
            raise ProtocolError(self._failure)
        before = len(self._pending)
        try:
            if before:
                self._pending += data
                if not self._complete():
                    return []
                data = bytes(self._pending)
            frames: list[Frame] = []
            position = self._split(data, frames)
            self._pending = bytearray(data[position:]) if position < len(data) else bytearray()
        except MemoryError:
            del self._pending[before:]
            raise
        return frames

    def _complete(self) -> bool:
        """Whether the pending bytes hold a whole frame: else a long one would be copied at each read."""
        if len(self._pending) < HEADER_SIZE:
            return False
        header = HEADER.unpack_from(self._pending)
        self._check(header[0], header[5])
        return bool(len(self._pending) >= HEADER_SIZE + header[5])

    def _check(self, kind: int, length: int) -> None:
        if kind not in KIND_NUMBERS:
            self._fail(f"unknown kind of frame: {kind}")
        if length > self.max_frame:
            self._fail(f"frame of {length} bytes, where {self.max_frame} are allowed")

    def _fail(self, reason: str) -> None:
        self._failure = reason
        self._pending = bytearray()
        raise ProtocolError(reason)

    def _split(self, data: bytes, frames: list[Frame]) -> int:
        position, end = 0, len(data)
        unpack, limit, known, append = HEADER.unpack_from, self.max_frame, KIND_NUMBERS, frames.append
        new = tuple.__new__  # what a named tuple's own constructor calls, in Python
        while end - position >= HEADER_SIZE:
            kind, flags, attempt, detail, call_id, length = unpack(data, position)
            if length > limit or kind not in known:
                self._check(kind, length)
            after = position + HEADER_SIZE + length
            if after > end:
                break
            append(new(Frame, (kind, flags, attempt, detail, call_id, data[position:after])))
            position = after
            if self.one_by_one:
                break
        return position
