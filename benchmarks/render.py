"""Draw the plots and write the tables of docs/benchmarks.md from a run's JSON: ``python -m benchmarks.render``.

    python -m benchmarks --rounds 3 --curves --json docs/benchmarks/figures.json
    python -m benchmarks.render

The tables stand between marks in the page; the rest of the page is left as it is.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.interpreters import ROOT
from benchmarks.plots import CURVES, write_plots
from benchmarks.report import absolute_markdown, markdown, threads_markdown
from benchmarks.results import Results

PAGE = ROOT / "docs" / "benchmarks.md"
FOLDER = ROOT / "docs" / "benchmarks"


def machine_text(results: Results) -> str:
    """Return a sentence about the run."""
    about = results.machine
    return (
        f"Python {about.get('python')} on {about.get('system')}, {about.get('cpus')} CPUs, "
        f"{about.get('workers')} workers, {about.get('rounds')} rounds, {about.get('date')}, "
        f"commit {about.get('commit')}. Load average {about.get('load before')} before the run and "
        f"{about.get('load after')} after it. The run took {about.get('minutes')} minutes."
    )


def failures_text(results: Results) -> str:
    """Return a list of what could not be measured."""
    return "\n".join(f"- {line}" for line in results.failures) or "- nothing"


def growth_text(results: Results) -> str:
    """Return the page's images of the curves that were measured."""
    shown = [name for name in CURVES if results.curves.get(name)]
    images = [f"![{CURVES[name].title}, over {CURVES[name].across}](benchmarks/{name}.svg)" for name in shown]
    return "\n\n".join(images) or "Not measured in this run."


TABLES: dict[str, Callable[[Results], str]] = {
    "run": machine_text,
    "ratios": markdown,
    "threads": threads_markdown,
    "growth": growth_text,
    "figures": absolute_markdown,
    "failures": failures_text,
}


def filled(page: str, results: Results) -> str:
    """Return the page with the text between its marks replaced.

    Raises:
        LookupError: the page lacks a mark.
    """
    for name, make in TABLES.items():
        mark = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        if not mark.search(page):
            raise LookupError(f"the page has no place for {name}")
        text = make(results)
        page = mark.sub(lambda found, text=text: f"{found[1]}{text}\n{found[2]}", page)  # type: ignore[misc]
    return page


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the plots and the page. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.render", description=__doc__)
    parser.add_argument("--json", type=Path, default=FOLDER / "figures.json", help="the figures of a run")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page whose tables are written")
    parser.add_argument("--svg", type=Path, default=FOLDER, help="folder for the plots")
    options = parser.parse_args(arguments)
    results = Results.read(options.json)
    options.page.write_text(filled(options.page.read_text(encoding="utf-8"), results), encoding="utf-8")
    write_plots(results, options.svg)
    return 0


if __name__ == "__main__":
    sys.exit(main())
