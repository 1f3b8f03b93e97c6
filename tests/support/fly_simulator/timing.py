"""How long things take, and how often they may be asked for."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Timing:
    """Seconds. The defaults are as short as can be; what is realistic stands beside them (reference 1.6, 2, 5.2).

    Attributes:
        create_latency: until a create is answered (1.1 to 2.5, seen 17).
        pull_time: in `created` (3 to 12, seen 100); None for ever.
        destroy_time: in `destroying` (0.05 to 0.5).
        lag: until what has changed is seen by who does not send the affinity cookie.
        second: how long one second of Fly's takes: of waits and of the grace of a stop.
    """

    create_latency: float = 0.0
    pull_time: float | None = 0.01
    destroy_time: float = 0.02
    lag: float = 0.0
    second: float = 1.0


@dataclass(slots=True)
class Bucket:
    """Lets `rate` requests a second pass, and `burst` at once."""

    rate: float
    burst: float
    left: float = field(init=False)
    at: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.left = self.burst

    def take(self, now: float) -> float:
        """0.0 if one may pass now, else the seconds until one may."""
        if self.at is not None:
            self.left = min(self.burst, self.left + (now - self.at) * self.rate)
        self.at = now
        if self.left < 1.0:
            return (1.0 - self.left) / self.rate
        self.left -= 1.0
        return 0.0


PER_APP = frozenset({"create", "list"})
"""Their rate is per app; everything else's is per machine."""


@dataclass(slots=True)
class Rates:
    """Requests a second, and at once, per action and identifier (reference 1.5, D).

    Attributes:
        on: False lets everything pass.
        usual: rate and burst.
        of: the same for single actions.
        refusals: how many requests of an action are refused whatever their own rate is: somebody else asks as well.
    """

    on: bool = True
    usual: tuple[float, float] = (1.0, 3.0)
    of: dict[str, tuple[float, float]] = field(default_factory=lambda: {"get": (5.0, 10.0)})
    refusals: dict[str, int] = field(default_factory=dict)
    _buckets: dict[tuple[str, str], Bucket] = field(default_factory=dict)

    def take(self, action: str, app: str, machine: str, now: float) -> float:
        """0.0 if this request may pass now, else the seconds until it might."""
        if not self.on or not app:
            return 0.0
        if self.refusals.get(action):
            self.refusals[action] -= 1
            return 1.0 / self.of.get(action, self.usual)[0]
        key = (action, app if action in PER_APP else machine or app)
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = Bucket(*self.of.get(action, self.usual))
        return bucket.take(now)
