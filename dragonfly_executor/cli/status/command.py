"""``dragonfly status``: what the pools of this user's running programs do now."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from dragonfly_executor.cli import terminal
from dragonfly_executor.cli.status import figures
from dragonfly_executor.cli.status.client import Answers, ask_all

DESCRIPTION = (
    "Show the pools of all programs of this user that run on this machine: runners, calls, times, and why a pool has "
    "no more runners."
)
EPILOG = "A pool can be asked from 0.2 s after its start on. docs/observability.md explains the figures."
SHOWN = 20
"""Number of calls and of runners of a pool that are printed without --all."""
NONE_FOUND = "no program of this user runs a pool"


def add_to(commands: Any) -> None:
    """Add the command to the parser of ``dragonfly``."""
    parser = commands.add_parser(
        "status", help="show the pools of running programs", description=DESCRIPTION, epilog=EPILOG
    )
    parser.add_argument("--json", action="store_true", help="print JSON: a list with an object for each pool")
    parser.add_argument("--pid", type=int, metavar="PID", help="only pools of this process")
    parser.add_argument("--pool", metavar="NAME", help="only pools of this name")
    parser.add_argument("--all", action="store_true", help=f"all calls and runners, and not {SHOWN} of each")
    parser.set_defaults(run=_run)


def chosen(answers: Answers, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the reports of the pools that the options name."""
    return [
        report
        for _, report in answers.reports
        if options.pid in (None, report["pid"]) and options.pool in (None, report["pool"])
    ]


def _run(options: argparse.Namespace) -> int:
    """Run the command, and return the exit status: 1 if there is no such pool, or one does not answer."""
    answers = ask_all()
    reports = chosen(answers, options)
    for problem in answers.silent:
        terminal.show(f"dragonfly: {problem}", file=sys.stderr)
    if options.json:
        terminal.show(json.dumps(reports, indent=2))
    elif not reports:
        terminal.show(f"dragonfly: {NONE_FOUND}{_that(options)}", file=sys.stderr)
    else:
        width = terminal.width_of(sys.stdout)
        for number, report in enumerate(reports):
            terminal.show(*([""] if number else []), *lines_of(report, width, None if options.all else SHOWN))
    return 0 if reports and not answers.silent else 1


def _that(options: argparse.Namespace) -> str:
    """Return the words for what the options name."""
    named = "" if options.pool is None else f" named {options.pool!r}"
    return named if options.pid is None else f"{named} in process {options.pid}"


def lines_of(report: Mapping[str, Any], width: int | None, most: int | None) -> Iterator[str]:
    """Yield the lines of a pool.

    Args:
        report: the pool's.
        width: the width of the terminal in columns; None for no limit.
        most: maximum number of calls and of runners; None for all.
    """
    yield from terminal.beside("", figures.title(report), width)
    for name, text in figures.rows(report).items():
        yield from terminal.beside(f"  {name:<9}", text, width)
    yield from terminal.beside("  why      ", report["why"], width)
    for error in report["boot_errors"]:
        when = datetime.fromtimestamp(error["time"], UTC).astimezone().strftime("%H:%M:%S")
        yield from terminal.beside(f"  {when} ", f"runner {error['runner']} failed to boot: {error['text']}", width)
    if report["runners"]:
        yield ""
        yield from _table(figures.RUNNER_HEAD, map(figures.runner_row, report["runners"][:most]), width)
        yield from _more(sum(report["runner_states"].values()), len(report["runners"][:most]), "runners")
    if report["calls"]:
        yield ""
        yield from _table(figures.CALL_HEAD, map(figures.call_row, report["calls"][:most]), width)
        yield from _more(report["stats"]["calls_sent"], len(report["calls"][:most]), "calls on runners")


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]], width: int | None) -> Iterator[str]:
    indented = None if width is None else max(20, width - 2)
    yield from (f"  {line}" for line in terminal.table(head, rows, indented))


def _more(total: int, shown: int, nouns: str) -> Iterator[str]:
    if total > shown:
        yield f"  and {total - shown} more {nouns}"
