"""The sizes of machines: those that Fly has, and which of them calls need. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from dragonfly_executor.core.capacity import Capacity, Requirements

if TYPE_CHECKING:
    from dragonfly_executor.backends.fly.prices import Prices

CPUS = {"shared": (1, 2, 4, 6, 8), "performance": (1, 2, 4, 6, 8, 10, 12, 14, 16)}
MEMORY = {"shared": (256, 2048, 256), "performance": (2048, 8192, 1024)}
"""For each kind: minimum and maximum MiB per CPU, and the step of the total."""
GPUS = (1, 2, 4, 8)
"""The numbers of GPUs that a machine may have."""
SAFE_STEP = {"shared": 256, "performance": 2048}
"""The step of the total MiB in sizes that the backend chooses.

Fly's documents disagree on the step of performance machines: 1024 or 2048.
"""
MIB = 2**20


def capacity_of(guest: Mapping[str, Any], labels: frozenset[str]) -> Capacity:
    """Return what a machine of this size has.

    Args:
        guest: the size, as the API names it. A value that is no number counts as 0.
        labels: the labels of the machine.
    """
    cpus, memory, gpus = (guest.get(name) for name in ("cpus", "memory_mb", "gpus"))
    if gpus is None and guest.get("gpu_kind"):
        gpus = 1
    found = [value if isinstance(value, int) else 0 for value in (cpus, gpus, memory)]
    return Capacity(float(found[0]), found[1], found[2] * MIB, labels)


class Guest(NamedTuple):
    """The size of a machine.

    Raises:
        ValueError, TypeError: from `check`, if Fly has no such size.
    """

    cpu_kind: str = "performance"
    cpus: int = 2
    memory_mb: int = 4096
    gpu_kind: str | None = None
    gpus: int | None = None

    def check(self) -> Guest:
        """Return this size if Fly has it."""
        for name in ("cpus", "memory_mb", "gpus"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise TypeError(f"{name} must be a whole number, not {value!r}")
        if self.cpu_kind not in CPUS:
            raise ValueError(f"cpu_kind must be 'shared' or 'performance', not {self.cpu_kind!r}")
        if self.cpus not in CPUS[self.cpu_kind]:
            listed = ", ".join(map(str, CPUS[self.cpu_kind]))
            raise ValueError(f"cpus must be one of {listed} for {self.cpu_kind} machines, not {self.cpus}")
        least, most, step = MEMORY[self.cpu_kind]
        least, most = least * self.cpus, most * self.cpus
        if not least <= self.memory_mb <= most or self.memory_mb % step:
            raise ValueError(
                f"memory_mb of {self.cpu_kind} machines with {self.cpus} CPUs must be a multiple of {step} "
                f"from {least} to {most}, not {self.memory_mb}"
            )
        if self.gpus is not None and (self.gpu_kind is None or self.gpus < 1):
            raise ValueError("gpus must be at least 1, and needs a gpu_kind")
        return self

    def encode(self) -> dict[str, Any]:
        """Return the ``guest`` section of the machine's config."""
        said: dict[str, Any] = {"cpu_kind": self.cpu_kind, "cpus": self.cpus, "memory_mb": self.memory_mb}
        if self.gpu_kind is not None:
            said |= {"gpu_kind": self.gpu_kind, "gpus": self.gpus or 1}
        return said

    def __str__(self) -> str:
        gpus = f", {self.gpus or 1} x {self.gpu_kind}" if self.gpu_kind else ""
        return f"{self.cpu_kind}-{self.cpus}x with {self.memory_mb} MB{gpus}"


class MachineSizes(NamedTuple):
    """The sizes that a backend's machines may have.

    Attributes:
        own: the user's size. No machine has less of anything.
        is_fixed: whether all machines have the user's size.
    """

    own: Guest
    is_fixed: bool = False

    def choose(self, required: Requirements, prices: Prices) -> Guest | None:
        """Return the user's size if it has the required resources, otherwise the cheapest larger size that has them.

        Returns:
            None if no size has it.
        """
        if self.is_fixed or _fits(self.own, required):
            return self.own

        def cost(guest: Guest) -> tuple[float, int, int]:
            """Return the price. If a GPU has no price, no size has one, and the smallest size counts."""
            return prices.per_second(guest.encode()) or 0.0, guest.cpus, guest.memory_mb

        return min((guest for guest in self._larger(required) if _fits(guest, required)), key=cost, default=None)

    def largest(self) -> Guest:
        """Return the size that has most of everything."""
        if self.is_fixed:
            return self.own
        kind, cpus = "performance", CPUS["performance"][-1]
        gpus = None if self.own.gpu_kind is None else max(GPUS[-1], self.own.gpus or 1)
        return self.own._replace(cpu_kind=kind, cpus=cpus, memory_mb=cpus * MEMORY[kind][1], gpus=gpus)

    def _larger(self, required: Requirements) -> Iterator[Guest]:
        """Yield, for each kind and number of CPUs that are not below the user's, the least memory that is enough."""
        gpus = self._gpus(required.gpus)
        wanted = max(self.own.memory_mb, -(-required.memory // MIB))
        for kind in ("shared", "performance") if self.own.cpu_kind == "shared" else ("performance",):
            least, most, _ = MEMORY[kind]
            step = SAFE_STEP[kind]
            for cpus in CPUS[kind]:
                memory_mb = -(-max(wanted, cpus * least) // step) * step
                if cpus >= self.own.cpus and memory_mb <= cpus * most:
                    yield self.own._replace(cpu_kind=kind, cpus=cpus, memory_mb=memory_mb, gpus=gpus)

    def _gpus(self, required: int) -> int | None:
        """Return the least number of GPUs that is enough, or the user's own."""
        own = self.own.gpus or 1
        if self.own.gpu_kind is None or required <= own:
            return self.own.gpus
        return next((number for number in GPUS if number >= required), own)


def _fits(guest: Guest, required: Requirements) -> bool:
    return required.fit(capacity_of(guest.encode(), required.labels))
