"""The fault proxy does what its faults say: a fault that does nothing would make every test behind it pass."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import pytest

from tests.support.fault_proxy import FaultProxy
from tests.support.helpers import PATIENCE


@contextmanager
def echo_server() -> Iterator[tuple[str, int]]:
    """Sends back what it gets."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(sock: socket.socket) -> None:
        with sock, suppress(OSError):
            while data := sock.recv(65536):
                sock.sendall(data)

    def accept() -> None:
        served = []
        with suppress(OSError):
            while True:
                served.append(threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True))
                served[-1].start()
        for thread in served:
            thread.join(PATIENCE)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield listener.getsockname()[:2]
    # Closing alone does not wake who waits in accept.
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(PATIENCE)


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    with echo_server() as address, FaultProxy(address) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: FaultProxy) -> Iterator[socket.socket]:
    with closing(socket.create_connection(proxy.address, PATIENCE)) as client:
        yield client


def exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := sock.recv(size - len(data))):
        data += more
    return data


def test_without_faults_every_byte_comes_back(client: socket.socket) -> None:
    data = bytes(range(256)) * 4096
    threading.Thread(target=client.sendall, args=(data,), daemon=True).start()
    assert exactly(client, len(data)) == data
    client.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""


def test_a_delay_holds_bytes_back_and_keeps_them_in_order(proxy: FaultProxy, client: socket.socket) -> None:
    proxy.slow(delay=0.05, jitter=0.02)
    began = time.monotonic()
    client.sendall(b"there")
    client.sendall(b" and back")
    assert exactly(client, 14) == b"there and back"
    # A lower bound is no race: a busy machine only adds to it.
    assert time.monotonic() - began >= 0.1


def test_a_rate_is_not_exceeded(proxy: FaultProxy, client: socket.socket) -> None:
    proxy.slow(rate=100_000)
    began = time.monotonic()
    client.sendall(bytes(20_000))
    assert len(exactly(client, 20_000)) == 20_000
    assert time.monotonic() - began >= 0.2


def test_a_cut_comes_after_exactly_so_many_bytes(proxy: FaultProxy, client: socket.socket) -> None:
    proxy.tell(lambda: setattr(proxy.up, "cut_after", 3))
    client.sendall(b"abcdef")
    with suppress(ConnectionResetError):
        assert exactly(client, 6) in {b"abc", b""}
    assert proxy.up.passed == 3


def test_one_bit_of_one_byte_is_turned_over(proxy: FaultProxy, client: socket.socket) -> None:
    proxy.tell(lambda: setattr(proxy.down, "flip", 2))
    client.sendall(b"aaaa")
    assert exactly(client, 4) == b"aa`a"


def test_a_silent_way_swallows_bytes_and_the_end(proxy: FaultProxy, client: socket.socket) -> None:
    proxy.silence(proxy.down)
    client.sendall(b"heard")
    client.shutdown(socket.SHUT_WR)
    client.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.recv(1)
    assert proxy.up.passed == 5
    assert proxy.down.passed == 0


def test_a_way_may_fall_silent_after_some_bytes(proxy: FaultProxy, client: socket.socket) -> None:
    proxy.silence_after(proxy.up, 3)
    client.sendall(b"abcdef")
    assert exactly(client, 3) == b"abc"
    client.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.recv(1)


def test_a_stuck_way_makes_the_sender_block_until_it_is_released(proxy: FaultProxy, client: socket.socket) -> None:
    proxy.stick(proxy.up)
    client.settimeout(0.2)
    sent = 0
    with pytest.raises(TimeoutError):
        while True:
            sent += client.send(bytes(65536))
    client.settimeout(PATIENCE)
    proxy.release(proxy.up)
    assert len(exactly(client, sent)) == sent


def test_a_reset_is_one(proxy: FaultProxy, client: socket.socket) -> None:
    client.sendall(b"x")
    assert exactly(client, 1) == b"x"
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_a_cut_of_all_connections_is_an_end(proxy: FaultProxy, client: socket.socket) -> None:
    client.sendall(b"x")
    assert exactly(client, 1) == b"x"
    proxy.cut()
    assert client.recv(1) == b""
    assert proxy.connections == 1


def test_a_cut_may_be_a_reset(proxy: FaultProxy, client: socket.socket) -> None:
    client.sendall(b"x")
    assert exactly(client, 1) == b"x"
    proxy.cut_after(proxy.up, 1, abrupt=True)
    client.sendall(b"abc")
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert proxy.up.passed == 2


def test_bytes_that_drip_are_all_there(proxy: FaultProxy, client: socket.socket) -> None:
    proxy.tell(lambda: setattr(proxy.up, "step", 1))
    client.sendall(b"drop by drop")
    assert exactly(client, 12) == b"drop by drop"


def test_what_is_healed_does_nothing_wrong(proxy: FaultProxy, client: socket.socket) -> None:
    proxy.slow(delay=3600.0)
    proxy.silence()
    proxy.stick(proxy.up)
    proxy.flip_after(proxy.up, 0)
    proxy.cut_after(proxy.down, 0)
    proxy.heal()
    client.sendall(b"hale")
    assert exactly(client, 4) == b"hale"
