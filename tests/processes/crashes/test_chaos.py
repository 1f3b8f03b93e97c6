"""Random kills from outside while calls run; afterwards the history is checked."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import Pool
from dragonfly_executor.api.executor import DragonflyExecutor
from dragonfly_executor.errors import RunnerLostError
from dragonfly_executor.runner.process_tree import children, descendants
from tests.support import payloads
from tests.support.helpers import PATIENCE

RETRIES = 2


class Killer(threading.Thread):
    """Kills slots, and now and then an agent, until it is told to stop."""

    def __init__(self, seed: int) -> None:
        super().__init__(name="killer")
        self._numbers = random.Random(seed)
        self._over = threading.Event()
        self.kills = 0

    def run(self) -> None:
        while not self._over.wait(self._numbers.uniform(0.005, 0.06)):
            agents = children(os.getpid())
            among = agents if self._numbers.random() < 0.08 else [pid for agent in agents for pid in descendants(agent)]
            if among:
                with suppress(ProcessLookupError):
                    os.kill(self._numbers.choice(among), signal.SIGKILL)
                    self.kills += 1

    def stop(self) -> None:
        self._over.set()
        self.join()


@pytest.mark.parametrize(
    ("seed", "seconds"),
    [pytest.param(seed, 4 if seed < 3 else 60, marks=pytest.mark.soak) for seed in range(1, 8)],
)
def test_the_history_of_a_pool_under_random_kills_is_clean(seed: int, seconds: float, log: Path) -> None:
    """Checklist 5, 21, 22, 35. Every call ends, with its own value; none runs more often than it may."""
    numbers = random.Random(seed)
    futures: dict[str, Future[Any]] = {}
    cancelled: set[str] = set()
    killer = Killer(seed)
    options = {"max_boot_failures": 1000, "boot_wait": lambda _: 0.0, "retry_wait": lambda _: 0.0}
    with Pool("chaos", min=0, max=2, max_concurrency=2, timeout=None, **options) as pool:
        again = DragonflyExecutor(pool=pool).options(retries=RETRIES)
        killer.start()
        end = time.monotonic() + seconds
        number = 0
        while time.monotonic() < end:
            batch = []
            for _ in range(numbers.randrange(1, 40)):
                kind = numbers.choice(["plain", "plain", "again", "large"])
                name = f"{kind}-{number}"
                number += 1
                submit = again.submit if kind == "again" else pool.submit
                filler = bytes(300_000) if kind == "large" else b""
                futures[name] = submit(payloads.log_and_nap, str(log), name, numbers.choice([0, 0, 0.003]), filler)
                batch.append(name)
            if numbers.random() < 0.3:
                name = numbers.choice(batch)
                if futures[name].cancel():
                    cancelled.add(name)
            with suppress(RunnerLostError, CancelledError):
                futures[numbers.choice(batch)].result(PATIENCE)
        killer.stop()
        # Once nobody kills any more, everything is as it was.
        assert pool.submit(payloads.echo, "alive").result(PATIENCE) == "alive"
    assert killer.kills > 10 * seconds
    ends = {name: _end(future) for name, future in futures.items()}
    runs = Counter(line.split()[0] for line in log.read_text().splitlines())
    for name, how in ends.items():
        most = 1 + RETRIES if name.startswith("again") else 1
        assert runs[name] <= most, f"{name} ran {runs[name]} times"
        if how == "cancelled":
            assert name in cancelled
        elif isinstance(how, BaseException):
            assert isinstance(how, RunnerLostError)
        else:
            assert how == name
            assert runs[name] >= 1


def _end(future: Future[Any]) -> Any:
    assert future.done()
    if future.cancelled():
        return "cancelled"
    return future.exception() or future.result()
