"""The figures as a table, with each executor's ratio to the baseline and which targets are met."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from benchmarks.adapters import BASELINE, OURS

Figures = dict[str, list[float | None]]
"""The figures of each executor, one per round; None if it could not be taken."""


@dataclass(frozen=True)
class Target:
    """A measurement, and the target for its ratio to the baseline."""

    title: str
    unit: str
    scale: float  # from seconds, bytes or a rate to the unit
    bound: float
    at_least: bool = False

    def is_met(self, ratio: float) -> bool:
        """Return whether the ratio meets the bound."""
        return ratio >= self.bound if self.at_least else ratio <= self.bound


TARGETS = {
    "throughput": Target("no-op submits", "calls/s", 1.0, 3.0, at_least=True),
    "round_trip": Target("round trip, p50", "µs", 1e6, 0.8),
    "map_throughput": Target("map, chunksize=100", "values/s", 1.0, 1.5, at_least=True),
    "cold_start": Target("first result from a cold start", "ms", 1e3, 1.0),
    "memory": Target("parent's memory per queued call", "bytes", 1.0, 1.0),
    "import_time": Target("import", "ms", 1e3, 1.5),
}


def table(name: str, figures: Figures) -> str:
    """Return one measurement as text.

    A ratio is the median of the rounds' ratios, so that what disturbs a whole round does not count; the range over the
    rounds stands beside each figure.
    """
    target = TARGETS[name]
    head = f"{target.title} ({target.unit})"
    lines = [f"\n{head:<40}{'median':>12}{'range':>26}{'ratio':>8}{'range':>16}"]
    for executor, values in figures.items():
        known = [value * target.scale for value in values if value is not None]
        ratios = ratios_to_baseline(executor, figures)
        columns = f"{_number(median(known)):>12}{_range(known):>26}" if known else f"{'-':>12}"
        columns += f"{median(ratios):>8.2f}{_range(ratios):>16}" if ratios else ""
        lines.append(f"  {executor:<38}{columns}")
    return "\n".join(lines)


def verdict(name: str, figures: Figures) -> tuple[bool, str]:
    """Return whether the target is met, and a line for the report."""
    target = TARGETS[name]
    ratios = ratios_to_baseline(OURS, figures)
    met = bool(ratios) and target.is_met(median(ratios))
    wanted = f"{'>=' if target.at_least else '<='} {target.bound:g}"
    word = "met" if met else "MISSED" if ratios else "not measured"
    return met, f"{target.title:<40}{wanted:>8}{median(ratios) if ratios else float('nan'):>8.2f}  {word}"


def ratios_to_baseline(executor: str, figures: Figures) -> list[float]:
    """Return the executor's figure over the baseline's, for each round that has both."""
    pairs = zip(figures.get(executor, []), figures[BASELINE], strict=False)
    return [value / base for value, base in pairs if value is not None and base]


def _range(values: list[float]) -> str:
    return f"{_number(min(values))} - {_number(max(values))}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
