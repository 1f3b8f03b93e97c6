"""TLS 1.3 for a link: non-blocking sockets that one thread owns, and a pinned certificate.

Importing this module loads ssl, so only processes that dial or listen import it.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import ssl
from collections.abc import Iterable

from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.transport.tcp import set_tcp_options

Buffer = bytes | bytearray | memoryview

RECORD = 16 * 1024
"""Maximum payload of a TLS record in bytes."""


class TlsSocket(ssl.SSLSocket):
    """An encrypted socket that behaves like a non-blocking plain socket. It must only be used in non-blocking mode."""

    _sslobj: object  # None until TLS begins; the base class defines it

    def recv(self, buflen: int = RECORD, flags: int = 0) -> bytes:
        """Return about `buflen` bytes at most, at least one; no bytes at the end of the stream.

        The result may be up to one record longer. Whole records are read, because no poller sees decrypted bytes that
        stay in this object.

        Raises:
            BlockingIOError: no data is available yet.
            OSError: the connection broke, or is not TLS.
        """
        if self._sslobj is None:
            return self._peek(buflen, flags)
        pieces: list[bytes] = []
        got = 0
        try:
            while got < buflen:
                piece = self.read(RECORD)
                pieces.append(piece)
                got += len(piece)
                # After a short record there is most likely no other record. If there is one, the poller reports it.
                if len(piece) < RECORD:
                    break
        except OSError as error:
            if not pieces:
                raise _as_plain(error) from None
            # Return the data before the error. The next read meets the error again.
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _peek(self, buflen: int, flags: int) -> bytes:
        """Read before TLS has begun, and report an error as the end of the stream.

        If the connection is gone before TLS begins, the base class's constructor reads from it. An error there leaves
        behind a socket that is never closed. The handshake meets the same error again.
        """
        try:
            return super().recv(buflen, flags)
        except OSError:
            return b""

    def send(self, data: Buffer, flags: int = 0) -> int:  # type: ignore[override]
        """Write as many bytes of `data` as the peer's window takes, and return their number.

        The data is written one record at a time. The peer cannot decrypt a partly written record, so bytes that do not
        count as sent have provably not arrived. The next `send` completes the record: its data must begin with the same
        bytes and be no shorter. A link writes its buffers in order and so complies.

        Raises:
            BlockingIOError: the socket's buffer is full.
            OSError: the connection broke.
        """
        view = memoryview(data)
        sent = 0
        try:
            while sent < len(view):
                sent += super().send(view[sent : sent + RECORD])
        except OSError as error:
            if not sent:
                raise _as_plain(error) from None
        return sent

    def sendmsg(self, buffers: Iterable[Buffer], *_: object) -> int:  # type: ignore[override]
        """Call `send` for one buffer after another, and return the number of bytes written."""
        total = 0
        for buffer in buffers:
            try:
                sent = self.send(buffer)
            except OSError:
                if not total:
                    raise
                break
            total += sent
            if sent < len(buffer):
                break
        return total


def _as_plain(error: OSError) -> OSError:
    """Return the error that a plain socket raises in this case.

    TLS 1.3 has no renegotiation, and OpenSSL answers a key update with its next write. So a read never waits long for a
    write, nor a write for a read.
    """
    if isinstance(error, (ssl.SSLWantReadError, ssl.SSLWantWriteError)):
        return BlockingIOError(error.errno, "TLS has to wait")
    return error


def _context(side: int) -> ssl.SSLContext:
    # Not create_default_context(): the peer trusts a fingerprint, not a certificate authority.
    context = ssl.SSLContext(side)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.sslsocket_class = TlsSocket
    return context


def server_context() -> tuple[ssl.SSLContext, bytes]:
    """Return the parent's context with a certificate of its own, and the certificate's fingerprint.

    Raises:
        BootError: the cryptography package is not installed.
    """
    from dragonfly_executor.transport import certificate

    context = _context(ssl.PROTOCOL_TLS_SERVER)
    # A connection is a runner, and no runner reconnects.
    context.num_tickets = 0
    der, pem, pem_key = certificate.make_certificate()
    certificate.load(context, pem, pem_key)
    return context, hashlib.sha256(der).digest()


def wrap_accepted(context: ssl.SSLContext, sock: socket.socket) -> TlsSocket:
    """Return the parent's end of a connection before its TLS handshake. It takes the socket over."""
    sock.setblocking(False)
    wrapped = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
    assert isinstance(wrapped, TlsSocket)  # noqa: S101  # the class that the context was given
    return wrapped


def connect(host: str, port: int, fingerprint: bytes, timeout: float) -> TlsSocket:
    """Return the runner's end of a connection to the parent with this certificate.

    Args:
        host, port: the parent's address.
        fingerprint: SHA-256 of the parent's certificate.
        timeout: maximum duration of each step in seconds.

    Raises:
        OSError: no process listens there, or the peer does not speak TLS 1.3.
        ProtocolError: the peer has a different certificate.
    """
    sock = socket.create_connection((host, port), timeout)
    try:
        set_tcp_options(sock)
        context = _context(ssl.PROTOCOL_TLS_CLIENT)
        # The fingerprint replaces an authority: there is just one certificate, and a peer that shows it must sign with
        # its key. No data was sent before the comparison.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        wrapped = context.wrap_socket(sock)
    except BaseException:
        sock.close()
        raise
    assert isinstance(wrapped, TlsSocket)  # noqa: S101  # the class that the context was given
    shown = hashlib.sha256(wrapped.getpeercert(binary_form=True) or b"").digest()
    if not hmac.compare_digest(shown, fingerprint):
        wrapped.close()
        raise ProtocolError("the certificate at the parent's address is not the parent's")
    return wrapped
