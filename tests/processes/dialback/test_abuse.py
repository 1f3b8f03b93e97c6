"""Whoever dials in and is not the runner that is waited for: refused, forgotten, and in nobody's way."""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import resource
import select
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from queue import Empty
from typing import Any

import cloudpickle
import pytest

from dragonfly_executor.protocol import dialback_auth
from dragonfly_executor.protocol.dialback_auth import PARENT, SECRET_SIZE, RefusedError, mac
from dragonfly_executor.protocol.frames import HEADER, MAX_HANDSHAKE_FRAME, Kind, encode
from dragonfly_executor.protocol.parent import Parent
from dragonfly_executor.transport import listener as listener_module
from dragonfly_executor.transport.listener import Listener
from dragonfly_executor.transport.tcp import join_address, split_address
from dragonfly_executor.transport.tls import server_context
from tests.processes.dialback.conftest import Receive
from tests.support.dialback import (
    EmptyNodeBackend,
    RecordedHandshake,
    RunnerListener,
    dial,
    encrypted,
    everything,
    plain,
    side_of,
)
from tests.support.fault_proxy import FaultProxy
from tests.support.helpers import PATIENCE


def joins(reception: RunnerListener, parent: Parent) -> None:
    """The right runner still gets in."""
    good = dial(parent)
    with closing(good.go().sock):
        assert reception.joined.get(timeout=PATIENCE) == parent.runner_id
        sock = reception.take(parent.runner_id)
        assert sock is not None
        sock.close()


# -- who cannot prove it -----------------------------------------------------------------------------------------------


def without_token(parent: Parent) -> bytes:
    return _refusal(dial(parent, token=b""))


def with_a_wrong_token(parent: Parent) -> bytes:
    return _refusal(dial(parent, token=os.urandom(SECRET_SIZE)))


def as_another_runner(parent: Parent) -> bytes:
    return _refusal(dial(parent, runner_id="99"))


def with_half_a_proof(parent: Parent) -> bytes:
    dialed = dial(parent)
    dialed.say(dialed.side.dial())
    proof = dialed.side.receive(dialed.frame())
    dialed.say(encode(Kind.PROOF, payload=proof[HEADER.size : HEADER.size + 16]))
    return _rest(dialed)


def with_the_parents_own_words(parent: Parent) -> bytes:
    """Reflected: the right token, but what the parent would say."""
    side = side_of(parent, nonce=b"n" * SECRET_SIZE)
    dialed = RecordedHandshake(encrypted(parent), side)
    dialed.say(side.dial())
    nonce = bytes(dialed.frame().payload)
    token, fingerprint = bytes.fromhex(parent.token or ""), bytes.fromhex(parent.fingerprint or "")
    said = mac(PARENT, token, fingerprint, str(parent.runner_id), nonce, b"n" * SECRET_SIZE)
    dialed.say(encode(Kind.PROOF, payload=said))
    return _rest(dialed)


def with_an_old_transcript(parent: Parent) -> bytes:
    """Replayed: what the right runner said on a connection that broke before its proof arrived."""
    overheard = dial(parent)
    overheard.say(overheard.side.dial())
    proof = overheard.side.receive(overheard.frame())
    overheard.sock.close()
    dialed = dial(parent)
    dialed.say(overheard.sent[0])
    dialed.frame()
    dialed.say(proof)
    return _rest(dialed)


def with_a_hello(parent: Parent) -> bytes:
    return _refusal_of(parent, encode(Kind.HELLO, payload=b"{}"))


def with_another_version(parent: Parent) -> bytes:
    return _refusal_of(parent, encode(Kind.DIAL, payload=struct.pack("!H32s", 2, bytes(32)) + b"1"))


def with_a_length_that_lies(parent: Parent) -> bytes:
    """Checklist 43."""
    return _refusal_of(parent, HEADER.pack(Kind.DIAL, 0, 0, 0, 0, 2**63))


def with_a_frame_that_is_too_long(parent: Parent) -> bytes:
    return _refusal_of(parent, encode(Kind.DIAL, payload=bytes(MAX_HANDSHAKE_FRAME + 1)))


def with_garbage(parent: Parent) -> bytes:
    return _refusal_of(parent, b"GET / HTTP/1.1\r\nHost: parent\r\nAccept: */*\r\n\r\n")


def too_eagerly(parent: Parent) -> bytes:
    """It does not wait to be challenged."""
    return _refusal_of(parent, side_of(parent).dial() + encode(Kind.PROOF, payload=bytes(32)), after=1)


def _refusal(dialed: RecordedHandshake) -> bytes:
    with pytest.raises(RefusedError):
        dialed.go()
    return _rest(dialed)


def _rest(dialed: RecordedHandshake) -> bytes:
    with closing(dialed.sock):
        rest = dialed.received + everything(dialed.sock)
    # What comes after the challenge.
    return rest[HEADER.size + SECRET_SIZE :]


def _refusal_of(parent: Parent, data: bytes, after: int = 0) -> bytes:
    with closing(encrypted(parent)) as sock:
        sock.send(data)
        return everything(sock)[after * (HEADER.size + SECRET_SIZE) :]


ABUSERS = [
    without_token,
    with_a_wrong_token,
    as_another_runner,
    with_half_a_proof,
    with_the_parents_own_words,
    with_an_old_transcript,
    with_a_hello,
    with_another_version,
    with_a_length_that_lies,
    with_a_frame_that_is_too_long,
    with_garbage,
    too_eagerly,
]


@pytest.mark.parametrize("abuse", ABUSERS, ids=lambda abuse: abuse.__name__)
def test_an_impostor_is_refused_in_the_same_words_and_the_right_runner_joins_after_it(
    receive: Receive, abuse: Callable[[Parent], bytes]
) -> None:
    """Checklist 1, 2, 43: no token, wrong, replayed, reflected, a length of 2^63."""
    reception = receive()
    parent = reception.expect()
    answer = abuse(parent)
    # A connection that is closed with something unread in it is reset, and that may overtake the answer.
    assert answer in (dialback_auth.REFUSAL, b"") if abuse is too_eagerly else answer == dialback_auth.REFUSAL
    assert "RunnerAuthError" in reception.warnings.get(timeout=PATIENCE)
    joins(reception, parent)


def test_a_token_that_was_used_is_none(receive: Receive) -> None:
    """Checklist 2: reused, and the whole transcript replayed, while others are still waited for."""
    reception = receive()
    parent = reception.expect(1)
    other = reception.expect(2)
    first = dial(parent)
    with closing(first.go().sock):
        assert _refusal(dial(parent)) == dialback_auth.REFUSAL
        replayed = dial(parent)
        replayed.say(first.sent[0])
        replayed.frame()
        replayed.say(first.sent[1])
        assert _rest(replayed) == dialback_auth.REFUSAL
    assert reception.joined.get(timeout=PATIENCE) == 1
    joins(reception, other)
    sock = reception.take(1)
    assert sock is not None
    sock.close()


def test_a_token_that_ran_out_is_none(receive: Receive) -> None:
    """Checklist 2: expired."""
    reception = receive()
    old = reception.expect(1, timeout=0.0)
    new = reception.expect(2)
    assert _refusal(dial(old)) == dialback_auth.REFUSAL
    joins(reception, new)


def test_a_runner_that_nobody_waits_for_any_more_is_refused(receive: Receive) -> None:
    """Checklist 2: its boot was given up."""
    reception = receive()
    old, new = reception.expect(1), reception.expect(2)
    reception.forget(1)
    assert _refusal(dial(old)) == dialback_auth.REFUSAL
    joins(reception, new)


def test_a_proof_for_one_pool_is_none_for_another(receive: Receive) -> None:
    """Checklist 2: relayed, the challenge as well. Both pools wait for a runner of this number."""
    here, there = receive(), receive()
    parent, other = here.expect(), there.expect()
    relayed = RecordedHandshake(encrypted(other), side_of(parent))
    with pytest.raises(RefusedError):
        relayed.go()
    assert _rest(relayed) == dialback_auth.REFUSAL
    # Nor does the runner take the other one's certificate for its parent's.
    assert parent.fingerprint != other.fingerprint
    joins(here, parent)
    joins(there, other)


# -- who speaks something else -----------------------------------------------------------------------------------------


def test_plain_text_is_not_answered(receive: Receive) -> None:
    reception = receive()
    parent = reception.expect()
    with plain(parent) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        # At most TLS's own alert.
        assert len(everything(sock)) < 10
    assert "TLS" in reception.warnings.get(timeout=PATIENCE)
    joins(reception, parent)


def test_a_frame_outside_of_tls_is_not_answered(receive: Receive) -> None:
    """Even the right one."""
    reception = receive()
    parent = reception.expect()
    with plain(parent) as sock:
        sock.sendall(side_of(parent).dial())
        assert len(everything(sock)) < 10
    joins(reception, parent)


def test_tls_1_2_is_not_spoken(receive: Receive) -> None:
    reception = receive()
    parent = reception.expect()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with plain(parent) as sock, pytest.raises(ssl.SSLError):
        context.wrap_socket(sock)
    assert "TLS 1.3" in reception.warnings.get(timeout=PATIENCE)
    joins(reception, parent)


class Bomb:
    """What runs when it is unpickled leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self._path,)


@pytest.fixture
def tripwire(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Who unpickles anything."""
    tripped: list[object] = []
    for module in (pickle, cloudpickle):
        for name in ("load", "loads", "Unpickler"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, lambda *args, **kwargs: tripped.append(args))
    return tripped


@pytest.mark.parametrize("wrap", ["plain", "tls", "call", "dial", "proof"])
def test_a_pickle_that_comes_first_is_never_opened(
    receive: Receive, tmp_path: Path, tripwire: list[object], wrap: str
) -> None:
    """Checklist 1."""
    reception = receive()
    parent = reception.expect()
    path = tmp_path / "went-off"
    bomb = pickle.dumps(Bomb(path))
    frames = {
        "call": encode(Kind.CALL, 1, bomb, attempt=1),
        "dial": encode(Kind.DIAL, payload=bomb),
        "proof": side_of(parent).dial() + encode(Kind.PROOF, payload=bomb),
    }
    with closing(plain(parent) if wrap == "plain" else encrypted(parent)) as sock:
        sock.send(frames.get(wrap, bomb))
        everything(sock)
    assert "RunnerAuthError" in reception.warnings.get(timeout=PATIENCE)
    joins(reception, parent)
    assert not path.exists()
    assert tripped_nowhere(tripwire)


def tripped_nowhere(tripwire: list[object]) -> bool:
    return not tripwire


# -- who takes its time ------------------------------------------------------------------------------------------------


def silent(parent: Parent) -> socket.socket:
    return plain(parent)


def silent_in_tls(parent: Parent) -> socket.socket:
    return encrypted(parent)


def silent_after_the_challenge(parent: Parent) -> socket.socket:
    dialed = dial(parent)
    dialed.say(dialed.side.dial())
    dialed.frame()
    return dialed.sock


@pytest.mark.parametrize("connect", [silent, silent_in_tls, silent_after_the_challenge])
def test_a_silent_peer_is_dropped_when_its_time_is_over(
    receive: Receive, connect: Callable[[Parent], socket.socket]
) -> None:
    """Checklist 45."""
    reception = receive(deadline=0.2)
    parent = reception.expect()
    with closing(connect(parent)) as sock:
        assert everything(sock) == b""
    assert "did not authenticate within 0.2 s" in reception.warnings.get(timeout=PATIENCE)
    joins(reception, parent)


@pytest.mark.parametrize("kind", ["plain", "tls"])
def test_who_says_a_byte_now_and_then_gains_no_time(receive: Receive, kind: str) -> None:
    """Checklist 45: the deadline is for all of it, and it says something ten times as often."""
    reception = receive(deadline=0.3)
    parent = reception.expect()
    hello = ssl_client_hello() if kind == "plain" else side_of(parent).dial()
    with closing(plain(parent) if kind == "plain" else encrypted(parent)) as sock:
        said = 0
        for byte in hello:
            if select.select([sock], [], [], 0.03)[0]:
                break
            sock.send(bytes([byte]))
            said += 1
        assert said < len(hello)
        assert everything(sock) == b""
    joins(reception, parent)


def ssl_client_hello() -> bytes:
    """How TLS begins."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="parent").do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("connect", [silent, silent_in_tls])
def test_200_silent_peers_keep_no_runner_out(receive: Receive, connect: Callable[[Parent], socket.socket]) -> None:
    """Checklist 45: and no more than 64 of them are held, however long they may stay."""
    reception = receive(deadline=600.0, at_once=64)
    parent = reception.expect()
    with ExitStack() as stack:
        peers = [stack.enter_context(closing(connect(parent))) for _ in range(200)]
        joins(reception, parent)
        # The runner came last, so all others were accepted before it; with the last one the door was closed.
        for peer in peers:
            assert everything(peer) == b""


def test_no_more_than_64_connections_are_held(receive: Receive) -> None:
    """Checklist 45: half of the places are for those that have sent no byte, and the oldest of them makes room."""
    reception = receive(deadline=600.0, at_once=64)
    parent = reception.expect()
    with ExitStack() as stack:
        speaking = stack.enter_context(closing(encrypted(parent)))
        peers = [stack.enter_context(closing(silent(parent))) for _ in range(100)]
        for peer in peers[:68]:
            assert everything(peer) == b""
        # One for the door, one that speaks, and 32.
        assert len(reception.descriptors()) == 1 + 1 + 32
        side = side_of(parent)
        with contextlib.suppress(EOFError):
            RecordedHandshake(speaking, side).go()
        assert side.greeting is not None
        assert reception.joined.get(timeout=PATIENCE) == 1
        sock = reception.take()
        assert sock is not None
        sock.close()


@contextlib.contextmanager
def flood(parent: Parent, data: bytes) -> Iterator[None]:
    """400 connections a second that send this and nothing else; within, the door is full of them."""
    host, port = split_address(parent.address or "")
    command = [sys.executable, "-m", "tests.support.flood", host, str(port), "400", data.hex()]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"full\n"
            yield
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("data", [b"", b"\x16"], ids=["silent", "one byte"])
def test_400_connections_a_second_keep_no_runner_out_that_is_100_ms_away(receive: Receive, data: bytes) -> None:
    """All come from one address, as behind a proxy. The runner's first byte comes 100 ms after its connection."""
    reception = receive()
    parent = reception.expect()
    assert parent.address is not None
    with FaultProxy(split_address(parent.address)) as proxy, flood(parent, data):
        proxy.slow(delay=0.1)
        joins(reception, parent._replace(address=join_address(*proxy.address)))


def test_connections_that_say_nothing_displace_none_that_speaks(receive: Receive) -> None:
    """A runner far away has begun its handshake, and more come than there is room for."""
    reception = receive(deadline=600.0, at_once=16)
    parent = reception.expect()
    hello = ssl_client_hello()
    with ExitStack() as stack:
        speaking = stack.enter_context(closing(plain(parent)))
        speaking.sendall(hello)
        assert speaking.recv(1) == b"\x16"  # the ServerHello: it counts as one that speaks
        peers = [stack.enter_context(closing(silent(parent))) for _ in range(100)]
        for peer in peers[:92]:
            assert everything(peer) == b""
        assert select.select([speaking], [], [], 0)[0]
        while select.select([speaking], [], [], 0)[0]:
            assert speaking.recv(4096)  # the rest of what it was answered, and not the end
        reception.forget()


def test_a_crowd_that_speaks_makes_room_for_itself_before_others(receive: Receive) -> None:
    """They come from one address, and have sent the first byte of a handshake; the runner comes from another."""
    reception = receive(deadline=600.0, at_once=16)
    parent = reception.expect()
    host, port = split_address(parent.address or "")
    with ExitStack() as stack:
        elsewhere = stack.enter_context(socket.create_connection((host, port), PATIENCE, ("127.0.0.2", 0)))
        elsewhere.sendall(b"\x16")
        peers = []
        for _ in range(50):
            peer = stack.enter_context(plain(parent))
            peer.sendall(b"\x16")
            peers.append(peer)
        for peer in peers[:43]:
            assert everything(peer) == b""
        assert select.select([elsewhere], [], [], 0)[0] == []
        reception.forget()


def test_a_flood_of_impostors_makes_one_line(receive: Receive) -> None:
    """Checklist 1: RunnerAuthError, once; the next one after a minute says how many there were."""
    reception = receive()
    parent = reception.expect()
    for _ in range(20):
        without_token(parent)
    assert "RunnerAuthError" in reception.warnings.get(timeout=PATIENCE)
    with pytest.raises(Empty):
        reception.warnings.get_nowait()
    reception.ask(lambda: setattr(reception.dial_back, "_told_at", -1e9))
    without_token(parent)
    assert "(19 others since the last such line)" in reception.warnings.get(timeout=PATIENCE)
    joins(reception, parent)


def test_a_peer_that_resets_its_connection_at_once_harms_nobody(receive: Receive) -> None:
    """Checklist 45: before it is accepted, and after."""
    reception = receive()
    parent = reception.expect()
    for _ in range(50):
        with plain(parent) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    joins(reception, parent)


# -- out of descriptors ------------------------------------------------------------------------------------------------


class Recorder:
    """A loop that does nothing but note what it is asked."""

    def __init__(self) -> None:
        self.readers: list[int] = []
        self.later: list[tuple[float, Callable[[], object]]] = []

    def add_reader(self, fd: int, callback: object) -> None:
        self.readers.append(fd)

    def remove_reader(self, fd: int) -> None:
        self.readers.remove(fd)

    def call_later(self, delay: float, callback: Callable[[], object]) -> None:
        self.later.append((delay, callback))


class Exhausted:
    """A listening socket of a process that has no descriptor left."""

    def __init__(self, number: int) -> None:
        self.number = number

    def accept(self) -> None:
        raise OSError(self.number, os.strerror(self.number))

    def fileno(self) -> int:
        return 1000

    def getsockname(self) -> tuple[str, int]:
        return ("127.0.0.1", 1)

    def close(self) -> None:
        """Nothing to close."""


class Notes:
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS])
def test_without_descriptors_accepting_pauses_and_is_told_once(number: int) -> None:
    """Checklist 46: the connection stays in the queue, so the loop would spin."""
    loop: Any = Recorder()
    sock: Any = Exhausted(number)
    notes: Any = Notes()
    listener = Listener(loop, sock, None, None, notes)  # type: ignore[arg-type]  # nobody gets in
    for _ in range(3):
        assert loop.readers == [1000]
        listener._accept()
        assert loop.readers == []
        ((delay, again),) = loop.later
        assert delay == listener_module.ACCEPT_PAUSE == 1.0
        loop.later.clear()
        again()
    assert len(notes.warnings) == 1
    assert os.strerror(number) in notes.warnings[0]


def test_a_connection_that_is_gone_when_it_is_accepted_is_no_reason_to_pause() -> None:
    """Checklist 46."""
    loop: Any = Recorder()
    sock: Any = Exhausted(errno.ECONNABORTED)
    notes: Any = Notes()
    listener = Listener(loop, sock, None, None, notes)  # type: ignore[arg-type]  # nobody gets in
    listener._accept()
    assert (loop.readers, loop.later, notes.warnings) == ([1000], [], [])


def test_runners_join_when_there_are_descriptors_again(receive: Receive) -> None:
    """Checklist 46: with the limit that the kernel enforces."""
    reception = receive(accept_pause=0.05)
    parent = reception.expect()
    assert parent.address is not None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as waiting:
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            waiting.connect(split_address(parent.address))
            assert "runners cannot connect for now" in reception.warnings.get(timeout=PATIENCE)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    joins(reception, parent)


# -- where it listens --------------------------------------------------------------------------------------------------


def test_it_listens_on_the_loopback_and_only_while_somebody_is_waited_for(receive: Receive) -> None:
    """Checklist 69."""
    reception = receive()
    parent = reception.expect()
    assert parent.address is not None
    assert split_address(parent.address)[0] == "127.0.0.1"
    joins(reception, parent)
    reception.ask(lambda: None)
    with pytest.raises(ConnectionRefusedError):
        plain(parent)
    again = reception.expect(2)
    # Each time the door opens it has a certificate of its own.
    assert again.fingerprint != parent.fingerprint
    joins(reception, again)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_listening_everywhere_is_warned_of_once(receive: Receive, host: str) -> None:
    """Checklist 69."""
    advertised = "127.0.0.1" if host == "0.0.0.0" else "::1"
    reception = receive(EmptyNodeBackend(host, advertised=advertised))
    for number in (1, 2):
        parent = reception.expect(number)
        assert parent.address is not None
        assert split_address(parent.address)[0] == advertised
        joins(reception, parent)
    assert f"every network of this machine ({host})" in reception.warnings.get(timeout=PATIENCE)
    with pytest.raises(Empty):
        reception.warnings.get_nowait()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_runners_cannot_be_told_to_dial_everywhere(receive: Receive, host: str) -> None:
    """Checklist 69."""
    reception = receive(EmptyNodeBackend(host))
    reception.begin()
    number, error = reception.failed.get(timeout=PATIENCE)
    assert number == 1
    assert "does not set advertised_host, the host that its runners dial" in str(error)


def test_a_fork_of_the_parent_is_told_of_every_descriptor(receive: Receive) -> None:
    """Checklist 36: the door, who stands in it, and who has come in."""
    reception = receive(deadline=600.0)
    first, second = reception.expect(1), reception.expect(2)
    with closing(encrypted(second)), closing(dial(first).go().sock):
        assert reception.joined.get(timeout=PATIENCE) == 1
        assert len(set(reception.descriptors())) == 3
        reception.forget(1)
        assert len(reception.descriptors()) == 2
        reception.forget(2)
        assert reception.descriptors() == []


def test_a_context_speaks_nothing_but_tls_1_3() -> None:
    context, _ = server_context()
    assert context.minimum_version == context.maximum_version == ssl.TLSVersion.TLSv1_3
    assert context.num_tickets == 0
