"""Measure what each event costs the core, over runners and queued calls: ``python -m benchmarks.core``.

A figure is CPU time of this thread, with the query for the next deadline, so other programs disturb it little. It is
the least of some rounds. A round takes the mean over 200 events or more, so that work which is put off counts. The
garbage collector is off: what it costs depends on all that a program has.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from itertools import count, islice
from time import thread_time_ns
from typing import Any

from dragonfly_executor.core import actions, events
from dragonfly_executor.core.call_table import Call, CallLimits
from dragonfly_executor.core.calls import DEFAULT_KIND
from dragonfly_executor.core.limits import TierLimits
from dragonfly_executor.core.machine import Machine, PoolLimits
from dragonfly_executor.core.usage import UsageCaps
from dragonfly_executor.errors import BootError, RunnerLostError

SIZES = ["1x10000", "100x10000", "10000x10000", "1x1000000", "100x1000000", "10000x1000000"]
BURSTS = [100, 1_000, 10_000]
SLOTS = 2
PER_ROUND = 200
PLAIN = CallLimits()
HURRIED = CallLimits(timeout=1e6)
BY_PRIORITY = [CallLimits(priority=priority) for priority in (0, 1, -1, 0.5)]
BY_KEY = [CallLimits(key=key) for key in range(1, 1001)]
FLAT = 2.0
"""Maximum ratio of a figure at any size to the figure at the first size."""
BURST_LIMIT = 0.3
"""Maximum seconds for the largest burst of boots."""
STATS, CANCEL, TIME_OUT = "stats, ms", "all calls cancelled, longest event, ms", "all calls time out, longest event, ms"
LIMITS = {STATS: 1.0, CANCEL: 50.0, TIME_OUT: 50.0}
EVENT_LIMIT = 25.0
"""Maximum microseconds for an event."""

Step = tuple[str, Sequence[events.Event]]
"""A kind of event, and events of it. Events without a kind are not measured."""
Scenario = Callable[["Bench"], Generator[Step, list[actions.Action], None]]


class Bench:
    """A pool whose runners are all busy, and calls that wait.

    Args:
        runners: how many are up.
        queued: how many calls wait.
        limits: of the calls that wait, in turn.
        kinds: how many kinds of runners there are; the calls are of all kinds in turn.
        options: of `PoolLimits`.
    """

    def __init__(
        self, runners: int, queued: int, limits: Sequence[CallLimits] = (PLAIN,), kinds: int = 1, **options: Any
    ) -> None:
        settings = {"max": runners, "slots_hint": SLOTS, "max_concurrent_boots": runners, "max_boot_failures": 10**9}
        self.machine = Machine(PoolLimits(**{**settings, "idle_after": 1e9, **options}))
        self.now = 0.0
        self.ids = count(1)
        self.flying: dict[int, deque[Call]] = {}
        """The calls that each runner was sent, the oldest first."""
        self.costs: dict[str, list[float]] = {}
        self._queued, self._limits, self._turn = queued, limits, 0
        self._kinds = [DEFAULT_KIND, *map(str, range(1, min(kinds, runners)))]
        self.tell([events.Submitted(self.calls(runners * SLOTS))])
        self.tell([events.BootSucceeded(n, SLOTS) for n in range(1, runners + 1)])
        for _ in range(2):  # the core learns that calls take long, so it sends none ahead
            self.tell([self.result(runner_id) for runner_id in list(self.flying)])
        self.fill_up()

    def calls(self, number: int, *limits: CallLimits) -> list[Call]:
        """Submit new calls, with these limits in turn; without limits if there are none."""
        kinds, each = self._kinds, limits or (PLAIN,)
        return [Call(i, b"", None, each[i % len(each)], kinds[i % len(kinds)]) for i in islice(self.ids, number)]

    def fill_up(self) -> None:
        """Submit calls until as many wait as at first."""
        pool = self.machine.pool
        missing = self._queued - pool.call_table.queued
        if missing > 0 and not pool.usage.exhausted and pool.mode is None:
            self.tell([events.Submitted(self.calls(missing, *self._limits))])

    def some(self) -> list[int]:
        """Return twenty runners that have calls, or all; other runners each time."""
        start, self._turn = self._turn % len(self.flying), self._turn + 20
        return list(islice(self.flying, start, start + 20))

    def result(self, runner_id: int) -> events.Event:
        """Return the oldest call of a runner."""
        return events.ResultsArrived(runner_id, [(*self.ref(runner_id), 1.0, None, False)])

    def results(self, runners: Iterable[int]) -> list[events.Event]:
        """Return the results of all calls of these runners."""
        return [self.result(r) for r in runners for _ in range(len(self.flying.get(r, ())))]

    def ref(self, runner_id: int) -> tuple[int, int]:
        """Take the oldest call off a runner."""
        call = self.flying[runner_id].popleft()
        return call.id, call.attempt

    def tell(self, told: Iterable[events.Event], kind: str = "") -> list[actions.Action]:
        """Handle events like the engine, and record their cost."""
        handle, deadline, now, told = self.machine.handle, self.machine.deadline, self.now, list(told)
        began, decided = thread_time_ns(), []
        for event in told:
            decided.append(handle(event, now))
            deadline()
        if kind and told:
            self.costs.setdefault(kind, []).extend([(thread_time_ns() - began) / len(told) / 1e3] * len(told))
        return [self._carried_out(action) for each in decided for action in each]

    def _carried_out(self, action: actions.Action) -> actions.Action:
        if type(action) is actions.Send:
            self.flying.setdefault(action.runner_id, deque()).extend(action.calls)
        elif type(action) is actions.Stop:
            self.flying.pop(action.runner_id, None)
        return action

    def measure(self, *scenarios: Scenario) -> dict[str, float]:
        """Run each scenario until it has had enough events. Return the microseconds for an event, by its kind."""
        self.costs = {}
        for scenario in scenarios:
            known = set(self.costs)
            while min((len(self.costs[kind]) for kind in self.costs.keys() - known), default=0) < PER_ROUND:
                self._play(scenario)
        return {kind: sum(costs) / len(costs) for kind, costs in self.costs.items()}

    def _play(self, scenario: Scenario) -> None:
        steps = scenario(self)
        try:
            kind, told = next(steps)
            while True:
                kind, told = steps.send(self.tell(told, kind))
        except StopIteration:
            self.fill_up()


def booted(decided: Iterable[actions.Action]) -> list[int]:
    """Return the runners of all `Boot` actions."""
    return [action.runner_id for action in decided if type(action) is actions.Boot]


# -- what happens to a busy pool ---------------------------------------------------------------------------------------

Play = Generator[Step, list[actions.Action], None]


def calls_come_and_end(bench: Bench) -> Play:
    yield "call submitted", [events.Submitted(bench.calls(1)) for _ in range(20)]
    first = {r: [(call.id, call.attempt) for call in islice(bench.flying[r], 1)] for r in bench.some()}
    yield "call started", [events.CallsStarted(r, refs) for r, refs in first.items()]
    yield "result, next call sent", [bench.result(r) for r in first]


def calls_end_badly(bench: Bench) -> Play:
    yield "slot lost", [events.CallLost(r, *bench.ref(r), RunnerLostError("killed"), True) for r in bench.some()]
    yield "call stopped at its run_timeout", [events.CallTimedOut(r, *bench.ref(r)) for r in bench.some()]
    yield "call given back", [events.CallsReturned(r, [bench.ref(r)]) for r in bench.some()]


def calls_are_cancelled(bench: Bench) -> Play:
    refs = [(r, *bench.ref(r)) for r in bench.some()]
    yield "running call cancelled", [events.CancelRequested([call_id]) for _, call_id, _ in refs]
    yield "cancelled call has left its slot", [events.CallGone(*ref) for ref in refs]
    calls = bench.calls(20)
    yield "", [events.Submitted(calls)]
    yield "queued call cancelled", [events.CancelRequested([call.id]) for call in calls]


def queued_calls_time_out(bench: Bench) -> Play:
    yield "", [events.Submitted(bench.calls(1, CallLimits(queue_timeout=1.0 + n / 100))) for n in range(20)]
    for n in range(20):
        bench.now += 0.01 if n else 1.0
        yield "queued call timed out", [events.Tick()]


def runners_come_and_go(bench: Bench) -> Play:
    chosen = bench.some()
    yield "runner lost", [events.RunnerLost(r, RunnerLostError("its link died")) for r in chosen]
    new = booted((yield "runner gone, boot asked for", [events.RunnerGone(r) for r in chosen]))
    yield "boot started", [events.BootStarted(r) for r in new]
    yield "boot queued", [events.BootQueued(r) for r in new]
    yield "", [events.BootStarted(r) for r in new]
    half = len(new) // 2
    decided = yield "boot failed, boot asked for", [events.BootFailed(r, BootError("no"), 0.0) for r in new[half:]]
    new[half:] = booted(decided)
    prices = {r: 0.01 * (r % 3) or None for r in new}
    yield "runner up, calls sent", [events.BootSucceeded(r, SLOTS, price) for r, price in prices.items()]
    yield "", bench.results(new)


def runners_leave(bench: Bench) -> Play:
    chosen = bench.some()
    yield "runner leaving", [events.RunnerLeaving(r) for r in chosen]
    yield "", bench.results(chosen)
    new = booted((yield "", [events.RunnerGone(r) for r in chosen]))
    yield "", [events.BootSucceeded(r, SLOTS) for r in new]
    yield "", bench.results(new)


def nothing_follows(bench: Bench) -> Play:
    yield "round trip", [events.RoundTrip(r, 0.0001) for r in bench.some()]
    yield "tick", [events.Tick()] * 20
    yield "late message", [events.BootStarted(10**9)] * 20


def resizes(bench: Bench) -> Play:
    most = bench.machine.pool.max
    sizes = [most - 1, most] if most > 1 else [2, 1]
    yield "max is one less, or one more", [events.Resized(0, size) for _ in range(1000) for size in sizes]


BUSY = (
    calls_come_and_end, calls_end_badly, calls_are_cancelled, queued_calls_time_out, runners_come_and_go,
    runners_leave, nothing_follows, resizes,
)  # fmt: skip


# -- pools in which something else holds -------------------------------------------------------------------------------


def with_a_budget(bench: Bench) -> Play:
    """Measure events that move the usage, in a pool with a cap, for calls with timeouts."""
    steps = runners_come_and_go(bench)
    kind, told = next(steps)
    while True:
        decided = yield f"with a budget: {kind}" if kind else "", told
        try:
            kind, told = steps.send(decided)
        except StopIteration:
            return


def results_of(kind: str) -> Scenario:
    """Return calls without any options."""

    def scenario(bench: Bench) -> Play:
        yield kind, [bench.result(r) for r in bench.some()]

    return scenario


def late_calls(bench: Bench) -> Play:
    yield "budget used up: call submitted", [events.Submitted(bench.calls(1)) for _ in range(20)]


def calls_of(limits: Sequence[CallLimits], name: str) -> Scenario:
    """Return calls that come and end, in a pool whose calls have these limits."""

    def scenario(bench: Bench) -> Play:
        yield f"{name}: call submitted", [events.Submitted(bench.calls(1, *limits)) for _ in range(20)]
        yield f"{name}: result, next call sent", [bench.result(r) for r in bench.some()]

    return scenario


def idle_runners(bench: Bench) -> Play:
    for _ in range(20):
        decided = yield "idle pool: call sent", [events.Submitted(bench.calls(1))]
        bench.now += 0.001
        sent_to = [action.runner_id for action in decided if type(action) is actions.Send]
        yield "idle pool: result", [bench.result(r) for r in sent_to]


def longest_event(bench: Bench, event: events.Event) -> float:
    """Return the milliseconds of the longest event until all consequences of this one are handled."""
    handle, deadline, costs = bench.machine.handle, bench.machine.deadline, []
    while event is not None:
        began = thread_time_ns()
        handle(event, bench.now)
        behind = deadline() == bench.now
        costs.append(thread_time_ns() - began)
        event = events.Tick() if behind else None  # type: ignore[assignment]
    return max(costs) / 1e6


def make_tiers(count: int, runners: int, *, packs: bool) -> tuple[TierLimits, ...]:
    """Return the limits of as many backends, with as many of these runners each; none for one backend."""
    most = -(-runners // count)
    limits = {"max": most, "slots_hint": SLOTS, "max_concurrent_boots": runners, "idle_after": 1e9, "packs": packs}
    return tuple([TierLimits(boot_seconds=1e-6, **limits) for _ in range(count if count > 1 else 0)])


def measure(runners: int, queued: int, kinds: int = 1, tiers: int = 1, **limits: Any) -> dict[str, float]:
    """Run one round with `kinds` kinds of runners on `tiers` backends.

    Args:
        runners, queued, kinds, tiers: how many there are.
        limits: further limits of the pools.

    Returns:
        By event, the microseconds, or the unit in its name.
    """
    limits["tiers"] = make_tiers(tiers, runners, packs=limits.get("packs", False))
    bench = Bench(runners, queued, kinds=kinds, **limits)
    figures = bench.measure(*BUSY)
    bench.machine.stats(bench.now)  # loads its modules
    began = thread_time_ns()
    bench.machine.stats(bench.now)
    figures[STATS] = (thread_time_ns() - began) / 1e6
    bench.tell([events.Resized(0, max(1, runners // 2))])
    figures |= bench.measure(results_of("half of the runners retire: result"))
    bench.tell([events.ShutdownRequested(events.ShutdownMode.DRAIN)])
    figures |= bench.measure(results_of("shutdown: result"))
    figures[CANCEL] = longest_event(bench, events.ShutdownRequested(events.ShutdownMode.CANCEL_QUEUED))

    bench = Bench(
        runners, queued, [HURRIED], kinds, caps=UsageCaps(machine_seconds=1e12, cost=1e12, price=0.02), **limits
    )
    figures |= bench.measure(with_a_budget, results_of("calls have timeouts: result"))
    bench.now += 2e6
    figures[TIME_OUT] = longest_event(bench, events.Tick())

    for each, name in ((BY_PRIORITY, "with priorities"), (BY_KEY, "with keys")):
        figures |= Bench(runners, queued, each, kinds, **limits).measure(calls_of(each, name))

    bench = Bench(runners, queued, kinds=kinds, caps=UsageCaps(machine_seconds=1.0), **limits)
    bench.now += 10.0
    bench.tell([events.Tick()] * (2 + queued // 1000))
    figures |= bench.measure(late_calls)

    bench = Bench(runners, 0, kinds=kinds, **limits)
    bench.tell(bench.results(list(bench.flying)))
    figures |= bench.measure(idle_runners)
    return figures


def burst(runners: int) -> float:
    """Return the seconds from one event that causes boots until all runners are up."""
    machine = Machine(PoolLimits(max=runners, max_concurrent_boots=runners))
    told: list[events.Event] = [events.Submitted([Call(n, b"", None, PLAIN) for n in range(1, runners + 1)])]
    told += [events.BootStarted(n) for n in range(1, runners + 1)]
    told += [events.BootSucceeded(n, 1) for n in range(1, runners + 1)]
    began = thread_time_ns()
    for event in told:
        machine.handle(event, 0.0)
        machine.deadline()
    return (thread_time_ns() - began) / 1e9


# -- the table ---------------------------------------------------------------------------------------------------------


def line(kind: str, figures: Sequence[float]) -> tuple[bool, str]:
    """Return whether a kind's figures are within their limits, and a row of the table."""
    ratio = max(figures) / figures[0]
    limit = LIMITS.get(kind, EVENT_LIMIT)
    met = max(figures) <= limit and (kind in LIMITS or ratio <= FLAT)
    columns = "".join(f"{figure:>15.2f}" for figure in figures)
    return met, f"{kind:<42}{columns}{ratio:>8.1f}{'' if met else '  MISSED'}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.core", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", nargs="+", default=SIZES, metavar="RUNNERSxCALLS")
    parser.add_argument("--bursts", nargs="+", type=int, default=BURSTS, metavar="BOOTS")
    parser.add_argument("--kinds", type=int, default=1, help="kinds of runners, which are as many each")
    parser.add_argument("--tiers", type=int, default=1, help="backends of the pool, which have as many runners each")
    parser.add_argument("--thrifty", action="store_true", help="pools with scaling='thrifty'")
    parser.add_argument("--packs", action="store_true", help="pools with placement='pack'")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a target is missed")
    options = parser.parse_args()
    gc.disable()
    rows: dict[str, list[float]] = {}
    for size in options.sizes:
        runners, _, queued = size.partition("x")
        rounds = []
        for _ in range(options.rounds):
            rounds.append(
                measure(
                    int(runners),
                    int(queued),
                    options.kinds,
                    options.tiers,
                    packs=options.packs,
                    thrifty=options.thrifty,
                )
            )
            gc.collect()
        for kind in rounds[0]:
            rows.setdefault(kind, []).append(min(figures[kind] for figures in rounds))
    lines = [line(kind, figures) for kind, figures in rows.items()]
    print(f"{'CPU time, us':<42}" + "".join(f"{size:>15}" for size in options.sizes) + f"{'ratio':>8}")
    print(*(text for _, text in lines), sep="\n")
    bursts = {boots: min(burst(boots) for _ in range(options.rounds)) for boots in options.bursts}
    for boots, seconds in bursts.items():
        print(f"burst of {boots} boots: {seconds:.3f} s, {seconds / boots * 1e6:.1f} us a boot")
    met = all(good for good, _ in lines) and max(bursts.values()) <= BURST_LIMIT
    return 1 if options.check and not met else 0


if __name__ == "__main__":
    sys.exit(main())
