"""HTML for futures and executors in notebooks."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragonfly_executor.core.stats import PoolStats

_ROW = '<tr><th style="text-align: left">{}</th><td style="text-align: left">{}</td></tr>'


def table(title: str, rows: Mapping[str, object]) -> str:
    """Return HTML that shows these rows under a title. All of it is escaped."""
    lines = [_ROW.format(escape(name), escape(str(value))) for name, value in rows.items()]
    return f"<div><strong>{escape(title)}</strong><table>{''.join(lines)}</table></div>"


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
