"""`progress`: a call tells its parent how far it is.

A report costs about a microsecond, because only the latest one is sent, some times a second. A second thread of the
slot sends the last report of several that came at once, so that it does not wait for the next one.
"""

from __future__ import annotations

from _contextvars import ContextVar  # `contextvars` is this module, in one more file
from _thread import allocate_lock
from time import perf_counter

from dragonfly_executor.protocol.call_progress import pack_progress
from dragonfly_executor.protocol.frames import Kind, encode
from dragonfly_executor.runner.agent_stream import NO_CALL, AgentStream
from dragonfly_executor.runner.late_job import LateJob
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    Report = Callable[[float, float | None, str], object]

INTERVAL = 0.05
"""Minimum seconds between two reports that are sent."""


def progress(done: float, total: float | None = None, text: str = "") -> None:
    """Report how far the running call is. Costs about a microsecond, and does nothing outside of a call.

    The parent sees the latest report within about a tenth of a second: by `Future.progress`, and by the option
    `on_progress` of calls. Any thread of the call may report. Processes that the call starts report nothing.

    Args:
        done: how much is done, in any unit.
        total: how much there is to do, in the same unit; None if that is unknown.
        text: what the call does, in words; at most 1,000 characters.

    Raises:
        TypeError, ValueError: `done` or `total` is not a number.
    """
    done, total = float(done), None if total is None else float(total)
    agent = AgentStream.of_process
    if agent is None:
        report = REPORT_OF_FAKE.get()
        if report is not None:
            report(done, total, str(text))
    elif agent.running is not NO_CALL and agent.is_here():
        reports = agent.reports
        if reports is None:
            reports = agent.reports = ProgressReports(agent)
        reports.add(done, total, text if type(text) is str else str(text))


REPORT_OF_FAKE: ContextVar[Report | None] = ContextVar("REPORT_OF_FAKE", default=None)
"""Reports the progress of a fake runner's call. Such calls are threads of one process."""


class ProgressReports:
    """The reports of one slot's calls.

    Args:
        agent: the stream to the agent.
    """

    def __init__(self, agent: AgentStream) -> None:
        self._agent = agent
        self._latest: tuple[tuple[int, int], float, float | None, str] | None = None
        """The report that was not sent yet."""
        self._due = 0.0
        self._lock = allocate_lock()
        self._late = LateJob(self._send_late, INTERVAL)

    def add(self, done: float, total: float | None, text: str) -> None:
        """Report for the running call. Any thread may call this."""
        # First the report, then the check of the second thread; the second thread checks in the other order.
        self._latest = self._agent.running, done, total, text
        if self._late.is_armed:
            return
        with self._lock:
            if not self._late.is_armed and (perf_counter() >= self._due or not self._late.arm()):
                self._send()

    def end_call(self) -> None:
        """Send the last report of the call, and end the second thread."""
        self._late.end()
        with self._lock:
            self._send()
            self._due = 0.0

    def _send(self) -> bool:
        """Send the latest report, if it was not sent."""
        latest, self._latest = self._latest, None
        if latest is None:
            return False
        (call_id, attempt), done, total, text = latest
        self._agent.send(encode(Kind.PROGRESS, call_id, pack_progress(done, total, text), attempt=attempt))
        self._due = perf_counter() + INTERVAL
        return True

    def _send_late(self) -> bool:
        """Send what has waited. Runs on the second thread. Returns False if there was nothing for a while."""
        with self._lock:
            try:
                if self._send():
                    return True
                self._late.is_armed = False
                self._send()
            except OSError:
                self._late.is_armed = False  # the agent is gone, and ends this process
            return False
