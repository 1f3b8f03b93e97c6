"""What is given up while Fly has yet to answer: the connection is cut, and nothing is left that nobody knows of."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from dragonfly_executor import BootError, FlyBackend
from dragonfly_executor.backends.base import CancelToken
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.fly import boot as boot_module
from dragonfly_executor.backends.fly import client
from dragonfly_executor.backends.fly.errors import FlyAPIError
from dragonfly_executor.backends.fly.http import HttpConnections
from dragonfly_executor.backends.fly.settings import APIAccess
from dragonfly_executor.backends.fly.token import APIToken
from dragonfly_executor.backends.http_connection import HttpConnection
from dragonfly_executor.transport.certificate import load, make_certificate
from tests.backends.fly.boots import ASLEEP_CONFIG, boot, nothing_is_left, request
from tests.backends.fly.conftest import Make, MakeBackend
from tests.support.fly_simulator.calls import Reply
from tests.support.fly_simulator.simulator import Simulator
from tests.support.helpers import PATIENCE

FOR_EVER = 3600.0
"""Seconds: a test that waits for them does not end."""


@pytest.fixture(autouse=True)
def _patient_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers would be waited for all day."""
    monkeypatch.setattr(client, "CREATE_TIMEOUT", FOR_EVER)
    monkeypatch.setattr(client, "TIMEOUT", FOR_EVER)
    monkeypatch.setattr("dragonfly_executor.backends.fly.http.CONNECT_TIMEOUT", FOR_EVER)


@pytest.fixture
def backend(make_backend: MakeBackend) -> FlyBackend:
    return make_backend(machine_config=ASLEEP_CONFIG)


# -- a boot ------------------------------------------------------------------------------------------------------------


def test_a_create_that_is_not_answered_is_cut_and_its_machine_destroyed(on_fly: Simulator, backend: FlyBackend) -> None:
    """Checklist 9. It was carried out, and nobody was told."""
    given_up = CancelToken()
    on_fly.faults.on("create", hang=True, after=lambda call: given_up.set())
    with pytest.raises(BootError, match="the request was cancelled before Fly answered"):
        backend.boot(request(FOR_EVER, given_up=given_up))
    assert len(on_fly.world.booted) == 1
    nothing_is_left(on_fly, backend)


def test_a_machine_that_is_made_after_all_is_waited_for_some_seconds(on_fly: Simulator, backend: FlyBackend) -> None:
    """Fly goes on with what it was asked for, whether or not somebody still listens."""
    given_up = CancelToken()
    on_fly.faults.on("create", hang=True, after=lambda call: given_up.set())
    # It has not come yet where it is first looked for.
    on_fly.faults.on("list", reply=Reply(200, []))
    with pytest.raises(BootError):
        backend.boot(request(FOR_EVER, given_up=given_up))
    assert len(on_fly.history.of("list")) == 2
    nothing_is_left(on_fly, backend)


@pytest.mark.parametrize("listed", ["nothing", "no-answer"])
def test_what_is_not_found_in_these_seconds_is_written_down_for_the_next_sweep(
    on_fly: Simulator, backend: FlyBackend, listed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boot_module, "GIVEN_UP_TIMEOUT", 0.2)
    given_up = CancelToken()
    on_fly.faults.on("create", hang=True, after=lambda call: given_up.set())
    on_fly.faults.on("list", times=1000, **({"reply": Reply(200, [])} if listed == "nothing" else {"hang": True}))
    with pytest.raises(BootError):
        backend.boot(request(FOR_EVER, given_up=given_up))
    assert backend.journal is not None
    ((machine,), (entry,)) = on_fly.history.left, backend.journal.entries()
    assert (entry.name, entry.abandoned) == (machine.name, True)
    on_fly.faults.clear()
    assert [one.name for one in backend.sweep().destroyed] == [machine.name]
    nothing_is_left(on_fly, backend)


def test_a_boot_that_is_given_up_in_doubt_is_looked_after_no_longer_than_that(
    on_fly: Simulator, backend: FlyBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had failed before, and was about to destroy what may have come of it."""
    monkeypatch.setattr(boot_module, "UNDO_TIMEOUT", FOR_EVER)
    given_up = CancelToken()
    on_fly.faults.on("create", change=lambda body: {**body, "id": 1})
    on_fly.faults.on("get", reply=Reply(400, {"error": "no"}))
    on_fly.faults.on("list", hang=True, after=lambda call: given_up.set())
    with pytest.raises(BootError, match="HTTP 400"):
        backend.boot(request(2 * FOR_EVER, given_up=given_up))
    assert len(on_fly.world.booted) == 1
    nothing_is_left(on_fly, backend)


def test_what_was_given_up_before_fly_was_asked_asks_for_nothing(on_fly: Simulator, backend: FlyBackend) -> None:
    given_up = CancelToken()
    given_up.set()
    with pytest.raises(BootError, match="the request was cancelled before it was sent to Fly"):
        backend.boot(request(given_up=given_up))
    assert on_fly.history.calls == []
    nothing_is_left(on_fly, backend)


def test_a_first_sweep_that_hangs_holds_no_boot_up_that_was_given_up(
    on_fly: Simulator, make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boot_module, "FIRST_SWEEP_TIMEOUT", FOR_EVER)
    given_up = CancelToken()
    on_fly.faults.on("list", hang=True, after=lambda call: given_up.set())
    backend = make_backend(machine_config=ASLEEP_CONFIG, sweep=True)
    boot(backend, given_up=given_up).stop()
    nothing_is_left(on_fly, backend)


def test_a_look_at_a_machine_ends_when_it_is_given_back(on_fly: Simulator, backend: FlyBackend) -> None:
    looks = threading.Event()
    on_fly.faults.on("wait", hang=True, commit=False, after=lambda call: looks.set())
    node = boot(backend)
    seen: list[Any] = []
    looking = threading.Thread(target=lambda: seen.append(node.ended(FOR_EVER)))
    looking.start()
    assert looks.wait(PATIENCE)
    node.stop()
    looking.join()
    assert seen == [None]
    nothing_is_left(on_fly, backend)


@pytest.mark.parametrize("commit", [True, False], ids=["made", "not-made"])
def test_a_pool_is_shut_down_while_a_create_hangs(
    on_fly: Simulator, make: Make, make_backend: MakeBackend, commit: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checklist 9. It takes as long as the machine takes to go, or some seconds where none is to be seen."""
    if not commit:
        monkeypatch.setattr(boot_module, "GIVEN_UP_TIMEOUT", 0.2)
    hangs = threading.Event()
    on_fly.faults.on("create", hang=True, commit=commit, after=lambda call: hangs.set())
    backend = make_backend()
    executor = make(backend, boot_timeout=2 * FOR_EVER)
    call = executor.submit(pow, 2, 3)
    assert hangs.wait(PATIENCE)
    assert call.cancel()
    executor.shutdown()
    assert backend.journal is not None
    assert on_fly.history.left == []
    assert [entry.abandoned for entry in backend.journal.entries()] == ([] if commit else [True])


# -- a request ---------------------------------------------------------------------------------------------------------


class Mute:
    """A server that takes a connection and says nothing: before it speaks TLS, or when it has read the request."""

    def __init__(self, tls: ssl.SSLContext | None, *, shakes_hands: bool) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self._tls = tls if shakes_hands else None
        self._reads = shakes_hands
        self.silent: Callable[[], object] = lambda: None
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        sock, _ = self.listener.accept()
        sock.settimeout(PATIENCE)
        if self._tls is not None:
            sock = self._tls.wrap_socket(sock, server_side=True)
        with sock:
            # A TLS client speaks first; so does one that has a request.
            sock.recv(65536)
            self.silent()
            # Until the client has gone.
            try:
                while sock.recv(65536):
                    pass
            except ConnectionError:
                pass

    def close(self) -> None:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the connection was not ended"
        self.listener.close()


@contextmanager
def mute(tls: ssl.SSLContext | None, *, shakes_hands: bool) -> Iterator[Mute]:
    server = Mute(tls, shakes_hands=shakes_hands)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def tls(monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A server's; whoever asks trusts anybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _, pem, key = make_certificate()
    load(context, pem, key)
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    monkeypatch.setattr(httpx, "create_ssl_context", lambda: trusting)
    return context


@pytest.mark.parametrize(
    ("scheme", "shakes_hands", "sent"),
    [("http", True, True), ("https", True, True), ("https", False, False)],
    ids=["plain", "tls", "handshake"],
)
def test_a_request_is_cut_wherever_it_hangs(tls: ssl.SSLContext, scheme: str, shakes_hands: bool, sent: bool) -> None:
    """And whether it may have got there is known: in the middle of a handshake it has not."""
    given_up = CancelToken()
    with mute(tls if scheme == "https" else None, shakes_hands=shakes_hands) as server:
        server.silent = given_up.set
        line = HttpConnections(APIAccess("media", APIToken("fm2_canary"), f"{scheme}://127.0.0.1:{server.port}"))
        reply = line.exchange("get", "1", "GET", "/x", Deadline(FOR_EVER, given_up), timeout=FOR_EVER)
        assert (reply.status, reply.sent) == (0, sent)
        assert reply.failure == "the request was cancelled before Fly answered"


def test_a_connection_that_was_cut_before_it_was_there_lets_nothing_through() -> None:
    """Nobody can say how far a request is in the moment in which it is given up."""
    with mute(None, shakes_hands=True) as server:
        connection = HttpConnection(httpx.Client(verify=False, timeout=None))
        connection.cut()
        with pytest.raises(httpx.TransportError):
            connection.client.get(f"http://127.0.0.1:{server.port}", extensions={"trace": connection.trace})
        connection.close()


def test_a_connection_that_is_used_again_can_be_cut_as_well(on_fly: Simulator, backend: FlyBackend) -> None:
    given_up = CancelToken()
    on_fly.faults.on("get", nth=3, hang=True, after=lambda call: given_up.set())
    with backend.api as api:
        for _ in range(2):
            assert api.get("0" * 14, Deadline(FOR_EVER)) is None
        assert len(on_fly.connections) == 1
        with pytest.raises(FlyAPIError, match="cancelled before Fly answered"):
            api.get("0" * 14, Deadline(FOR_EVER, given_up))
        on_fly.until(lambda _: not len(on_fly.connections))
        assert api.get("0" * 14, Deadline(FOR_EVER)) is None


# -- being given up ----------------------------------------------------------------------------------------------------


def test_what_ends_with_it_is_called_once_and_in_any_order() -> None:
    given_up = CancelToken()
    called: list[str] = []

    def first() -> None:
        called.append("first")

    def second() -> None:
        called.append("second")

    def never() -> None:
        called.append("never")

    for each in (first, never, second):
        given_up.call(each)
    given_up.forget(never)
    given_up.forget(never)
    given_up.set()
    given_up.set()
    assert called == ["first", "second"]
    assert given_up.is_set()
    assert given_up.wait()
    given_up.call(never)
    assert called == ["first", "second", "never"], "it is over, so at once"


def test_one_that_raises_keeps_nobody_from_being_told(caplog: pytest.LogCaptureFixture) -> None:
    given_up, told = CancelToken(), threading.Event()
    given_up.call(lambda: 1 / 0)
    given_up.call(told.set)
    given_up.set()
    assert told.is_set()
    assert "ZeroDivisionError" in caplog.text
