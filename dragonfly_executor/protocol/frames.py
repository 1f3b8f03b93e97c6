"""The frames of the protocol, encoded to bytes and decoded again.

One frame is a fixed plain header and an opaque payload:

    kind     u8    kind of the frame (`Kind`)
    flags    u8    `Flag` bits
    attempt  u16   attempt of the call, 1 for the first; 0 if the frame concerns no call
    detail   u32   a number whose meaning depends on the kind
    call id  u64   the call; 0 if the frame concerns no call
    length   u64   number of payload bytes that follow

The same frames travel on both hops (parent to agent, agent to slot), so an agent forwards them unchanged. Ids and
lengths are outside the pickle: a payload that cannot be unpickled fails one call, and the stream stays in step.

No frame is longer than `MAX_FRAME`. A payload larger than `MAX_INLINE` travels as a head with `Flag.LARGE`, whose
payload ends with the total length, and chunks, of which the last lacks `Flag.MORE`. So control frames always find a
gap, and no memory is allocated from a length that the peer claims.
"""

from __future__ import annotations

import struct
from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence

from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.util.plain_enum import IntEnum

PROTOCOL_VERSION = 8
"""Version of the protocol: the kinds and flags below, and the modules of this package that payloads name.

Every change to these raises the number. Ends with different versions refuse each other in the handshake. So an unknown
kind comes from a broken peer, never from a newer one, and ends the link.
"""
HEADER = struct.Struct("!BBHIQQ")
HEADER_SIZE = HEADER.size
MAX_HANDSHAKE_FRAME = 4 * 1024
MAX_INLINE = 64 * 1024
"""Largest payload that travels in one frame; a call's packet to a slot must also fit a default socket buffer."""
CHUNK_SIZE = 256 * 1024 - HEADER_SIZE
"""Maximum payload of a chunk in bytes. The frame then fills 16 TLS records, and a first read of 64 KiB is a quarter of
it, as `TRUST` requires.
"""
MAX_FRAME = 1024 * 1024
LONG_FRAME = 128 * 1024
"""Bytes of a frame above which its rest is received in place."""
TRUST = 4
"""Memory for a long frame, as a multiple of its bytes that have arrived, that its claimed length may allocate."""
MAX_DETAIL = 2**32 - 1
POOL = 0
"""The number of the pool itself in an OBJECT_REQUEST. The numbers of multiprocessing's objects begin with 1."""
FORGOTTEN_AT_ONCE = 64
"""Maximum number of shared objects in one SHARED_FORGET to a slot. The agent may take it back from the slot's queue."""
CALL_OPTIONS = struct.Struct("!ddQQI")
"""Prefix of a call's payload with `Flag.OPTIONS`: seconds left of its timeout, seconds it may run (both inf for no
limit), the number of its key (0 for no key), the bytes of memory that it requires (0 for no limit), and the number of
GPUs that it requires.
"""
TOTAL = struct.Struct("!Q")
"""Suffix of a head's payload with `Flag.LARGE`: the number of bytes in the chunks."""
SHARED = struct.Struct("!QQQ")
"""Suffix of the payload of a CALL or RESULT with `Flag.SHARED`: the segment of shared memory, the block in it, and the
number of bytes there.

In a CALL, an entry of `BESIDE` follows for each of its buffers that lies in a segment of its own.
"""
RESULT_OF = struct.Struct("!QH")
"""Payload of a KEPT_RESULT: a call and its attempt."""
KEPT_FROM = 1024 * 1024
"""Bytes of the smallest result that an agent keeps after KEEP_RESULTS."""
BESIDE = struct.Struct("!QQQ")
"""A buffer beside a payload in shared memory: its place in the payload, its segment, and its size in bytes."""
SETUP_HEAD = struct.Struct("!QQBB")
"""Head of SETUP's payload: the pool's ``max_payload``, the size of the codec's part in bytes, a `ScriptImport`, and the
flags of the codecs that may compress chunks.

The initializer's call follows the codec's part (no bytes if there is no initializer).
"""


class Kind(IntEnum):
    """Kinds of frames. The arrows show sender and receiver. `detail` is 0 if not mentioned."""

    HELLO = 1  # runner -> parent: JSON, versions and properties of the runner
    WELCOME = 2  # parent -> runner: the session's numbers
    REFUSE = 3  # parent -> runner: JSON, the reason for refusal; the link ends
    SETUP = 4  # parent -> agent: data that each slot needs before its first call; Flag.MORE until the last part
    PING = 5  # both directions: the receiver answers with PONG and the same detail
    PONG = 6
    CALL = 7  # parent -> agent -> slot
    CHUNK = 8  # a piece of a large payload of the named call. If it is compressed: detail = its size before that
    # slot's side -> parent: send `detail` more chunks of this call. Flag.PIECES: of the whole payload, from its start,
    # because the slot cannot have the pieces that its runner gets once; the payload is `TOTAL`
    PULL = 9
    KILL = 10  # parent -> agent: stop this call
    # parent -> agent: stop; detail = milliseconds that running calls may take. agent -> parent: this runner received
    # SIGTERM, so send no more calls; it returns calls that have not started; answer STOP when it has no call left
    STOP = 11
    READY = 12  # slot -> agent: the initializer is done, send calls. If output is read, the agent answers with READY
    STARTED = 13  # agent -> parent: the call is running in slot `detail`
    RESULT = 14  # slot -> agent -> parent: detail = microseconds that the call took
    # agent -> parent: the call was never started and is returned. slot -> agent: likewise, because files that the slot
    # has loaded have changed; the slot then ends
    RETURNED = 15
    LOST = 16  # agent -> parent: JSON, the slot of this call died
    # agent -> parent: the call was stopped at its limit. If opening the call took too long and its function never
    # began: detail = milliseconds that opening took
    TIMED_OUT = 17
    GONE = 18  # agent -> parent: the call that KILL named has left the runner
    SETUP_FAILED = 19  # slot -> agent -> parent: the initializer failed; an error payload, or text without Flag.ERROR
    CHECK_IDLE = 20  # parent -> agent: run this check in a slot
    IDLE = 21  # agent -> parent: detail = 1 if the runner may be stopped; the payload may be a warning, as text
    SLOT_UP = 22  # agent -> parent: detail = the process id of a new slot
    SLOT_DOWN = 23  # agent -> parent: detail = the process id of a slot that ended
    # agent -> parent: this runner ends now, and no call is left on it. Before HELLO: text, why it cannot be a runner
    BYE = 24
    # slot -> agent -> parent: output of a call (call 0: of the runner); detail = process id of the slot. parent ->
    # agent: the amount of this slot's output that was consumed (call id = its weight, see `protocol.output_window`)
    OUTPUT = 25
    SYNC_BEGIN = 26  # parent -> agent: JSON, a step: the changes of the files; detail = its number; Flag.MORE
    SYNC_HAVE = 27  # agent -> parent: one bit for each content of the step: 1 = present. If all are 1, no data follows
    SYNC_DATA = 28  # parent -> agent: a piece of a content; call id = number of the content, from 1; Flag.MORE
    # parent -> agent: all missing contents were sent. agent -> parent: one bit for each change: 1 = not as announced
    SYNC_END = 29
    # These kinds precede the HELLO of a runner that dials back; see `protocol/dialback_auth.py`.
    DIAL = 30  # runner -> parent: version of the handshake, nonce, runner id
    CHALLENGE = 31  # parent -> runner: nonce
    PROOF = 32  # runner -> parent: MAC under the boot's token
    PARENT_PROOF = 33  # parent -> runner: MAC under the same token
    VERSIONS = 34  # parent -> runner: JSON, the parent's versions, and how long WELCOME may take in seconds
    LOG_LEVEL = 35  # parent -> agent: detail = the lowest level of log records that calls after this frame send

    # parent -> agent: this runner ends in `detail` milliseconds: return the calls that have not started, and tell those
    # that run. No call follows
    DRAIN = 36
    # slot -> agent: the named call needs these shared objects, or pieces, a table; Flag.ERROR: the file of the last
    # answer cannot be opened. agent -> parent: send `detail` more chunks of the object with the number in `call id`;
    # without Flag.MORE: from its start. Flag.RETRYABLE: no slot of this runner has had the object, so no call with it
    # has begun. Flag.ERROR: there is no kept result with these bytes
    SHARED_WANT = 37
    # parent -> agent: a piece of the object with the number in `call id`; detail = its place, from 0. If it is
    # compressed: detail = its size before that, and the place precedes the data
    SHARED_DATA = 38
    # agent -> slot: the file with the object, or with Flag.ERROR why there is none; `call id` = the object's number.
    # Flag.PIECES: it is a piece in the agent's memory, and `PIECE_PLACE` says where. Without a number, the error is
    # that of the whole request
    SHARED_FILE = 39
    SHARED_FORGET = 40  # parent -> agent -> slot: these objects are not needed any more, a list of numbers
    # slot -> agent -> parent: a batch of a stream's items; detail = their number. Flag.MORE: a piece, more of the batch
    # follows. parent -> agent -> slot, without a payload: `detail` items were taken. Flag.MORE: `detail` bytes of
    # pieces have arrived. Flag.END: no more items are wanted
    ITEMS = 41
    PROGRESS = 42  # slot -> agent -> parent: how far the call is; see `call_progress`
    # slot -> agent -> parent: a method call on one of multiprocessing's objects, which the parent serves, or on its
    # pool; detail = process id of the slot; `call id` = number of the request, 0 for no reply. Flag.LARGE: a part of a
    # long one; Flag.MORE: not the last part
    OBJECT_REQUEST = 43
    # parent -> agent -> slot: the outcome; the fields and flags are those of the request. Flag.ERROR: an exception
    OBJECT_REPLY = 44
    # slot -> agent -> parent: the call waits for calls that it has submitted, so another one may run in its place.
    # Flag.END: it goes on
    WAIT = 45
    KEEP_RESULTS = 46  # parent -> agent: keep large results from now on: other calls may need them
    # parent -> agent: the object with the number in `call id` is the result of the call in the payload, a `RESULT_OF`,
    # which this runner has sent. If it is not kept any more, the agent answers with SHARED_WANT and Flag.ERROR
    KEPT_RESULT = 47


class ScriptImport:
    """Values in SETUP that tell a slot whether to import the parent's script in its set-up."""

    # A call that needs the script imports it when the call is opened.
    SKIP = 0
    IMPORT = 1
    # An earlier slot did not finish the import in time: calls that need the script fail.
    LATE = 2


class Flag:
    """Bits of a frame's flags.

    A bit may have another meaning in another kind of frame. They are plain ints: the operators of IntFlag run in Python
    code, at every frame.
    """

    ERROR = 1  # the payload is an error
    RETRYABLE = 2  # the error may be retried, according to the call's options
    MORE = 4  # chunks follow
    OPTIONS = 8  # the payload starts with `CALL_OPTIONS`
    LZ4 = 8  # a CHUNK or SHARED_DATA is compressed by lz4
    ZSTD = 16  # a CHUNK or SHARED_DATA is compressed by zstd
    LARGE = 16  # the payload ends with `TOTAL`
    SHARED = 32  # a CALL's or RESULT's payload is in shared memory, and `SHARED` says where
    STDERR = 32  # an OUTPUT is from stderr, not stdout
    ITEM = 64  # a CALL is one item of a map: its error says which
    LOG = 64  # an OUTPUT is a log record: JSON
    PIECES = 128  # a CALL's payload lacks pieces that its runner gets once: `protocol/piece_table.py`
    END = 128  # an OUTPUT is empty: the output of this call is complete. An ITEMS ends a stream, a WAIT a wait


KIND_NUMBERS = frozenset(int(kind) for kind in Kind)


class Frame(namedtuple("Frame", "kind flags attempt detail call_id raw")):  # noqa: PYI024  # typing is slow to import
    """One received frame.

    `raw` is header and payload together, so that it can be forwarded unchanged. For a long frame it is a bytearray.
    """

    __slots__ = ()
    kind: int
    flags: int
    attempt: int
    detail: int
    call_id: int
    raw: bytes

    @property
    def payload(self) -> memoryview:
        """Return the payload without a copy."""
        return memoryview(self.raw)[HEADER_SIZE:]


def encode(
    kind: int, call_id: int = 0, payload: bytes = b"", *, flags: int = 0, attempt: int = 0, detail: int = 0
) -> bytes:
    """Return one frame as bytes."""
    return HEADER.pack(kind, flags, attempt, detail, call_id, len(payload)) + payload


def split_bulk(
    call_id: int, attempt: int, parts: Sequence[bytes | bytearray | memoryview]
) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the chunk frames that carry `parts`, each as header and bytes, without a copy."""
    views = [memoryview(part).cast("B") for part in parts if len(part)]
    for number, view in enumerate(views):
        for start in range(0, len(view), CHUNK_SIZE):
            piece = view[start : start + CHUNK_SIZE]
            last = number == len(views) - 1 and start + CHUNK_SIZE >= len(view)
            flags = 0 if last else Flag.MORE
            yield HEADER.pack(Kind.CHUNK, flags, attempt, 0, call_id, len(piece)), piece


class Decoder:
    """A decoder from a byte stream to frames.

    After a `ProtocolError` the decoder stays failed, because a stream that is out of step cannot be trusted again. The
    decoder holds at most the bytes that have arrived. For a long frame, of which a part has arrived, it holds at most
    `TRUST` times that part, and offers the room for the rest: bytes that the caller receives there are not copied.

    Args:
        max_frame: maximum payload of a frame in bytes.
        one_by_one: the first value of the attribute.
        make: returns memory of a given size for a long frame.
    """

    def __init__(
        self, max_frame: int = MAX_FRAME, *, one_by_one: bool = False, make: Callable[[int], bytearray] = bytearray
    ) -> None:
        self.max_frame = max_frame
        self.one_by_one = one_by_one
        """True if `feed` returns one frame at a time, because the size limit of the next frame may depend on it."""
        self._make = make
        self._pending = bytearray()
        self._long: bytearray | None = None
        """A long frame that is incomplete."""
        self._filled = 0
        """Number of bytes of the long frame that have arrived."""
        self._failure: str | None = None

    @property
    def pending(self) -> int:
        """Return the number of buffered bytes of an incomplete frame."""
        return len(self._pending) if self._long is None else self._filled

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that `data` completes.

        Raises:
            ProtocolError: the bytes are not valid frames.
            MemoryError: there is no memory for the bytes. None were consumed, so the caller may feed them again.
        """
        if self._failure is not None:
            raise ProtocolError(self._failure)
        if self._long is not None:
            return self._feed_long(data)
        before = len(self._pending)
        frames: list[Frame] = []
        try:
            if before:
                self._pending += data
                if not self._complete():
                    return []
                data = bytes(self._pending)
            position = self._split(data, frames)
            if position < len(data):
                self._keep(data, position)
            elif before:
                self._pending = bytearray()
        except MemoryError:
            del self._pending[before:]
            raise
        return frames

    def gap(self) -> memoryview | None:
        """Return the room for the missing bytes of a long frame, or None. `filled` says how many were received."""
        return None if self._long is None else memoryview(self._long)[self._filled :]

    def filled(self, count: int) -> list[Frame]:
        """Record that the first `count` bytes of the gap were received. Return the frame if it is complete."""
        long = self._long
        if long is None:
            raise ValueError("there is no gap")
        self._filled += count
        if self._filled < len(long):
            return []
        self._long = None
        kind, flags, attempt, detail, call_id, _ = HEADER.unpack_from(long)
        return [Frame(kind, flags, attempt, detail, call_id, long)]

    def _feed_long(self, data: bytes) -> list[Frame]:
        gap, long, filled = self.gap(), self._long, self._filled
        assert gap is not None  # noqa: S101  # the caller has checked it
        count = min(len(gap), len(data))
        gap[:count] = memoryview(data)[:count]
        frames = self.filled(count)
        if count == len(data):
            return frames
        try:
            return frames + self.feed(data[count:])
        except MemoryError:
            self._long, self._filled = long, filled
            raise

    def _keep(self, data: bytes, position: int) -> None:
        """Keep the beginning of a frame that is incomplete."""
        rest = memoryview(data)[position:]
        size = HEADER_SIZE + HEADER.unpack_from(rest)[5] if len(rest) >= HEADER_SIZE else 0
        if size > LONG_FRAME and size <= TRUST * len(rest) and not self.one_by_one:
            long = self._make(size)
            long[: len(rest)] = rest
            self._pending = bytearray()
            self._long, self._filled = long, len(rest)
        else:
            self._pending = bytearray(rest)

    def _complete(self) -> bool:
        """Return whether the buffer is to be split. Without this check each read copies a long frame."""
        if len(self._pending) < HEADER_SIZE:
            return False
        header = HEADER.unpack_from(self._pending)
        self._check(header[0], header[5])
        size = HEADER_SIZE + header[5]
        if size > LONG_FRAME and not self.one_by_one:
            size = -(-size // TRUST)
        return bool(len(self._pending) >= size)

    def _check(self, kind: int, length: int) -> None:
        if kind not in KIND_NUMBERS:
            self._fail(f"unknown kind of frame: {kind}")
        if length > self.max_frame:
            self._fail(f"frame of {length} bytes, more than {self.max_frame}")

    def _fail(self, reason: str) -> None:
        self._failure = reason
        self._pending = bytearray()
        raise ProtocolError(reason)

    def _split(self, data: bytes, frames: list[Frame]) -> int:
        position, end = 0, len(data)
        unpack, limit, known, append = HEADER.unpack_from, self.max_frame, KIND_NUMBERS, frames.append
        new = tuple.__new__  # a named tuple's own constructor is Python code that calls this
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
