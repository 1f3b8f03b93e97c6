"""A non-blocking TLS socket that one thread owns."""

from __future__ import annotations

import socket
import ssl
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import cast

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import NoReturn

Buffer = bytes | bytearray | memoryview

RECORD = 16 * 1024
"""Maximum payload of a TLS record in bytes."""
OVERHEAD = 22
"""Bytes of a record beside its payload, for all ciphers of TLS 1.3: header, inner type and tag."""
BATCH = 8 * RECORD
"""Bytes of payload that are encrypted before a write, and of ciphertext that one read receives.

Writing or reading one record at a time takes a third longer. Larger batches leave the processor's cache.
"""


SHORT = 1024
"""Bytes of a buffer up to which it is joined with the next one."""


class TlsSocket(socket.socket):
    """An encrypted socket with the methods of a plain non-blocking socket that a link uses.

    OpenSSL encrypts and decrypts in memory, so that one system call moves many records.

    Args:
        context: the TLS context.
        sock: a connected socket, which this socket takes over.
        is_server: whether this is the end that accepted the connection.
    """

    def __init__(self, context: ssl.SSLContext, sock: socket.socket, *, is_server: bool) -> None:
        timeout = sock.gettimeout()
        super().__init__(sock.family, sock.type, sock.proto, sock.detach())
        self.settimeout(timeout)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=is_server)
        self._buffer = memoryview(b"")
        """The buffer for received ciphertext."""
        self._unsent = memoryview(b"")
        """Ciphertext that the kernel has not taken."""
        self._writes: deque[tuple[int, int]] = deque()
        """Sizes of ciphertext and payload of each write of which a record is not sent completely."""
        self._written = 0
        """Bytes of the first of these writes that the kernel has taken."""
        self._ahead = 0
        """Bytes of payload that are encrypted, but do not count as sent."""
        self._has_ended = False
        self._failure: OSError | None = None

    def version(self) -> str | None:
        """Return the version of TLS. None before the handshake is done."""
        return self._tls.version()

    def certificate(self) -> bytes:
        """Return the peer's certificate as DER."""
        return self._tls.getpeercert(binary_form=True) or b""

    def do_handshake(self) -> None:
        """Run the TLS handshake.

        Raises:
            BlockingIOError: the peer's next message has not arrived. Call again when the socket is readable.
            OSError: the connection broke, or the peer does not speak TLS 1.3.
        """
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._send_control()
                if not self._receive(RECORD):
                    raise ConnectionError("the peer closed the connection in the TLS handshake") from None
            except OSError:
                self._send_control()
                raise
            else:
                self._send_control()
                return

    # -- receiving -----------------------------------------------------------------------------------------------------

    def recv(self, buflen: int = RECORD, flags: int = 0) -> bytes:
        """Return about `buflen` bytes at most, at least one; no bytes at the end of the stream.

        The result may be up to two records longer. Everything that was received is decrypted, because no poller sees
        bytes that stay in this object.

        Raises:
            BlockingIOError: no data is available yet.
            OSError: the connection broke, or is not TLS.
        """
        pieces = self._decrypt()
        while not pieces:
            if not self._receive(buflen):
                return b""
            pieces = self._decrypt()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def recv_into(self, buffer: bytearray | memoryview, nbytes: int = 0, flags: int = 0) -> int:  # type: ignore[override]
        """Fill the buffer with the available data, and return the number of bytes; 0 at the end of the stream.

        If the buffer is filled completely, this object may hold more bytes, which no poller sees. Call `recv` then.

        Raises:
            BlockingIOError: no data is available yet.
            OSError: the connection broke, or is not TLS.
        """
        view = memoryview(buffer)
        count = self._decrypt_into(view)
        try:
            while count < len(view):
                if not self._receive(len(view) - count):
                    break
                count += self._decrypt_into(view[count:])
        except OSError:
            # The next read raises the error again.
            if not count:
                raise
        return count

    def _receive(self, size: int) -> bool:
        """Receive ciphertext, about as much as `size` bytes of payload take. Return False at the end of the stream."""
        if self._failure is not None:
            raise self._failure
        if self._has_ended:
            return False
        # Whole records, as bulk consists of full ones: OpenSSL raises an exception for the rest of another.
        size = min(max(1, -(-size // RECORD)), BATCH // RECORD) * (RECORD + OVERHEAD)
        if len(self._buffer) < size:
            self._buffer = memoryview(bytearray(size))
        count = super().recv_into(self._buffer[:size])
        self._incoming.write(self._buffer[:count])
        return count > 0

    def _decrypt(self) -> list[bytes]:
        """Return all complete records that were received."""
        pieces: list[bytes] = []
        try:
            while self._incoming.pending or self._tls.pending():
                piece = self._tls.read(RECORD)
                if not piece:
                    self._has_ended = True
                    break
                pieces.append(piece)
        except OSError as error:
            self._note(error)
        return pieces

    def _decrypt_into(self, view: memoryview) -> int:
        count = 0
        try:
            while count < len(view) and (self._incoming.pending or self._tls.pending()):
                size = cast("int", self._tls.read(RECORD, view[count : count + RECORD]))
                if not size:
                    self._has_ended = True
                    break
                count += size
        except OSError as error:
            self._note(error)
        return count

    def _note(self, error: OSError) -> None:
        """Let later reads fail, and pollers report that there is something to read, unless a record is incomplete."""
        if isinstance(error, ssl.SSLWantReadError):
            return
        if isinstance(error, ssl.SSLZeroReturnError):
            self._has_ended = True
        else:
            self._failure = error
            self._send_control()
        with suppress(OSError):
            self.shutdown(socket.SHUT_RD)

    # -- sending -------------------------------------------------------------------------------------------------------

    def send(self, data: Buffer, flags: int = 0) -> int:  # type: ignore[override]
        """Write as many bytes of `data` as the socket takes, and return their number.

        The peer cannot decrypt a record that is partly written. So bytes that do not count as sent have provably not
        arrived. They may be encrypted already: the data of the next `send` must begin with the same bytes and be no
        shorter. A link writes its buffers in order and so complies.

        Raises:
            BlockingIOError: the socket's buffer is full.
            OSError: the connection broke.
        """
        return self.sendmsg((data,))

    def sendmsg(self, buffers: Iterable[Buffer], *_: object) -> int:  # type: ignore[override]
        """Write the buffers one after the other like `send`, and return the number of bytes written."""
        pieces = _pieces(buffers, self._ahead)
        sent = 0
        try:
            while self._unsent or self._encrypt(pieces):
                sent += self._push()
        except OSError:
            # The next write raises the error again.
            if not sent:
                raise
        return sent

    def sendall(self, data: Buffer, flags: int = 0) -> None:  # type: ignore[override]
        """Write all of `data` to a blocking socket."""
        view = memoryview(data)
        while view:
            view = view[self.send(view) :]

    def _encrypt(self, pieces: Iterator[memoryview]) -> bool:
        """Encrypt the next pieces. Return False if there are none. All earlier ciphertext must be sent."""
        if self._outgoing.pending:
            self._writes.append((self._outgoing.pending, 0))
        size, before = 0, self._outgoing.pending
        for piece in pieces:
            self._tls.write(piece)
            self._writes.append((self._outgoing.pending - before, len(piece)))
            before = self._outgoing.pending
            size += len(piece)
            if size >= BATCH:
                break
        self._ahead += size
        self._unsent = memoryview(self._outgoing.read())
        return len(self._unsent) > 0

    def _push(self) -> int:
        """Write ciphertext, and return the number of payload bytes in the records that this completes."""
        count = super().send(self._unsent)
        self._unsent = self._unsent[count:]
        if self._unsent:
            done = self._complete(count)
        else:
            done = self._ahead
            self._writes.clear()
            self._written = 0
        self._ahead -= done
        return done

    def _complete(self, count: int) -> int:
        """Count `count` more bytes of ciphertext as written, and return the payload bytes of records that this ends."""
        self._written += count
        done = 0
        while self._writes:
            ciphertext, payload = self._writes[0]
            if self._written < ciphertext:
                # OpenSSL fills each record but the last. All have the same overhead.
                record = RECORD + (ciphertext - payload) // max(1, -(-payload // RECORD))
                whole = self._written // record if payload > RECORD else 0
                self._writes[0] = ciphertext - whole * record, payload - whole * RECORD
                self._written -= whole * record
                return done + whole * RECORD
            self._writes.popleft()
            self._written -= ciphertext
            done += payload
        return done

    def _send_control(self) -> None:
        """Write the messages of TLS itself that the socket takes now: handshake, alerts, key updates."""
        if self._unsent:
            return  # they leave behind the payload, with the next `send`
        data = self._outgoing.read()
        if data:
            self._writes.append((len(data), 0))
            self._unsent = memoryview(data)
        with suppress(OSError):
            while self._unsent:
                self._push()

    # -- what would send or receive in the clear -----------------------------------------------------------------------

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise NotImplementedError("a TLS socket has only recv, recv_into, send, sendmsg and sendall")

    recvfrom = recvfrom_into = recvmsg = recvmsg_into = sendto = sendfile = makefile = _refuse


def _pieces(buffers: Iterable[Buffer], skipped: int) -> Iterator[memoryview]:
    """Yield the buffers in pieces of at most `BATCH` bytes, without the first `skipped` bytes.

    A short buffer, such as the header of a frame, is joined with the beginning of the next one to a full record.
    """
    short = b""
    for buffer in buffers:
        size = len(buffer)
        if skipped >= size:
            skipped -= size
            continue
        view = memoryview(buffer)[skipped:]
        skipped = 0
        if short:
            room = RECORD - len(short)
            short += view[:room]
            view = view[room:]
            if not view and len(short) < RECORD:
                continue
            yield memoryview(short)
            short = b""
        if len(view) <= SHORT:
            short = bytes(view)
            continue
        for start in range(0, len(view), BATCH):
            yield view[start : start + BATCH]
    if short:
        yield memoryview(short)
