"""The runners that one backend has booted for one kind of calls."""

from __future__ import annotations

from collections import OrderedDict

from dragonfly_executor.core.boot_times import BootTimes
from dragonfly_executor.core.call_costs import CallCosts
from dragonfly_executor.core.ending_runners import EndingRunners
from dragonfly_executor.core.least_loaded import LeastLoaded
from dragonfly_executor.core.runner import Runner
from dragonfly_executor.core.scaling import BackOff
from dragonfly_executor.core.thrifty import ThriftyScaling
from dragonfly_executor.core.tier import Tier


class RunnerGroup:
    """The runners that one backend has booted for one kind of calls, and its boots for this kind.

    Args:
        kind: the kind.
        tier: the backend.
        thrifty: whether only runners boot that pay for themselves.
        measures: whether the seconds of calls are measured, even if the pool is not thrifty.

    Attributes:
        boot_times: how long boots take, and those that are under way.
        costs: how long calls on these runners take, and those that run; None if that is not measured.
        thrifty: the decisions of a thrifty pool; None if any runner boots that calls wait for.
        runners: by id; stopping ones included.
        booting: runners that boot, oldest boot first.
        queued: the runners whose boots wait in a queue of the backend, the longest wait first.
        needless: number of them that no call has needed since `needless_since`.
        needless_since: monotonic seconds; None while all of them are needed.
        up: number of runners that are up.
        slots, in_flight: sums over runners that are up: slots, calls.
        load: number of slots that these calls take, with the slots of prefetched calls.
        busy: number of their slots that have a call.
        most_calls: the largest number of calls of the kind that a runner could run at once.
        idle: runners without a call, longest idle first.
        idle_check_pending: runners without a call that were asked whether they may go.
        yielding: runners that are up and take no more calls, because another kind needs their room.
        ending: runners that drain within the time that a boot takes.
        back_off: the pause after failed boots.
        is_possible: whether the backend's runners may be able to run such calls.
        passed_over: True while no boot begins because enough boots have failed, and another backend boots instead.
        gate: id of the newest call when the kind began to wait for the room of another kind; None while it does not.
    """

    __slots__ = (
        "back_off", "boot_times", "booting", "busy", "costs", "ending", "gate", "idle", "idle_check_pending",
        "in_flight", "is_possible", "kind", "least_loaded", "load", "most_calls", "needless", "needless_since",
        "passed_over", "queued", "runners", "slots", "thrifty", "tier", "up", "yielding",
    )  # fmt: skip

    def __init__(self, kind: str, tier: Tier, *, thrifty: bool = False, measures: bool = False) -> None:
        self.kind = kind
        self.tier = tier
        self.boot_times = BootTimes()
        self.costs = CallCosts() if thrifty or measures else None
        self.thrifty = ThriftyScaling(self.boot_times, self.costs) if thrifty and self.costs is not None else None
        self.runners: dict[int, Runner] = {}
        # Ordered dicts if the first or last entry is needed: a plain dict walks over all deleted entries there.
        self.booting: OrderedDict[int, Runner] = OrderedDict()
        self.queued: OrderedDict[int, Runner] = OrderedDict()
        self.needless = 0
        self.needless_since: float | None = None
        self.up = 0
        self.slots = 0
        self.busy = 0
        self.in_flight = 0
        self.load = 0
        self.most_calls = 0
        self.idle: OrderedDict[int, Runner] = OrderedDict()
        self.idle_check_pending: dict[int, Runner] = {}
        self.yielding: dict[int, Runner] = {}
        self.ending = EndingRunners()
        self.back_off = BackOff()
        self.is_possible = True
        self.passed_over = False
        self.gate: int | None = None
        self.least_loaded = LeastLoaded()

    def __repr__(self) -> str:
        return f"<RunnerGroup {self.kind!r} {self.up} up, {len(self.booting)} booting>"

    @property
    def ahead(self) -> int:
        """Return the number of calls in flight beyond the running calls."""
        return max(0, self.load - self.slots)

    @property
    def staying(self) -> int:
        """Return the number of runners that boot, or are up and do not yield."""
        return self.up + len(self.booting) - len(self.yielding)
