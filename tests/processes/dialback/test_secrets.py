"""A token is where it has to be, once, and nowhere else: checklist 57."""

from __future__ import annotations

import base64
import copy
import json
import logging
import os
import pickle
import traceback
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import Parent
from dragonfly_executor.backends.base import BootRequest, Node
from dragonfly_executor.protocol.parent import VARIABLE
from dragonfly_executor.runner import exit_codes
from tests.engine.conftest import MakeExecutor, MakePool
from tests.processes.dialback.conftest import Receive
from tests.support.census import Census
from tests.support.dialback import DialingBackend, EmptyNodeBackend, dial, runner_of, spellings
from tests.support.helpers import PATIENCE, Events, Gate, Mailbox, error_of, values
from tests.support.payloads import echo, hold

CANARY = "ca" * 32
PARENT = Parent("pool", 1, "held", 1, "host", 1, "127.0.0.1:1", "f0" * 32, CANARY)


class Listening(DialingBackend):
    """Remembers the tokens."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.tokens: list[str] = []

    def boot(self, request: BootRequest) -> Node:
        assert request.parent.token is not None
        self.tokens.append(request.parent.token)
        return super().boot(request)


def test_a_token_is_in_no_command_line_and_no_environment_of_a_runner_that_is_up(
    make: MakeExecutor, mailbox: Mailbox, gate: Gate, census: Census
) -> None:
    """Of agents, slots and the parent; as the kernel shows them, and as calls see them."""
    backend = Listening()
    executor = make(2, backend=backend)
    futures = [executor.submit(hold, mailbox.path, gate.path) for _ in range(2)]
    mailbox.numbers(2)
    (token,) = backend.tokens
    processes = [process.pid for process in census.processes()]
    assert len(processes) == 3
    for pid in [*processes, os.getpid()]:
        for name in ("cmdline", "environ"):
            content = Path(f"/proc/{pid}/{name}").read_bytes()
            for secret in spellings(token):
                assert secret not in content, name
    gate.open(2)
    values(futures)
    seen = executor.submit(eval, "dict(__import__('os').environ)").result(PATIENCE)
    described = json.loads(base64.urlsafe_b64decode(seen[VARIABLE]))
    assert described.keys() == {
        "pool",
        "runner_id",
        "backend",
        "pid",
        "host",
        "depth",
        "address",
        "fingerprint",
        "slot",
    }
    assert token not in repr(seen)


def test_the_spellings_are_those_of_an_encoded_parent() -> None:
    """Otherwise the test above would look for nothing."""
    encoded = PARENT.encode().encode()
    assert any(secret in encoded for secret in spellings(CANARY))


def test_a_parent_shows_everything_but_its_token() -> None:
    for shown in (repr(PARENT), str(PARENT), f"{PARENT}", repr([PARENT]), repr(BootRequest(1, PARENT, 1.0))):
        assert CANARY not in shown
        assert "f0f0" in shown
        assert "token='...'" in shown


def test_a_parent_travels_whole() -> None:
    """What is hidden from the eye is there."""
    assert Parent.decode(PARENT.encode()) == PARENT
    assert copy.copy(PARENT).token == pickle.loads(pickle.dumps(PARENT)).token == CANARY


def test_a_parent_without_a_door_is_described_as_ever() -> None:
    assert repr(PARENT._replace(address=None, fingerprint=None, token=None)) == (
        "Parent(pool='pool', runner_id=1, backend='held', pid=1, host='host', depth=1)"
    )


def test_what_is_told_shown_and_raised_holds_no_token(make_pool: MakePool, caplog: pytest.LogCaptureFixture) -> None:
    """Log lines at DEBUG, events, stats, reprs and errors: of a boot that works, and of one that does not."""
    caplog.set_level(logging.DEBUG)
    events, backend = Events(), EmptyNodeBackend()
    pool = make_pool(backend=backend, log="debug", on_event=events, boot_timeout=1.0, max_boot_failures=1)
    failed = pool.submit(echo, 1)
    unlucky = backend.expected()
    impostor = dial(unlucky, token=os.urandom(32))
    with pytest.raises(Exception, match="does not expect") as caught:
        impostor.go()
    impostor.sock.close()
    error = error_of(failed)
    pieces: list[Any] = [pool, pool.stats(), error, shown(error), shown(caught.value), vars(impostor.side)]
    del pieces[-1]["_token"]
    good = pool.submit(echo, 2)
    lucky = backend.expected()
    with runner_of(lucky):
        assert good.result(PATIENCE) == 2
        pieces += [pool.stats(), good, events.wait("boot failed"), events.wait("up")]
        pool.shutdown()
    pieces += [record.getMessage() + str(record.args) for record in caplog.records]
    assert [piece for piece in pieces if "RunnerAuthError" in repr(piece)]
    for parent in (unlucky, lucky):
        assert parent.token is not None
        assert not [piece for piece in pieces if parent.token in repr(piece)]
        assert not [piece for piece in pieces if repr(bytes.fromhex(parent.token)) in repr(piece)]


def shown(error: BaseException) -> str:
    return repr(error) + str(error) + repr(vars(error)) + "".join(traceback.format_exception(error))


def test_what_a_runner_prints_when_it_fails_holds_no_token(receive: Receive, capfd: pytest.CaptureFixture[str]) -> None:
    parent = receive().expect()
    assert parent.token is not None
    for wrong, status in (
        (parent._replace(runner_id=2), exit_codes.REFUSED),
        (parent._replace(fingerprint="00" * 32), exit_codes.UNREACHABLE),
        (parent._replace(address="x"), 1),
    ):
        with runner_of(wrong, "--failsafe", "0.2") as process:
            assert process.wait(PATIENCE) == status
    said = capfd.readouterr().err
    assert said.count("dragonfly runner: ") == 3
    assert parent.token not in said
    assert parent.encode() not in said
