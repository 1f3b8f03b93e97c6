"""`RunnerActor`: this process's state of one runner's actor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dragonfly_executor.backends.base import Signal
from dragonfly_executor.backends.engine_tasks.task import EngineTask


class RunnerActor(EngineTask):
    """A runner's actor. The driver's reader changes its attributes.

    Args:
        key: its name between this process and the driver.
        order: the arguments for `AgentProcess`.
        options: the actor's, by Ray's names.
        ending: see `EngineTask`.

    Attributes:
        stopped: set when Ray was told to end the actor.
        host: the machine of its node; "" if unknown.
        node: Ray's id of its node.
    """

    workers_python = "Ray's Python"

    def __init__(
        self,
        key: str,
        order: Mapping[str, Any],
        options: Mapping[str, Any],
        ending: Callable[[float, str], object],
    ) -> None:
        super().__init__(key, order, ending)
        self.options = options
        self.standing = "Ray has yet to say how the runner's actor stands"
        self.stopped = Signal()
        self.host = self.node = ""

    @property
    def place(self) -> str:
        """Return the node, for people to read."""
        return f"Ray node {self.host}" if self.host else "a Ray node"

    def take(self, event: str, value: Any) -> None:
        """Take an event of the driver."""
        if event == "started":
            self.host, self.node, self.pid = value["host"], value["node"], value["pid"]
            if self.pid:
                self.begun.set()
        elif event == "draining":
            self.ending(value, f"Ray drained {self.place}, which is to go (see `ray status`)")
        elif event == "ended":
            self.take_result(value)
        elif event == "stopped":
            self.stopped.set()
        elif event == "lost":
            self.end("the connection to the Ray cluster has ended")
            self.stopped.set()

    def take_result(self, result: Any) -> None:
        """See `EngineTask.take_result`. The driver adds failures of Ray."""
        match result:
            case {"failed": "refused", "error": error}:
                self.end(f"Ray refuses the runner's actor: {error}", error, is_final=True)
            case {"failed": "Ray", "kind": kind, "error": error}:
                # The next actor needs the same environment, which fails again.
                is_final = kind == "RuntimeEnvSetupError"
                self.end(f"{self.place} did not run the runner's actor: {error}", error, is_final=is_final)
            case _:
                super().take_result(result)
