"""What a user hands to a call or a backend shows up nowhere else.

The canaries are looked for where anybody on the machine, or anybody who reads logs and tracebacks, can see.
"""

from __future__ import annotations

import base64
import json
import logging
import multiprocessing
import os
import threading
import traceback
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import DragonflyExecutor, LocalBackend
from tests.engine.conftest import MakeExecutor, MakePool
from tests.support.census import Census
from tests.support.helpers import PATIENCE, Events, Gate, Mailbox, error_of, values
from tests.support.payloads import echo, fail, hold, init_fails, kill_agent, leave

CANARY = "canary-1b7f0c55"


def hold_secret(mailbox: str, gate: str, *secrets: object, **more: object) -> str:
    return str(hold(mailbox, gate, CANARY))


def keep(*secrets: object) -> None:
    """An initializer."""


def test_arguments_and_results_are_in_no_command_line_and_no_environment(
    make: MakeExecutor, mailbox: Mailbox, gate: Gate, census: Census
) -> None:
    """Checklist 57: of agents, slots, and the parent itself."""
    executor = make(2, initializer=keep, initargs=(CANARY,))
    captured = CANARY
    futures = [
        executor.submit(hold_secret, mailbox.path, gate.path, CANARY, password=CANARY),
        executor.submit(lambda path, here: hold(path, here, captured), mailbox.path, gate.path),
    ]
    mailbox.numbers(2)
    processes = [process.pid for process in census.processes()]
    assert len(processes) == 3
    for pid in [*processes, os.getpid()]:
        for name in ("cmdline", "environ"):
            assert CANARY.encode() not in Path(f"/proc/{pid}/{name}").read_bytes(), name
    gate.open(2)
    assert values(futures) == [CANARY, CANARY]


def test_the_key_of_multiprocessing_travels_on_the_link_alone(
    make: MakeExecutor, mailbox: Mailbox, gate: Gate, census: Census
) -> None:
    """Checklist 57: with it one may run anything on multiprocessing's listeners."""
    key = bytes(multiprocessing.current_process().authkey)
    executor = make(1)
    future = executor.submit(hold, mailbox.path, gate.path)
    mailbox.numbers(1)
    for process in census.processes():
        for name in ("cmdline", "environ"):
            content = Path(f"/proc/{process.pid}/{name}").read_bytes()
            assert key not in content
            assert key.hex().encode() not in content
    gate.open()
    values([future])


def test_variables_for_runners_are_in_their_environment_alone(
    make: MakeExecutor, mailbox: Mailbox, gate: Gate, census: Census
) -> None:
    """Checklist 57: which only its owner can read, as a command line can be by anybody."""
    executor = make(1, backend=LocalBackend(env={"TOKEN": CANARY}))
    assert executor.submit(os.getenv, "TOKEN").result(PATIENCE) == CANARY
    future = executor.submit(hold, mailbox.path, gate.path)
    mailbox.numbers(1)
    for process in census.processes():
        assert CANARY.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
    assert CANARY.encode() not in Path(f"/proc/{os.getpid()}/environ").read_bytes()
    assert "TOKEN" not in os.environ
    gate.open()
    values([future])


def shown(error: BaseException) -> str:
    return repr(error) + str(error) + "".join(traceback.format_exception(error))


def test_what_is_told_shown_and_raised_holds_no_secret(
    make_pool: MakePool, mailbox: Mailbox, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """Checklist 57: log lines at DEBUG, events, stats, reprs, and every error that is not the user's own."""
    caplog.set_level(logging.DEBUG)
    events = Events()
    pool = make_pool(
        max_concurrency=1,
        log="debug",
        on_event=events,
        backend=LocalBackend(env={"TOKEN": CANARY}),
        initializer=keep,
        initargs=(CANARY,),
    )
    held = pool.submit(hold_secret, mailbox.path, gate.path, CANARY, password=CANARY)
    mailbox.numbers(1)
    pieces: list[Any] = [
        pool,
        DragonflyExecutor(pool=pool),
        pool._repr_html_(),
        pool._engine.tiers,
        held,
        pool.stats(),
        pool._engine._machine.unsettled(),
    ]
    gate.open()
    values([held])
    pieces.append(held)
    limited = pool.call_options.change({"timeout": 0.1})
    failures = [
        pool.submit(leave, 3),
        pool.submit_with(limited, hold_secret, (mailbox.path, gate.path, CANARY), {}),
        pool.submit(partial(kill_agent_with, CANARY)),
    ]
    pieces += [shown(error_of(future)) for future in failures]
    with pytest.raises(Exception, match="cannot be pickled") as caught:
        pool.submit(echo, CANARY, threading.Lock())
    pieces.append(shown(caught.value))
    pool.shutdown()
    with pytest.raises(RuntimeError, match="shutdown") as refused:
        pool.submit(echo, CANARY)
    pieces.append(shown(refused.value))
    pieces += [events.wait(what) for what in ("boot", "up", "down")]
    pieces += [record.getMessage() + str(record.args) for record in caplog.records]
    assert caplog.records
    assert not [piece for piece in pieces if CANARY in repr(piece)]


def kill_agent_with(secret: str) -> None:
    kill_agent()


def test_a_boot_that_fails_shows_no_secret(make: MakeExecutor, caplog: pytest.LogCaptureFixture) -> None:
    """Checklist 57: the command, the environment, the waiting call."""
    caplog.set_level(logging.DEBUG)
    backend = LocalBackend(python="/nowhere/python", env={"TOKEN": CANARY})
    executor = make(1, backend=backend, log="debug", boot_wait=lambda state: 0.0)
    error = error_of(executor.submit(echo, CANARY))
    executor.shutdown()
    assert CANARY not in shown(error) + repr(error.__dict__) + caplog.text + repr(executor.pool.stats())


def test_an_initializer_that_fails_shows_no_secret(make: MakeExecutor) -> None:
    """Checklist 57: initargs."""
    executor = make(1, initializer=partial(init_fails_with, CANARY), initargs=(CANARY,))
    assert CANARY not in shown(error_of(executor.submit(echo, CANARY)))


def init_fails_with(*secrets: str) -> None:
    init_fails()


def test_the_users_own_errors_are_the_users_own(make: MakeExecutor) -> None:
    """They come back whole, whatever they say."""
    assert CANARY in str(error_of(make(1).submit(fail, ValueError(CANARY))))


def test_what_describes_the_parent_holds_nothing_that_opens_doors(make: MakeExecutor) -> None:
    """Checklist 57: DRAGONFLY_PARENT can be read by every call, and is no key to anything."""
    encoded = make(1).submit(os.getenv, "DRAGONFLY_PARENT").result(PATIENCE)
    described = json.loads(base64.urlsafe_b64decode(encoded))
    assert described.keys() == {"pool", "runner_id", "backend", "pid", "host", "depth", "slot"}
