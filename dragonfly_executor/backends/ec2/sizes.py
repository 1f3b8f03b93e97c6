"""Sizes of instance types, and the types of one backend: which of them has what calls require. Pure.

EC2 tells the size of a type only to programs that have one more permission, and takes a request for it. So this module
has a table. It was compared with EC2's own description of 1395 types, as moto 5.2.5 carries it, on 2026-11-29.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dragonfly_executor.core.capacity import GIB, UNKNOWN, Capacity, Requirements
from dragonfly_executor.errors import BootError

PER_CPU = {
    "c5": 2, "c6a": 2, "c6g": 2, "c6i": 2, "c7a": 2, "c7g": 2, "c7i": 2, "m5": 4, "m6a": 4, "m6g": 4, "m6i": 4,
    "m7a": 4, "m7g": 4, "m7i": 4, "r5": 8, "r6a": 8, "r6g": 8, "r6i": 8, "r7a": 8, "r7g": 8, "r7i": 8,
}  # fmt: skip
"""By family: GiB of memory for each CPU."""
CPUS = {"medium": 1, "large": 2, "xlarge": 4}
"""CPUs by size in these families. "4xlarge" has 4 times as many as "xlarge"."""
_GPU_CPUS = {"xlarge": 4, "2xlarge": 8, "4xlarge": 16, "8xlarge": 32, "12xlarge": 48, "16xlarge": 64}
_GPUS = {"12xlarge": 4, "24xlarge": 4, "48xlarge": 8}
_LARGER = {"24xlarge": 96, "48xlarge": 192}
_BURSTING = {"nano": (2, 0.5), "micro": (2, 1), "small": (2, 2), "medium": (2, 4), "large": (2, 8), "xlarge": (4, 16)}
SIZES: Mapping[str, tuple[int, int, float]] = {
    **{f"{t}.{size}": (cpus, 0, gib) for t in ("t3", "t3a", "t4g") for size, (cpus, gib) in _BURSTING.items()},
    **{f"{t}.2xlarge": (8, 0, 32) for t in ("t3", "t3a", "t4g")},
    **{f"g4dn.{size}": (cpus, _GPUS.get(size, 1), 4 * cpus) for size, cpus in _GPU_CPUS.items()},
    **{f"g5.{size}": (cpus, _GPUS.get(size, 1), 4 * cpus) for size, cpus in (_GPU_CPUS | _LARGER).items()},
    **{f"g6.{size}": (cpus, _GPUS.get(size, 1), 4 * cpus) for size, cpus in (_GPU_CPUS | _LARGER).items()},
    **{f"g6e.{size}": (cpus, _GPUS.get(size, 1), 8 * cpus) for size, cpus in (_GPU_CPUS | _LARGER).items()},
    "p4d.24xlarge": (96, 8, 1152), "p4de.24xlarge": (96, 8, 1152),
    "p5.4xlarge": (16, 1, 256), "p5.48xlarge": (192, 8, 2048), "p5en.48xlarge": (192, 8, 2048),
}  # fmt: skip
"""By type: CPUs, GPUs and GiB of memory, where they do not follow from the family."""
_USUAL = ("large", "xlarge", "2xlarge", "4xlarge", "8xlarge", "12xlarge", "16xlarge", "24xlarge", "48xlarge")
DEFAULT_TYPES = tuple(f"{family}.{size}" for family in ("c7i", "m7i", "r7i") for size in _USUAL) + tuple(
    f"g6.{size}" for size in _USUAL if size != "large"
)
"""The types to choose from if the user names none. All have x86-64 CPUs; those of g6 have NVIDIA L4 GPUs."""


def xlarges(size: str) -> int:
    """Return how many times "xlarge" a size such as "4xlarge" is; 0 for other sizes."""
    number = size.removesuffix("xlarge")
    return int(number) if number != size and number.isascii() and number.isdigit() else 0


def size_of(instance_type: str) -> Capacity | None:
    """Return what an instance of this type has; None if the table does not have the type."""
    if instance_type in SIZES:
        cpus, gpus, gib = SIZES[instance_type]
        return Capacity(float(cpus), gpus, int(gib * GIB))
    family, _, size = instance_type.partition(".")
    count = CPUS["xlarge"] * xlarges(size) or CPUS.get(size)
    if family not in PER_CPU or not count:
        return None
    return Capacity(float(count), 0, count * PER_CPU[family] * GIB)


class InstanceTypes:
    """The instance types that a backend may launch.

    Args:
        names: the user's types, in order of preference.
        sizes: what instances of further types have, by type. It comes before the table.
        labels: the labels of the runners.
        may_choose: whether types of `DEFAULT_TYPES` are launched for calls that require something, if there are no
            `names`.

    Raises:
        TypeError: `sizes` does not have a `Capacity` for each type.
    """

    def __init__(
        self, names: Sequence[str], sizes: Mapping[str, Capacity], labels: frozenset[str], *, may_choose: bool
    ) -> None:
        for name, size in sizes.items():
            if not isinstance(size, Capacity):
                raise TypeError(f"sizes[{name!r}] must be a Capacity, not {type(size).__name__}")
        self.names = list(names)
        self._sizes = dict(sizes)
        self._labels = labels
        self._choice = self.names or ([*sizes, *DEFAULT_TYPES] if may_choose else [])

    def capacity(self, name: str) -> Capacity | None:
        """Return what an instance of this type has, with the labels; None if its size is unknown."""
        size = self._sizes.get(name) or size_of(name)
        return None if size is None else Capacity(size.cpus, size.gpus, size.memory, size.labels | self._labels)

    def capacities(self) -> list[Capacity]:
        """Return what the instances can have. A type of unknown size may have anything."""
        anything = Capacity(UNKNOWN, UNKNOWN, UNKNOWN, self._labels)
        return [self.capacity(name) or anything for name in self._choice] or [anything]

    def for_boot(self, required: Requirements | None) -> list[str]:
        """Return the types to try for one boot, in this order.

        Args:
            required: what the calls that wait require; None if they require nothing.

        Returns:
            The user's types in the user's order if nothing is required. Otherwise all types that have what is required,
            the smallest first: the one with the fewest GPUs, then the fewest CPUs, then the least memory. Types of
            unknown size come last. Empty for the launch template's type.

        Raises:
            BootError: none of the types has it.
        """
        if required is None or not self._choice:
            return self.names
        known: list[tuple[int, float, int, str]] = []
        unknown: list[str] = []
        for name in self._choice:
            size = self.capacity(name)
            if size is None:
                unknown.append(name)
            elif required.fit(size):
                known.append((size.gpus, size.cpus, size.memory, name))
        # Sorted without the names: among types of one size the user's order counts.
        found = [name for *_, name in sorted(known, key=lambda one: one[:3])] + unknown
        if not found:
            text = f"the calls require {required}, and none of {', '.join(self._choice)} has that"
            raise BootError(f"{text}: name a larger type in instance_types=", "create", final=True)
        return found
