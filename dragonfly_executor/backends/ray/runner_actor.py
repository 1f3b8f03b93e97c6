"""`RunnerActor`: what this process knows of the actor of one runner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dragonfly_executor.backends.base import Signal
from dragonfly_executor.errors.exit_status import describe_exit

FINAL = frozenset({"no package", "refused", "RuntimeEnvSetupError"})
"""Failures that the next boot would repeat."""


class RunnerActor:
    """A runner's actor. The driver's reader changes its attributes.

    Args:
        key: its name between this process and the driver.
        order: the arguments for `AgentProcess`.

    Attributes:
        begun: set when the agent has been started, or never will be.
        ended: set when the runner has ended.
        stopped: set when Ray was told to end the actor.
        host: the machine of its node; "" if unknown.
        node: Ray's id of its node.
        pid: the process id of its agent, on that machine; 0 if unknown.
        error: why it ended; "" before that.
        output: the runner's last output.
        is_final: True if another runner will not start either.
    """

    def __init__(self, key: str, order: Mapping[str, Any]) -> None:
        self.key, self.order = key, dict(order)
        self.begun, self.ended, self.stopped = Signal(), Signal(), Signal()
        self.host = self.node = self.error = self.output = ""
        self.pid = 0
        self.is_final = False

    def take(self, event: str, value: Any) -> None:
        """Take an event of the driver."""
        if event == "started":
            self.host, self.node, self.pid = value["host"], value["node"], value["pid"]
            if self.pid:
                self.begun.set()
        elif event == "ended":
            self._end(value)
        elif event == "stopped":
            self.stopped.set()
        elif event == "lost":
            self._end({"failed": "lost", "error": "the connection to the Ray cluster has ended"})
            self.stopped.set()

    def _end(self, value: Mapping[str, Any]) -> None:
        """Note the end of the runner. Only the first reason counts."""
        if not self.ended.is_set():
            place = f"Ray node {self.host}" if self.host else "a Ray node"
            match value:
                case {"failed": "no package", "error": error}:
                    self.error = f"{place} cannot import dragonfly_executor ({error}): install it for Ray's Python"
                case {"failed": "refused", "error": error}:
                    self.error = f"Ray refuses the runner's actor: {error}"
                case {"failed": "lost", "error": error}:
                    self.error = error
                case {"failed": _, "error": error}:
                    self.error = f"{place} did not run the runner's actor: {error}"
                case {"code": code}:
                    self.error = (
                        f"the runner on {place} {describe_exit(*((code, None) if code >= 0 else (None, -code)))}"
                    )
            self.output = value.get("output") or value.get("error", "")
            self.is_final = value.get("failed") in FINAL
            self.ended.set()
        self.begun.set()
