"""Measure executors in interleaved rounds, and compare them with `ProcessPoolExecutor`: ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import median

from benchmarks.adapters import ADAPTERS, BASELINE
from benchmarks.measures import measure
from benchmarks.report import TARGETS, Figures, ratios_to_baseline, table, verdict

# Short measurements are noisy, and cheap to repeat. The median of each round counts.
REPEATS = {"cold_start": 3, "import_time": 3}


def main() -> int:
    options = _options()
    names = [BASELINE, *(name for name in options.executors if name != BASELINE)]
    results: dict[str, Figures] = {taken: {name: [] for name in names} for taken in options.measures}
    # Other load on the machine disturbs figures most, so the report shows it.
    machine = {
        "python": platform.python_version(),
        "system": platform.system(),
        "cpus": os.cpu_count(),
        "workers": options.workers,
        "load before": round(os.getloadavg()[0], 2),
    }
    for name in names:
        _figure("cold_start", name, options.workers)  # compiles modules that are not compiled yet; does not count
    for number in range(options.rounds):
        for taken, figures in results.items():
            # Each round begins with another executor, so that none is always first.
            start = number % len(names)
            for name in names[start:] + names[:start]:
                figures[name].append(_figure(taken, name, options.workers))
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
    machine["load after"] = round(os.getloadavg()[0], 2)
    print(", ".join(f"{name}: {value}" for name, value in machine.items()))
    print(*(table(taken, figures) for taken, figures in results.items()), sep="\n")
    verdicts = [verdict(taken, figures) for taken, figures in results.items()]
    print(f"\n{'ratio to ' + BASELINE:<40}{'target':>8}{'got':>8}", *(line for _, line in verdicts), sep="\n")
    _write(Path(options.json), machine, results)
    return 1 if options.check and not all(met for met, _ in verdicts) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="default: the CPUs there are")
    parser.add_argument("--executors", nargs="+", choices=list(ADAPTERS), default=list(ADAPTERS))
    parser.add_argument("--measures", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--json", default="build/benchmarks.json", help="file for the figures")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a target is missed")
    return parser.parse_args()


def _figure(taken: str, name: str, workers: int) -> float | None:
    """Return the median of some repetitions; None if the executor is not installed, or fails."""
    try:
        return median(measure(taken, name, workers) for _ in range(REPEATS.get(taken, 1)))
    except subprocess.SubprocessError as error:
        reason = str(getattr(error, "stderr", None) or error).strip().splitlines()[-1]
        print(f"{taken} of {name} could not be measured: {reason}", file=sys.stderr)
        return None


def _write(path: Path, machine: Mapping[str, object], results: Mapping[str, Figures]) -> None:
    """Write the figures as JSON: rates in 1/s, times in seconds, memory in bytes."""
    measured = {
        taken: {
            "rounds": figures,
            "ratio": {name: median(ratios) for name in figures if (ratios := ratios_to_baseline(name, figures))},
            "target": {"bound": TARGETS[taken].bound, "at_least": TARGETS[taken].at_least},
            "met": verdict(taken, figures)[0],
        }
        for taken, figures in results.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**machine, "measures": measured}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
