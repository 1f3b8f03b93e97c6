"""Stand-ins for what some upstream tests look at inside a `ProcessPoolExecutor`, so that they can look at ours."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
import traceback
import unittest
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil

from dragonfly_executor import DragonflyExecutor, Future
from dragonfly_executor.engine.engine import Engine
from dragonfly_executor.errors import RemoteTraceback

PATIENCE = 10.0  # seconds for a process to end, or for a number of processes to settle


class ShimmedExecutor(DragonflyExecutor):
    """The executor, with the private attributes of the other class that tests of the public contract read."""

    def __getattr__(self, name: str) -> Any:
        # Only asked for what the executor does not have itself.
        if name not in SHIMS:
            raise AttributeError(name)
        return SHIMS[name](self)


SHIMS = {
    "_broken": lambda executor: executor.pool._engine._failure is not None,
    "_call_queue": lambda executor: SimpleNamespace(join_thread=lambda: None),
    "_executor_manager_thread": lambda executor: executor.pool._engine._thread,
    "_max_workers": lambda executor: executor.pool._engine.options.max_workers,
    "_processes": lambda executor: Slots(),
}


class Slots:
    """The slot processes of this test's pools, as ``_processes`` shows the other class's: by process id."""

    def __len__(self) -> int:
        """How many there are once there are any and their number stands still: they start while the test goes on."""
        number, since, end = 0, 0.0, time.monotonic() + PATIENCE
        while (now := time.monotonic()) < end and not (number and now - since > 0.5):
            found = len(_slots())
            if found != number:
                number, since = found, now
            threading.Event().wait(0.02)
        return number

    def values(self) -> list[SimpleNamespace]:
        """Each of them, to be waited for; a process that stays is an error."""
        return [SimpleNamespace(join=lambda slot=slot: slot.wait(PATIENCE)) for slot in _slots()]


def _slots() -> list[psutil.Process]:
    found = []
    for agent in psutil.Process().children():
        try:
            found += agent.children()
        except psutil.NoSuchProcess:
            continue
    return found


class TravellingSemaphore:
    """A semaphore that can be an argument of a call; multiprocessing's can only be inherited."""

    def __init__(self, value: int) -> None:
        self.path = str(Path(tempfile.mkdtemp(), "tokens"))
        os.mkfifo(self.path)
        self._end = os.open(self.path, os.O_RDWR)
        for _ in range(value):
            self.release()

    def __getstate__(self) -> dict[str, str]:
        return {"path": self.path}

    def acquire(self) -> None:
        with open(self.path, "rb", buffering=0) as tokens:
            assert tokens.read(1)

    def release(self) -> None:
        os.write(self._end, b"x")

    def discard(self) -> None:
        os.close(self._end)
        shutil.rmtree(Path(self.path).parent)


class Context:
    """A multiprocessing context whose primitives travel, and last as long as the test's pool."""

    def __init__(self, original: Any, test: unittest.TestCase) -> None:
        self._original = original
        self._test = test

    def Semaphore(self, value: int) -> TravellingSemaphore:  # noqa: N802  # multiprocessing's name
        semaphore = TravellingSemaphore(value)
        self._test.addCleanup(semaphore.discard)
        return semaphore

    def Queue(self) -> None:  # noqa: N802
        """For the log lines of a slot; `assert_initializer_error` looks at the error instead."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


class _StandInEngine:
    forked = False
    is_this_thread = False


class BareFuture(Future[Any]):
    """Our future made by hand, as upstream's tests of futures make theirs."""

    def __init__(self) -> None:
        super().__init__(_StandInEngine())


BareFuture.__name__ = "Future"  # it is in the repr


def before_import() -> None:
    """Exchange what the tests bind when they are imported."""
    futures._base.Future = BareFuture
    # What the other class calls the traceback of a remote error, and where it keeps the text.
    futures.process._RemoteTraceback = RemoteTraceback
    RemoteTraceback.tb = property(lambda self: self.text)
    # One test delays the thread that manages the pool, by patching its run().
    Engine.run = Engine._run
    Engine._run = lambda self: self.run()
    futures.process._ExecutorManagerThread = Engine


def install(test: unittest.TestCase) -> None:
    """Give one test primitives that travel, and ours in place of a log line."""
    kind: Any = type(test)
    if hasattr(kind, "get_context"):
        original = kind.get_context
        kind.get_context = lambda self: Context(original(self), self)
    if hasattr(kind, "_assert_logged"):
        kind._assert_logged = assert_initializer_error


@contextmanager
def assert_initializer_error(self: Any, text: str) -> Iterator[None]:
    """Where the other class logs what an initializer raised, ours has it in the pool's error."""
    yield
    assert text in "".join(traceback.format_exception(self.executor.pool._engine._failure))
