"""`AgentOfActor`: a runner's agent as the child process of the worker of Ray that runs an actor."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from dragonfly_executor.backends.agent_process import AgentProcess


class AgentOfActor:
    """The agent of one actor. Three threads of the actor call it: one each for `run`, `wait_for_start` and `stop`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = threading.Event()
        self._agent: AgentProcess | None = None
        self._stopped = False

    def run(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Run the agent until it ends, and return how it ended.

        Args:
            order: the arguments for `AgentProcess`.
        """
        try:
            with self._lock:
                if self._stopped:
                    return {"failed": "stopped", "error": "the runner was stopped before it began"}
                agent = self._agent = AgentProcess(**order)
        except OSError as error:
            return {"failed": "no process", "error": str(error)}
        finally:
            self._begun.set()
        code, output = agent.wait()
        return {"code": code, "output": output}

    def wait_for_start(self) -> int:
        """Wait until the agent has been started, and return its process id; 0 if it never will be."""
        self._begun.wait()
        return 0 if self._agent is None else self._agent.pid

    def stop(self, grace: float, sessions: Sequence[int]) -> None:
        """End the agent, or prevent its start. Blocks.

        Args:
            grace: seconds that the agent has to end by itself.
            sessions: process session ids of its slots.
        """
        with self._lock:
            self._stopped = True
        if self._agent is not None:
            self._agent.end(grace, sessions)
