"""The settings that are tried on a trace, and the choice among them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dragonfly_executor.core.machine import PoolLimits
from dragonfly_executor.simulation.figures import Figures

IDLE_AFTER = 30.0
"""Default idle time in seconds of a pool that is not thrifty."""
SHORTEST = 1.1
"""If no setting keeps the limit on waits, the candidates are those whose waits are at most this times the shortest."""


class Setting(NamedTuple):
    """Options of a pool, as `DragonflyExecutor` takes them.

    `idle_shutdown_after` is None if it is not given: the pool's default then applies.
    """

    placement: str = "spread"
    idle_shutdown_after: float | None = None
    min: int = 0
    scaling: str = "fast"

    def limits(self, most: int, slots: int) -> PoolLimits:
        """Return the limits of a pool with these options, at most `most` runners and `slots` slots on each."""
        return PoolLimits(
            min=min(self.min, most),
            max=most,
            slots_hint=slots,
            idle_after=IDLE_AFTER if self.idle_shutdown_after is None else self.idle_shutdown_after,
            packs=self.placement == "pack",
            thrifty=self.scaling == "thrifty",
            learns_idle=self.scaling == "thrifty" and self.idle_shutdown_after is None,
            max_concurrent_boots=most,
        )

    def __str__(self) -> str:
        """Return the options as keyword arguments. An option that has its default is left out, except `placement`."""
        text = f"placement={self.placement!r}"
        if self.scaling != "fast":
            text += f", scaling={self.scaling!r}"
        if self.idle_shutdown_after is not None:
            text += f", idle_shutdown_after={self.idle_shutdown_after:g}"
        return f"{text}, min={self.min}" if self.min else text


class Try(NamedTuple):
    """A setting and what came of it. `cost` is None if the price is unknown."""

    setting: Setting
    outcome: Figures
    cost: float | None


def settings(boot: float, minimum: int = 0) -> list[Setting]:
    """Return the settings to try if a boot takes `boot` seconds, with at least `minimum` runners."""
    idle_times = sorted({30.0, _round(boot), _round(2 * boot), _round(10 * boot)})
    tried = [Setting(placement, idle, minimum) for placement in ("spread", "pack") for idle in idle_times]
    tried += [Setting("pack", 30.0, minimum + more) for more in (1, 2)]
    return tried + [Setting("pack", None, minimum + more, "thrifty") for more in (0, 1, 2)]


def choose(tries: Sequence[Try], longest_wait: float) -> Try:
    """Return the cheapest try whose 99th percentile of waits is at most `longest_wait` seconds.

    If there is none, return the cheapest of those whose waits are nearly the shortest.
    """
    shortest = min(each.outcome.p99 for each in tries)
    limit = max(longest_wait, SHORTEST * shortest)
    return min((each for each in tries if each.outcome.p99 <= limit), key=_price)


def _price(each: Try) -> tuple[float, float]:
    return each.outcome.billed_seconds, each.outcome.p99


def _round(seconds: float) -> float:
    """Return a duration with two digits, as people write them."""
    return float(f"{seconds:.2g}")


def with_cost(outcomes: Iterable[tuple[Setting, Figures]], price: float | None) -> list[Try]:
    """Add the cost at a price in US dollars for a second of a runner."""
    return [Try(each, got, None if price is None else got.billed_seconds * price) for each, got in outcomes]
