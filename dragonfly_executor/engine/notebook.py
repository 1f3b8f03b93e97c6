"""HTML for futures and executors in notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.core.stats import PoolStats

SHOWN = 20
"""Number of runners and of calls that are shown."""
_ROW = '<tr><th style="text-align: left">{}</th><td style="text-align: left">{}</td></tr>'


def table(title: str, rows: Mapping[str, object]) -> str:
    """Return HTML that shows these rows under a title. All of it is escaped."""
    lines = [_ROW.format(escape(name), escape(str(value))) for name, value in rows.items()]
    return f"<div><strong>{escape(title)}</strong><table>{''.join(lines)}</table></div>"


def pool_html(title: str, rows: Mapping[str, object], report: Mapping[str, Any]) -> str:
    """Return HTML that shows a pool: its rows, its runners, and the calls that they have. All of it is escaped.

    Args:
        title: the title.
        rows: as `pool_rows` returns them.
        report: as `Pool.status` returns it.
    """
    found, times = dict(rows), report["times"]
    for name in ("wait", "run"):
        if times["calls"]:
            found[f"{name} time"] = f"p50 {_time(times[f'{name}_p50'])}, p95 {_time(times[f'{name}_p95'])}"
    runners = [
        (each["id"], each["state"], each["host"] or each["backend"] or "", f"{each['in_flight']} of {each['slots']}",
         each["calls_done"], _time(each["age"]))
        for each in report["runners"][:SHOWN]
    ]  # fmt: skip
    calls = [
        (each["id"], each["function"], each["state"], each["runner"], "" if each["slot"] is None else each["slot"],
         _time(each["age"] if each["running_for"] is None else each["running_for"]))
        for each in report["calls"][:SHOWN]
    ]  # fmt: skip
    return "".join([
        table(title, found),
        _columns(("runner", "state", "host", "calls", "done", "age"), runners),
        _columns(("call", "function", "state", "runner", "slot", "for"), calls),
    ])  # fmt: skip


def _columns(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    if not rows:
        return ""
    lines = [f"<tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>"]
    lines += [f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows]
    return f"<table>{''.join(lines)}</table>"


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.2f} ms"


def pool_rows(name: str, backend: str, stats: PoolStats) -> dict[str, object]:
    """Return the table rows of a pool. They leave out the texts of errors, which may contain anything."""
    more = (("booting", stats.runners_booting), ("stopping", stats.runners_stopping))
    runners = [f"{stats.runners_up} of at most {stats.max} up", *(f"{count} {word}" for word, count in more if count)]
    calls = [f"{stats.calls_queued + stats.calls_delayed} waiting", f"{stats.calls_sent} on runners"]
    ended = (("done", stats.calls_done), ("failed", stats.calls_failed), ("cancelled", stats.calls_cancelled))
    rows: dict[str, object] = {
        "pool": name,
        "backend": backend,
        "runners": ", ".join(runners),
        **({"of each backend": stats.tiers_up} if stats.tiers else {}),
        "slots": f"{stats.slots_busy} of {stats.slots_busy + stats.slots_free} busy",
        "calls": ", ".join([*calls, *(f"{count} {word}" for word, count in ended if count)]),
    }
    if stats.calls_timed_out:
        rows["calls"] = f"{rows['calls']}, {stats.calls_timed_out} timed out"
    if stats.limits_that_bind:
        rows["held by"] = ", ".join(stats.limits_that_bind)
    if stats.cost:
        rows["cost"] = f"about {stats.cost:.4f} USD"
    return rows
