"""The timeline of pools: which runner was there when, and which call ran on it when, from logged events."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from dragonfly_executor.core.call_times import Quantiles

ENDS = {"call done": "done", "call failed": "failed", "call cancelled": "cancelled"}


@dataclass(slots=True)
class CallRun:
    """A call's time on a runner, in Unix seconds. `slot` is None for a call that was too short to be reported."""

    call_id: int
    function: str
    begin: float
    end: float
    outcome: str
    slot: int | None = None


@dataclass(slots=True)
class RunnerLane:
    """The times of a runner in Unix seconds, None if they are not in the log, and the calls that ran on it."""

    id: int
    boot_at: float | None = None
    up_at: float | None = None
    down_at: float | None = None
    error: str | None = None
    calls: list[CallRun] = field(default_factory=list)


@dataclass(slots=True)
class FunctionFigures:
    """The calls of one function: numbers by outcome, numbers of failures by kind, and times in seconds."""

    outcomes: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)
    runs: list[float] = field(default_factory=list)

    def quantiles(self) -> tuple[Quantiles | None, Quantiles | None]:
        """Return those of the waits and those of the runs."""
        return Quantiles.of(self.waits), Quantiles.of(self.runs)


@dataclass(slots=True)
class Timeline:
    """The timeline of one pool of one process.

    Attributes:
        first, last: Unix seconds of its first and last event.
        submitted: number of calls.
        dropped: number of events that are missing in the log.
    """

    pid: int
    pool: str
    first: float
    last: float
    submitted: int = 0
    dropped: int = 0
    runners: dict[int, RunnerLane] = field(default_factory=dict)
    functions: dict[str, FunctionFigures] = field(default_factory=dict)
    _begun: dict[int, tuple[float, int, int | None]] = field(default_factory=dict)
    """For the calls that slots have begun: when, the runner, and the slot."""

    def add(self, event: Mapping[str, Any]) -> None:
        """Add an event. An unknown one only counts for the first and last time."""
        now, what = float(event["time"]), event["event"]
        self.first, self.last = min(self.first, now), max(self.last, now)
        if what == "call submitted":
            self.submitted += 1
        elif what == "call started":
            self._begun[event["call_id"]] = now, event["runner_id"], event.get("slot")
        elif what in ENDS:
            self._call_ended(event, now, ENDS[what])
        elif what == "events dropped":
            self.dropped += int(event["count"])
        elif "runner_id" in event:
            self._runner_changed(self._lane(event["runner_id"]), what, event, now)

    def _lane(self, runner_id: int) -> RunnerLane:
        return self.runners.setdefault(runner_id, RunnerLane(runner_id))

    @staticmethod
    def _runner_changed(lane: RunnerLane, what: str, event: Mapping[str, Any], now: float) -> None:
        if what == "boot":
            lane.boot_at = now
        elif what == "up":
            lane.up_at = now
        elif what in ("down", "boot failed", "boot given up"):
            lane.down_at = now
            lane.error = event.get("text") if what == "boot failed" else None

    def _call_ended(self, event: Mapping[str, Any], now: float, outcome: str) -> None:
        figures = self.functions.setdefault(event["function"], FunctionFigures())
        figures.outcomes[outcome] += 1
        if "kind" in event:
            figures.kinds[event["kind"]] += 1
        begun = self._begun.pop(event["call_id"], None)
        run = event.get("run_seconds")
        if run is not None:
            figures.runs.append(run)
            figures.waits.append(event.get("wait_seconds", 0.0))
        runner_id = event.get("runner_id") if begun is None else begun[1]
        begin = now - run if run is not None else None if begun is None else begun[0]
        if runner_id is not None and begin is not None:
            slot = None if begun is None else begun[2]
            call = CallRun(event["call_id"], event["function"], begin, now, outcome, slot)
            self._lane(runner_id).calls.append(call)

    def as_json(self) -> dict[str, Any]:
        """Return the timeline as a JSON object."""
        functions = {}
        for name, figures in self.functions.items():
            wait, run = figures.quantiles()
            functions[name] = {
                **figures.outcomes,
                "failures": dict(figures.kinds),
                "wait_p50": wait and wait.p50,
                "wait_p95": wait and wait.p95,
                "run_p50": run and run.p50,
                "run_p95": run and run.p95,
            }
        return {
            "pid": self.pid,
            "pool": self.pool,
            "first": self.first,
            "last": self.last,
            "submitted": self.submitted,
            "dropped": self.dropped,
            "runners": [asdict(lane) for lane in self.runners.values()],
            "functions": functions,
        }


def read_timelines(lines: Iterable[str]) -> tuple[list[Timeline], int]:
    """Return the timelines of all pools in a log, in the order of their first events, and the number of bad lines.

    A line may be torn where the disk was full, or where the program was killed.
    """
    found: dict[tuple[int, str], Timeline] = {}
    bad = 0
    for line in lines:
        if not line.strip():
            continue
        try:
            event = json.loads(line)
            pid, pool, now = int(event.get("pid", 0)), str(event["name"]), float(event["time"])
            timeline = found.get((pid, pool)) or Timeline(pid, pool, now, now)
            timeline.add(event)
            found[pid, pool] = timeline
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            bad += 1
    return list(found.values()), bad
