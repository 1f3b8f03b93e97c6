"""What a pool tells about its calls: the events of `on_call`, of observers and in the log.

On fake runners, which report the start of every call.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import BootError, pools
from dragonfly_executor.engine.observing import call_events
from dragonfly_executor.testing import FakeBackend
from tests.engine.conftest import MakeExecutor, MakePool
from tests.support.helpers import PATIENCE, Gate, becomes_true, error_of, values
from tests.support.payloads import echo, fail, wait_at

Event = Mapping[str, Any]


def told(events: list[Event], call_id: int | None = None) -> list[str]:
    return [event["event"] for event in events if call_id in (None, event.get("call_id"))]


def test_each_call_is_told_from_its_submit_to_its_end(make_pool: MakePool) -> None:
    events: list[Event] = []
    pool = make_pool("told", backend=FakeBackend(), on_call=events.append)
    good, bad = pool.submit(echo, 1), pool.submit(partial(fail, KeyError("no")))
    assert good.result(PATIENCE) == 1
    assert isinstance(error_of(bad), KeyError)
    pool.shutdown()
    assert good.call is not None
    assert bad.call is not None
    assert told(events, good.call.id) == ["call submitted", "call sent", "call started", "call done"]
    assert told(events, bad.call.id) == ["call submitted", "call sent", "call started", "call failed"]
    last = next(event for event in events if event["event"] == "call done")
    assert (last["name"], last["pid"], last["function"], last["attempt"]) == ("told", os.getpid(), "echo", 1)
    assert last["runner_id"] == 1
    assert last["result_bytes"] > 0
    assert 0 <= last["run_seconds"] <= last["seconds"]
    failed = next(event for event in events if event["event"] == "call failed")
    assert (failed["kind"], failed["error"], failed["function"]) == ("raised", "KeyError", "fail")
    times = [event["time"] for event in events]
    assert times == sorted(times)


def test_failures_have_kinds_and_a_cancel_is_told(make_pool: MakePool, gate: Gate) -> None:
    events: list[Event] = []
    failing = FakeBackend()
    failing.fail_next_boot()
    broken = make_pool(backend=failing, on_call=events.append, max_boot_failures=1)
    assert isinstance(error_of(broken.submit(echo, 1)), BootError)
    broken.shutdown()
    assert [(event["kind"], event["error"]) for event in events if event["event"] == "call failed"] == [
        ("boot", "BootError")
    ]
    events.clear()
    pool = make_pool(backend=FakeBackend(), on_call=events.append, max_concurrency=1)
    running, waiting = pool.submit(wait_at, gate.path), pool.submit(echo, 1)
    assert waiting.cancel()
    gate.open()
    running.result(PATIENCE)
    pool.shutdown()
    assert waiting.call is not None
    assert told(events, waiting.call.id)[-1] == "call cancelled"


def test_the_calls_of_a_map_have_the_name_of_its_function(make_pool: MakePool) -> None:
    events: list[Event] = []
    pool = make_pool(backend=FakeBackend(), on_call=events.append)
    assert list(pool.map(echo, range(4))) == [0, 1, 2, 3]
    assert list(pool.map(echo, range(4), chunksize=2)) == [0, 1, 2, 3]
    pool.shutdown()
    assert told(events).count("call done") == 6
    assert {event["function"] for event in events} == {"echo"}


def test_observers_hear_of_runners_and_calls_and_disturb_nobody(
    make_pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[Event] = []

    def fails(event: Event) -> None:
        raise ValueError("an observer's own")

    pool = make_pool(backend=FakeBackend(), observers=[fails, events.append])
    assert pool.call(echo, 1) == 1
    pool.shutdown()
    assert sorted(told(events)) == ["boot", "call done", "call sent", "call started", "call submitted", "down", "up"]
    assert all(event["time"] > 1e9 for event in events)
    assert any("exception in a callback" in record.getMessage() for record in caplog.records)


def test_events_that_nobody_takes_are_dropped_and_counted(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_events, "MOST_WAITING", 10)
    events: list[Event] = []
    first, go_on = threading.Event(), threading.Event()

    def slow(event: Event) -> None:
        events.append(event)
        first.set()
        go_on.wait(PATIENCE)

    pool = make_pool(backend=FakeBackend(), on_call=slow)
    pool.submit(echo, 0)
    assert first.wait(PATIENCE)
    values(pool.submit(echo, number) for number in range(50))
    go_on.set()
    noted = pool._engine._components.call_events
    assert noted is not None
    assert becomes_true(pool, lambda: noted._told == noted._noted)
    pool.call(echo, 1)
    pool.shutdown()
    (dropped,) = [event for event in events if event["event"] == "events dropped"]
    assert dropped["count"] + len(events) - 1 == 4 * 52


def test_a_pool_without_observers_notes_nothing(make_pool: MakePool) -> None:
    pool = make_pool(backend=FakeBackend(), on_event=lambda event: None)
    assert pool.call(echo, 1) == 1
    assert pool._engine._components.call_events is None


def test_events_are_logged_a_line_each(make_pool: MakePool, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for name in ("one", "two"):
        pool = make_pool(name, backend=FakeBackend(), log_events=path)
        pool.call(echo, 1)
        pool.shutdown()
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert [event["name"] for event in events] == ["one"] * 7 + ["two"] * 7
    assert {"boot", "up", "call submitted", "call sent", "call started", "call done", "down"} == set(told(events))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_costs_events_and_no_call(make_pool: MakePool, caplog: pytest.LogCaptureFixture) -> None:
    pool = make_pool(backend=FakeBackend(), log_events="/dev/full")
    with caplog.at_level(logging.WARNING):
        assert values(pool.submit(echo, number) for number in range(10)) == list(range(10))
        pool.shutdown()
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "the event log /dev/full cannot be written, so events are dropped" in warning


def test_bad_hooks_and_paths_are_refused(make_pool: MakePool, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no folder for"):
        make_pool(log_events=tmp_path / "missing" / "events")
    with pytest.raises(ValueError, match="is a folder"):
        make_pool(log_events=tmp_path)
    with pytest.raises(TypeError, match="must be the path of a file"):
        make_pool(log_events=7)
    with pytest.raises(TypeError, match="observers must be a callable, or a list of callables"):
        make_pool(observers=[print, 7])


def test_pools_are_those_that_have_not_ended(make: MakeExecutor, make_pool: MakePool) -> None:
    before = pools()
    pool, executor = make_pool(backend=FakeBackend()), make(backend=FakeBackend())
    assert pools() == [*before, pool, executor.pool]
    pool.shutdown()
    assert pools() == [*before, executor.pool]
    executor.submit(echo, 1).result(PATIENCE)
    executor.shutdown()
    assert pools() == before
