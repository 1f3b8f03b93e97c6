"""What runs in an interpreter of its own: some measurements of one subject, a line of JSON for each."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence

from benchmarks import measures
from benchmarks.adapters import Adapter, NotMeasured
from benchmarks.measures.calls import warm_up
from benchmarks.measures.effort import QUICK, Effort, Figures, Setting
from benchmarks.subjects import ADAPTERS

MARK = "figures: "
"""Before each line, because libraries print as well."""


class Measured:
    """A subject, and its pool once a measurement needs one.

    Args:
        name: of the subject.
        workers: number of concurrent calls.
        effort: how long measurements go on.
    """

    def __init__(self, name: str, workers: int, effort: Effort) -> None:
        self._name, self._workers, self._effort = name, workers, effort
        self._pool: Adapter | None = None

    def measure(self, measurement: str) -> Figures:
        """Return the figures of one measurement."""
        if limit := measures.LIMITS.get(self._name):
            return limit[measurement](measurement, self._effort)
        if alone := measures.ALONE.get(measurement):
            return alone(Setting(self._name, self._workers, self._effort))
        if self._pool is None:
            self._pool = ADAPTERS[self._name](self._workers)
            warm_up(self._pool, self._effort)
        return measures.STARTED[measurement](self._pool, self._effort)

    def close(self) -> None:
        """Shut the pool down."""
        if self._pool is not None:
            self._pool.close()


def measured(subject: Measured, names: Sequence[str]) -> Iterator[Figures]:
    """Yield the figures of each measurement, or why there are none."""
    for name in names:
        try:
            yield {"measurement": name, "figures": subject.measure(name)}
        except NotMeasured as error:
            yield {"measurement": name, "left_out": str(error)}
        except Exception as error:  # any failure of an executor is a finding
            yield {"measurement": name, "failed": f"{type(error).__name__}: {error}"}


def main(arguments: Sequence[str]) -> None:
    """Measure what the arguments say: subject, workers, effort, measurements."""
    name, workers, effort, *names = arguments
    subject = Measured(name, int(workers), QUICK if effort == "quick" else Effort())
    for line in measured(subject, names):
        print(MARK + json.dumps(line), flush=True)
    subject.close()


if __name__ == "__main__":
    main(sys.argv[1:])
