"""The statistics of a pool, which answer "why did it not scale?"."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from dragonfly_executor.core.capacity import Capacity


@dataclass(frozen=True, slots=True)
class CapacityStats:
    """The capacity of a runner, as plain values that JSON can hold.

    Attributes:
        cpus: number of CPUs.
        gpus: number of GPUs.
        memory: bytes of memory.
        labels: free labels, in order.
    """

    cpus: float
    gpus: int
    memory: int
    labels: tuple[str, ...]

    @classmethod
    def of(cls, capacity: Capacity) -> CapacityStats:
        """Return the values of a capacity."""
        return cls(capacity.cpus, capacity.gpus, capacity.memory, tuple(sorted(capacity.labels)))


@dataclass(frozen=True, slots=True)
class RunnerStats:
    """The statistics of one runner.

    Attributes:
        id: its number in the pool.
        state: "booting", "up", "leaving" (its platform stops it) or "stopping".
        slots: number of its slots.
        in_flight: number of its calls.
        calls_done: number of calls that ended on it.
        machine_seconds: seconds since its node was requested; 0 while its boot waits for its turn.
        cost: estimated cost in US dollars; None if its price is unknown.
        capacity: its CPUs, GPUs, memory and labels; None until they are known.
        tier: index of its backend in `PoolStats.tiers`.
    """

    id: int
    state: str
    slots: int
    in_flight: int
    calls_done: int
    machine_seconds: float
    cost: float | None
    capacity: CapacityStats | None = None
    tier: int = 0


@dataclass(frozen=True, slots=True)
class TierStats:
    """The statistics of one backend of a pool.

    Attributes:
        name: the backend's name.
        max: maximum number of its runners; None if only the pool's `max` counts.
        runners_up, runners_booting, runners_stopping: its runners by state. "leaving" ones count as stopping.
        runners_idle: its runners that are up and have no call.
        slots_busy, slots_free: slots of its runners that are up.
        boots_failed: number of its boots that failed in a row.
        passed_over: why it boots no runners now, though it could by its `max`: the error of its last boot, or that its
            budget is used up; None if it may boot.
        boot_seconds: mean time of its last boots, in seconds; the expected time until one has succeeded.
        machine_seconds: machine time of its runners since the pool began.
        cost: estimated cost of that time in US dollars; None if the price of a runner is unknown.
    """

    name: str
    max: int | None
    runners_up: int
    runners_booting: int
    runners_stopping: int
    runners_idle: int
    slots_busy: int
    slots_free: int
    boots_failed: int
    passed_over: str | None
    boot_seconds: float
    machine_seconds: float
    cost: float | None


class LazyRunnerStats:
    """A value for `PoolStats.runners` that makes the records on first access."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[[], tuple[RunnerStats, ...]]) -> None:
        self.make = make


class _LazySlot:
    """A base class with one slot that is not a field, so that it is neither shown nor compared nor copied."""

    __slots__ = ("_lazy_runners",)
    _lazy_runners: LazyRunnerStats


@dataclass(frozen=True, slots=True)
class PoolStats(_LazySlot):
    """A snapshot of a pool.

    Attributes:
        min, max: current bounds on the number of runners.
        runners_up, runners_booting, runners_stopping: runners by state. "leaving" runners count as stopping.
        runners_idle: runners that are up and have no call.
        boots_queued: booting runners whose boots wait in a queue of the backend.
        runners: a record of each runner. The thread that reads this attribute first makes the records.
        slots_busy, slots_free: slots of runners that are up.
        calls_queued: calls that wait for a slot, or were given up while they waited and are about to be settled.
        calls_delayed: calls that wait for the end of a retry's delay, or for futures among their arguments.
        calls_sent: calls that are on runners, started or not.
        calls_running: calls that slots have begun, by the runners' reports.
        calls_done: calls that ended with an answer from a runner: a value, or an error of their own.
        calls_failed: calls that failed because of a lost runner, a failed boot, a broken pool, or a future among their
            arguments that has no value.
        calls_cancelled, calls_timed_out: calls that the user cancelled, and calls whose timeout expired.
        calls_retried: retries begun.
        stale: messages that came too late to matter.
        boots_attempted, boots_failed: boots since the pool began.
        last_boot_error: text of the last boot error, or None.
        back_off_until: monotonic seconds before which no boot begins, or None.
        limits_that_bind: limits that keep waiting calls from more runners: "max", "max_workers", "max_concurrent_boots"
            (of the backend), "thrifty" (more do not pay), "back-off", "budget", "shutdown", "broken".
        machine_seconds: machine time of all runners since the pool began. A runner counts from the moment at which its
            node was requested until nothing of it is left; a current runner counts up to now.
        cost: estimated cost of that time in US dollars; None if the price of a runner is unknown. The cost falls if a
            runner that is up turns out to be cheaper than estimated.
        prices_as_of: date of the prices that the estimate uses; "" if unknown.
        progress: the state of boots in a queue, in the platform's words, the longest wait first.
        tiers: a record of each backend, in order of preference; empty for a pool with one backend.
    """

    min: int
    max: int
    runners_up: int
    runners_booting: int
    runners_stopping: int
    runners_idle: int
    boots_queued: int
    runners: tuple[RunnerStats, ...]
    slots_busy: int
    slots_free: int
    calls_queued: int
    calls_delayed: int
    calls_sent: int
    calls_running: int
    calls_done: int
    calls_failed: int
    calls_cancelled: int
    calls_timed_out: int
    calls_retried: int
    stale: int
    boots_attempted: int
    boots_failed: int
    last_boot_error: str | None
    back_off_until: float | None
    limits_that_bind: tuple[str, ...]
    machine_seconds: float
    cost: float | None
    prices_as_of: str
    progress: tuple[str, ...] = ()
    tiers: tuple[TierStats, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.runners, LazyRunnerStats):
            object.__setattr__(self, "_lazy_runners", self.runners)
            # Leave the slot empty: `__getattr__` fills it.
            object.__delattr__(self, "runners")

    def __getattr__(self, name: str) -> tuple[RunnerStats, ...]:
        # Python calls this only if the attribute does not exist, or if its slot is empty.
        if name != "runners":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        runners = self._lazy_runners.make()
        object.__setattr__(self, "runners", runners)
        return runners

    def with_progress(self, progress: Iterable[str]) -> PoolStats:
        """Return these statistics with texts that say how the boots in a queue stand. Empty texts are left out."""
        return replace(self, progress=tuple(filter(None, progress)))

    @property
    def explain(self) -> str:
        """Return one line: the waiting calls, the runners and slots for them, and the limits that bind."""
        runners = f"{self.runners_up} of at most {self.max} runners up"
        if self.tiers:
            runners += f" ({self.tiers_up})"
        if self.runners_booting:
            runners += f", {self.runners_booting} booting"
            if self.boots_queued:
                runners += f" ({self.boots_queued} in a queue{self._first_progress()})"
        if self.runners_stopping:
            runners += f", {self.runners_stopping} stopping"
        slots = f"{self.slots_busy} of {self.slots_busy + self.slots_free} slots busy"
        waiting = f"{self.calls_queued} calls wait"
        if self.calls_delayed:
            waiting += f" and {self.calls_delayed} for a retry or their arguments"
        text = f"{waiting}; {runners}; {slots}"
        if self.limits_that_bind:
            text += f"; held by {', '.join(self.limits_that_bind)}"
        if self.last_boot_error is not None and (self.back_off_until is not None or not self.runners_up):
            text += f"; last boot error: {self.last_boot_error}"
        for tier in self.tiers:
            if tier.passed_over is not None:
                text += f"; {tier.name} is passed over: {tier.passed_over}"
        return text

    @property
    def tiers_up(self) -> str:
        """The number of runners of each backend that are up, as text; "" for a pool with one backend."""
        return ", ".join(
            [f"{tier.name} {tier.runners_up}" + ("" if tier.max is None else f" of {tier.max}") for tier in self.tiers]
        )

    def _first_progress(self) -> str:
        if not self.progress:
            return ""
        first, *others = self.progress
        more = f" and {len(others)} more" if others else ""
        return f": {first}{more}"
