"""A bug in the engine, wherever it is: nobody waits for ever, no runner stays, and everybody is told.

One story in which each part of the engine has its turn is told again and again. Each time another part raises.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from typing import Any
from unittest.mock import Mock

import pytest

from dragonfly_executor import BootRequest, DragonflyExecutor, Parent, PoolBrokenError
from dragonfly_executor.core import events
from dragonfly_executor.core.machine import Machine
from dragonfly_executor.core.transitions import TRANSITIONS
from dragonfly_executor.engine import core_driver
from dragonfly_executor.engine.action_runner import ActionRunner
from dragonfly_executor.engine.boot.boot_table import BootTable
from dragonfly_executor.engine.boot.node_booter import NodeBooter
from dragonfly_executor.engine.boot.node_release import NodeReleaser
from dragonfly_executor.engine.boot.pending_boot import PendingBoot
from dragonfly_executor.engine.boot.session_setup import SessionSetup
from dragonfly_executor.engine.core_driver import CoreDriver
from dragonfly_executor.engine.core_timer import CoreTimer
from dragonfly_executor.engine.engine import Engine
from dragonfly_executor.engine.frame_handler import FrameHandler
from dragonfly_executor.engine.large_payloads import LargePayloads
from dragonfly_executor.engine.runner_connection import RunnerLink
from dragonfly_executor.engine.runner_links import RunnerLinks
from dragonfly_executor.testing import FakeBackend, FakeRunner, VirtualClock
from dragonfly_executor.transport.link import Link
from dragonfly_executor.transport.loop import Loop
from tests.engine.conftest import MakeExecutor
from tests.support.helpers import PATIENCE, Gate, Mailbox, all_ended, error_of, watching
from tests.support.payloads import agent_pid, echo, hold_for_good, wait_at


class Bug(Exception):
    """What is injected."""


class Fuse:
    """Stands before a function, and raises the first time, or the one that is said."""

    def __init__(self, function: Callable[..., Any], after: int = 0, error: BaseException | None = None) -> None:
        self._function = function
        self._left = after
        self._error = error or Bug("injected")
        self.blown = threading.Event()

    def __get__(self, instance: object, owner: type) -> Callable[..., Any]:
        return lambda *args, **kwargs: self(instance, *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.blown.is_set():
            if self._left == 0:
                self.blown.set()
                raise self._error
            self._left -= 1
        return self._function(*args, **kwargs)


class Story:
    """An executor on fake runners, of which everything is asked that there is."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.backend = FakeBackend(clock=self.clock)
        self.futures: list[Future[Any]] = []
        self.release = threading.Event()
        self.release_one = threading.Event()
        self.executor = DragonflyExecutor(
            max=2,
            max_concurrency=1,
            backend=self.backend,
            heartbeat=5,
            idle_shutdown_after=(20, agree),
            on_event=lambda event: self.note(event["event"]),
        )
        self._changed = threading.Condition()
        self._notes: list[str] = []
        self._watcher = threading.Thread(target=self._note_the_end)

    def begin(self) -> list[Future[Any]]:
        """Two calls that run, each on its runner."""
        telling[:] = [self]
        held = [self.submit(hold_here) for _ in range(2)]
        self._watcher.start()
        self._until("started", 2)
        self._until("up", 2)
        return held

    def tell(self) -> None:
        """From the first call to the end of the last runner."""
        held = self.begin()
        late = self.submit(echo, "late", queue_timeout=3)
        self.clock.advance(4)
        self._end_of(late)
        waiting = self.submit(echo, "waits for a slot")
        held[0].cancel()
        self._end_of(waiting)
        self._end_of(self.submit(echo, bytes(300_000)))
        alone = self.submit(hold_here, True)
        self._until("started", 3)
        # What it has said so far is read now, so that its result comes by itself.
        self.clock.advance(0)
        self.release_one.set()
        self._end_of(alone)
        for node in self.backend.running:
            node.kill()
        self._end_of(held[1])
        self.clock.advance(6)
        self._end_of(self.submit(echo, "on a new runner"))
        self.clock.advance(21)
        self._until("down", 3)
        self.executor.shutdown()

    def end(self) -> None:
        """Nobody waits for anything, and nothing is left; the census around the test looks, too."""
        self.executor.kill_workers()
        self.executor.shutdown()
        if self._watcher.ident is not None:
            self._watcher.join(PATIENCE)
        self.release.set()
        self.release_one.set()
        assert not self._watcher.is_alive()
        assert all(future.done() for future in self.futures)
        assert self.backend.running == []
        for node in self.backend.nodes:
            node.agent.join()

    def note(self, what: str) -> None:
        with self._changed:
            self._notes.append(what)
            self._changed.notify_all()

    def _note_the_end(self) -> None:
        thread = self.executor.pool._engine._thread
        if thread is not None:
            thread.join()
        self.note("end")

    def submit(self, fn: Callable[..., Any], *args: Any, **options: Any) -> Future[Any]:
        try:
            future = self.executor.options(**options).submit(fn, *args)
        except PoolBrokenError as error:
            future = Future()
            future.set_exception(error)
        self.futures.append(future)
        return future

    def _until(self, what: str, count: int) -> None:
        with self._changed:
            done = self._changed.wait_for(lambda: self._notes.count(what) >= count or "end" in self._notes, PATIENCE)
        assert done, self._notes

    def _end_of(self, future: Future[Any]) -> None:
        assert future in wait([future], PATIENCE).done, self._notes


telling: list[Story] = []


def hold_here(one: bool = False) -> None:
    """Runs in this process, on a fake runner."""
    (story,) = telling
    story.note("started")
    (story.release_one if one else story.release).wait()


def agree() -> bool:
    return True


@pytest.fixture
def story() -> Iterator[Story]:
    story = Story()
    yield story
    story.end()


def test_the_story_ends_well_where_nothing_is_broken(story: Story) -> None:
    story.tell()
    outcomes = [future.exception() if not future.cancelled() else "cancelled" for future in story.futures]
    assert [type(outcome).__name__ for outcome in outcomes] == [
        "str", "RunnerLostError", "CallTimeoutError", "NoneType", "NoneType", "NoneType", "NoneType",
    ]  # fmt: skip
    stats = story.executor.pool.stats()
    assert (stats.calls_cancelled, stats.calls_timed_out, stats.calls_failed, stats.calls_done) == (1, 1, 1, 4)


PARTS: list[tuple[Any, str]] = [
    (Engine, "_take_inbox"),
    (CoreDriver, "handle"),
    *((CoreTimer, name) for name in ("arm", "_tick")),
    *((ActionRunner, name) for name in ("_send", "_kill", "_boot", "_stop", "_check_idle", "_closed")),
    (core_driver, "settle"),
    *((BootTable, name) for name in ("boot", "boot_began", "boot_succeeded")),
    *((PendingBoot, name) for name in (
        "start", "listener_opened", "thread_started", "node_arrived", "said_hello", "_came_up", "_clock_changed",
    )),
    (NodeBooter, "_hand_over"),
    (SessionSetup, "admit"),
    *((RunnerLinks, name) for name in (
        "on_boot_succeeded", "runner_answered",
        "runner_broke", "start_heartbeat", "_beat", "stop", "_on_bye", "_leave", "_gone", "get",
    )),
    (NodeReleaser, "release"),
    *((RunnerLink, name) for name in (
        "attach", "welcome", "send_call", "kill_call", "check_idle", "ping", "stop", "close", "say", "_on_frames",
        "_on_first_frame", "_on_closed",
    )),
    (FrameHandler, "on_frame"),
    *((LargePayloads, name) for name in (
        "offer", "upload", "stop_upload", "expect", "chunk_arrived", "forget", "close",
    )),
    *((Link, name) for name in ("_read", "flush", "send", "send_bulk", "end_handshake", "close")),
    *((Loop, name) for name in ("call_soon", "call_later", "call_at")),
    (Machine, "handle"),
    (Machine, "deadline"),
]  # fmt: skip


ONCE_OR_TWICE = {
    "_tick", "_kill", "_check_idle", "_closed", "check_idle", "runner_broke", "_beat", "_on_bye",
    "_leave", "kill_call", "upload", "_on_closed", "offer", "stop_upload", "expect", "forget",
}  # fmt: skip
"""Parts that have their turn less than three times."""


@pytest.mark.parametrize(
    ("owner", "name", "after"),
    [
        (owner, name, after)
        for owner, name in PARTS
        for after in (0, 2)
        if not (after and (name in ONCE_OR_TWICE or (owner, name) == (RunnerLink, "stop")))
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_bug_in_any_part_fails_every_call_and_ends_every_runner(
    story: Story, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, after: int
) -> None:
    """Checklist 66: the first time that the part has its turn, or the third."""
    fuse = Fuse(getattr(owner, name), after)
    monkeypatch.setattr(owner, name, fuse)
    story.tell()
    assert fuse.blown.is_set(), f"{name} has no such turn in the story"
    with pytest.raises(PoolBrokenError, match=r"engine failed, which is a bug: Bug\('injected'\)") as caught:
        story.executor.submit(echo, 1)
    assert isinstance(caught.value.__cause__, Bug)


EVENTS: list[object] = [
    events.Submitted([]),
    events.ArgumentsReady(1),
    events.ArgumentsFailed(1, ValueError("no value")),
    events.CancelRequested([1]),
    events.BootSucceeded(1, 1),
    events.BootStarted(1),
    events.BootQueued(1),
    events.BootReturned(1),
    events.BootFailed(1, OSError(), 0.0),
    events.BootReassigned(1, "other", OSError(), 0.0),
    events.RunnerLost(1, OSError()),
    events.RunnerLeaving(1),
    events.RunnerEnding(1, 9.0, "its platform"),
    events.RunnerGone(1),
    events.CallsStarted(1, []),
    events.CallsWait(1, []),
    events.ChildrenSubmitted([]),
    events.ResultsArrived(1, []),
    events.CallsReturned(1, []),
    events.CallLost(1, 1, 1, OSError(), True),
    events.CallTimedOut(1, 1, 1),
    events.CallGone(1, 1, 1),
    events.RoundTrip(1, 0.1),
    events.PoolBroke(OSError()),
    events.IdleChecked(1, True),
    events.Resized(0, 1),
    events.ShutdownRequested(events.ShutdownMode.KILL),
    events.Tick(),
]


def test_there_is_one_of_each_event_here() -> None:
    assert {type(event) for event in EVENTS} == set(TRANSITIONS)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_a_bug_in_the_core_fails_every_call_and_ends_every_runner(
    story: Story, monkeypatch: pytest.MonkeyPatch, event: object
) -> None:
    """Checklist 66: whatever event the core fails at, with calls that run and calls that wait."""
    futures = [*story.begin(), *(story.submit(echo, number) for number in range(5))]
    monkeypatch.setitem(TRANSITIONS, type(event), Fuse(TRANSITIONS[type(event)]))
    story.executor.pool._engine.post(event)
    for future in futures:
        assert isinstance(error_of(future), PoolBrokenError)
    with pytest.raises(PoolBrokenError, match="injected"):
        story.executor.submit(echo, 1)


@pytest.mark.parametrize("event", [events.Tick(), events.RunnerLost(1, OSError())], ids=["tick", "loss"])
def test_a_bug_ends_the_tasks_that_await_calls(
    make: MakeExecutor, monkeypatch: pytest.MonkeyPatch, gate: Gate, event: object
) -> None:
    """Nothing is left that could wake them later."""
    executor = make(1, backend=FakeBackend())

    async def take_all(ordered: bool) -> None:
        async for _ in executor.amap(wait_at, [gate.path], ordered=ordered):
            pass

    async def main() -> list[object]:
        tasks = [asyncio.ensure_future(executor.acall(wait_at, gate.path)) for _ in range(3)]
        tasks += [asyncio.ensure_future(take_all(ordered)) for ordered in (True, False)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        monkeypatch.setitem(TRANSITIONS, type(event), Fuse(TRANSITIONS[type(event)]))
        executor.pool._engine.post(event)
        return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), PATIENCE)

    try:
        assert [type(end) for end in asyncio.run(main())] == [PoolBrokenError] * 5
    finally:
        gate.open(5)


@pytest.mark.parametrize("error", [MemoryError(), SystemExit(3), KeyboardInterrupt(), RecursionError()], ids=repr)
def test_real_runners_go_whatever_the_bug_is(
    make: MakeExecutor, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """Checklist 66: agents, slots, and what runs there."""
    executor = make(2, heartbeat=0.05)
    agent = executor.submit(agent_pid).result(PATIENCE)
    futures = [executor.submit(hold_for_good, mailbox.path) for _ in range(2)]
    with watching(agent, *mailbox.numbers(2)) as watches:
        monkeypatch.setattr(RunnerLinks, "_beat", Fuse(RunnerLinks._beat, 0, error))
        for future in futures:
            caught = error_of(future)
            assert isinstance(caught, PoolBrokenError)
            assert caught.__cause__ is error
        assert all_ended(watches)
    executor.shutdown()


def test_a_node_that_boots_while_the_engine_fails_is_given_back(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checklist 66: the backend comes back with it when nobody is there to take it."""
    hold = threading.Event()
    backend = FakeBackend(FakeRunner(), FakeRunner(hold=hold))
    executor = DragonflyExecutor(backend=backend, max=2, max_concurrency=1)
    futures = [executor.submit(echo, number) for number in range(2)]
    futures[0].result(PATIENCE)
    second = executor.submit(echo, 1)
    monkeypatch.setattr(Machine, "handle", Fuse(Machine.handle))
    executor.pool.resize(max=3)
    with contextlib.suppress(PoolBrokenError):
        second.result(PATIENCE)
    hold.set()
    executor.shutdown()
    assert backend.running == []


def test_a_node_that_boots_as_its_pool_closes_is_given_back_once() -> None:
    """Its boot was given up. What the engine was to be told of it may come after all is closed, in the same pass."""
    told: list[Callable[[], object]] = []
    loop = Loop()
    loop.call_soon_threadsafe = told.append  # type: ignore[method-assign]
    backend, receiver = FakeBackend(), Mock()
    node_booter = NodeBooter(backend, None, loop)
    node_booter.boot(BootRequest(1, Parent.new("test", 1, "fake"), PATIENCE), receiver)
    untaken = node_booter.close()
    for callback in told:
        callback()
    assert len(untaken) == 1
    receiver.thread_started.assert_called_once_with()
    receiver.node_arrived.assert_not_called()
    receiver.backend_raised.assert_not_called()
    untaken[0].stop()
    loop.close()
    assert backend.running == []


def test_what_is_logged_says_that_it_is_a_bug(
    story: Story, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Checklist 66: even where nobody waits for a result."""
    monkeypatch.setattr(ActionRunner, "_closed", Fuse(ActionRunner._closed))
    with DragonflyExecutor(backend=FakeBackend()) as executor:
        executor.submit(echo, 1).result(PATIENCE)
    assert "the pool's engine failed, which is a bug: Bug('injected')" in caplog.text
