"""Answers requests about a pool, on the engine thread: its status and history, a call, the end of a call, a resize.

Everything that shows a pool from outside asks here. The code that computes a report is imported with the first request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from dragonfly_executor.core import events
from dragonfly_executor.core.calls import STARTED
from dragonfly_executor.engine.tier_settings import new_bounds
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.core.calls import Call
    from dragonfly_executor.core.machine import Machine
    from dragonfly_executor.engine.context import CallNotes, EngineContext
    from dragonfly_executor.engine.notifications import Notifications
    from dragonfly_executor.engine.observing.pool_history import PoolHistory
    from dragonfly_executor.engine.runner_links import RunnerLinks
    from dragonfly_executor.transport.loop import Loop, Timer

MAX_OUTPUT = 64 * 1024
"""Maximum number of characters of a call's output in an answer. The last ones are sent."""
UNSEEN = 60.0
"""Seconds without a request for the history after which a pool without a dashboard keeps none."""
OF_CALLS = ("call", "output", "kill")
"""The requests that name a call."""


class PoolStatus:
    """The answers of one pool. They belong to the engine thread.

    Args:
        engine, machine, loop, runner_links, notifications, call_notes: the pool's.
    """

    def __init__(
        self,
        engine: EngineContext,
        machine: Machine,
        loop: Loop,
        runner_links: RunnerLinks,
        notifications: Notifications,
        call_notes: list[CallNotes],
    ) -> None:
        self._engine = engine
        self._machine = machine
        self._loop = loop
        self._runner_links = runner_links
        self._notifications = notifications
        self._call_notes = call_notes
        self._history: PoolHistory | None = None
        self._keeps_history = False
        self._asked_at = 0.0
        self._timer: Timer | None = None
        self._do: dict[object, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {
            "status": lambda _: self.report(),
            "history": self._report_history,
            "resize": self._resize,
        }

    def answer(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the answer to a request; docs/dashboard.md lists the requests.

        A bad request has an answer with the key ``error``, or raises a ValueError, a TypeError or a RuntimeError.
        """
        ask = request.get("ask")
        if ask in self._do:
            return self._do[ask](request)
        if ask not in OF_CALLS:
            return {"error": f"cannot answer {ask!r}: ask for {', '.join(map(str, (*self._do, *OF_CALLS)))}"}
        call_id = request.get("call")
        call = self._machine.find(call_id) if isinstance(call_id, int) else None
        if ask == "call":
            return self._call(call_id, call)
        if call is None:
            return {"error": _not_here(call_id)}
        return self._output(call) if ask == "output" else self._kill(call)

    def report(self) -> dict[str, Any]:
        """Return the state of the pool."""
        from dragonfly_executor.engine.observing.status_report import pool_report

        links, errors = self._runner_links.links(), self._notifications.boot_errors
        return pool_report(self._engine, self._machine, self._loop.time(), links, errors)

    # -- the history ---------------------------------------------------------------------------------------------------

    def keep_history(self) -> None:
        """Keep a history from now until the pool ends. Otherwise it is kept while it is asked for."""
        self._keeps_history = True
        self._begin_history()

    def _begin_history(self) -> PoolHistory:
        if self._history is None:
            from dragonfly_executor.engine.observing.pool_history import PoolHistory

            captures = self._engine.options.output == "capture"
            self._history = PoolHistory(self._machine, self._loop.time, captures=captures)
            self._call_notes.append(self._history)
            self._notifications.on_runner = self._history.runners.note
        return self._history

    def _report_history(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        self._asked_at = self._loop.time()
        history = self._begin_history()
        if self._timer is None and not self._keeps_history:
            self._timer = self._loop.call_later(UNSEEN, self._end_history)
        calls_after, tick_after = request.get("calls_after", 0), request.get("tick_after", 0)
        if not (isinstance(calls_after, int) and isinstance(tick_after, int)):
            return {"error": "calls_after and tick_after must be whole numbers"}
        return history.report(calls_after, tick_after)

    def _end_history(self) -> None:
        """Forget the history, unless it was asked for meanwhile."""
        self._timer = None
        left = self._asked_at + UNSEEN - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._end_history)
        elif self._history is not None:
            self._call_notes.remove(self._history)
            self._notifications.on_runner = None
            self._history = None

    # -- a call --------------------------------------------------------------------------------------------------------

    def _call(self, call_id: object, call: Call | None) -> Mapping[str, Any]:
        """Return all known facts of a call, also of a call that ended lately."""
        if call is None:
            found = self._history.find(call_id) if self._history is not None and isinstance(call_id, int) else None
            return found or {"error": _not_here(call_id)}
        from dragonfly_executor.engine.observing.status_report import call_report

        report = {"call": call.id, **call_report(call, self._loop.time())}
        if call.state < STARTED and call.runner is None:
            report["state"] = "waiting"
        output = self._output(call)
        return {**report, **({"output": output["output"]} if "output" in output else {"no_output": output["error"]})}

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

    # -- the bounds ----------------------------------------------------------------------------------------------------

    def _resize(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        self._engine.check_open()
        current = self._machine.stats(self._loop.time())
        least, most = new_bounds(self._engine.tiers, current, request.get("min"), request.get("max"))
        self._loop.call_soon(partial(self._engine.handle, events.Resized(least, most)))
        return {"min": least, "max": most}


def _not_here(call_id: object) -> str:
    return f"call {call_id!r} is not waiting or running: it has ended, or the number is wrong"
