"""A bug in the engine, wherever it is: nobody waits for ever, no runner stays, and everybody is told.

One story in which each part of the engine has its turn is told again and again. Each time another part raises.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from dragonfly_executor import DragonflyExecutor, LocalBackend, PoolBrokenError
from dragonfly_executor.core import events
from dragonfly_executor.core.facts import RECORD
from dragonfly_executor.core.machine import Machine
from dragonfly_executor.engine import Engine
from dragonfly_executor.runner_link import RunnerLink
from dragonfly_executor.runners import Runners
from dragonfly_executor.testing import FakeBackend, VirtualClock
from dragonfly_executor.transport.link import Link
from dragonfly_executor.transport.loop import Loop
from tests.payloads import agent_pid, echo, hold_for_good
from tests.pool.conftest import MakeExecutor
from tests.support import PATIENCE, Mailbox, all_ended, error_of, watching


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
        self._changed = threading.Condition()
        self._told: list[str] = []
        self.release = threading.Event()
        self.executor = DragonflyExecutor(
            max=2,
            max_concurrency=1,
            backend=self.backend,
            heartbeat=5,
            idle_shutdown_after=(20, bool_of_one),
            boot_wait=lambda state: 1.0,
            on_event=lambda event: self._tell(event["event"]),
        )
        self._engine = self.executor.pool._engine

    def _tell(self, what: str) -> None:
        with self._changed:
            self._told.append(what)
            self._changed.notify_all()

    def submit(self, fn: Callable[..., Any], *args: Any, **options: Any) -> Future[Any]:
        try:
            future = self.executor.options(**options).submit(fn, *args)
        except PoolBrokenError as error:
            future = Future()
            future.set_exception(error)
        self.futures.append(future)
        future.add_done_callback(lambda future: self._tell("done"))
        return future

    def until(self, what: str, count: int) -> None:
        """So many of this have been told, or the engine has ended."""
        watch = threading.Thread(target=self._tell_of_the_end)
        watch.start()
        with self._changed:
            assert self._changed.wait_for(lambda: self._told.count(what) >= count or "end" in self._told, PATIENCE)

    def _tell_of_the_end(self) -> None:
        thread = self._engine._thread
        assert thread is not None
        with self._changed:
            waiting = "end" not in self._told
        if waiting and not thread.is_alive():
            self._tell("end")

    def tell(self) -> None:
        """From the first call to the last runner's end."""
        held = [self.submit(wait_in, self) for _ in range(2)]
        self.until("started", 2)
        late = self.submit(echo, "late", queue_timeout=3)
        self.clock.advance(4)
        self._end_of(late)
        self.submit(echo, "waits")
        held[0].cancel()
        self._end_of(self.futures[-1])
        self._end_of(self.submit(echo, bytes(300_000)))
        for node in self.backend.nodes[1:2]:
            node.kill()
        self._end_of(held[1])
        self.clock.advance(6)
        self._end_of(self.submit(echo, "again"))
        self.clock.advance(21)
        self.until("down", 2)
        self.executor.shutdown()

    def _end_of(self, future: Future[Any]) -> None:
        with self._changed:
            assert self._changed.wait_for(future.done, PATIENCE), self._told
