"""Measure executors in interleaved rounds, and compare them with `ProcessPoolExecutor`: ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.interpreters import ROOT, Interpreters
from benchmarks.plots import write_plots
from benchmarks.report import block, change, verdict
from benchmarks.results import Results
from benchmarks.rounds import Run
from benchmarks.rows import ROWS
from benchmarks.subjects import EXECUTORS, LIMITS, OTHER

PACKAGE = "dragonfly_executor"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write. Returns the exit code."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # an exception ends the measured processes, too
    began = time.monotonic()
    results = _measure(options)
    results.machine["minutes"] = round((time.monotonic() - began) / 60, 1)
    print(", ".join(f"{name}: {value}" for name, value in results.machine.items()))
    print(*(block(results, name) for name in results.rows), sep="\n")
    print(
        f"\n{'ratio of ours':<50}{'target':>12}{'got':>8}",
        *(verdict(results, name) for name in ROWS if name in results.rows),
        sep="\n",
    )
    if options.beside:
        print(
            f"\n{'ratio to the other checkout':<50}{'got':>8}",
            *(change(results, name) for name in results.rows),
            sep="\n",
        )
    if results.failures:
        print("\nnot measured:", *results.failures, sep="\n  ")
    results.write(Path(options.json))
    if options.svg:
        write_plots(results, Path(options.svg))
    missed = [name for name in results.rows if ROWS[name].bound is not None and not results.is_met(name)]
    return 1 if options.check and missed else 0


def _measure(options: argparse.Namespace) -> Results:
    executors = [*dict.fromkeys(options.executors), *([OTHER] if options.beside else [])]
    interpreters = Interpreters(options.workers, options.quick)
    # A folder of its own, because a checkout has its own `benchmarks` as well.
    with tempfile.TemporaryDirectory() as folder:
        beside = None
        if options.beside:
            Path(folder, PACKAGE).symlink_to(Path(options.beside, PACKAGE).resolve(strict=True))
            beside = Interpreters(options.workers, options.quick, Path(folder))
        return _rounds(options, executors, interpreters, beside)


def _rounds(
    options: argparse.Namespace, executors: Sequence[str], interpreters: Interpreters, beside: Interpreters | None
) -> Results:
    run = Run(interpreters, [*executors, *(() if options.no_limits else LIMITS)], options.rows, beside)
    # Other load on the machine disturbs figures most, so the report shows it.
    run.results.machine = machine(options.workers, options.rounds)
    if not options.quick:
        run.compile()
    for number in range(options.rounds):
        run.round(number)
        run.results.write(Path(options.json))  # a run that is interrupted has the rounds that are complete
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
    for number in range(options.curves):
        run.curves(number)
    run.results.machine["load after"] = round(os.getloadavg()[0], 2)
    return run.results


def machine(workers: int, rounds: int) -> dict[str, object]:
    """Return what a reader needs to know about the machine and the run."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": commit.stdout.strip() or "unknown",
        "python": platform.python_version(),
        "system": platform.system(),
        "cpus": os.cpu_count(),
        "workers": workers,
        "rounds": rounds,
        "load before": round(os.getloadavg()[0], 2),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="default: the CPUs there are")
    parser.add_argument("--executors", nargs="+", choices=list(EXECUTORS), default=list(EXECUTORS))
    parser.add_argument("--rows", nargs="*", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--curves", type=int, nargs="?", const=1, default=0, help="rounds of the growth curves (0)")
    parser.add_argument("--no-limits", action="store_true", help="leave the limits out")
    parser.add_argument("--beside", metavar="CHECKOUT", help="measure the DragonflyExecutor of another checkout too")
    parser.add_argument("--quick", action="store_true", help="see whether everything runs; the figures say nothing")
    parser.add_argument("--json", default="build/benchmarks.json", help="file for the figures")
    parser.add_argument("--svg", metavar="FOLDER", help="draw the figures, too")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a target is missed")
    return parser


if __name__ == "__main__":
    sys.exit(main())
