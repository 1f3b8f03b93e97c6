"""Estimated prices of instances. EC2's price list has thousands of rows; this is a short list with a date."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from types import MappingProxyType
from typing import NamedTuple

from dragonfly_executor.backends.ec2.sizes import xlarges

UNITS = {"nano": 1 / 16, "micro": 1 / 8, "small": 1 / 4, "medium": 1 / 2, "large": 1.0, "xlarge": 2.0}
"""By size: how many times "large" it costs in its family. "4xlarge" costs 4 times as much as "xlarge"."""


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
            units = UNITS["xlarge"] * xlarges(size) or UNITS.get(size)
            if family not in self.families or units is None:
                return None
            hourly = self.families[family] * units
        share = self.spot_share if is_spot else 1.0
        return hourly * self.regions.get(region, self.other_regions) * share / 3600


EC2_PRICES = EC2Prices(
    as_of="2026-02-09",
    families=MappingProxyType({
        "t3": 0.0832, "t3a": 0.0752, "t4g": 0.0672, "c5": 0.085, "c6a": 0.0765, "c6g": 0.068, "c6i": 0.085,
        "c7a": 0.10264, "c7g": 0.0725, "c7i": 0.08925, "m5": 0.096, "m6a": 0.0864, "m6g": 0.077, "m6i": 0.096,
        "m7a": 0.11592, "m7g": 0.0816, "m7i": 0.1008, "r5": 0.126, "r6a": 0.1134, "r6g": 0.1008, "r6i": 0.126,
        "r7a": 0.15215, "r7g": 0.1071, "r7i": 0.1323,
    }),
    types=MappingProxyType({
        "g4dn.xlarge": 0.526, "g4dn.2xlarge": 0.752, "g4dn.4xlarge": 1.204, "g4dn.8xlarge": 2.176,
        "g4dn.12xlarge": 3.912, "g4dn.16xlarge": 4.352, "g5.xlarge": 1.006, "g5.2xlarge": 1.212, "g5.4xlarge": 1.624,
        "g5.8xlarge": 2.448, "g5.12xlarge": 5.672, "g5.16xlarge": 4.096, "g5.24xlarge": 8.144, "g5.48xlarge": 16.288,
        "g6.xlarge": 0.8048, "g6.2xlarge": 0.9776, "g6.4xlarge": 1.3232, "g6.8xlarge": 2.0144, "g6.12xlarge": 4.6016,
        "g6.16xlarge": 3.3968, "g6.24xlarge": 6.6752, "g6.48xlarge": 13.3504, "g6e.xlarge": 1.861,
        "g6e.2xlarge": 2.24208, "g6e.4xlarge": 3.00424, "g6e.8xlarge": 4.52856, "g6e.12xlarge": 10.49264,
        "g6e.16xlarge": 7.57719, "g6e.24xlarge": 15.06559, "g6e.48xlarge": 30.13118, "p4d.24xlarge": 21.957642,
        "p4de.24xlarge": 27.44705, "p5.4xlarge": 6.88, "p5.48xlarge": 55.04, "p5en.48xlarge": 63.296,
    }),
    regions=MappingProxyType({
        "us-east-1": 1.0, "us-east-2": 1.0, "us-west-2": 1.0, "us-west-1": 1.25, "ca-central-1": 1.11,
        "eu-north-1": 1.09, "eu-west-1": 1.14, "eu-central-1": 1.2, "eu-west-2": 1.2, "ap-southeast-1": 1.25,
        "ap-northeast-1": 1.3, "ap-southeast-2": 1.32,
    }),
)  # fmt: skip
"""The default list.

`families` and `types` are those that AWS's price list gave for us-east-1 on the date, as Karpenter has recorded it
(github.com/aws/karpenter-provider-aws, pkg/providers/pricing/zz_generated.pricing_aws.go at commit 265ee0ba). `regions`
are upper bounds from three families (a1, c7gd, d2) in github.com/skypilot-org/skypilot-catalog, catalogs/v7/aws/vms.csv
at commit 001367d2. Other families of those regions, and spot prices, were not compared.
"""
