"""`EngineTask`: this process's state of one runner's task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dragonfly_executor.backends.base import Signal
from dragonfly_executor.errors.exit_status import describe_exit


def _ignore(seconds: float, ended_by: str) -> None:
    """Ignore the known end of a runner."""


class EngineTask:
    """A runner's task. The thread that reads the engine's events changes its attributes.

    Args:
        key: the task's name.
        order: the arguments for `AgentProcess` on the worker.
        ending: called when the engine ends the runner; see `BootRequest.ending`.

    Attributes:
        begun: set when the agent has been started.
        ended: set when the runner has ended.
        error: why the runner ended; "" before that.
        output: the runner's last output.
        exit_code: the agent's exit code, negative for a signal; None if unknown.
        pid: the process id of the agent, on the worker's machine; 0 if unknown.
        is_final: True if another runner will not start either.
        standing: the task's state in the engine's queue, for people to read.
        workers_python: names the interpreter that needs this package, for an error.
    """

    workers_python = "the workers' Python"

    def __init__(self, key: str, order: Mapping[str, Any], ending: Callable[[float, str], object] = _ignore) -> None:
        self.key, self.order = key, dict(order)
        self.ending = ending
        self.begun, self.ended = Signal(), Signal()
        self.error = self.output = self.standing = ""
        self.exit_code: int | None = None
        self.pid = 0
        self.is_final = False

    @property
    def place(self) -> str:
        """Return where the runner is, for people to read."""
        raise NotImplementedError

    def end(self, error: str, output: str = "", *, is_final: bool = False) -> None:
        """Note the end of the runner. Only the first reason counts."""
        if not self.ended.is_set():
            self.error, self.output, self.is_final = error, output, is_final
            self.ended.set()

    def take_result(self, result: Any) -> None:
        """Note the end of the runner, as the task's result tells it."""
        match result:
            case {"failed": "no package", "error": error}:
                advice = f"install it for {self.workers_python}"
                self.end(f"{self.place} cannot import dragonfly_executor ({error}): {advice}", error, is_final=True)
            case {"failed": _, "error": error}:
                self.end(f"{self.place} could not start a runner: {error}", error)
            case {"code": code, "output": output}:
                self.exit_code = code
                exit_text = describe_exit(code, None) if code >= 0 else describe_exit(None, -code)
                self.end(f"the runner on {self.place} {exit_text}", output)
            case _:
                self.end(f"{self.place} answered {result!r}: install the same version of dragonfly_executor there")
