"""What a machine costs, as an estimate: Fly has no API that tells prices. Pure.

The figures are those of Fly's price list, from copies of it that were made between May and September 2026. Machines are
billed by the second, while they are started.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from dragonfly_executor.util.validation import dollars

MONTH = 30 * 24 * 3600.0
"""Seconds in what Fly takes for a month."""
HOUR = 3600.0


class Prices(NamedTuple):
    """A price list. Amounts are US dollars; replace what you know better: ``PRICES._replace(regions={"cdg": 1.0})``.

    Attributes:
        as_of: when these were the prices.
        shared_cpu, performance_cpu: for a CPU of that kind, for 30 days.
        memory: for a GiB, for 30 days.
        gpus: for one of that kind, for an hour.
        regions: what all of that is multiplied by there. A region that is not listed is taken for the dearest of
            those that are, so that an estimate is rather too high, and a budget rather too small.
    """

    as_of: str = "2026-09"
    shared_cpu: float = 0.721
    performance_cpu: float = 21.80
    memory: float = 5.195
    gpus: Mapping[str, float] = MappingProxyType(
        {"a10": 0.75, "l40s": 0.70, "a100-pcie-40gb": 1.25, "a100-sxm4-80gb": 1.50}
    )
    regions: Mapping[str, float] = MappingProxyType({"ams": 1.0, "iad": 1.0, "sjc": 1.15, "nrt": 2.0})

    def check(self) -> Prices:
        """This, if it is a price list; TypeError or ValueError otherwise."""
        if not isinstance(self.as_of, str):
            raise TypeError(f"prices: as_of must be a text, not {type(self.as_of).__name__}")
        for name in ("shared_cpu", "performance_cpu", "memory"):
            _check(getattr(self, name), name)
        for name in ("gpus", "regions"):
            listed = getattr(self, name)
            if not isinstance(listed, Mapping):
                raise TypeError(f"prices: {name} must be a mapping, not {type(listed).__name__}")
            for key, value in listed.items():
                _check(value, f"{name}[{key!r}]")
        return self

    def per_second(self, guest: Mapping[str, Any], regions: Iterable[str] = ()) -> float | None:
        """For a machine of that size, in the dearest of these regions; None where the size cannot be priced.

        Args:
            guest: as in a machine's config.
            regions: where it is, or may be. None means that nobody knows.
        """
        kind = guest.get("cpu_kind", "shared")
        cpu = {"shared": self.shared_cpu, "performance": self.performance_cpu}.get(str(kind))
        cpus, memory = guest.get("cpus", 1), guest.get("memory_mb", 256)
        if cpu is None or not _is_size(cpus) or not _is_size(memory):
            return None
        price: float = (cpus * cpu + memory / 1024 * self.memory) / MONTH
        if guest.get("gpu_kind"):
            gpu, count = self.gpus.get(str(guest["gpu_kind"])), guest.get("gpus", 1)
            if gpu is None or not _is_size(count):
                return None
            price += count * gpu / HOUR
        return price * self.factor(regions)

    def factor(self, regions: Iterable[str]) -> float:
        """What prices are multiplied by in the dearest of these regions."""
        dearest = max(self.regions.values(), default=1.0)
        return max((self.regions.get(region, dearest) for region in regions), default=dearest)


PRICES = Prices()
"""The list that there is."""


def _check(value: float, name: str) -> None:
    if dollars(value, f"prices: {name}") is None:
        raise TypeError(f"prices: {name} must be a number, not None")


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
