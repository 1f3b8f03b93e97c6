"""The simulator: plays a trace on a pool in virtual time.

The pool's own state machine decides about boots, stops and calls, as it does in a real pool. Only nodes, runners and
time are simulated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from heapq import heappop, heappush
from itertools import count, groupby
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from dragonfly_executor.core import actions, events
from dragonfly_executor.core.calls import Call, CallLimits
from dragonfly_executor.core.machine import Machine, PoolLimits
from dragonfly_executor.core.shutdown_mode import ShutdownMode
from dragonfly_executor.simulation.figures import Figures, RunnerTime, figures_of
from dragonfly_executor.simulation.trace import TraceCall

if TYPE_CHECKING:
    from typing import Final

STUCK_AFTER: Final = 0.005
"""Seconds after which an agent returns calls that no slot has begun. Agents take 3 ms, or three calls' time."""


class SimulatedNodes(NamedTuple):
    """The nodes on which runners boot.

    Attributes:
        boot: seconds from the request for a node to a runner that takes calls.
        slots: calls at once on a runner.
        billing: seconds to a multiple of which each runner's time is billed; 0 for none.
    """

    boot: float = 30.0
    slots: int = 1
    billing: float = 0.0


def simulate(calls: Sequence[TraceCall], limits: PoolLimits, nodes: SimulatedNodes) -> Figures:
    """Play the calls on a pool with these limits, until its runners have stopped for being idle.

    Runners that are kept count up to that time, or to the end of the last call if no runner stops.
    """
    return _Simulation(calls, limits, nodes).run()


class _Runner:
    """A runner: the calls that run, and those that wait for a slot there."""

    __slots__ = ("began", "calls", "free", "waiting")

    def __init__(self, began: float, slots: int) -> None:
        self.began = began
        self.free = slots
        self.waiting: deque[Call] = deque()
        self.calls = 0


class _Simulation:
    """One run: the state machine, the runners, and the events to come."""

    def __init__(self, calls: Sequence[TraceCall], limits: PoolLimits, nodes: SimulatedNodes) -> None:
        self._calls = calls
        self._nodes = nodes
        self._machine = Machine(limits)
        self._now = 0.0
        self._last_end = 0.0
        self._runners: dict[int, _Runner] = {}
        self._lives: list[RunnerTime] = []
        self._limits: dict[str | None, CallLimits] = {None: CallLimits()}
        self._waits = [0.0] * len(calls)
        # A heap of (time, number, event). The numbers keep events of the same time in order.
        self._agenda: list[tuple[float, int, events.Event]] = []
        self._numbers = count()

    def run(self) -> Figures:
        """Play all calls, and return the figures."""
        self._handle(events.Tick())  # which boots `min`
        for arrival, batch in groupby(enumerate(self._calls, 1), lambda pair: pair[1].arrival):
            self._play(until=arrival)
            self._now = arrival
            self._handle(events.Submitted([Call(number, b"", None, self._limits_of(call)) for number, call in batch]))
        self._play(until=inf)
        # Runners that are kept end here.
        self._handle(events.ShutdownRequested(ShutdownMode.DRAIN))
        self._play(until=inf)
        return figures_of(self._waits, self._lives, self._last_end, self._nodes.billing)

    def _play(self, until: float) -> None:
        """Let all happen that happens before a time, or at it."""
        machine, agenda = self._machine, self._agenda
        while True:
            due = machine.deadline()
            if due is not None and due < until and not (agenda and agenda[0][0] <= due):
                self._now = max(self._now, due)
                self._handle(events.Tick())
            elif agenda and agenda[0][0] <= until:
                self._now, _, event = heappop(agenda)
                self._happens(event)
            else:
                return

    def _limits_of(self, call: TraceCall) -> CallLimits:
        """Return the limits of a call. Calls with the same key share theirs."""
        limits = self._limits.get(call.key)
        if limits is None:
            limits = self._limits[call.key] = CallLimits(key=len(self._limits))
        return limits

    def _later(self, seconds: float, event: events.Event) -> None:
        heappush(self._agenda, (self._now + seconds, next(self._numbers), event))

    def _happens(self, event: events.Event) -> None:
        """Change the runner of an event, and pass the event to the state machine."""
        match event:
            case events.ResultsArrived(runner_id):
                self._last_end = self._now
                runner = self._runners[runner_id]
                if runner.waiting:
                    self._start(runner_id, runner, runner.waiting.popleft())
                else:
                    runner.free += 1
            case events.CallsReturned(runner_id):
                holder = self._runners.get(runner_id)
                if holder is None or not holder.waiting:
                    return
                event = events.CallsReturned(runner_id, [(call.id, call.attempt) for call in holder.waiting])
                holder.waiting.clear()
            case events.RunnerGone(runner_id):
                gone = self._runners.pop(runner_id)
                self._lives.append(RunnerTime(gone.began, self._now, gone.calls))
            case _:
                pass
        self._handle(event)

    def _handle(self, event: events.Event) -> None:
        for action in self._machine.handle(event, self._now):
            match action:
                case actions.Send(runner_id, calls):
                    self._send(runner_id, calls)
                case actions.Boot(runner_id):
                    self._runners[runner_id] = _Runner(self._now, self._nodes.slots)
                    self._later(0.0, events.BootStarted(runner_id))
                    self._later(self._nodes.boot, events.BootSucceeded(runner_id, self._nodes.slots))
                case actions.Stop(runner_id):
                    self._later(0.0, events.RunnerGone(runner_id))
                case _:
                    pass

    def _send(self, runner_id: int, calls: Sequence[Call]) -> None:
        runner = self._runners[runner_id]
        for call in calls:
            if runner.free:
                runner.free -= 1
                self._start(runner_id, runner, call)
            else:
                if not runner.waiting:
                    self._later(STUCK_AFTER, events.CallsReturned(runner_id, ()))
                runner.waiting.append(call)

    def _start(self, runner_id: int, runner: _Runner, call: Call) -> None:
        runner.calls += 1
        arrival, seconds, _ = self._calls[call.id - 1]
        self._waits[call.id - 1] = self._now - arrival
        self._later(seconds, events.ResultsArrived(runner_id, [(call.id, call.attempt, seconds, None, False)]))
