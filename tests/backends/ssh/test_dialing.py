"""The race over the addresses of a name: a silent address delays the next one by a moment, and not by its timeout."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from dragonfly_executor.backends.base import GivenUp
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.ssh.happy_eyeballs import Address, connect_first
from tests.support.helpers import PATIENCE


def address_of(sock: socket.socket) -> Address:
    return socket.AF_INET, sock.getsockname()


@pytest.fixture
def good() -> Iterator[Address]:
    """A server that answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield address_of(server)


@pytest.fixture
def refusing() -> Iterator[Address]:
    """An address that is bound, and on which no server listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield address_of(sock)


@pytest.fixture
def silent() -> Iterator[Address]:
    """A server whose queue is full: the system drops what else asks for a connection."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(server.getsockname())
        yield address_of(server)


def test_a_silent_address_does_not_hold_the_next_one_up(silent: Address, good: Address) -> None:
    """If the addresses were tried in turn, the silent one had all of the time, and the connection failed."""
    with connect_first([silent, good], Deadline(PATIENCE), PATIENCE) as sock:
        assert sock.getpeername() == good[1]
        assert sock.getblocking()


def test_several_silent_addresses_do_not_either(silent: Address, refusing: Address, good: Address) -> None:
    with connect_first([silent, refusing, silent, good], Deadline(PATIENCE), PATIENCE) as sock:
        assert sock.getpeername() == good[1]


def test_the_best_address_wins_if_it_answers(good: Address, silent: Address) -> None:
    with connect_first([good, silent], Deadline(PATIENCE), PATIENCE) as sock:
        assert sock.getpeername() == good[1]


def test_an_error_tells_what_became_of_each_address(silent: Address, refusing: Address) -> None:
    with pytest.raises(OSError, match=r"127\.0\.0\.1: Connection refused; 127\.0\.0\.1: timed out"):
        connect_first([refusing, silent], Deadline(PATIENCE), 0.5)


def test_the_race_ends_when_the_boot_is_given_up(silent: Address) -> None:
    given_up, errors = GivenUp(), []

    def dial() -> None:
        try:
            connect_first([silent, silent], Deadline(3600.0, given_up), 3600.0)
        except OSError as error:
            errors.append(error)

    dialing = threading.Thread(target=dial, daemon=True)
    dialing.start()
    given_up.set()
    dialing.join(PATIENCE)
    assert not dialing.is_alive()
    assert len(errors) == 1
