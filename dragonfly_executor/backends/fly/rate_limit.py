"""Token buckets for API requests: Fly limits the requests per second for each action on each object."""

from __future__ import annotations

from typing import NamedTuple


class RateLimit(NamedTuple):
    """A rate limit.

    Attributes:
        per_second: requests per second in the long run.
        burst: requests at once after a pause.
    """

    per_second: float
    burst: int


DEFAULT = RateLimit(1.0, 3)
RATES = {"get": RateLimit(5.0, 10)}
"""Limits by action, from Fly's documentation. All other actions have `DEFAULT`."""
MAX_BUCKETS = 512


class RateLimiter:
    """Token buckets, one for each action on each object. Pure: the caller passes the time.

    A reservation takes its token at once, so later callers wait longer and all callers get their turn in order.
    """

    def __init__(self) -> None:
        self._buckets: dict[tuple[str, str], tuple[float, float]] = {}
        """For each bucket: its tokens (negative if reserved ahead), and the time of that count."""

    def reserve(self, action: str, thing: str, now: float) -> float:
        """Take a token, and return the seconds to wait before the request may be sent."""
        rate = RATES.get(action, DEFAULT)
        tokens = self._tokens(action, thing, now) - 1
        self._buckets[action, thing] = (tokens, max(now, self._since(action, thing, now)))
        if len(self._buckets) > MAX_BUCKETS:
            self._forget(now)
        return max(0.0, -tokens / rate.per_second)

    def was_late(self, action: str, thing: str, now: float, seconds: float) -> None:
        """Take away the tokens that a bucket gained while a request was `seconds` late.

        Fly counts from when it receives the request.
        """
        rate = RATES.get(action, DEFAULT)
        tokens = self._tokens(action, thing, now) - max(0.0, seconds) * rate.per_second
        self._buckets[action, thing] = (tokens, max(now, self._since(action, thing, now)))

    def _tokens(self, action: str, thing: str, now: float) -> float:
        rate = RATES.get(action, DEFAULT)
        tokens = self._buckets.get((action, thing), (float(rate.burst), now))[0]
        since = self._since(action, thing, now)
        # If the clock went back, the bucket gains and loses nothing.
        return min(float(rate.burst), tokens + max(0.0, now - since) * rate.per_second)

    def _since(self, action: str, thing: str, now: float) -> float:
        return self._buckets.get((action, thing), (0.0, now))[1]

    def _forget(self, now: float) -> None:
        """Remove full buckets, as a full bucket equals a missing one. Otherwise those of destroyed machines pile up."""
        self._buckets = {
            (action, thing): bucket
            for (action, thing), bucket in self._buckets.items()
            if self._tokens(action, thing, now) < RATES.get(action, DEFAULT).burst
        }
