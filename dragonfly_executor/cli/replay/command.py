"""``dragonfly replay``: shows the timeline of pools from the events that they have logged."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dragonfly_executor.cli import terminal
from dragonfly_executor.cli.replay.timeline import RunnerLane, Timeline, read_timelines
from dragonfly_executor.cli.status.figures import seconds

DESCRIPTION = "Show what pools have done: their functions, and which runner was there and busy when."
EPILOG = (
    "FILE is written by a pool with log_events=FILE; '-' reads standard input. In a runner's line, '.' is a "
    "boot, '_' an idle runner, and a bar is as high as the runner was busy."
)
LEVELS = "▁▂▃▄▅▆▇█"
BOOTING, IDLE, ABSENT = ".", "_", " "
NARROWEST, WIDEST = 20, 200
"""Bounds on the columns of a timeline."""


def add_to(commands: Any) -> None:
    """Add the command to the parser of ``dragonfly``."""
    parser = commands.add_parser(
        "replay", help="show the timeline of a pool's logged events", description=DESCRIPTION, epilog=EPILOG
    )
    parser.add_argument("file", metavar="FILE", help="the file of log_events=, or -")
    parser.add_argument("--json", action="store_true", help="print JSON: a list with an object for each pool")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    """Run the command, and return the exit status: 1 if the file cannot be read, or has no events."""
    try:
        if options.file == "-":
            timelines, bad = read_timelines(sys.stdin)
        else:
            with Path(options.file).open(encoding="utf-8", errors="replace") as lines:
                timelines, bad = read_timelines(lines)
    except OSError as error:
        terminal.show(f"dragonfly: cannot read {options.file}: {error.strerror or error}", file=sys.stderr)
        return 1
    if bad:
        terminal.show(f"dragonfly: {bad} lines of {options.file} are no events, and were left out", file=sys.stderr)
    if options.json:
        terminal.show(json.dumps([timeline.as_json() for timeline in timelines], indent=2))
    elif not timelines:
        terminal.show(f"dragonfly: {options.file} has no events", file=sys.stderr)
    else:
        width = terminal.width_of(sys.stdout) or 100
        for number, timeline in enumerate(timelines):
            terminal.show(*([""] if number else []), *lines_of(timeline, width))
    return 0 if timelines else 1


def lines_of(timeline: Timeline, width: int) -> Iterator[str]:
    """Yield the lines of a pool, for a terminal of this width."""
    begin, end = (datetime.fromtimestamp(each, UTC).astimezone() for each in (timeline.first, timeline.last))
    length = seconds(timeline.last - timeline.first)
    title = f"pool {timeline.pool!r} of process {timeline.pid}: {length}, {begin:%Y-%m-%d %H:%M:%S} to {end:%H:%M:%S}"
    yield from terminal.beside("", title, width)
    yield from terminal.beside("  calls  ", _calls(timeline), width)
    if timeline.dropped:
        yield f"  {timeline.dropped} events are missing: they were dropped"
    if timeline.functions:
        head = ("calls", "failed", "wait p50", "p95", "run p50", "p95", "function")
        yield ""
        yield from (f"  {line}" for line in terminal.table(head, _functions(timeline), max(20, width - 2)))
    if timeline.runners:
        yield ""
        yield from _lanes(timeline, width)


def _calls(timeline: Timeline) -> str:
    outcomes = {word: sum(each.outcomes[word] for each in timeline.functions.values()) for word in ENDED}
    kinds: dict[str, int] = {}
    for each in timeline.functions.values():
        for kind, count in each.kinds.items():
            kinds[kind] = kinds.get(kind, 0) + count
    failed = f" ({', '.join(f'{count} {kind}' for kind, count in kinds.items())})" if kinds else ""
    words = [f"{count} {word}{failed if word == 'failed' else ''}" for word, count in outcomes.items() if count]
    return ", ".join([f"{timeline.submitted} submitted", *words])


ENDED = ("done", "failed", "cancelled")


def _functions(timeline: Timeline) -> Iterator[tuple[str, ...]]:
    for name, figures in sorted(timeline.functions.items(), key=lambda each: -sum(each[1].runs)):
        wait, run = figures.quantiles()
        times = [seconds(value) for each in (wait, run) for value in ((each.p50, each.p95) if each else (None, None))]
        yield str(sum(figures.outcomes.values())), str(figures.outcomes["failed"]), *times, name


def _lanes(timeline: Timeline, width: int) -> Iterator[str]:
    names = {lane.id: f"  runner {lane.id} " for lane in timeline.runners.values()}
    left = max(map(len, names.values()))
    columns = max(NARROWEST, min(WIDEST, width - left - 16))
    for lane in timeline.runners.values():
        calls = f"{len(lane.calls)} calls" if lane.error is None else "boot failed"
        yield f"{names[lane.id]:<{left}}|{lane_text(lane, timeline.first, timeline.last, columns)}| {calls}"


def lane_text(lane: RunnerLane, first: float, last: float, columns: int) -> str:
    """Return a runner's line: for each span of time, whether the runner was there, and how busy.

    Args:
        lane: the runner.
        first, last: the times at both ends of the line.
        columns: the number of spans.
    """
    span = max(last - first, 1e-6) / columns
    busy = _busy(lane, first, span, columns)
    most = max(1.0, *busy)
    return "".join(
        LEVELS[min(len(LEVELS) - 1, int(load / most * len(LEVELS)))]
        if load
        else _presence(lane, first + number * span, span)
        for number, load in enumerate(busy)
    )


def _busy(lane: RunnerLane, first: float, span: float, columns: int) -> list[float]:
    """Return the mean number of calls that ran at once, for each span of time."""
    busy = [0.0] * columns
    for call in lane.calls:
        begin, end = max(0.0, (call.begin - first) / span), min(float(columns), (call.end - first) / span)
        for column in range(min(columns - 1, int(begin)), min(columns, int(end) + 1)):
            busy[column] += max(0.0, min(end, column + 1) - max(begin, column))
    return busy


def _presence(lane: RunnerLane, begin: float, span: float) -> str:
    middle = begin + span / 2
    if lane.down_at is not None and middle > lane.down_at:
        return ABSENT
    if lane.up_at is not None and middle >= lane.up_at:
        return IDLE
    return BOOTING if lane.boot_at is not None and middle >= lane.boot_at else ABSENT
