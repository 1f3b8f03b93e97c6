"""Estimated prices of instances. EC2's price list has thousands of rows; this is a short list with a date."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from types import MappingProxyType
from typing import NamedTuple

SIZES = {"nano": 1 / 16, "micro": 1 / 8, "small": 1 / 4, "medium": 1 / 2, "large": 1.0, "xlarge": 2.0}
"""Sizes in units of "large". In one family, prices grow with them. "4xlarge" is 4 times "xlarge"."""


class EC2Prices(NamedTuple):
    """Prices of instances with Linux, on demand, in US dollars per hour. Replace parts with `_replace`.

    Attributes:
        as_of: the date of the list.
        families: by family, such as "c7i": the price of its size "large" in us-east-1.
        types: by instance type: its price in us-east-1. It comes before `families`.
        regions: by region: its prices, as a multiple of those in us-east-1.
        other_regions: the multiple for all other regions; rather too high.
        spot_share: the price of spot instances, as a share of the price on demand. Spot prices change all the time; 1
            is an upper bound.
    """

    as_of: str
    families: Mapping[str, float]
    types: Mapping[str, float]
    regions: Mapping[str, float]
    other_regions: float = 1.5
    spot_share: float = 1.0

    def check(self) -> EC2Prices:
        """Return the prices. ValueError if one is not a finite number of at least 0."""
        groups = (self.families.values(), self.types.values(), self.regions.values())
        numbers = [number for group in groups for number in group]
        if not all(isfinite(number) and number >= 0 for number in (*numbers, self.other_regions, self.spot_share)):
            raise ValueError("prices must be finite numbers of at least 0")
        return self

    def per_second(self, instance_type: str, region: str, *, is_spot: bool) -> float | None:
        """Return US dollars per second; None if the list does not have the type."""
        hourly = self.types.get(instance_type)
        if hourly is None:
            family, _, size = instance_type.partition(".")
            units = self._units(size)
            if family not in self.families or units is None:
                return None
            hourly = self.families[family] * units
        share = self.spot_share if is_spot else 1.0
        return hourly * self.regions.get(region, self.other_regions) * share / 3600

    @staticmethod
    def _units(size: str) -> float | None:
        number = size.removesuffix("xlarge")
        return 2.0 * int(number) if number != size and number.isascii() and number.isdigit() else SIZES.get(size)


EC2_PRICES = EC2Prices(
    as_of="2025-01",
    families=MappingProxyType({
        "t3": 0.0832, "t3a": 0.0752, "t4g": 0.0672, "m5": 0.096, "m6i": 0.096, "m6g": 0.077, "m7i": 0.1008,
        "m7g": 0.0816, "c5": 0.085, "c6i": 0.085, "c6g": 0.068, "c7i": 0.08925, "c7g": 0.0725, "r5": 0.126,
        "r6i": 0.126, "r6g": 0.1008, "r7i": 0.1323, "r7g": 0.1071,
    }),
    types=MappingProxyType({"g4dn.xlarge": 0.526, "g4dn.2xlarge": 0.752, "g5.xlarge": 1.006, "g5.2xlarge": 1.212}),
    regions=MappingProxyType({
        "us-east-1": 1.0, "us-east-2": 1.0, "us-west-2": 1.0, "eu-west-1": 1.12, "eu-central-1": 1.2,
        "ap-southeast-1": 1.25, "ap-northeast-1": 1.3,
    }),
)  # fmt: skip
"""The default list."""
