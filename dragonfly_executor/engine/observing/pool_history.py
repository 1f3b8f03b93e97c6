"""Keeps what the calls and the runners of a pool have done lately, for a timeline.

A pool has no history until a page asks for one, or if it was made with a dashboard. Each table has a bound, so a pool
that runs for days needs no more memory than one that runs for minutes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from time import time

from dragonfly_executor.core import actions, events
from dragonfly_executor.core.actions import CANCELLED
from dragonfly_executor.core.call_times import Quantiles
from dragonfly_executor.core.calls import STARTED, Call
from dragonfly_executor.engine.observing.failed_calls import FailedCalls
from dragonfly_executor.engine.observing.runner_history import RunnerHistory
from dragonfly_executor.engine.outcome import Outcome
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING
from dragonfly_executor.util.terminal_text import escape_controls

if TYPE_CHECKING:
    from typing import Any, TypeAlias

    from dragonfly_executor.core.machine import Machine

    Begun: TypeAlias = tuple[str, int, int | None, float]
    """Function, runner, slot, and monotonic seconds."""
    Ended: TypeAlias = tuple[int, str, int | None, int | None, float, float, str]
    """Call, function, runner, slot, begin and end in Unix seconds, and outcome."""

MOST_ENDED = 20_000
"""Number of ended calls that are kept."""
MOST_SENT = 8000
"""Maximum number of ended calls in a report, and of running ones. The latest are sent."""
MOST_VISITED = 5000
"""Maximum number of calls that a new history reads."""
MOST_FUNCTIONS = 200
"""Number of functions with figures of their own. Later ones count together, under `OTHERS`."""
OTHERS = "(others)"
KEPT_RUNS = 128
"""Number of run times of a function that are kept for its quantiles."""
TICK = 0.5
"""Seconds of a span in which the calls of a runner that were too short to have a slot count together."""
MOST_TICKS = 1200
MOST_SPANS = 10_000
"""Maximum number of spans in a report."""
LONG = 0.02
"""Seconds from which on a call is kept on its own, even if its start was not reported."""


class _Function:
    """The figures of one function."""

    __slots__ = ("outcomes", "runs", "seconds")

    def __init__(self) -> None:
        self.outcomes = {"done": 0, "failed": 0, "cancelled": 0}
        self.runs: deque[float] = deque(maxlen=KEPT_RUNS)
        self.seconds = 0.0


class PoolHistory:
    """The history of one pool. It belongs to the engine thread.

    Args:
        machine: the core.
        clock: monotonic seconds.
        captures: whether the pool keeps the output of calls.
    """

    def __init__(self, machine: Machine, clock: Callable[[], float], *, captures: bool) -> None:
        now = clock()
        self._machine = machine
        self._clock = clock
        # All times have this offset, so that they are in order even if the system's clock is set.
        self._offset = time() - now
        self._since = now + self._offset
        self._ended: deque[Ended] = deque(maxlen=MOST_ENDED)
        self._count = 0
        """Number of calls that were ever added to `_ended`."""
        self._begun: dict[int, Begun] = {}
        self._functions: dict[str, _Function] = {}
        self._spans: deque[tuple[int, dict[int, list[float]]]] = deque(maxlen=MOST_TICKS)
        """For each tick, by runner: the number of short calls that ended, and the seconds that they ran."""
        self.runners = RunnerHistory(machine.stats(now).runners, lambda: clock() + self._offset)
        self.failed = FailedCalls(captures=captures)
        for runner in machine.pool.runner_table.runners.values():
            for call in islice(runner.in_flight.values(), MOST_VISITED - len(self._begun)):
                if call.state is STARTED:
                    self._begun[call.id] = call.name, runner.id, call.slot, call.began_at

    # -- what happens --------------------------------------------------------------------------------------------------

    def note(self, event: object, decided: Sequence[object], now: float) -> None:
        """Note what an event of the core and the actions that it led to mean for calls."""
        costs: Mapping[int, float] = {}
        if isinstance(event, events.CallsStarted):
            self._started(event, now)
        elif isinstance(event, events.ResultsArrived):
            costs = {call_id: cost for call_id, _, cost, _, _ in event.results}
        for action in decided:
            if isinstance(action, actions.Settle):
                for call, outcome in action.outcomes:
                    self._settled(call, outcome, costs.get(call.id), now)
        self._end_attempts(event, costs, now)

    def _started(self, event: events.CallsStarted, now: float) -> None:
        for place, (call_id, attempt) in enumerate(event.refs):
            call = self._machine.find(call_id)
            if call is not None and call.attempt == attempt:
                slot = event.slots[place] if event.slots else None
                self._begun[call_id] = call.name, event.runner_id, slot, now

    def _settled(self, call: Call, outcome: object, cost: float | None, now: float) -> None:
        begun = self._begun.pop(call.id, None)
        word = _word(outcome)
        figures = self._figures(call.name)
        figures.outcomes[word] += 1
        if cost is not None:
            figures.runs.append(cost)
            figures.seconds += cost
        runner, slot = (call.runner, None) if begun is None else begun[1:3]
        if begun is None and cost is not None and cost < LONG and runner is not None:
            self._count_short(runner, cost, now)
        elif begun is not None or cost is not None:
            begin = now - cost if cost is not None else begun[3] if begun is not None else now
            self._keep((call.id, call.name, runner, slot, begin + self._offset, now + self._offset, word))
        self.failed.ended(call, outcome if word == "failed" else None, (runner, slot, cost), now + self._offset)

    def _end_attempts(self, event: object, costs: Mapping[int, float], now: float) -> None:
        """Note attempts that have ended although their calls go on: these calls are tried again."""
        ended: Iterable[int] = costs
        if isinstance(event, (events.CallLost, events.CallTimedOut, events.CallGone)):
            ended = (event.call_id,)
        elif isinstance(event, events.RunnerLost):
            ended = [call_id for call_id, begun in self._begun.items() if begun[1] == event.runner_id]
        for call_id in ended:
            if call_id not in self._begun:
                continue
            call = self._machine.find(call_id)
            if call is None or call.state is not STARTED:
                name, runner, slot, begin = self._begun.pop(call_id)
                self._keep((call_id, name, runner, slot, begin + self._offset, now + self._offset, "failed"))

    def _keep(self, row: Ended) -> None:
        self._ended.append(row)
        self._count += 1

    def _count_short(self, runner: int, cost: float, now: float) -> None:
        tick = int((now + self._offset) / TICK)
        if not self._spans or self._spans[-1][0] != tick:
            self._spans.append((tick, {}))
        span = self._spans[-1][1].setdefault(runner, [0, 0.0])
        span[0] += 1
        span[1] += cost

    def _figures(self, name: str) -> _Function:
        figures = self._functions.get(name)
        if figures is None:
            name = name if len(self._functions) < MOST_FUNCTIONS else OTHERS
            figures = self._functions.setdefault(name, _Function())
        return figures

    # -- reports ------------------------------------------------------------------------------------------------------

    def report(self, calls_after: int, tick_after: int) -> dict[str, Any]:
        """Return what is new as a JSON object. Times are Unix seconds.

        Args:
            calls_after: `next_call` of the report before; 0 for all calls that are kept.
            tick_after: `next_tick` of the report before; 0 for all spans that are kept.
        """
        fresh = max(0, min(self._count - calls_after, len(self._ended)))
        sent = min(fresh, MOST_SENT)
        names = _Names()
        calls = [_row(row, names) for row in _last(self._ended, sent)]
        running = [
            (call_id, names.place(name), runner, slot, _rounded(begin + self._offset))
            for call_id, (name, runner, slot, begin) in islice(self._begun.items(), MOST_SENT)
        ]
        return {
            "since": self._since,
            "now": self._clock() + self._offset,
            "next_call": self._count,
            "next_tick": self._spans[-1][0] if self._spans else 0,
            "missed": max(0, self._count - calls_after - sent) if calls_after else 0,
            "calls": calls,
            "running": running,
            "names": names.texts,
            "tick": TICK,
            "short": self._short_calls(tick_after),
            "runners": self.runners.report(),
            "functions": self._function_rows(),
            "failures": self.failed.report(),
        }

    def _short_calls(self, tick_after: int) -> list[tuple[float, int, int, float]]:
        """Return spans from the last sent one on, because it may have grown."""
        found: list[tuple[float, int, int, float]] = []
        for tick, runners in reversed(self._spans):
            if tick < tick_after or len(found) + len(runners) > MOST_SPANS:
                break
            found += [
                (tick * TICK, runner, int(count), round(seconds, 6)) for runner, (count, seconds) in runners.items()
            ]
        return found

    def _function_rows(self) -> list[dict[str, Any]]:
        rows = []
        for name, figures in self._functions.items():
            quantiles = Quantiles.of(figures.runs)
            rows.append({
                "function": escape_controls(name),
                **figures.outcomes,
                "seconds": figures.seconds,
                "p50": None if quantiles is None else quantiles.p50,
                "p95": None if quantiles is None else quantiles.p95,
            })  # fmt: skip
        return rows

    def find(self, call_id: int) -> dict[str, Any] | None:
        """Return what is known of a call that has ended; None if it is not among the latest."""
        row = next((row for row in reversed(self._ended) if row[0] == call_id), None)
        details = self.failed.find(call_id)
        if row is None:
            return details
        _, name, runner, slot, begin, end, word = row
        known = {"call": call_id, "function": escape_controls(name), "state": word, "runner": runner, "slot": slot}
        return {**(details or {}), **known, "time": end, "seconds": end - begin}


class _Names:
    """The names in a report, each of which is sent once."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._places: dict[str, int] = {}

    def place(self, name: str) -> int:
        """Return the place of a name in `texts`."""
        place = self._places.setdefault(name, len(self.texts))
        if place == len(self.texts):
            self.texts.append(escape_controls(name))
        return place


def _row(row: Ended, names: _Names) -> tuple[object, ...]:
    call_id, name, runner, slot, begin, end, word = row
    return call_id, names.place(name), runner, slot, _rounded(begin), _rounded(end), word


def _last(rows: deque[Ended], count: int) -> Iterable[Ended]:
    return reversed(list(islice(reversed(rows), count)))


def _rounded(when: float) -> float:
    return round(when, 4)


def _word(outcome: object) -> str:
    if outcome is CANCELLED:
        return "cancelled"
    return "done" if isinstance(outcome, Outcome) and not outcome.is_error else "failed"
