"""The capacity of a runner, and the requirements of a call."""

from __future__ import annotations

from math import ceil

from dragonfly_executor.core.record import Record
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

NO_LABELS: Final[frozenset[str]] = frozenset()
GIB: Final = 2**30
ROUNDING: Final = 1e-9
"""Relative error of a share of CPUs that comes from the arithmetic alone."""


class Capacity(Record):
    """The CPUs, GPUs, memory and labels of a runner.

    Args:
        cpus: number of CPUs that it may use; may be fractional, because a container may have a share of a CPU.
        gpus: number of GPUs that it may use.
        memory: bytes of memory that it may use.
        labels: free labels, such as ``"eu"``.
    """

    __slots__ = __match_args__ = ("cpus", "gpus", "memory", "labels")

    def __init__(self, cpus: float, gpus: int = 0, memory: int = 0, labels: frozenset[str] = NO_LABELS) -> None:
        self.cpus = cpus
        self.gpus = gpus
        self.memory = memory
        self.labels = labels

    def __str__(self) -> str:
        return _described(self.cpus, self.gpus, self.memory, self.labels)


class Requirements(Record):
    """The requirements of a call. A call that requires nothing has a slot's share of its runner.

    Args:
        cpus: number of CPUs that the call uses while it runs; 0 = the share of one slot.
        gpus: number of GPUs that it uses while it runs.
        memory: bytes of memory that it uses while it runs.
        labels: labels that its runner must have.

    Attributes:
        key: text that is the same for equal requirements; empty if there are none.
    """

    __match_args__ = ("cpus", "gpus", "memory", "labels")
    __slots__ = (*__match_args__, "key")

    def __init__(self, cpus: float = 0, gpus: int = 0, memory: int = 0, labels: frozenset[str] = NO_LABELS) -> None:
        self.cpus = cpus
        self.gpus = gpus
        self.memory = memory
        self.labels = labels
        self.key = f"{cpus:g} {gpus} {memory} {sorted(labels)}" if cpus or gpus or memory or labels else ""

    def __str__(self) -> str:
        return _described(self.cpus, self.gpus, self.memory, self.labels) or "nothing"

    @property
    def takes_share(self) -> bool:
        """Return whether such a call takes a stated share of its runner."""
        return self.cpus > 0 or self.gpus > 0 or self.memory > 0

    def surplus(self, capacity: Capacity) -> int:
        """Return how many things a runner has that other calls may need and such a call does not."""
        return (capacity.gpus > 0 and not self.gpus) + len(capacity.labels - self.labels)

    def missing(self, capacity: Capacity) -> tuple[int, float]:
        """Return how far a runner is from meeting the requirements; less is nearer.

        Returns:
            The number of things of which it has too little, and the sum of the parts that it lacks of each.
        """
        wanted = ((self.cpus, capacity.cpus), (self.gpus, capacity.gpus), (self.memory, capacity.memory))
        lacks = [1 - has / wants for wants, has in wanted if has < wants]
        labels = self.labels - capacity.labels
        return len(lacks) + len(labels), sum(lacks)

    def fit(self, capacity: Capacity) -> bool:
        """Return whether a runner with this capacity can run such a call while it runs no other."""
        return (
            self.cpus <= capacity.cpus
            and self.gpus <= capacity.gpus
            and self.memory <= capacity.memory
            and self.labels <= capacity.labels
        )

    def slots_of(self, slots: int, capacity: Capacity | None) -> int:
        """Return how many of a runner's slots such a call takes: those whose share of the CPUs it requires.

        Args:
            slots: number of slots of the runner.
            capacity: what the runner has; None if unknown.
        """
        if not self.cpus or capacity is None or capacity.cpus <= 0:
            return 1
        return max(1, min(slots, ceil(self.cpus * slots / capacity.cpus * (1 - ROUNDING))))

    def calls_at_once(self, slots: int, capacity: Capacity | None) -> int:
        """Return how many such calls a runner can run at once, at least 1.

        Args:
            slots, capacity: as for `slots_of`.
        """
        count = slots // self.slots_of(slots, capacity)
        if capacity is not None:
            if self.gpus:
                count = min(count, capacity.gpus // self.gpus)
            if self.memory:
                count = min(count, capacity.memory // self.memory)
        return max(1, count)


def _described(cpus: float, gpus: int, memory: int, labels: frozenset[str]) -> str:
    parts: list[str] = []
    if cpus:
        parts.append(f"{cpus:g} CPU{'s' if cpus != 1 else ''}")
    if gpus:
        parts.append(f"{gpus} GPU{'s' if gpus != 1 else ''}")
    if memory:
        parts.append(f"{memory / GIB:.3g} GiB of memory")
    if labels:
        parts.append(f"the label{'s' if len(labels) > 1 else ''} {', '.join(sorted(labels))}")
    return ", ".join(parts)
