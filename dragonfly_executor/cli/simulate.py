"""``dragonfly simulate``: what settings of a pool cost, and how long calls wait, for the calls of a trace."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from dragonfly_executor.cli import terminal
from dragonfly_executor.cli.arguments import checked, seconds
from dragonfly_executor.simulation.settings import Try, choose, settings, with_cost
from dragonfly_executor.simulation.simulator import SimulatedNodes, simulate
from dragonfly_executor.simulation.trace import TraceCall, TraceError, read_trace

HOUR = 3600.0
DESCRIPTION = (
    "Play the calls of a trace on simulated pools with several settings, and print how long calls wait and what the "
    "runners cost. The pool's own rules decide about boots and stops. No machine is booted."
)
EPILOG = (
    "TRACE has one line 'arrival,seconds' or 'arrival,seconds,key' for each call: when it is submitted and how long it "
    "runs, both in seconds. '-' reads standard input. docs/scaling.md explains the figures."
)


def add_to(commands: Any) -> None:
    """Add the command to the parser of ``dragonfly``."""
    parser = commands.add_parser(
        "simulate", help="try settings of a pool on a trace of calls", description=DESCRIPTION, epilog=EPILOG
    )
    parser.add_argument("trace", metavar="TRACE", help="a CSV file, or -")
    parser.add_argument("--boot", type=seconds, default=30.0, metavar="S", help="seconds that a boot takes; 30")
    parser.add_argument("--slots", type=_count, default=1, metavar="N", help="calls at once on a runner; 1")
    parser.add_argument("--max", type=_count, default=100, metavar="N", help="the pool's max; 100")
    parser.add_argument("--min", type=_number, default=0, metavar="N", help="the pool's min; 0")
    parser.add_argument("--price", type=_dollars, metavar="USD", help="US dollars for an hour of a runner")
    parser.add_argument(
        "--billing", type=seconds, default=0.0, metavar="S", help="seconds that are billed at once, such as 60"
    )
    parser.add_argument(
        "--wait", type=seconds, metavar="S", help="the p99 wait that you accept, in seconds; one boot time"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    parser.set_defaults(run=lambda options: _run(options, parser))


def _run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Run the command, and return the exit status: 1 if the trace cannot be read."""
    if options.min > options.max:
        parser.error(f"--min must be at most --max, and {options.min} is more than {options.max}")
    try:
        calls = _calls(options.trace)
    except TraceError as error:
        terminal.show(f"dragonfly: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        why = error.strerror or error
        terminal.show(f"dragonfly: cannot read the trace {options.trace}: {why}", file=sys.stderr)
        return 1
    tries = _tries(calls, options)
    best = choose(tries, options.boot if options.wait is None else options.wait)
    if options.json:
        document = {"calls": len(calls), "tries": [_row(each) for each in tries], "choice": _row(best)}
        terminal.show(json.dumps(document, indent=2))
    else:
        terminal.show(*_table(calls, tries, best, options))
    return 0


def _calls(name: str) -> list[TraceCall]:
    if name == "-":
        return read_trace(sys.stdin, "standard input")
    with Path(name).open(encoding="utf-8-sig", newline="") as lines:
        return read_trace(lines, name)


def _tries(calls: Sequence[TraceCall], options: argparse.Namespace) -> list[Try]:
    nodes = SimulatedNodes(options.boot, options.slots, options.billing)
    outcomes = [
        (setting, simulate(calls, setting.limits(options.max, options.slots), nodes))
        for setting in settings(options.boot, options.min)
        if setting.min <= options.max
    ]
    return with_cost(outcomes, None if options.price is None else options.price / HOUR)


def _row(each: Try) -> dict[str, Any]:
    """Return a try as names and values."""
    return {"setting": each.setting._asdict(), **each.outcome._asdict(), "cost": each.cost}


def _table(calls: Sequence[TraceCall], tries: Sequence[Try], best: Try, options: argparse.Namespace) -> list[str]:
    """Return the lines of the table, and of the choice below it."""
    work, last = sum(call.seconds for call in calls), calls[-1].arrival
    head = f"{len(calls)} calls in {last:.0f} s, {work:.0f} s of work; a boot takes {options.boot:g} s, "
    lines = [head + f"a runner has {options.slots} slot{'s' * (options.slots > 1)}, max={options.max}", ""]
    width = max(len(str(each.setting)) for each in tries)
    names = ("p50 wait", "p95", "p99", "machine-s", "billed-s", "boots", "unused", "cost USD")
    lines.append(f"{'setting':<{width}}" + "".join(f"{name:>11}" for name in names))
    for each in tries:
        got = each.outcome
        cost = "-" if each.cost is None else f"{each.cost:.2f}"
        waits = "".join(f"{wait:>11.2f}" for wait in (got.p50, got.p95, got.p99))
        counts = (
            f"{got.machine_seconds:>11.0f}{got.billed_seconds:>11.0f}{got.boots:>11}{got.unused_boots:>11}{cost:>11}"
        )
        lines.append(f"{each.setting!s:<{width}}{waits}{counts}")
    return [*lines, "", f"choice: {best.setting}", *_advice(best, options)]


def _advice(best: Try, options: argparse.Namespace) -> list[str]:
    lines = []
    if best.outcome.most_runners >= options.max:
        lines.append(f"all {options.max} runners were up at once: a larger --max may shorten the waits")
    if options.wait is not None and best.outcome.p99 > options.wait:
        lines.append(f"no setting keeps the p99 wait within {options.wait:g} s: try a larger --min")
    return lines


def _dollars(text: str) -> float:
    return checked(text, float, "a number that is not negative", lambda value: isfinite(value) and value >= 0)


def _number(text: str) -> int:
    return checked(text, int, "a whole number of at least 0", lambda value: value >= 0)


def _count(text: str) -> int:
    return checked(text, int, "a whole number of at least 1", lambda value: value >= 1)
