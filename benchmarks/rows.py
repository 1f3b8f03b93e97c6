"""The rows of the report: their units, the targets, and which measurement yields each."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.subjects import BASELINE, EMPTY_PROGRAM, FUTURE, MEMCPY, RAY, SOCKETS, SPAWN

CAT = "ssh host cat"
PLAIN_SOCKETS = "plain sockets"


@dataclass(frozen=True)
class Row:
    """A figure of each executor, and the target for ours.

    Attributes:
        title: its name for people.
        measurement: the measurement that yields it (`benchmarks.measures`), or a way of `benchmarks.wire`.
        unit, scale: of the report; figures are kept in seconds, bytes, or a rate per second.
        bound: target for the ratio; None if there is none.
        more_is_better: whether the ratio must be at least the bound, rather than at most.
        baseline: to which all are compared.
        rival: to which ours is compared with the target; the baseline if empty.
        limit: the least that it could cost.
    """

    title: str
    measurement: str
    unit: str
    scale: float
    bound: float | None = None
    more_is_better: bool = False
    baseline: str = BASELINE
    rival: str = ""
    limit: str = SOCKETS

    def is_met(self, ratio: float) -> bool:
        """Return whether the ratio meets the target."""
        if self.bound is None:
            return True
        return ratio >= self.bound if self.more_is_better else ratio <= self.bound

    @property
    def target(self) -> str:
        """The target as text."""
        if self.bound is None:
            return ""
        text = f"{'≥' if self.more_is_better else '≤'} {self.bound:g}"
        return f"{text} × {self.rival}" if self.rival else text


def _rate(title: str, measurement: str, bound: float | None, unit: str = "calls/s") -> Row:
    return Row(title, measurement, unit, 1.0, bound, more_is_better=True)


def _echo(title: str, measurement: str, bound: float, rival: str = "") -> Row:
    return Row(title, measurement, "GB/s", 1e-9, bound, more_is_better=True, rival=rival, limit=MEMCPY)


ROWS = {
    "submits": _rate("no-op submits", "submits", 6.0),
    "map_1": _rate("map, chunksize=1", "map_1", 6.0, "items/s"),
    "map_100": _rate("map, chunksize=100", "map_100", 5.0, "items/s"),
    "map_unsized": _rate("map, the executor's own chunks", "map_unsized", None, "items/s"),
    "round_trip_p50": Row("round trip, p50", "round_trip", "µs", 1e6, 0.45),
    "round_trip_p99": Row("round trip, p99", "round_trip", "µs", 1e6, 0.6),
    "echo_1k": _rate("echo of 1 KiB", "echo_1k", 6.0),
    "echo_1m": _echo("echo of 1 MiB", "echo_1m", 4.0),
    "echo_64m_bytes": _echo("echo of 64 MiB of bytes", "echo_64m_bytes", 8.0),
    "echo_64m_numpy": _echo("echo of a numpy array of 64 MiB", "echo_64m_numpy", 1.0, RAY),
    "cold": Row("first result from cold", "cold", "ms", 1e3, 0.6, baseline=SPAWN, limit=EMPTY_PROGRAM),
    "imported": Row("import", "imported", "ms", 1e3, 1.5, limit=""),
    "memory": Row("parent's memory per queued call", "memory", "bytes", 1.0, 0.85, limit=FUTURE),
    "slots_cold": Row("1,000 calls of 10 ms on 100 slots, from cold", "slots", "ms", 1e3, 0.35),
    "slots_warm": Row("1,000 calls of 10 ms on 100 slots, warm", "slots", "ms", 1e3),
    "processor_time": Row("CPU time per no-op call", "processor", "µs", 1e6),
    "context_switches": Row("context switches per no-op call", "processor", "", 1.0),
    "system_calls": Row("system calls per no-op call", "system_calls", "", 1.0),
    "ssh": Row("64 MiB there and back over SSH", "ssh", "ms", 1e3, 1.1, baseline=CAT, limit=CAT),
    "dialback": Row(
        "64 MiB there and back by dial-back (TLS)", "dialback", "ms", 1e3, 2.0, baseline=PLAIN_SOCKETS, limit="bare TLS"
    ),
}
WIRE = ("ssh", "dialback")
"""Rows that `benchmarks.wire` measures."""
