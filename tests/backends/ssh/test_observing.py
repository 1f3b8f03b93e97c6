"""A pool whose runner is on an SSH host, as it is seen from here: status, events, the source of errors."""

from __future__ import annotations

import linecache
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor.engine.observing import runtime_directory
from tests.backends.ssh.calls import hold
from tests.backends.ssh.conftest import Make, MakeBackend
from tests.processes.observing.test_status import STATUS, only
from tests.support.helpers import Gate, Mailbox, becomes_true, error_of
from tests.support.sshd.faults import FaultyConnection

CELL = "<a cell on this side>"
NAME = "hold.<locals>.call"
SOURCE = "def fails():\n    return [1][7]\n"


def test_a_call_on_a_host_is_seen_from_here(
    way: FaultyConnection,
    make_backend: MakeBackend,
    make: Make,
    mailbox: Mailbox,
    gate: Gate,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(runtime_directory.VARIABLE, str(tmp_path / "run"))
    monkeypatch.setitem(linecache.cache, CELL, (len(SOURCE), None, SOURCE.splitlines(keepends=True), CELL))
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(SOURCE, CELL, "exec"), namespace)
    events: list[Mapping[str, Any]] = []
    executor = make(make_backend(way), on_call=events.append)
    future = executor.submit(hold(mailbox.path, gate.path))
    mailbox.read()
    address = only(executor.pool)
    assert becomes_true(executor.pool, lambda: executor.pool.stats().calls_running == 1)
    report = address.ask(STATUS)
    (runner,), (call,) = report["runners"], report["calls"]
    assert (report["backend"], runner["state"], call["function"], call["runner"]) == ("ssh", "up", NAME, 1)
    assert runner["host"]
    assert call["slot"] is not None
    text = str(error_of(executor.submit(namespace["fails"])).__cause__)
    assert f'  File "{CELL}", line 2, in fails\n    return [1][7]\n' in text
    gate.open()
    future.result()
    executor.shutdown()
    held = [event for event in events if event["function"] == NAME]
    assert [event["event"] for event in held] == ["call submitted", "call sent", "call started", "call done"]
    assert held[2]["slot"] == call["slot"]
