"""`TierSettings`: one backend of a pool, with the pool's settings for it."""

from __future__ import annotations

from dragonfly_executor.core.record import Record
from dragonfly_executor.protocol.parent import Parent
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING
from dragonfly_executor.util.validation import whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dragonfly_executor.backends.base import Backend
    from dragonfly_executor.core.capacity import Capacity
    from dragonfly_executor.core.stats import PoolStats
    from dragonfly_executor.sync import FileSnapshot


class TierSettings(Record):
    """One backend of a pool. A pool has its tiers in order of preference, and most pools have one.

    Args:
        name: the backend's name, with a number if an earlier tier has the same.
        backend: boots the runners of the tier.
        file_snapshot: the files of this machine that its runners need; None if they see this machine's files.
        boot_timeout: time limit of a boot, in seconds.
        max_concurrency: number of slots of a runner that the user has set; None for the backend's default.
        has_fixed_price: whether the user has set a price, which then holds for all its runners.
    """

    __slots__ = __match_args__ = (
        "name", "backend", "file_snapshot", "boot_timeout", "max_concurrency", "has_fixed_price",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        backend: Backend,
        file_snapshot: FileSnapshot | None,
        *,
        boot_timeout: float,
        max_concurrency: int | None,
        has_fixed_price: bool,
    ) -> None:
        self.name = name
        self.backend = backend
        self.file_snapshot = file_snapshot
        self.boot_timeout = boot_timeout
        self.max_concurrency = max_concurrency
        self.has_fixed_price = has_fixed_price

    @property
    def slots_hint(self) -> int:
        """The expected number of slots of a runner, until one is up."""
        return self.max_concurrency or self.backend.default_slots() or 1

    @property
    def max(self) -> int | None:
        """The maximum number of runners among several tiers; None if only the pool's `max` counts."""
        return max_among_several(self.backend)


def max_among_several(backend: Backend) -> int | None:
    """Return the maximum number of a backend's runners among several tiers; None if only the pool's `max` counts."""
    return backend.default_max if backend.max is None else backend.max


def new_bounds(
    tiers: Sequence[TierSettings], current: PoolStats, least: int | None, most: int | None
) -> tuple[int, int]:
    """Return the bounds on the number of runners after a resize; None leaves a bound unchanged.

    Raises:
        TypeError: a bound is no whole number.
        ValueError: a bound is out of range, or the least is more than the most.
    """
    new_min = current.min if least is None else whole(least, "min", 0)
    new_max = current.max if most is None else whole(most, "max", 1)
    backends_max = None if most is None else most_runners([tier.backend for tier in tiers])
    if backends_max is not None:
        new_max = min(new_max, backends_max)
    if new_min > new_max:
        raise ValueError(f"min must be at most max, and {new_min} is more than {new_max}")
    # A runner that boots runners at its own start never stops booting.
    return 0 if Parent.get() else new_min, new_max


def most_runners(backends: Sequence[Backend]) -> int | None:
    """Return how many runners the backends may have together; None if only the pool's `max` counts.

    With one backend that is the `max` that the user has set for it. With several, `default_max` bounds each that has
    none.

    Raises:
        TypeError, ValueError: a backend's `max` is no number of runners.
    """
    if len(backends) == 1:
        most = backends[0].max
        return None if most is None else whole(most, f"max of the {backends[0].name} backend", 1)
    total = 0
    for backend in backends:
        most = max_among_several(backend)
        if most is None:
            return None
        total += whole(most, f"max of the {backend.name} backend", 1)
    return total


def most_calls(tiers: Sequence[TierSettings], stats: PoolStats, *, single_use: bool) -> int:
    """Return how many calls may run at once when as many runners are up as may be, earlier tiers first.

    Until a tier has a runner that is up, the slots of its runners are estimated.
    """
    left, calls = stats.max, 0
    for index, tier in enumerate(tiers):
        found = max((runner.slots for runner in stats.runners if runner.tier == index), default=0)
        runners = left if len(tiers) == 1 or tier.max is None else min(left, tier.max)
        calls += runners * (1 if single_use else found or tier.slots_hint)
        left -= runners
    return calls


def names_of(tiers: Iterable[TierSettings]) -> str:
    """Return the names of the backends as one word, such as "local+fly"."""
    return "+".join(tier.backend.name for tier in tiers)


def capacities_of(tiers: Sequence[TierSettings]) -> Sequence[Capacity]:
    """Return what runners of the tiers can have; empty if that is unknown of one of them."""
    if len(tiers) == 1:
        return tiers[0].backend.capacities()
    each = [tier.backend.capacities() for tier in tiers]
    return [capacity for sorts in each for capacity in sorts] if all(each) else ()
