"""The class of the actors. It travels by value, so a node without this package can say that it has none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def runner_class() -> type[Any]:
    """Return the class of the actors. Ray pickles a nested class by value."""

    class DragonflyRunner:
        """An actor that runs an agent. Each of its methods takes a thread of the actor."""

        def __init__(self) -> None:
            self._agent: Any = None
            self._missing = ""
            try:
                from dragonfly_executor.backends.ray.agent_of_actor import AgentOfActor
            except ImportError as error:
                self._missing = str(error)
            else:
                self._agent = AgentOfActor()

        def run(self, order: Mapping[str, Any]) -> dict[str, Any]:
            """Run the agent until it ends, and return how it ended."""
            if self._agent is None:
                return {"failed": "no package", "error": self._missing}
            ended: dict[str, Any] = self._agent.run(order)
            return ended

        def started(self) -> dict[str, Any]:
            """Wait until the agent has been started or has failed to, and return where."""
            import ray

            pid = 0 if self._agent is None else self._agent.wait_for_start()
            node = ray.get_runtime_context().get_node_id()
            return {"pid": pid, "host": ray.util.get_node_ip_address(), "node": node}

        def stop(self, grace: float, sessions: Sequence[int]) -> None:
            """End the agent, or prevent its start."""
            if self._agent is not None:
                self._agent.stop(grace, sessions)

    return DragonflyRunner
