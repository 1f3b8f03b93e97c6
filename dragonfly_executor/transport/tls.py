"""Connections with TLS 1.3 for a link, and a pinned certificate.

Importing this module loads ssl, so only processes that dial or listen import it.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import ssl

from dragonfly_executor.errors import ProtocolError
from dragonfly_executor.transport.tcp import set_tcp_options
from dragonfly_executor.transport.tls_socket import TlsSocket


def _context(side: int) -> ssl.SSLContext:
    # Not create_default_context(): the peer trusts a fingerprint, not a certificate authority.
    context = ssl.SSLContext(side)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
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
    return TlsSocket(context, sock, is_server=True)


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
        sock = wrapped = TlsSocket(context, sock, is_server=False)
        wrapped.do_handshake()
        shown = hashlib.sha256(wrapped.certificate()).digest()
        if not hmac.compare_digest(shown, fingerprint):
            raise ProtocolError("the certificate at the parent's address is not the parent's")
    except BaseException:
        sock.close()
        raise
    return wrapped
