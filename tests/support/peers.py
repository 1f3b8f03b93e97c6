"""The scaling rules of other systems, written down from their documents, and a pool in virtual time that obeys one.

A rule sees numbers alone, and says how many runners to boot and which to stop. Where a document leaves a point open,
the rule has the better of the possible behaviours: no peer stops a busy runner, and calls go to free slots at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from math import ceil

from dragonfly_executor.simulation.figures import Figures, RunnerTime, figures_of
from dragonfly_executor.simulation.simulator import SimulatedNodes
from dragonfly_executor.simulation.trace import TraceCall


@dataclass
class PeerRunner:
    """A runner of a peer."""

    began: float
    free: int
    is_up: bool = False
    calls: int = 0
    idle_since: float = 0.0


@dataclass
class View:
    """What a rule sees.

    Attributes:
        now: seconds.
        slots: calls at once on a runner.
        waiting: number of calls that wait for a slot.
        running: the arrival-independent start times of the calls that run.
        up, booting, idle: runners by state; idle ones are up, and have no call.
        ended: seconds of each call that has ended since the last look.
    """

    now: float
    slots: int
    waiting: int
    running: Sequence[float]
    up: list[int]
    booting: list[int]
    idle: dict[int, float]
    ended: list[float]


class Rule:
    """A rule, looked up every `interval` seconds; None: after each event."""

    interval: float | None = None

    def decide(self, view: View) -> tuple[int, list[int]]:
        """Return how many runners to boot, and which idle or booting ones to stop."""
        raise NotImplementedError


class Flame(Rule):
    """FLAME 0.5.3: a boot for the calls that neither a free nor a booting slot takes; idle runners stop after 30 s.

    From `FLAME.Pool` (pool.ex): checkout, `idle_shutdown_after`, and the runners that boot count with all their slots.
    """

    idle_after = 30.0

    def decide(self, view: View) -> tuple[int, list[int]]:
        boots = max(0, ceil(view.waiting / view.slots) - len(view.booting))
        return boots, [i for i, since in view.idle.items() if view.now - since >= self.idle_after]


@dataclass
class DaskAdaptive(Rule):
    """Dask's `Adaptive` with its defaults: a look a second, target_duration 5 s, wait_count 3.

    From the documents of `distributed.deploy.Adaptive` and `Scheduler.adaptive_target`, and distributed.yaml (2026.8).
    Workers = (queued and running tasks) * mean seconds / target, at most one for each task, at least one if tasks
    wait. A task whose kind is new counts 0.5 s, and one that runs for more than twice its mean counts twice what it has
    run. A worker is closed once three looks in a row have found it superfluous. Workers that are yet to come are closed
    first.
    """

    interval = 1.0
    target: float = 5.0
    wait_count: int = 3
    mean: float = -1.0
    longest: float = 0.0
    counts: dict[int, int] = field(default_factory=dict)

    def duration(self) -> float:
        if self.mean >= 0:
            return self.mean
        return 2 * self.longest if self.longest else 0.5

    def decide(self, view: View) -> tuple[int, list[int]]:
        for seconds in view.ended:
            self.longest = max(self.longest, seconds)
            self.mean = seconds if self.mean < 0 else 0.5 * self.mean + 0.5 * seconds
        for since in view.running:
            self.longest = max(self.longest, view.now - since)
            if self.mean >= 0 and view.now - since > 2 * self.mean:
                self.mean = -1.0
        tasks = view.waiting + len(view.running)
        # Whole tasks of work, on workers with so many threads.
        cpu = min(tasks, ceil(tasks * self.duration() / self.target))
        if view.up:
            cpu = ceil(cpu / view.slots)
        elif view.waiting:
            cpu = max(1, cpu)
        target = cpu if cpu >= len(view.up) else max(cpu, len(view.up) - len(view.idle))
        plan = len(view.up) + len(view.booting)
        if target >= plan:
            self.counts = {}
            return target - plan, []
        closing = view.booting[: plan - target]
        if target < plan - len(closing):
            closing = [*closing, *list(view.idle)[: plan - len(closing) - target]]
        self.counts = {i: self.counts.get(i, 0) + 1 for i in closing}
        return 0, [i for i, looks in self.counts.items() if looks >= self.wait_count]


@dataclass
class Ray(Rule):
    """Ray's autoscaler with its defaults: a look every 5 s, upscaling_speed 1, idle_timeout_minutes 5.

    From the documents of the cluster YAML and of the autoscaler: nodes for the demand that waits, at most as many
    new ones at once as there are, or five. A node that has been idle for five minutes is removed.
    """

    interval = 5.0
    speed: float = 1.0
    idle_after: float = 300.0

    def decide(self, view: View) -> tuple[int, list[int]]:
        wanted = max(0, ceil(view.waiting / view.slots) - len(view.booting))
        most = max(5, ceil(self.speed * max(1, len(view.up)))) - len(view.booting)
        return max(0, min(wanted, most)), [i for i, since in view.idle.items() if view.now - since >= self.idle_after]


@dataclass
class Keda(Rule):
    """KEDA's defaults with Kubernetes' HPA: a look every 15 s, from zero every 30 s; five messages for a replica.

    From KEDA's ScaledObject specification (pollingInterval 30, cooldownPeriod 300), its queue scalers (queueLength 5),
    and the HPA's documents: tolerance 10 %, scale-up by at most 100 % or 4 pods in 15 s, and scale-down to the largest
    number that was wanted within the last 300 s.
    """

    interval = 15.0
    messages: int = 5
    window: float = 300.0
    wanted: deque[tuple[float, int]] = field(default_factory=deque)
    active: float = float("-inf")
    looks: int = 0

    def decide(self, view: View) -> tuple[int, list[int]]:
        self.looks += 1
        length, replicas = view.waiting + len(view.running), len(view.up) + len(view.booting)
        if length:
            self.active = view.now
        if not replicas:
            return (1 if length and self.looks % 2 else 0), []
        desired = max(1, ceil(length / self.messages))
        if abs(length / self.messages / replicas - 1) <= 0.1:
            desired = replicas
        desired = min(desired, max(2 * replicas, replicas + 4))
        self.wanted.append((view.now, desired))
        while self.wanted[0][0] <= view.now - self.window:
            self.wanted.popleft()
        desired = max(number for _, number in self.wanted)
        if view.now - self.active > self.window:
            desired = 0
        if desired >= replicas:
            return desired - replicas, []
        return 0, list(view.idle)[: replicas - desired]


def simulate_peer(calls: Sequence[TraceCall], rule: Rule, nodes: SimulatedNodes, most: int = 1000) -> Figures:
    """Play the calls on a pool that obeys a rule, with at most `most` runners."""
    runners: dict[int, PeerRunner] = {}
    agenda: list[tuple[float, int, str, int, int]] = []
    numbers, ids = count(), count(1)
    queue: deque[int] = deque()
    running: dict[int, float] = {}
    waits: list[float] = [0.0] * len(calls)
    lives: list[RunnerTime] = []
    ended: list[float] = []
    settled, now, last = 0, 0.0, 0.0

    def later(when: float, what: str, runner_id: int = 0, call: int = 0) -> None:
        heappush(agenda, (when, next(numbers), what, runner_id, call))

    def assign() -> None:
        while queue:
            # As in most of them, the least-loaded one.
            free = [(-each.free, i) for i, each in runners.items() if each.is_up and each.free]
            if not free:
                return
            runner_id = min(free)[1]
            call = queue.popleft()
            runner = runners[runner_id]
            runner.free -= 1
            runner.calls += 1
            running[call] = now
            waits[call] = now - calls[call].arrival
            later(now + calls[call].seconds, "end", runner_id, call)

    def look() -> None:
        up = [i for i, each in runners.items() if each.is_up]
        booting = [i for i, each in runners.items() if not each.is_up]
        idle = {i: runners[i].idle_since for i in up if runners[i].free == nodes.slots}
        view = View(now, nodes.slots, len(queue), list(running.values()), up, booting, idle, ended[:])
        ended.clear()
        boots, stops = rule.decide(view)
        for runner_id in stops:
            runner = runners.pop(runner_id)
            lives.append(RunnerTime(runner.began, now, runner.calls))
        for _ in range(min(boots, most - len(runners))):
            runner_id = next(ids)
            runners[runner_id] = PeerRunner(now, nodes.slots)
            later(now + nodes.boot, "up", runner_id)

    for number, each in enumerate(calls):
        later(each.arrival, "call", call=number)
    if rule.interval:
        later(rule.interval, "look")
    while settled < len(calls) or (runners and agenda):
        now, _, what, runner_id, call = heappop(agenda)
        match what:
            case "call":
                queue.append(call)
            case "end":
                settled += 1
                last = now
                runner = runners[runner_id]
                runner.free += 1
                runner.idle_since = now
                ended.append(calls[call].seconds)
                del running[call]
                if not rule.interval:
                    later(now + getattr(rule, "idle_after", 0.0), "idle")
            case "up" if runner_id in runners:
                runners[runner_id].is_up = True
                runners[runner_id].idle_since = now
                if not rule.interval:
                    later(now + getattr(rule, "idle_after", 0.0), "idle")
            case "look":
                later(now + (rule.interval or 0.0), "look")
        if what != "look":
            assign()
        if what == "look" or not rule.interval:
            look()
    lives += [RunnerTime(runner.began, now, runner.calls) for runner in runners.values()]
    return figures_of(waits, lives, last, nodes.billing)


PEERS = {"FLAME": Flame, "Dask": DaskAdaptive, "Ray": Ray, "KEDA": Keda}
