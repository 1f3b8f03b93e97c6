"""TLS 1.3 as a link needs it: non-blocking sockets that one thread owns, and a certificate that is pinned.

Importing this loads ssl, so only who dials, or listens, does.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import ssl
from collections.abc import Iterable

from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.transport.tcp import tune

Buffer = bytes | bytearray | memoryview

RECORD = 16 * 1024
"""Bytes that one TLS record carries at most."""


class TlsSocket(ssl.SSLSocket):
    """An encrypted socket that behaves as a non-blocking plain one does; only so may it be used."""

    _sslobj: object  # None until TLS begins; the base class's own

    def recv(self, buflen: int = RECORD, flags: int = 0) -> bytes:
        """About `buflen` bytes at most, at least one; nothing at the end of the stream.

        It may be up to a record more: whole ones are read, since what is decrypted must not stay in here, where no
        poller sees it.

        Raises:
            BlockingIOError: nothing is there yet.
            OSError: the connection broke, or is no TLS.
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
                # Short of a whole record: most likely there is no other, and if there is, the poller says so.
                if len(piece) < RECORD:
                    break
        except OSError as error:
            if not pieces:
                raise _as_plain(error) from None
            # What came before it counts first; the next read meets it again.
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _peek(self, buflen: int, flags: int) -> bytes:
        """The base class looks, of a connection that is gone before TLS could begin, whether something was said on it.

        What an error leaves behind there would never be closed; the handshake finds it out again.
        """
        try:
            return super().recv(buflen, flags)
        except OSError:
            return b""

    def send(self, data: Buffer, flags: int = 0) -> int:  # type: ignore[override]
        """Write what the peer's window takes; how many bytes of `data` that was.

        A record at a time: one that is only half on its way cannot be opened by the peer, so what does not count as
        sent has provably not arrived. It is finished by the next `send`, whose data must begin with the same bytes and
        be no shorter: a link, which writes its buffers in order, keeps to that.

        Raises:
            BlockingIOError: nothing can be written for now.
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
        """`send` for one buffer after the other."""
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
    """What a plain socket would raise.

    TLS 1.3 has no renegotiation, and OpenSSL answers a change of keys with its next write: so a read never waits for a
    write for long, nor the other way round.
    """
    if isinstance(error, (ssl.SSLWantReadError, ssl.SSLWantWriteError)):
        return BlockingIOError(error.errno, "TLS has to wait")
    return error


def _context(side: int) -> ssl.SSLContext:
    # Not create_default_context(): there is no authority here that anybody trusts.
    context = ssl.SSLContext(side)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.sslsocket_class = TlsSocket
    return context


def server_context() -> tuple[ssl.SSLContext, bytes]:
    """A parent's side with a certificate of its own, and that certificate's fingerprint.

    Raises:
        BootError: the cryptography package is not installed.
    """
    from dragonfly_executor.transport import certificate

    context = _context(ssl.PROTOCOL_TLS_SERVER)
    # A connection is a runner, and no runner comes back.
    context.num_tickets = 0
    der, pem, pem_key = certificate.make_certificate()
    certificate.load(context, pem, pem_key)
    return context, hashlib.sha256(der).digest()


def wrap_accepted(context: ssl.SSLContext, sock: socket.socket) -> TlsSocket:
    """The parent's end of a connection; it has yet to shake hands. Takes the socket over."""
    sock.setblocking(False)
    wrapped = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
    assert isinstance(wrapped, TlsSocket)  # noqa: S101  # what the context was told to make
    return wrapped


def connect(host: str, port: int, fingerprint: bytes, timeout: float) -> TlsSocket:
    """The runner's end of a connection to the parent that has this certificate. Each step takes `timeout` seconds.

    Raises:
        OSError: there is nobody, or it is no TLS 1.3.
        ProtocolError: it is somebody else.
    """
    sock = socket.create_connection((host, port), timeout)
    try:
        tune(sock)
        context = _context(ssl.PROTOCOL_TLS_CLIENT)
        # The fingerprint says all that an authority could: there is just one certificate, and whoever shows it has to
        # sign with its key. Nothing has been sent yet when it is compared.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        wrapped = context.wrap_socket(sock)
    except BaseException:
        sock.close()
        raise
    assert isinstance(wrapped, TlsSocket)  # noqa: S101  # what the context was told to make
    shown = hashlib.sha256(wrapped.getpeercert(binary_form=True) or b"").digest()
    if not hmac.compare_digest(shown, fingerprint):
        wrapped.close()
        raise ProtocolError("the certificate at the parent's address is not the parent's")
    return wrapped
