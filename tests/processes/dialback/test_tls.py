"""TLS sockets that behave as plain ones, a certificate that is pinned, and connections that notice a dead peer."""

from __future__ import annotations

import os
import random
import select
import socket
import ssl
import stat
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from dragonfly_executor.errors import BootError, ProtocolError
from dragonfly_executor.protocol.frames import CHUNK_SIZE, HEADER_SIZE, Decoder, Frame, Kind, encode, split_bulk
from dragonfly_executor.transport import tcp
from dragonfly_executor.transport.certificate import make_certificate
from dragonfly_executor.transport.link import Link
from dragonfly_executor.transport.listener import bind
from dragonfly_executor.transport.loop import Loop
from dragonfly_executor.transport.tls import connect, server_context, wrap_accepted
from dragonfly_executor.transport.tls_socket import BATCH, OVERHEAD, RECORD, TlsSocket
from tests.support.helpers import PATIENCE


@pytest.fixture(scope="module")
def server() -> tuple[ssl.SSLContext, bytes]:
    return server_context()


def accept(listener: socket.socket, context: ssl.SSLContext) -> TlsSocket:
    """One connection, with its handshake done."""
    select.select([listener], [], [], PATIENCE)
    sock = wrap_accepted(context, listener.accept()[0])
    while True:
        try:
            sock.do_handshake()
        except BlockingIOError:
            select.select([sock], [], [], PATIENCE)
        else:
            return sock


class Pair:
    """The two ends of a connection, both non-blocking."""

    def __init__(self, server: tuple[ssl.SSLContext, bytes]) -> None:
        context, fingerprint = server
        found: list[TlsSocket] = []
        with closing(bind("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]

            def dial() -> None:
                found.append(connect("127.0.0.1", port, fingerprint, PATIENCE))

            thread = threading.Thread(target=dial)
            thread.start()
            self.parent = accept(listener, context)
            thread.join()
        (self.runner,) = found
        self.runner.setblocking(False)

    def close(self) -> None:
        self.parent.close()
        self.runner.close()


@pytest.fixture
def pair(server: tuple[ssl.SSLContext, bytes]) -> Iterator[Pair]:
    with closing(Pair(server)) as pair:
        yield pair


def wait_readable(sock: socket.socket) -> None:
    assert select.select([sock], [], [], PATIENCE)[0]


# -- as a plain socket -------------------------------------------------------------------------------------------------


def test_only_tls_1_3_is_spoken(pair: Pair) -> None:
    assert pair.parent.version() == pair.runner.version() == "TLSv1.3"


def test_nothing_to_read_is_what_a_plain_socket_says(pair: Pair) -> None:
    with pytest.raises(BlockingIOError):
        pair.parent.recv(100)


def test_the_end_of_the_stream_is_empty_after_what_came_before(pair: Pair) -> None:
    pair.runner.send(b"last")
    pair.runner.close()
    wait_readable(pair.parent)
    assert pair.parent.recv(100) == b"last"
    wait_readable(pair.parent)
    assert pair.parent.recv(100) == b""
    assert pair.parent.recv(100) == b""


def test_a_connection_that_was_reset_has_ended(pair: Pair) -> None:
    """OpenSSL tells it from an end in some versions only; a link ends in either case."""
    pair.runner.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    pair.runner.close()
    wait_readable(pair.parent)
    try:
        assert pair.parent.recv(100) == b""
    except BlockingIOError:
        pytest.fail("the end of the stream was not told")
    except OSError:
        pass


@pytest.mark.parametrize("asked", [1, 100, RECORD - 1, RECORD, RECORD + 1, 65536])
@pytest.mark.parametrize("sent", [[RECORD], [RECORD] * 9, [5, RECORD, 7], [RECORD - 1] * 3, [1] * 50], ids=str)
def test_what_is_decrypted_never_stays_where_no_poller_sees_it(pair: Pair, asked: int, sent: list[int]) -> None:
    """Whenever a read comes back, whatever is left is still in the kernel."""
    for size in sent:
        assert pair.runner.send(b"x" * size) == size
    received = 0
    while received < sum(sent):
        wait_readable(pair.parent)
        with suppress(BlockingIOError):
            received += len(pair.parent.recv(asked))
        assert pair.parent._tls.pending() == pair.parent._incoming.pending == 0
    assert received == sum(sent)


def sent_until_it_blocks(sock: TlsSocket, data: bytes) -> int:
    """How many bytes count as sent when no more of them go."""
    sent = 0
    with pytest.raises(BlockingIOError):
        while True:
            sent += sock.send(memoryview(data)[sent:])
    return sent


def test_a_peer_that_does_not_read_stops_the_writer_and_loses_nothing(pair: Pair) -> None:
    """What counts as sent arrives, and what was cut short is finished by the next write, if that begins as it did."""
    data = os.urandom(16 * 1024 * 1024)
    sent = sent_until_it_blocks(pair.runner, data)
    assert 0 < sent < len(data)
    received = bytearray()
    while len(received) < len(data):
        with suppress(BlockingIOError):
            received += pair.parent.recv(1 << 20)
        if sent < len(data):
            with suppress(BlockingIOError):
                sent += pair.runner.sendmsg([memoryview(data)[sent : sent + RECORD], memoryview(data)[sent + RECORD :]])
    assert received == data


def test_what_does_not_count_as_sent_cannot_have_arrived(pair: Pair) -> None:
    """At most once hangs on it: a call that was not sent whole is sent again elsewhere."""
    data = os.urandom(16 * 1024 * 1024)
    sent = sent_until_it_blocks(pair.runner, data)
    pair.runner.close()
    received = bytearray()
    with suppress(OSError):
        while piece := pair.parent.recv(1 << 20):
            received += piece
            wait_readable(pair.parent)
    assert len(received) <= sent
    assert received == data[: len(received)]


def test_several_buffers_go_out_in_order_as_far_as_there_is_room(pair: Pair) -> None:
    assert pair.runner.sendmsg([b"one ", bytearray(b"two "), memoryview(b"three")]) == 13
    received = b""
    while len(received) < 13:
        wait_readable(pair.parent)
        received += pair.parent.recv(100)
    assert received == b"one two three"


def test_a_part_of_a_record_is_nothing_to_read_yet(pair: Pair) -> None:
    raw = socket.socket(fileno=os.dup(pair.runner.fileno()))
    pair.runner._tls.write(b"whole")
    record = pair.runner._outgoing.read()
    with raw:
        for position in range(len(record) - 1):
            raw.send(record[position : position + 1])
            wait_readable(pair.parent)
            with pytest.raises(BlockingIOError):
                pair.parent.recv(100)
        raw.send(record[-1:])
    wait_readable(pair.parent)
    assert pair.parent.recv(100) == b"whole"


def test_a_forged_record_ends_the_stream_after_what_came_before(pair: Pair) -> None:
    """And a poller sees that, although no byte is left in the kernel."""
    raw = socket.socket(fileno=os.dup(pair.runner.fileno()))
    pair.runner._tls.write(b"genuine")
    genuine = pair.runner._outgoing.read()
    with raw:
        raw.send(genuine + b"\x17\x03\x03\x00\x20" + bytes(32))
    wait_readable(pair.parent)
    assert pair.parent.recv(100) == b"genuine"
    for _ in range(2):
        wait_readable(pair.parent)
        with pytest.raises(ssl.SSLError):
            pair.parent.recv(100)
    with pytest.raises(ssl.SSLError):
        pair.parent.recv_into(bytearray(10))


@pytest.mark.parametrize("size", [1, RECORD - 1, RECORD, RECORD + 1, BATCH, 5 * BATCH + 7])
@pytest.mark.parametrize("room", [1, 1000, RECORD, RECORD + 1, BATCH])
def test_bytes_that_are_received_in_place_are_those_that_were_sent(pair: Pair, size: int, room: int) -> None:
    """If the room is filled, a plain read finds the rest; no poller may be asked before."""
    data = os.urandom(size)
    sent, received, buffer = 0, bytearray(), memoryview(bytearray(room))
    while len(received) < size:
        if sent < size:
            with suppress(BlockingIOError):
                sent += pair.runner.send(memoryview(data)[sent:])
        wait_readable(pair.parent)
        with suppress(BlockingIOError):
            count = pair.parent.recv_into(buffer)
            received += buffer[:count]
            if count == room:
                received += pair.parent.recv(100)
    assert received == data


@pytest.mark.parametrize("sizes", [(24, 4 * RECORD - 24), (24, 100, 4 * RECORD - 124), (1024, 1, 1, 4 * RECORD - 1026)])
def test_a_short_buffer_shares_a_record_with_the_next_one(pair: Pair, sizes: tuple[int, ...]) -> None:
    """A record costs the same work if it has only the header of a frame."""
    pieces = [os.urandom(size) for size in sizes]
    assert pair.runner.sendmsg(pieces) == sum(sizes)
    ciphertext, size = bytearray(), 4 * (RECORD + OVERHEAD)
    while len(ciphertext) < size:
        wait_readable(pair.parent)
        ciphertext += socket.socket.recv(pair.parent, 2 * size)
    assert len(ciphertext) == size
    pair.parent._incoming.write(ciphertext)
    assert pair.parent.recv(4 * RECORD) == b"".join(pieces)


def test_nothing_leaves_in_the_clear(pair: Pair) -> None:
    for name in ("recvfrom", "recvmsg", "sendto", "sendfile", "makefile"):
        with pytest.raises(NotImplementedError, match="TLS socket"):
            getattr(pair.parent, name)(b"secret")


def test_what_was_sent_with_the_end_of_the_handshake_is_read(server: tuple[ssl.SSLContext, bytes]) -> None:
    """The last message of the handshake and the first frame arrive in one read, so no poller reports the frame."""
    context = server[0]
    with closing(bind("127.0.0.1", 0)) as listener:
        sock = socket.create_connection(listener.getsockname())
        select.select([listener], [], [], PATIENCE)
        accepted = wrap_accepted(context, listener.accept()[0])
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
        with closing(TlsSocket(client, sock, is_server=False)) as runner, closing(accepted):
            runner.setblocking(False)
            for end in (runner, accepted):
                with pytest.raises(BlockingIOError):
                    end.do_handshake()
            wait_readable(runner)
            runner._receive(RECORD)
            runner._tls.do_handshake()
            runner._tls.write(b"first")
            runner._send_control()
            wait_readable(accepted)
            accepted.do_handshake()
            assert accepted.recv(100) == b"first"


def test_links_speak_over_it_both_ways_at_once_with_large_payloads(pair: Pair) -> None:
    """Control frames still overtake, and neither end waits for the other to read first."""
    loop = Loop()
    payload = os.urandom(64 * CHUNK_SIZE)
    heard: dict[str, list[Frame]] = {"parent": [], "runner": []}
    links: list[Link] = []

    def hear(name: str, frames: list[Frame]) -> None:
        heard[name] += frames
        if all(len(found) == 65 for found in heard.values()):
            loop.stop()

    def ended(reason: Exception | None) -> None:
        raise AssertionError(f"a link ended: {reason!r}")

    for name, sock in (("parent", pair.parent), ("runner", pair.runner)):
        link = Link(loop, sock, lambda frames, name=name: hear(name, frames), ended)  # type: ignore[misc]
        links.append(link)
        for header, piece in split_bulk(9, 1, [payload]):
            link.send_bulk(header, piece)
    loop.call_soon(lambda: loop.call_soon(lambda: [link.send(encode(Kind.PING)) for link in links]))
    guard = loop.call_later(PATIENCE, loop.stop)
    loop.run()
    guard.cancel()
    for link in links:
        link.close()
    loop.close()
    for frames in heard.values():
        kinds = [frame.kind for frame in frames]
        assert len(kinds) == 65
        assert kinds.index(Kind.PING) < 64
        assert b"".join(frame.payload for frame in frames if frame.kind == Kind.CHUNK) == payload


@pytest.mark.parametrize("seed", range(5))
def test_a_link_that_is_stopped_again_and_again_loses_nothing(pair: Pair, seed: int) -> None:
    """Records that are cut short are finished with the same bytes, whatever a link is given meanwhile.

    OpenSSL breaks the connection otherwise.
    """
    rng = random.Random(seed)
    loop = Loop()
    ended: list[Exception | None] = []
    link = Link(loop, pair.runner, lambda frames: None, ended.append)
    decoder, received, sent = Decoder(), list[bytes](), list[bytes]()

    def say() -> None:
        for _ in range(rng.randrange(1, 30)):
            frame = encode(Kind.RESULT, len(sent) + 1, rng.randbytes(rng.choice([0, 30, 5000, 60_000])), attempt=1)
            sent.append(frame)
            if rng.random() < 0.2:
                link.send_bulk(frame[:HEADER_SIZE], frame[HEADER_SIZE:])
            elif rng.random() < 0.5:
                link.send(frame)
            else:
                link.queue(frame)
                link.flush()

    def read() -> None:
        if rng.random() < 0.3:
            return  # the writer has to stop now and then
        with suppress(BlockingIOError):
            received.extend(frame.raw for frame in decoder.feed(pair.parent.recv(rng.choice([1000, 65536]))))

    def go_round(rounds: int) -> None:
        if rounds < 300:
            say()
        for _ in range(8):
            read()
        if ended or (rounds >= 300 and len(received) == len(sent)):
            loop.stop()
        else:
            loop.call_soon(lambda: go_round(rounds + 1))

    loop.call_soon(lambda: go_round(0))
    loop.run()
    link.close()
    loop.close()
    assert ended == []
    # The lanes overtake each other, and each keeps its order.
    assert sorted(received) == sorted(sent)


# -- who is there ------------------------------------------------------------------------------------------------------


def test_a_certificate_that_is_not_the_pinned_one_is_found_out_before_anything_is_sent(
    server: tuple[ssl.SSLContext, bytes],
) -> None:
    seen: list[bytes] = []
    with closing(bind("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with closing(accept(listener, server[0])) as sock:
                wait_readable(sock)
                seen.append(sock.recv(100))

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(ProtocolError, match="not the parent's"):
            connect("127.0.0.1", listener.getsockname()[1], b"\0" * 32, PATIENCE)
        thread.join()
    assert seen == [b""]


def test_two_certificates_are_two() -> None:
    assert server_context()[1] != server_context()[1]


def test_the_certificate_is_backdated_lasts_a_month_and_passes_strict_checks() -> None:
    """Checklist 53: a runner's clock may be off by a day."""
    certificate = x509.load_der_x509_certificate(make_certificate()[0])
    now = datetime.now(UTC)
    assert certificate.not_valid_before_utc < now - timedelta(hours=24)
    assert certificate.not_valid_after_utc > now + timedelta(days=30)
    public = certificate.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert public.curve.name == "secp256r1"
    for extension in (
        x509.BasicConstraints,
        x509.KeyUsage,
        x509.SubjectKeyIdentifier,
        x509.AuthorityKeyIdentifier,
    ):
        assert certificate.extensions.get_extension_for_class(extension)


def test_a_peer_that_trusts_this_certificate_alone_takes_it_under_strict_checks() -> None:
    """Checklist 53; failure modes §3."""
    context, _ = server_context()
    der, pem, _ = make_certificate()
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    client.load_verify_locations(cadata=pem.decode())
    assert client.get_ca_certs(binary_form=True) == [der]
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3


def test_the_key_is_in_a_file_for_its_owner_alone_and_only_while_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int, Path]] = []
    load = ssl.SSLContext.load_cert_chain

    def look(self: ssl.SSLContext, path: Any, *rest: Any) -> None:
        place = Path(path)
        modes = [stat.S_IMODE(found.stat().st_mode) for found in (place, place.parent)]
        seen.append((modes[0], modes[1], place))
        load(self, path, *rest)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", look)
    server_context()
    ((file_mode, folder_mode, place),) = seen
    assert (file_mode, folder_mode) == (0o600, 0o700)
    assert not place.parent.exists()


def test_without_cryptography_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cryptography", None)
    with pytest.raises(BootError, match=r"pip install 'dragonfly-executor\[fly\]'"):
        server_context()


# -- TCP ---------------------------------------------------------------------------------------------------------------


def test_both_ends_notice_a_dead_peer(pair: Pair) -> None:
    """Checklist 18: keepalive alone does not, with data in flight."""
    accepted, dialed = socket.socket(fileno=os.dup(pair.parent.fileno())), pair.runner
    tcp.set_tcp_options(accepted)  # the listener does this when it accepts
    with accepted:
        for sock in (accepted, dialed):
            get = sock.getsockopt
            assert get(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
            assert get(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert get(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10
            assert get(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 5
            assert get(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 4
            assert get(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


@pytest.mark.parametrize(("host", "port", "text"), [("::1", 443, "[::1]:443"), ("fly.internal", 1, "fly.internal:1")])
def test_an_address_is_read_as_it_was_written(host: str, port: int, text: str) -> None:
    assert tcp.join_address(host, port) == text
    assert tcp.split_address(text) == (host, port)


@pytest.mark.parametrize("text", ["", "host", ":80", "host:", "host:http", "host:-1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an address"):
        tcp.split_address(text)


def test_a_listener_is_bound_to_what_it_was_told() -> None:
    """Checklist 69."""
    with closing(bind("127.0.0.1", 0)) as sock:
        assert sock.getsockname()[0] == "127.0.0.1"
        assert sock.getblocking() is False
    with closing(bind("::1", 0)) as sock:
        assert sock.getsockname()[0] == "::1"


def test_a_port_that_is_taken_is_an_error_and_leaves_no_socket() -> None:
    with closing(bind("127.0.0.1", 0)) as sock, pytest.raises(OSError, match="in use"):
        bind("127.0.0.1", sock.getsockname()[1])
