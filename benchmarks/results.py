"""Figures of a run: medians, ratios to the baseline, verdicts. Kept as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.rows import ROWS, Row
from benchmarks.subjects import OURS, PEERS

Rounds = list[float | None]
"""One figure for each round; None if it could not be taken."""


@dataclass
class Results:
    """All that a run has measured.

    Attributes:
        machine: about the machine and the run.
        rows: for each row and subject, a figure for each round.
        threads: CPU seconds of a no-op call by subject and thread.
        curves: for each curve and subject, a list of points for each round.
        failures: what could not be measured, and why.
    """

    machine: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, dict[str, Rounds]] = field(default_factory=dict)
    threads: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    curves: dict[str, dict[str, list[list[list[float]]]]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read what `write` wrote."""
        kept = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{name: kept[name] for name in cls.__dataclass_fields__})

    def write(self, path: Path) -> None:
        """Write the figures as JSON, with a summary for people: rates in 1/s, times in seconds, memory in bytes."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**asdict(self), "summary": self._summary()}, indent=1) + "\n", encoding="utf-8")

    def _summary(self) -> dict[str, Any]:
        return {
            name: {
                "title": ROWS[name].title,
                "baseline": ROWS[name].baseline,
                "median": {subject: self.median(name, subject) for subject in figures},
                "ratio": {subject: self.ratio(name, subject) for subject in figures},
                "target": ROWS[name].target,
                "met": self.is_met(name),
            }
            for name, figures in self.rows.items()
        }

    def add(self, row: str, subject: str, number: int, value: float | None) -> None:
        """Keep the figure of a round."""
        rounds = self.rows.setdefault(row, {}).setdefault(subject, [])
        rounds += [None] * (number + 1 - len(rounds))
        rounds[number] = value

    def median(self, row: str, subject: str) -> float | None:
        """Return the median of the rounds."""
        return median_of(self.rows[row].get(subject, []))

    def ratio(self, row: str, subject: str, base: str = "") -> float | None:
        """Return the median of the rounds' ratios: what disturbs a whole round does not count."""
        return median_of(ratios(self.rows[row], subject, base or ROWS[row].baseline))

    def is_met(self, name: str) -> bool | None:
        """Return whether ours meets the row's target; None if there is none, or it was not measured."""
        row = ROWS[name]
        ratio = self.ratio(name, OURS, row.rival)
        return None if row.bound is None or ratio is None else row.is_met(ratio)

    def best_peer(self, name: str) -> tuple[str, float] | None:
        """Return the best of the other executors with processes, the baseline left out, and its ratio."""
        row = ROWS[name]
        others = [subject for subject in self.rows[name] if subject in PEERS and subject != row.baseline]
        known = [(subject, ratio) for subject in others if (ratio := self.ratio(name, subject)) is not None]
        choose = max if row.more_is_better else min
        return choose(known, key=lambda pair: pair[1]) if known else None

    def curve(self, name: str, subject: str) -> list[tuple[float, float]]:
        """Return the points of a curve: the median of the rounds for each."""
        values: dict[float, list[float]] = {}
        for points in self.curves[name][subject]:
            for x, y in points:
                values.setdefault(x, []).append(y)
        return [(x, median(ys)) for x, ys in sorted(values.items())]

    def by_thread(self, subject: str) -> dict[str, float]:
        """Return CPU seconds of a no-op call by thread: medians of the rounds."""
        rounds = self.threads.get(subject, [])
        names = dict.fromkeys(name for each in rounds for name in each)
        return {name: median(each.get(name, 0.0) for each in rounds) for name in names}


def median_of(values: Rounds) -> float | None:
    """Return the median of the figures that there are."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


def ratios(figures: Mapping[str, Rounds], subject: str, base: str) -> Rounds:
    """Return the subject's figure over the base's, for each round that has both."""
    pairs = zip(figures.get(subject, []), figures.get(base, []), strict=False)
    return [value / least for value, least in pairs if value is not None and least]


def advantage(row: Row, ratio: float) -> float:
    """Return a ratio in which more is better."""
    return ratio if row.more_is_better else 1 / ratio if ratio else float("inf")
