"""Objects that tests place."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from tests.support.payloads import tell, wait_at


class Counter:
    """Counts the calls of its methods."""

    def __init__(self, start: int = 0) -> None:
        self.count = start
        self.extra = self.add  # a method that the class has not

    def add(self, number: int = 1) -> int:
        self.count += number
        return self.count

    def pid(self) -> int:
        return os.getpid()

    def echo(self, value: Any) -> Any:
        return value

    def fail(self, error: Exception) -> None:
        raise error

    def fails_once(self) -> int:
        """Raise an error until the count is 2."""
        if self.add() < 2:
            raise ValueError
        return self.count

    def fail_until(self, count: int, size: int) -> int:
        """Raise a long error until the count is so high."""
        if self.add() < count:
            raise ValueError("x" * size)
        return self.count

    def size(self, value: bytes) -> int:
        return len(value)

    def exit(self, status: int) -> None:
        os._exit(status)

    def exit_once(self, path: str) -> str:
        if not Path(path).exists():
            Path(path).touch()
            os._exit(3)
        return "again"

    def hold(self, mailbox: str, gate: str, value: Any = None) -> Any:
        tell(mailbox, os.getpid())
        wait_at(gate)
        return value

    def hold_for_good(self, mailbox: str) -> None:
        tell(mailbox, os.getpid())
        while True:
            signal.pause()

    def child(self) -> int:
        return subprocess.Popen(["sleep", "1000"]).pid

    def fork(self) -> int:
        return os.fork()

    def unpicklable(self) -> Any:
        return threading.Lock()

    def zeros(self, size: int) -> bytes:
        return bytes(size)

    def write(self, path: str, word: object) -> None:
        with Path(path).open("a") as file:
            file.write(f"{word}\n")

    def __call__(self, number: int) -> int:
        return number * 2


class Attached:
    """Tells of its life."""

    def __init__(self, mailbox: str) -> None:
        self.mailbox = mailbox
        tell(mailbox, "made", os.getpid())

    def pid(self) -> int:
        return os.getpid()

    def __del__(self) -> None:
        tell(self.mailbox, "gone", os.getpid())


class Refusing:
    """Cannot be made."""

    def __init__(self, path: str, times: int) -> None:
        with Path(path).open("a") as file:
            file.write("x")
        if len(Path(path).read_text()) <= times:
            raise ValueError("not yet")

    def pid(self) -> int:
        return os.getpid()


class Several:
    """Methods that meet."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(3)
        self.event: Any = None

    def meet(self) -> str:
        self.barrier.wait(30)
        return threading.current_thread().name

    async def wait(self) -> str:
        if self.event is None:
            self.event = asyncio.Event()
        await self.event.wait()
        return "woken"

    async def wake(self) -> None:
        self.event.set()

    def fail(self) -> None:
        raise ValueError("several")


def nap(seconds: float) -> None:
    time.sleep(seconds)
