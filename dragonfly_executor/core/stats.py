"""How a pool stands, in numbers that answer "why did it not scale?"."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunnerStats:
    """One runner: its number, "booting", "up", "leaving" (its platform stops it) or "stopping", its slots, its calls,
    and how many ended on it.

    Attributes:
        machine_seconds: since its node was asked for; 0 while its boot waits for its turn.
        cost: an estimate, in US dollars; None where its price is not known.
    """

    id: int
    state: str
    slots: int
    in_flight: int
    calls_done: int
    machine_seconds: float
    cost: float | None


class Later:
    """Given as `PoolStats.runners`: makes them when they are first looked at."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[[], tuple[RunnerStats, ...]]) -> None:
        self.make = make


class _HasLater:
    """A slot beside the fields, so that it is neither shown nor compared nor copied."""

    __slots__ = ("_later",)
    _later: Later


@dataclass(frozen=True, slots=True)
class PoolStats(_HasLater):
    """A snapshot of a pool.

    Attributes:
        min, max: the bounds on runners, as they are now.
        runners_up, runners_booting, runners_stopping: runners by state, leaving ones among those that stop; idle ones
            are up and have no call.
        runners: each of them. These records are made when they are first looked at, in the thread that looks.
        slots_busy, slots_free: slots of runners that are up.
        calls_queued: wait for a slot, or did so until they were given up, and are about to be settled.
        calls_delayed: wait for the end of a retry's delay.
        calls_sent: are on runners, started or not; those that slots have begun are calls_running.
        calls_done: ended with an answer from a runner, be it a value or an error of their own.
        calls_failed: ended because of what carries them: a lost runner, a failed boot, a broken pool.
        calls_cancelled, calls_timed_out: given up by the user, and by a budget.
        calls_retried: retries begun.
        stale: messages that came too late to matter.
        boots_attempted, boots_failed: since the pool began.
        last_boot_error: the last one's text, or None.
        back_off_until: monotonic seconds before which nothing boots, or None.
        limits_that_bind: what keeps waiting calls from more runners: "max", "max_workers", "max_concurrent_boots" (of
            the backend), "back-off", "budget", "shutdown", "broken".
        machine_seconds: what all runners have used since the pool began, each from the moment at which its node was
            asked for until nothing of it was left; those that are there are counted up to now.
        cost: what that is estimated to cost, in US dollars; None where the price of a runner is not known. Where a
            runner that is up turns out to be cheaper than was thought, it is less than it was.
        prices_as_of: when prices were those that this goes by; "" where nobody says.
    """

    min: int
    max: int
    runners_up: int
    runners_booting: int
    runners_stopping: int
    runners_idle: int
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

    def __post_init__(self) -> None:
        if isinstance(self.runners, Later):
            object.__setattr__(self, "_later", self.runners)
            # An empty slot: `__getattr__` fills it.
            object.__delattr__(self, "runners")

    def __getattr__(self, name: str) -> tuple[RunnerStats, ...]:
        # Called only if there is no such attribute, or if its slot is empty.
        if name != "runners":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        runners = self._later.make()
        object.__setattr__(self, "runners", runners)
        return runners

    @property
    def explain(self) -> str:
        """One line: what waits, what there is to run it, and what keeps it from being more."""
        runners = f"{self.runners_up} of at most {self.max} runners up"
        if self.runners_booting:
            runners += f", {self.runners_booting} booting"
        if self.runners_stopping:
            runners += f", {self.runners_stopping} stopping"
        slots = f"{self.slots_busy} of {self.slots_busy + self.slots_free} slots busy"
        waiting = f"{self.calls_queued} calls wait"
        if self.calls_delayed:
            waiting += f" and {self.calls_delayed} for their retry"
        text = f"{waiting}; {runners}; {slots}"
        if self.limits_that_bind:
            text += f"; held by {', '.join(self.limits_that_bind)}"
        if self.last_boot_error is not None and (self.back_off_until is not None or not self.runners_up):
            text += f"; last boot error: {self.last_boot_error}"
        return text
