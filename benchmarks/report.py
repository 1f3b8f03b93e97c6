"""The figures as text: a block for each row, a summary, and the same as a table for the docs."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.results import Results, Rounds, advantage, ratios
from benchmarks.rows import ROWS, Row
from benchmarks.subjects import LIMITS, OTHER, OURS

NOISE = 0.1
"""Share by which two runs of the same code differ on a quiet machine."""


def block(results: Results, name: str) -> str:
    """Return one row of the report: all subjects, their medians and ratios, and the ranges over the rounds."""
    row = ROWS[name]
    head = f"{row.title} ({row.unit})" if row.unit else row.title
    lines = [f"\n{head:<50}{'median':>12}{'range':>26}{'ratio':>8}{'range':>16}"]
    for subject, values in results.rows[name].items():
        known = [value * row.scale for value in values if value is not None]
        shares: Rounds = ratios(results.rows[name], subject, row.baseline)
        median, ratio = results.median(name, subject), results.ratio(name, subject)
        columns = f"{'-':>12}" if median is None else f"{number(median * row.scale):>12}{_range(known):>26}"
        columns += "" if ratio is None else f"{ratio:>8.2f}{_range([share for share in shares if share]):>16}"
        lines.append(f"  {subject:<48}{columns}")
    return "\n".join(lines)


def verdict(results: Results, name: str) -> str:
    """Return a line that says whether the target is met."""
    row, ratio = ROWS[name], results.ratio(name, OURS, ROWS[name].rival)
    met = results.is_met(name)
    word = "" if row.bound is None else "not measured" if met is None else "met" if met else "MISSED"
    return f"{row.title:<50}{row.target:>12}{'-' if ratio is None else f'{ratio:.2f}':>8}  {word}"


def change(results: Results, name: str) -> str:
    """Return a line that compares ours with the other checkout."""
    row, ratio = ROWS[name], results.ratio(name, OURS, OTHER)
    if ratio is None:
        return f"{row.title:<50}{'-':>8}"
    gain = advantage(row, ratio)
    word = "better" if gain > 1 + NOISE else "WORSE" if gain < 1 - NOISE else "as before"
    return f"{row.title:<50}{ratio:>8.2f}  {word}"


def markdown(results: Results) -> str:
    """Return a table: our figure, the ratios of ours, of the best peer and of the limit, and the target."""
    lines = [
        "| figure | ours | ratio | best peer | limit | target | |",
        "|---|---|---|---|---|---|---|",
        *(_line(results, name) for name in results.rows),
    ]
    return "\n".join(lines)


def _line(results: Results, name: str) -> str:
    row = ROWS[name]
    median, ratio, peer = results.median(name, OURS), results.ratio(name, OURS), results.best_peer(name)
    limit = results.ratio(name, row.limit) if row.limit in results.rows[name] else None
    met = results.is_met(name)
    cells = (
        row.title + _base(row),
        "-" if median is None else f"{number(median * row.scale)} {row.unit}".strip(),
        "-" if ratio is None else f"**{number(ratio)}**",
        "" if peer is None else f"{peer[0]} {number(peer[1])}",
        "" if limit is None or row.limit == row.baseline else f"{row.limit} {number(limit)}",
        row.target,
        "" if row.bound is None else "not measured" if met is None else "met" if met else "missed",
    )
    return f"| {' | '.join(cells)} |"


def _base(row: Row) -> str:
    usual = next(iter(ROWS.values())).baseline
    return "" if row.baseline == usual else f", to {row.baseline}"


def threads_markdown(results: Results) -> str:
    """Return a table of CPU time per no-op call, by thread of the parent and by process."""
    lines = ["| executor | CPU time per call, µs | by thread and process |", "|---|---|---|"]
    for subject in results.threads:
        parts = results.by_thread(subject)
        shown = ", ".join(f"{name} {spent * 1e6:.1f}" for name, spent in _largest(parts))
        lines.append(f"| {subject} | {sum(parts.values()) * 1e6:.1f} | {shown} |")
    return "\n".join(lines)


def _largest(parts: dict[str, float]) -> Iterator[tuple[str, float]]:
    least = 0.02 * sum(parts.values())
    return ((name, spent) for name, spent in sorted(parts.items(), key=lambda part: -part[1]) if spent > least)


def absolute_markdown(results: Results) -> str:
    """Return a table of all medians and ratios: a row for each figure, a column for each executor."""
    subjects = list(dict.fromkeys(subject for name in results.rows for subject in results.rows[name]))
    # Limits and the ways over the network have a column in the other table.
    subjects = [subject for subject in subjects if subject not in LIMITS and _measured_often(results, subject)]
    lines = [f"| figure | {' | '.join(subjects)} |", f"|---|{'---|' * len(subjects)}"]
    for name in results.rows:
        row = ROWS[name]
        cells = []
        for subject in subjects:
            median, ratio = results.median(name, subject), results.ratio(name, subject)
            share = "" if ratio is None else f" ({number(ratio)})"
            cells.append("-" if median is None else f"{number(median * row.scale)}{share}")
        if any(cell != "-" for cell in cells):
            lines.append(f"| {row.title}, {row.unit} | {' | '.join(cells)} |".replace(",  |", " |"))
    return "\n".join(lines)


def _measured_often(results: Results, subject: str) -> bool:
    return sum(subject in figures for figures in results.rows.values()) > 2


def number(value: float) -> str:
    """Return a number with three digits or so."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _range(values: list[float]) -> str:
    return f"{number(min(values))} - {number(max(values))}" if values else ""
