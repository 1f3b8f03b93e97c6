"""The figures as plots: ratios of all rows, and growth."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import number
from benchmarks.results import Results, advantage
from benchmarks.rows import ROWS, Row
from benchmarks.subjects import BASELINE, MEMCPY, OURS, PEERS, POOL, SOCKETS
from benchmarks.svg import Drawing, LogScale

WIDTH, LEFT, RIGHT = 900, 330, 860
ROW_HEIGHT, TOP = 30, 92
RATIOS = "ratios"


def write_plots(results: Results, folder: Path) -> None:
    """Write all plots that there are figures for."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in draw(results).items():
        (folder / f"{name}.svg").write_text(image, encoding="utf-8")


def draw(results: Results) -> dict[str, str]:
    """Return the text of each plot, by its name."""
    curves = {name: str(growth(results, name)) for name in CURVES if results.curves.get(name)}
    return {RATIOS: str(bars(results)), **curves} if results.rows else curves


@dataclass(frozen=True)
class Bar:
    """A row in which more is better.

    Attributes:
        row: the row.
        ours, limit, target: how many times better than the baseline; None if it is not known.
        peers: the same for each other executor with processes.
    """

    row: Row
    ours: float
    limit: float | None
    target: float | None
    peers: dict[str, float]

    @property
    def values(self) -> list[float]:
        """All that is drawn."""
        return [self.ours, *(value for value in (self.limit, self.target) if value), *self.peers.values()]


def bar_of(results: Results, name: str) -> Bar | None:
    """Return the bar of a row; None if ours was not measured."""
    row = ROWS[name]
    if (ours := results.ratio(name, OURS)) is None:
        return None
    better = {
        subject: advantage(row, ratio)
        for subject in results.rows[name]
        if (ratio := results.ratio(name, subject)) is not None
    }
    rival = results.ratio(name, row.rival) if row.rival else 1.0
    target = None if row.bound is None or rival is None else advantage(row, row.bound * rival)
    limit = None if row.limit == row.baseline else better.get(row.limit)
    peers = {subject: value for subject, value in better.items() if subject in PEERS and subject != row.baseline}
    return Bar(row, advantage(row, ours), limit, target, peers)


def bars(results: Results) -> Drawing:
    """Draw a bar for each row: how many times better than the baseline ours is, with peers, limit and target."""
    shown = [bar for name in results.rows if (bar := bar_of(results, name))]
    values = [value for bar in shown for value in bar.values] or [1.0]
    axis = LogScale(min(0.5, *values) / 1.2, max(2.0, *values) * 1.2, LEFT, RIGHT - 40)
    bottom = TOP + ROW_HEIGHT * len(shown)
    title = f"How many times better than {BASELINE}"
    told = "; ".join(f"{bar.row.title} {number(bar.ours)}" for bar in shown)
    image = Drawing(WIDTH, bottom + 50, title, f"{OURS}, longer is better: {told}.")
    image.text(20, 28, f"{title}: longer is better", "title")
    _key(image)
    for tick in axis.ticks():
        image.line(axis.place(tick), TOP - 6, axis.place(tick), bottom, "axis" if tick == 1 else "grid")
        image.text(axis.place(tick), bottom + 18, f"{tick:g}", "small middle")
    for place, bar in enumerate(shown):
        _bar(image, axis, TOP + ROW_HEIGHT * place, bar)
    image.text(20, bottom + 40, _about(results), "small")
    return image


def _bar(image: Drawing, axis: LogScale, top: float, bar: Bar) -> None:
    middle = top + ROW_HEIGHT / 2
    other = bar.row.baseline not in (BASELINE, "")
    image.text(LEFT - 14, middle + (0 if other else 4), bar.row.title, "end")
    if other:
        image.text(LEFT - 14, middle + 12, f"to {bar.row.baseline}", "small end")
    one, ours = axis.place(1.0), axis.place(bar.ours)
    image.rectangle(min(one, ours), middle - 8, max(1.0, abs(ours - one)), 16, "c0 fill", f"{OURS} {number(bar.ours)}")
    for name, value in bar.peers.items():
        image.circle(axis.place(value), middle, 3.5, "ring", f"{name} {number(value)}")
    if bar.target is not None:
        place = axis.place(bar.target)
        image.line(place, middle - 12, place, middle + 12, "c1 stroke")
    if bar.limit is not None:
        place = axis.place(bar.limit)
        image.line(place, middle - 12, place, middle + 12, "c2 stroke d2")
    image.text(WIDTH - 8, middle + 4, number(bar.ours), "strong end")


def _key(image: Drawing) -> None:
    x, y = 20, 52
    image.rectangle(x, y - 9, 22, 11, "c0 fill")
    image.text(x + 28, y, OURS)
    image.circle(x + 182, y - 4, 3.5, "ring")
    image.text(x + 192, y, "other executors with processes")
    image.line(x + 420, y - 12, x + 420, y + 4, "c1 stroke")
    image.text(x + 428, y, "target")
    image.line(x + 496, y - 12, x + 496, y + 4, "c2 stroke d2")
    image.text(x + 504, y, "limit, measured in the same run")


def _about(results: Results) -> str:
    about = results.machine
    return (
        f"Python {about.get('python')}, {about.get('cpus')} CPUs, medians of {about.get('rounds')} rounds, "
        f"{about.get('date')}. Times and memory are shown as their inverse."
    )


@dataclass(frozen=True)
class Growth:
    """A curve's title and axes.

    Attributes:
        title: what is drawn upwards.
        across: what is drawn across.
        show_x, show_y: an axis' values as text.
    """

    title: str
    across: str
    show_x: Callable[[float], str]
    show_y: Callable[[float], str]


def seconds_text(value: float) -> str:
    """Return seconds with a unit."""
    scale, unit = (1, "s") if value >= 0.999 else (1e3, "ms") if value >= 0.999e-3 else (1e6, "µs")
    return f"{value * scale:g} {unit}"


def bytes_text(value: float) -> str:
    """Return bytes with a unit."""
    power = min(3, int(math.log2(value) // 10)) if value >= 1 else 0
    return f"{value / 1024**power:g} {('B', 'KiB', 'MiB', 'GiB')[power]}"


CURVES = {
    "curve_slots": Growth(
        "Time of ten calls of 10 ms for each slot, from cold", "slots", lambda value: f"{value:g}", seconds_text
    ),
    "curve_sizes": Growth("Time of an echo, one at a time", "size of the payload", bytes_text, seconds_text),
    "curve_calls": Growth(
        "No-op calls per second", "calls submitted at once", lambda v: f"{v:,.0f}", lambda v: f"{v:,.0f}"
    ),
}
COLOURS = {OURS: 0, BASELINE: 1, POOL: 2, SOCKETS: 4, MEMCPY: 3}


def growth(results: Results, name: str) -> Drawing:
    """Draw a line for each subject of a curve. Both axes are logarithmic."""
    shape = CURVES[name]
    lines = {subject: results.curve(name, subject) for subject in results.curves[name]}
    xs = sorted({x for points in lines.values() for x, _ in points})
    ys = [y for points in lines.values() for _, y in points]
    bottom, left, right = 400, 90, 860
    across = LogScale(xs[0], max(xs[-1], xs[0] * 2), left, right)
    up = LogScale(min(ys) / 1.3, max(ys) * 1.3, bottom, 90)
    told = "; ".join(
        f"{subject} {shape.show_y(_short(points[0][1]))} to {shape.show_y(_short(points[-1][1]))}"
        for subject, points in lines.items()
    )
    image = Drawing(WIDTH, 460, shape.title, f"From {shape.show_x(xs[0])} to {shape.show_x(xs[-1])}: {told}.")
    image.text(20, 28, shape.title, "title")
    for tick in up.ticks((1,)) if max(ys) / min(ys) > 30 else up.ticks():
        image.line(left, up.place(tick), right, up.place(tick), "grid")
        image.text(left - 8, up.place(tick) + 4, shape.show_y(tick), "small end")
    for x in xs:
        image.line(across.place(x), 90, across.place(x), bottom, "grid")
        image.text(across.place(x), bottom + 18, shape.show_x(x), "small middle")
    image.text((left + right) / 2, bottom + 42, shape.across, "middle")
    start = 20.0
    for subject, points in lines.items():
        colour = COLOURS.get(subject, 3)
        places = [(across.place(x), up.place(y)) for x, y in points]
        image.path(places, f"c{colour} stroke d{colour}", subject)
        for (x, y), (_, value) in zip(places, points, strict=True):
            image.circle(x, y, 3, f"c{colour} fill", f"{subject}: {shape.show_y(_short(value))}")
        image.line(start, 52, start + 28, 52, f"c{colour} stroke d{colour}")
        image.text(start + 34, 56, subject)
        start += 60 + 7.2 * len(subject)
    return image


def _short(value: float) -> float:
    return float(f"{value:.3g}")
