"""Cost estimates for machines, from a price list in this file, as Fly has no price API. Pure.

The figures are from copies of Fly's price list that were made between May and September 2026. Fly bills machines by the
second while they are started.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from dragonfly_executor.util.validation import dollars

MONTH = 30 * 24 * 3600.0
"""Seconds in a month, as Fly counts."""
HOUR = 3600.0


class Prices(NamedTuple):
    """A price list in US dollars. Replace figures that you know better: ``PRICES._replace(regions={"cdg": 1.0})``.

    Attributes:
        as_of: the date of the prices.
        shared_cpu, performance_cpu: for one CPU of that kind for 30 days.
        memory: for one GiB for 30 days.
        gpus: for one GPU of each kind for one hour.
        regions: the price factor of each region. A region that is not listed gets the highest factor of the list, so
            that estimates are too high rather than too low.
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
        """Return this price list if it is valid. Raises TypeError or ValueError if it is not."""
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
        """Return the price per second of a machine in the most expensive of the regions; None if the size has no price.

        Args:
            guest: the ``guest`` section of a machine's config.
            regions: the regions in which the machine is or may be. If there are none, the region is unknown.
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
        """Return the highest price factor of these regions."""
        dearest = max(self.regions.values(), default=1.0)
        return max((self.regions.get(region, dearest) for region in regions), default=dearest)


PRICES = Prices()
"""The default price list."""


def _check(value: float, name: str) -> None:
    if dollars(value, f"prices: {name}") is None:
        raise TypeError(f"prices: {name} must be a number, not None")


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
