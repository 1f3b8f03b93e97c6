"""Figures of reports as text, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dragonfly_executor.cli.terminal import duration

CALLS_ENDED = (
    ("calls_done", "done"),
    ("calls_failed", "failed"),
    ("calls_cancelled", "cancelled"),
    ("calls_timed_out", "timed out"),
    ("calls_retried", "retried"),
)


def seconds(value: float | None) -> str:
    """Return a time as short text: "3.2 ms", "1.5 s", "2 min 5 s"; "-" for None."""
    if value is None:
        return "-"
    if value >= 60:
        return duration(value)
    if value >= 1:
        return f"{value:.1f} s"
    return f"{value * 1e3:.1f} ms" if value >= 1e-3 else f"{value * 1e6:.0f} us"


def title(report: Mapping[str, Any]) -> str:
    """Return the line that names a pool and its program."""
    return f"{report['program']} (process {report['pid']}): pool {report['pool']!r} on {report['backend']}"


def runners(report: Mapping[str, Any]) -> str:
    """Return the number of runners by state, and the bounds."""
    states = ", ".join(f"{count} {state}" for state, count in report["runner_states"].items())
    return f"{states or 'none'}; {report['stats']['min']} to {report['stats']['max']} allowed"


def slots(report: Mapping[str, Any]) -> str:
    """Return how many slots are busy."""
    stats = report["stats"]
    return f"{stats['slots_busy']} of {stats['slots_busy'] + stats['slots_free']} busy"


def calls(report: Mapping[str, Any]) -> str:
    """Return the number of calls by state."""
    stats = report["stats"]
    waiting = f"{stats['calls_queued'] + stats['calls_delayed']} waiting"
    if report["oldest_wait"] is not None:
        waiting += f" (the oldest for {seconds(report['oldest_wait'])})"
    ended = [f"{stats[key]} {word}" for key, word in CALLS_ENDED if stats[key]]
    return ", ".join([waiting, f"{stats['calls_sent']} on runners", *ended])


def times(report: Mapping[str, Any]) -> str:
    """Return the quantiles of the latest calls; "" if no call has ended."""
    found = report["times"]
    if not found["calls"]:
        return ""
    wait = f"wait p50 {seconds(found['wait_p50'])}, p95 {seconds(found['wait_p95'])}"
    run = f"run p50 {seconds(found['run_p50'])}, p95 {seconds(found['run_p95'])}"
    return f"{wait}; {run} (the last {found['calls']} calls)"


def rows(report: Mapping[str, Any]) -> dict[str, str]:
    """Return the figures of a pool by name. Those without a value are left out."""
    cost = report["stats"]["cost"]
    found = {
        "runners": runners(report),
        "slots": slots(report),
        "calls": calls(report),
        "times": times(report),
        "held by": ", ".join(report["held_by"]),
        "cost": f"about {cost:.4f} USD" if cost else "",
    }
    return {name: text for name, text in found.items() if text}


def runner_row(runner: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the row of a runner, as `RUNNER_HEAD` names its columns."""
    where = runner["host"] or runner["backend"] or "this machine"
    return (
        str(runner["id"]),
        runner["state"],
        f"{runner['in_flight']}/{runner['slots']}",
        str(runner["calls_done"]),
        seconds(runner["age"]),
        where if runner["pid"] is None else f"{where} (process {runner['pid']})",
    )


RUNNER_HEAD = ("runner", "state", "calls/slots", "done", "age", "host")
CALL_HEAD = ("call", "state", "for", "runner", "slot", "function")


def call_row(call: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the row of a call, as `CALL_HEAD` names its columns."""
    age = call["age"] if call["running_for"] is None else call["running_for"]
    name = call["function"] or "-"
    return (
        str(call["id"]),
        call["state"],
        seconds(age),
        str(call["runner"]),
        "-" if call["slot"] is None else str(call["slot"]),
        name if call["attempt"] == 1 else f"{name} (attempt {call['attempt']})",
    )
