"""Answers requests about a pool, on the engine thread: its status, the output of a call, the end of a call.

Everything that shows a pool from outside asks here. What computes a report is imported with the first request.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.core.calls import Call
    from dragonfly_executor.core.machine import Machine
    from dragonfly_executor.engine.context import EngineContext
    from dragonfly_executor.engine.notifications import Notifications
    from dragonfly_executor.engine.runner_links import RunnerLinks
    from dragonfly_executor.transport.loop import Loop

MAX_OUTPUT = 64 * 1024
"""Maximum number of characters of a call's output in an answer. The last ones are sent."""


class PoolStatus:
    """The answers of one pool. They belong to the engine thread.

    Args:
        engine, machine, loop, runner_links, notifications: the pool's.
    """

    def __init__(
        self,
        engine: EngineContext,
        machine: Machine,
        loop: Loop,
        runner_links: RunnerLinks,
        notifications: Notifications,
    ) -> None:
        self._engine = engine
        self._machine = machine
        self._loop = loop
        self._runner_links = runner_links
        self._notifications = notifications

    def answer(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the answer to ``{"ask": "status"}``, ``{"ask": "output", "call": 7}`` or ``{"ask": "kill", ...}``."""
        ask = request.get("ask")
        if ask == "status":
            return self.report()
        call_id = request.get("call")
        call = self._machine.find(call_id) if isinstance(call_id, int) else None
        if ask not in ("output", "kill"):
            return {"error": f"cannot answer {ask!r}: ask for status, output or kill"}
        if call is None:
            return {"error": f"call {call_id!r} is not waiting or running: it has ended, or the number is wrong"}
        return self._output(call) if ask == "output" else self._kill(call)

    def report(self) -> dict[str, Any]:
        """Return the state of the pool."""
        from dragonfly_executor.engine.observing.status_report import pool_report

        links, errors = self._runner_links.links(), self._notifications.boot_errors
        return pool_report(self._engine, self._machine, self._loop.time(), links, errors)

    def _kill(self, call: Call) -> Mapping[str, Any]:
        # Not at once: whatever the cancel leads to must not run inside of the answer.
        self._loop.call_soon(partial(self._engine.cancel, (call,)))
        return {"killed": call.id}

    def _output(self, call: Call) -> Mapping[str, Any]:
        option = self._engine.options.output
        if option != "capture":
            shown = repr(option) if isinstance(option, str) else "a function"
            return {"error": f"only a pool made with output='capture' keeps the output of calls; this one has {shown}"}
        captured = getattr(call.token, "captured", None)
        return {"output": "" if captured is None else captured.text()[-MAX_OUTPUT:]}
