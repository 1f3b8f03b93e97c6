"""How fast Fly may be asked: so many requests a second for each action on each thing, and a few at once."""

from __future__ import annotations

from typing import NamedTuple


class Rate(NamedTuple):
    """How often something may be done.

    Attributes:
        per_second: in the long run.
        burst: at once, after a pause.
    """

    per_second: float
    burst: int


DEFAULT = Rate(1.0, 3)
RATES = {"get": Rate(5.0, 10)}
"""By action; all others have the default. So Fly's documentation says."""
MAX_BUCKETS = 512


class Pacer:
    """Token buckets, one for each action on each thing. Pure: whoever asks says what time it is.

    What is asked for is reserved: who comes later waits longer, and all get their turn in order.
    """

    def __init__(self) -> None:
        self._buckets: dict[tuple[str, str], tuple[float, float]] = {}
        """Tokens, which may be owed, and when that was."""

    def reserve(self, action: str, thing: str, now: float) -> float:
        """Seconds to wait before this may be done."""
        rate = RATES.get(action, DEFAULT)
        tokens = self._tokens(action, thing, now) - 1
        self._buckets[action, thing] = (tokens, max(now, self._since(action, thing, now)))
        if len(self._buckets) > MAX_BUCKETS:
            self._forget(now)
        return max(0.0, -tokens / rate.per_second)

    def was_late(self, action: str, thing: str, now: float, seconds: float) -> None:
        """Take back what has come in during so many seconds, by which something was done later than it might have been.

        Fly counts from when it is asked.
        """
        rate = RATES.get(action, DEFAULT)
        tokens = self._tokens(action, thing, now) - max(0.0, seconds) * rate.per_second
        self._buckets[action, thing] = (tokens, max(now, self._since(action, thing, now)))

    def _tokens(self, action: str, thing: str, now: float) -> float:
        rate = RATES.get(action, DEFAULT)
        tokens = self._buckets.get((action, thing), (float(rate.burst), now))[0]
        since = self._since(action, thing, now)
        # A clock that went back gives nothing, and takes nothing.
        return min(float(rate.burst), tokens + max(0.0, now - since) * rate.per_second)

    def _since(self, action: str, thing: str, now: float) -> float:
        return self._buckets.get((action, thing), (0.0, now))[1]

    def _forget(self, now: float) -> None:
        """Machines come and go. A bucket that is full says what one that is not there says."""
        self._buckets = {
            (action, thing): bucket
            for (action, thing), bucket in self._buckets.items()
            if self._tokens(action, thing, now) < RATES.get(action, DEFAULT).burst
        }
