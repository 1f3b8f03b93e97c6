"""Interleaved rounds: each measurement of all subjects, one after the other, several times over."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import measures
from benchmarks.interpreters import LIMIT, Interpreters, run
from benchmarks.measures.effort import Figures
from benchmarks.results import Results
from benchmarks.rows import CAT, PLAIN_SOCKETS, ROWS, WIRE
from benchmarks.subjects import ADAPTERS, BASELINE, LIMITS, OTHER, OURS, POOL, SOCKETS, is_installed

CURVES = tuple(name for name in measures.ALONE if name.startswith("curve_"))
GROWING = (BASELINE, OURS, OTHER, POOL, *LIMITS)
"""The subjects of curves. More would take more time than lines can be told apart."""
OUR_NAMES = {"ours": OURS, "plain sockets": PLAIN_SOCKETS, "ssh host cat": CAT}
"""Names of `benchmarks.wire` that have another name here."""


class Run:
    """A run of rounds.

    Args:
        interpreters: how measurements are run.
        subjects: names of executors and limits.
        rows: names of rows.
        other: how measurements of the other checkout are run.
    """

    def __init__(
        self,
        interpreters: Interpreters,
        subjects: Sequence[str],
        rows: Sequence[str],
        other: Interpreters | None = None,
    ) -> None:
        self.results = Results(rows={row: {} for row in rows})
        self._interpreters, self._other = interpreters, other
        self._rows = rows
        self._subjects = [name for name in subjects if is_installed(name)]
        self._number = 0
        self._began = time.monotonic()
        self.results.failures += [f"{name} is not installed" for name in subjects if not is_installed(name)]

    def compile(self) -> None:
        """Start each executor once, because Python compiles modules when they are first imported. It does not count."""
        for subject in self._subjects:
            if subject in ADAPTERS and self._has(subject, "cold"):
                self._interpreters_of(subject).measure(subject, ["cold"])

    def round(self, number: int) -> None:
        """Take each figure once. Each round begins with another subject, so that none is always first."""
        self._number = number
        start = number % max(1, len(self._subjects))
        turn = self._subjects[start:] + self._subjects[:start]
        names = list(dict.fromkeys(ROWS[row].measurement for row in self._rows if row not in WIRE))
        for name in names:
            for subject in turn:
                if not self._at_once(subject, name) and self._has(subject, name):
                    self._take(subject, [name])
        for subject in turn:
            if together := [name for name in names if self._at_once(subject, name)]:
                self._take(subject, together)
        for row in WIRE:
            if row in self._rows:
                self._wire(row)

    def curves(self, number: int) -> None:
        """Take each curve once."""
        self._number = number
        for name in CURVES:
            for subject in self._subjects:
                if subject in GROWING and self._has(subject, name):
                    self._take(subject, [name])

    @staticmethod
    def _at_once(subject: str, name: str) -> bool:
        """Return whether a subject takes a measurement together with others.

        Memory is measured alone: what other measurements have freed is used again.
        """
        return subject in ADAPTERS and ADAPTERS[subject].starts_slowly and name in measures.STARTED and name != "memory"

    @staticmethod
    def _has(subject: str, name: str) -> bool:
        """Return whether a subject has a measurement: each executor has all, a limit has some."""
        if subject in measures.LIMITS:
            return name in measures.LIMITS[subject]
        return subject != SOCKETS or name not in ("imported", "cold", "memory")

    def _interpreters_of(self, subject: str) -> Interpreters:
        return self._other if subject == OTHER and self._other else self._interpreters

    def _take(self, subject: str, names: Sequence[str]) -> None:
        print(f"{time.monotonic() - self._began:6.0f} s  {subject}: {', '.join(names)}", file=sys.stderr)
        for name, answer in self._interpreters_of(subject).measure(subject, names).items():
            reason = answer.get("failed") or answer.get("left_out")
            if reason:
                self._failed(subject, name, reason)
            self._keep(subject, name, answer.get("figures", {}), left_out="left_out" in answer)

    def _keep(self, subject: str, measurement: str, figures: Figures, *, left_out: bool) -> None:
        if threads := figures.pop("by_thread", None):
            self.results.threads.setdefault(subject, []).append(threads)
        if points := figures.get(measurement) if measurement in CURVES else None:
            self.results.curves.setdefault(measurement, {}).setdefault(subject, []).append(points)
        for row in self._rows:
            if ROWS[row].measurement == measurement and not left_out:
                self.results.add(row, subject, self._number, figures.get(row))

    def _failed(self, subject: str, name: str, reason: str) -> None:
        line = f"{name} of {subject}: {reason}"
        if line not in self.results.failures:
            self.results.failures.append(line)
            print(f"    {line}", file=sys.stderr)

    def _wire(self, way: str) -> None:
        """Measure what `benchmarks.wire` measures: one round, in an interpreter of its own."""
        print(f"{time.monotonic() - self._began:6.0f} s  {way}", file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "figures")
            command = [sys.executable, "-m", "benchmarks.wire", "--rounds", "1", "--ways", way, "--json", str(file)]
            _, reason = run(command, self._interpreters.environment(), LIMIT)
            if not file.exists():
                self._failed("benchmarks.wire", way, reason)
                return
            for name, seconds in wire_seconds(json.loads(file.read_text()), way):
                self.results.add(way, OUR_NAMES.get(name, name), self._number, seconds)


def wire_seconds(figures: Figures, way: str) -> Iterator[tuple[str, float]]:
    """Yield the name and the seconds of each echo in the JSON of `benchmarks.wire`."""
    for name, echo in figures["ways"][way].items():
        yield name, echo["seconds"][0]
