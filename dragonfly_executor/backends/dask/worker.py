"""Functions that run on a Dask worker. They start, watch and end a runner's agent as the worker's child process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import psutil  # type: ignore[import-untyped]
from distributed import get_worker, secede

from dragonfly_executor.backends.agent_process import AgentProcess

EXTENSION = "dragonfly_executor"
REMEMBERED = 1000
"""Number of stopped tasks that a worker remembers. Dask may begin such a task shortly after its stop."""
CLOSE_GRACE = 20.0
"""Seconds that calls have to finish when Dask closes the worker in order."""


class WorkerRunners:
    """The runners of one worker. Dask keeps this object as an extension of the worker. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._agents: dict[str, AgentProcess] = {}
        self._stopped: deque[str] = deque(maxlen=REMEMBERED)

    def start(self, key: str, order: Mapping[str, Any]) -> AgentProcess | None:
        """Start a runner's agent. Return None if its task was stopped before it began.

        Raises:
            OSError: the process cannot be started.
        """
        with self._lock:
            if key in self._stopped:
                return None
            agent = self._agents[key] = AgentProcess(**order)
            return agent

    def ended(self, key: str) -> None:
        """Forget a runner whose agent has ended."""
        with self._lock:
            self._agents.pop(key, None)

    def stop(self, key: str, grace: float, sessions: Sequence[int]) -> None:
        """End a runner's agent, or prevent its start. Blocks."""
        with self._lock:
            self._stopped.append(key)
            agent = self._agents.get(key)
        if agent is not None:
            agent.end(grace, sessions)

    async def close(self) -> None:
        """End all runners, as Dask closes the worker. Their calls have some seconds to finish."""
        with self._lock:
            agents = [*self._agents.values()]
        for agent in agents:
            agent.terminate()
        await asyncio.gather(*(asyncio.to_thread(agent.end, CLOSE_GRACE) for agent in agents))


def _runners_of(worker: Any) -> WorkerRunners:
    found: WorkerRunners = worker.extensions.setdefault(EXTENSION, WorkerRunners())
    return found


def run_agent(key: str, topic: str, order: Mapping[str, Any]) -> dict[str, Any]:
    """Run a runner's agent until it ends; the body of a task. Return how it ended."""
    worker = get_worker()
    runners = _runners_of(worker)
    try:
        agent = runners.start(key, order)
    except OSError as error:
        return {"failed": "no process", "error": str(error)}
    if agent is None:
        return {"failed": "stopped", "error": "the runner was stopped before it began"}
    try:
        worker.log_event(topic, {"key": key, "pid": agent.pid, "lifetime": lifetime_left(worker)})
        # The task needs no thread of the worker's pool while it waits. It keeps its resources.
        secede()
    finally:
        code, output = agent.wait()
        runners.ended(key)
    return {"code": code, "output": output}


def lifetime_left(worker: Any) -> float | None:
    """Return the seconds until a worker closes itself (``dask worker --lifetime``); None if it does not.

    Dask does not say when the worker began to count, which is shortly after its process began.
    """
    if not worker.lifetime:
        return None
    left = float(worker.lifetime - (time.time() - psutil.Process().create_time()))
    return left if left > 0 else None


async def stop_agent(worker: Any, key: str, grace: float, sessions: Sequence[int]) -> None:
    """Stop a runner, without blocking the worker's event loop."""
    await asyncio.to_thread(_runners_of(worker).stop, key, grace, sessions)
