"""Measure a burst of calls on a fast, small backend before a slow, large one: ``python -m benchmarks.tiers``.

The calls sleep, so two processors are enough. The slow backend is this machine, and its boots sleep: it stands for one
in a cloud. The burst runs on both backends in one pool, and on each alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import quantiles

from dragonfly_executor import Backend, BootRequest, DragonflyExecutor, LocalBackend, Node, Parent

BOTH, SMALL, LARGE = "local, then slow", "local alone", "slow alone"


class SlowBackend(LocalBackend):
    """A backend on this machine whose boots take long.

    Args:
        seconds: seconds that a boot sleeps.
        slots: slots of a runner.
        max: maximum number of runners.
    """

    name = "slow"

    def __init__(self, seconds: float, slots: int, max: int) -> None:  # noqa: A002  # the word of all backends
        super().__init__(slots=slots, max=max)
        self._seconds = self.expected_boot_time = seconds

    def boot(self, request: BootRequest) -> Node:
        """Boot a node, after the pause."""
        assert request.given_up is not None
        request.given_up.wait(self._seconds)
        return super().boot(request)


@dataclass(frozen=True)
class BurstFigures:
    """The figures of one burst.

    Attributes:
        seconds: time from the first submit to the last result.
        p50, p99: percentiles of the seconds that calls waited for a slot.
        machine_seconds: by the name of the backend.
        calls: by the name of the backend that ran them.
    """

    seconds: float
    p50: float
    p99: float
    machine_seconds: dict[str, float]
    calls: dict[str, int]


def run(seconds: float) -> tuple[float, str]:
    """Sleep, and return when the call began and the name of its backend. All processes here share one clock."""
    began, parent = time.monotonic(), Parent.get()
    time.sleep(seconds)
    return began, "" if parent is None else parent.backend


def measure(backends: Sequence[Backend], count: int, seconds: float) -> BurstFigures:
    """Run a burst on these backends.

    Args:
        backends: in order of preference.
        count: number of calls.
        seconds: seconds that each call sleeps.
    """
    with DragonflyExecutor(backend=backends) as executor:
        began = time.monotonic()
        futures = [executor.submit(run, seconds) for _ in range(count)]
        results = [future.result() for future in futures]
        took = time.monotonic() - began
    waits = quantiles([start - began for start, _ in results], n=100)
    names, stats = [backend for _, backend in results], executor.pool.stats()
    used = {tier.name: tier.machine_seconds for tier in stats.tiers} or {backends[0].name: stats.machine_seconds}
    return BurstFigures(took, waits[49], waits[98], used, {name: names.count(name) for name in used})


def line(title: str, figures: BurstFigures, base: float) -> str:
    """Return the line of the table for one pool. `base`: seconds of the pool to which it is compared."""
    used = ", ".join(f"{name} {seconds:.0f}" for name, seconds in figures.machine_seconds.items())
    calls = ", ".join(f"{name} {count}" for name, count in figures.calls.items())
    numbers = f"{figures.seconds:>8.1f}{figures.seconds / base:>8.2f}{figures.p50:>8.1f}{figures.p99:>8.1f}"
    return f"{title:<18}{numbers}  {used:<22}{calls}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the burst on the three pools and print the table. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tiers", description=__doc__)
    parser.add_argument("--calls", type=int, default=500, help="calls of the burst (500)")
    parser.add_argument("--seconds", type=float, default=0.2, help="seconds that a call sleeps (0.2)")
    parser.add_argument("--local-slots", type=int, default=4, help="slots of the local runner (4)")
    parser.add_argument("--boot", type=float, default=5.0, help="seconds of a boot of the slow backend (5)")
    parser.add_argument("--slots", type=int, default=8, help="slots of a slow runner (8)")
    parser.add_argument("--max", type=int, default=4, help="slow runners at most (4)")
    options = parser.parse_args(arguments)

    def slow() -> Backend:
        return SlowBackend(options.boot, options.slots, options.max)

    def local() -> Backend:
        return LocalBackend(slots=options.local_slots)

    pools = {BOTH: [local(), slow()], SMALL: [local()], LARGE: [slow()]}
    figures = {title: measure(backends, options.calls, options.seconds) for title, backends in pools.items()}
    print(f"{options.calls} calls of {options.seconds:g} s, {options.local_slots} local slots,", end=" ")
    print(f"{options.max} slow runners with {options.slots} slots that boot in {options.boot:g} s")
    print(f"{'':<18}{'seconds':>8}{'ratio':>8}{'p50 s':>8}{'p99 s':>8}  {'machine-seconds':<22}calls")
    for title, each in figures.items():
        print(line(title, each, figures[BOTH].seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
