"""The actor that keeps a runner's agent as its child process. The class travels by value, so Ray needs no package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def runner_class() -> type[Any]:
    """Return the class of the actors. Ray pickles a nested class by value."""

    class DragonflyRunner:
        """An actor with threads: one runs the agent, one tells of its start, one stops it."""

        def __init__(self) -> None:
            import threading

            self._lock = threading.Lock()
            self._begun = threading.Event()
            self._agent: Any = None
            self._stopped = False
            self._failed: dict[str, Any] = {}

        def run(self, order: Mapping[str, Any]) -> dict[str, Any]:
            """Run the agent until it ends, and return how it ended."""
            try:
                from dragonfly_executor.backends.agent_process import AgentProcess

                with self._lock:
                    if not self._stopped:
                        self._agent = AgentProcess(**order)
            except ImportError as error:
                self._failed = {"failed": "no package", "error": str(error)}
            except OSError as error:
                self._failed = {"failed": "no process", "error": str(error)}
            self._begun.set()
            if self._agent is None:
                return self._failed or {"failed": "stopped", "error": "the runner was stopped before it began"}
            code, output = self._agent.wait()
            return {"code": code, "output": output}

        def started(self) -> dict[str, Any]:
            """Wait until the agent has been started or has failed to, and return where."""
            import ray

            self._begun.wait()
            context = ray.get_runtime_context()
            return {
                **self._failed,
                "pid": self._agent.pid if self._agent is not None else 0,
                "host": ray.util.get_node_ip_address(),
                "node": context.get_node_id(),
            }

        def stop(self, grace: float, sessions: Sequence[int]) -> None:
            """End the agent, or prevent its start."""
            with self._lock:
                self._stopped = True
            if self._agent is not None:
                self._agent.end(grace, sessions)

    return DragonflyRunner
