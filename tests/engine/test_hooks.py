"""What a pool tells about itself: hooks, events, log lines. On fake runners, by a clock that the test moves."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import pytest

from dragonfly_executor import BootError, DragonflyExecutor
from dragonfly_executor.testing import FakeBackend, FakeRunner, VirtualClock
from tests.engine.conftest import MakePool
from tests.support.helpers import PATIENCE, Events, error_of
from tests.support.payloads import echo


class Hooks:
    """Writes down which hook was called with what."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.started = threading.Event()

    def options(self) -> dict[str, Any]:
        return {
            "on_grow_start": lambda facts: (self.told.append(("start", facts["count"])), self.started.set()),
            "on_grow_end": lambda result, facts: self.told.append(("end", result, facts["count"])),
            "on_shrink": lambda facts: self.told.append(("shrink", facts["count"])),
        }


def test_hooks_hear_of_growth_above_min_and_of_every_runner_that_goes(make_pool: MakePool) -> None:
    """Design §4: on_grow_start, on_grow_end, on_shrink."""
    hooks, clock = Hooks(), VirtualClock()
    gone = threading.Event()
    pool = make_pool(
        min=1, max=2, max_concurrency=1, idle_shutdown_after=30, backend=FakeBackend(clock=clock), **hooks.options()
    )
    assert pool.call(echo, 1) == 1
    assert hooks.told == []
    blocked = threading.Event()
    futures = [pool.submit(_wait_for, number) for number in _events(blocked, gone)]
    assert gone.wait(PATIENCE)
    blocked.set()
    for future in futures:
        future.result(PATIENCE)
    clock.advance(31)
    pool.shutdown()
    assert hooks.told == [("start", 2), ("end", "ok", 2), ("shrink", 1), ("shrink", 0)]


waits: dict[int, tuple[threading.Event, threading.Event]] = {}


def _events(blocked: threading.Event, second: threading.Event) -> Iterator[int]:
    """Numbers for two calls that wait; the second one says that it runs."""
    for number, started in enumerate((threading.Event(), second)):
        waits[number] = (started, blocked)
        yield number


def _wait_for(number: int) -> None:
    started, blocked = waits[number]
    started.set()
    blocked.wait()


def test_hooks_get_the_pools_name_the_count_and_the_parents_pid(make_pool: MakePool) -> None:
    """Design §4: Dragonfly's mapping."""
    facts: list[Any] = []
    pool = make_pool("named", backend=FakeBackend(), on_grow_start=facts.append)
    pool.call(echo, 1)
    pool.shutdown()
    assert facts == [{"name": "named", "count": 1, "pid": os.getpid()}]


def test_each_start_of_growth_has_an_end_when_boots_fail(make_pool: MakePool) -> None:
    """Design §4: on_grow_end is told the error."""
    hooks = Hooks()
    broken = FakeRunner(error=OSError("no capacity"))
    pool = make_pool(
        backend=FakeBackend(broken, broken), boot_wait=lambda state: 0.0, max_boot_failures=5, **hooks.options()
    )
    pool.call(echo, 1)
    pool.shutdown()
    assert [entry[0] for entry in hooks.told] == ["start", "end"] * 3 + ["shrink"]
    first, second, third = (entry[1] for entry in hooks.told if entry[0] == "end")
    assert isinstance(first, BootError)
    assert isinstance(second, BootError)
    assert "no capacity" in str(first)
    assert third == "ok"


def test_each_start_of_growth_has_an_end_when_a_boot_is_given_up(make_pool: MakePool) -> None:
    """Design §4: nobody needs the runner any more while it boots."""
    hooks = Hooks()
    pool = make_pool(backend=FakeBackend(FakeRunner(silent=True)), **hooks.options())
    future = pool.submit(echo, 1)
    # One that is given up before it begins leaves no trace.
    assert hooks.started.wait(PATIENCE)
    future.cancel()
    pool.shutdown()
    (start, end) = hooks.told
    assert start == ("start", 1)
    assert end[0] == "end"
    assert isinstance(end[1], BootError)
    assert "given up" in str(end[1])


@pytest.mark.parametrize("error", [ValueError("in a hook"), SystemExit(3), KeyboardInterrupt()])
def test_a_hook_that_raises_is_logged_and_disturbs_nothing(
    make_pool: MakePool, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    """Design §5: hooks are the user's code."""

    def hook(*_facts: object) -> None:
        raise error

    pool = make_pool(backend=FakeBackend(), on_grow_start=hook, on_grow_end=hook, on_shrink=hook, on_event=hook)
    assert pool.call(echo, 1) == 1
    assert pool.call(echo, 2) == 2
    pool.shutdown()
    records = [record for record in caplog.records if "exception in a callback" in record.message]
    # Three hooks, and three events: the boot, its end, the runner that goes.
    assert len(records) == 6
    assert all(record.exc_info and record.exc_info[1] is error for record in records)


def test_events_tell_the_life_of_each_runner(make_pool: MakePool) -> None:
    """As events to hooks."""
    events = Events()
    broken = FakeRunner(error=OSError("no capacity"))
    backend = FakeBackend(broken, FakeRunner(dies_after=1))
    pool = make_pool("lives", backend=backend, boot_wait=lambda state: 0.0, on_event=events)
    assert pool.call(echo, 1) == 1
    error_of(pool.submit(echo, 2))
    pool.shutdown()
    told = [events.wait(what) for what in ("boot", "boot failed", "boot", "up", "down")]
    assert [event["runner_id"] for event in told] == [1, 1, 2, 2, 2]
    assert "no capacity" in told[1]["text"]
    assert told[4]["text"] == "runner 2 is down: lost"
    assert {event["name"] for event in told} == {"lives"}


@pytest.mark.parametrize(("log", "level"), [(True, "INFO"), ("debug", "DEBUG"), (logging.WARNING, "WARNING")])
def test_log_lines_tell_the_same_at_the_level_that_was_asked_for(
    make_pool: MakePool, caplog: pytest.LogCaptureFixture, log: Any, level: str
) -> None:
    """Design §4: log."""
    caplog.set_level(logging.DEBUG, "dragonfly_executor")
    pool = make_pool("logged", max=3, backend=FakeBackend(), log=log)
    pool.call(echo, 1)
    pool.shutdown()
    records = [record for record in caplog.records if record.name == "dragonfly_executor"]
    assert {record.levelname for record in records} == {level}
    texts = [record.getMessage() for record in records]
    assert texts[0] == "pool logged: boots runner 1 (1 of 3 runners)"
    assert texts[1].startswith("pool logged: runner 1 is up after ")
    assert texts[2] == "pool logged: runner 1 is down: shutdown (0 of 3 runners)"


def test_log_lines_name_the_bounds_as_they_are_after_a_resize(
    make_pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "dragonfly_executor")
    pool = make_pool(max=1, backend=FakeBackend(), log=True)
    pool.resize(max=7)
    pool.call(echo, 1)
    pool.shutdown()
    assert len(caplog.records) == 3
    assert all("of 7 runners" in record.getMessage() for record in caplog.records)


def test_a_pool_that_is_not_asked_to_log_says_nothing(make_pool: MakePool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    pool = make_pool(backend=FakeBackend())
    pool.call(echo, 1)
    pool.shutdown()
    assert caplog.records == []


class RaisingHandler(logging.Handler):
    """As a program's own may be, and as logging's is once stderr is closed."""

    def emit(self, record: logging.LogRecord) -> None:
        raise ValueError("I/O operation on closed file")


def test_a_log_handler_that_raises_stops_no_callback() -> None:
    logger, handler = logging.getLogger("dragonfly_executor"), RaisingHandler()
    told: SimpleQueue[object] = SimpleQueue()
    logger.addHandler(handler)
    try:
        with DragonflyExecutor(1, backend=FakeBackend()) as executor:
            for number in range(3):
                future = executor.submit(echo, number)
                future.add_done_callback(lambda _: 1 // 0)
                future.add_done_callback(lambda future: told.put(future.result()))
                assert future.result(PATIENCE) == number
                assert told.get(timeout=PATIENCE) == number
            executor.pool._engine._loop.call_soon_threadsafe(
                lambda: executor.pool._engine._components.notifications.log_error("on the engine thread")
            )
            assert executor.submit(echo, 4).result(PATIENCE) == 4
    finally:
        logger.removeHandler(handler)
