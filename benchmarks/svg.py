"""A small writer of SVG: shapes and texts with classes, whose colours follow the reader's light or dark mode."""

from __future__ import annotations

import math
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr


@dataclass(frozen=True)
class Palette:
    """The colours of a mode: of the page, text, lesser text and lines, the grid, and of what is drawn.

    They stand in the file as they are: not every program that shows SVG knows variables.
    """

    page: str
    ink: str
    soft: str
    grid: str
    colours: tuple[str, ...]

    @property
    def rules(self) -> str:
        """The style's rules."""
        lines = [
            f"text {{ fill: {self.ink} }}",
            f".small {{ fill: {self.soft} }}",
            f".page {{ fill: {self.page} }}",
            f".grid {{ stroke: {self.grid} }}",
            f".axis {{ stroke: {self.soft} }}",
            f".ring {{ stroke: {self.soft}; fill: {self.page} }}",
        ]
        for number, colour in enumerate(self.colours):
            lines += [f".c{number}.fill {{ fill: {colour} }}", f".c{number}.stroke {{ stroke: {colour} }}"]
        return "\n".join(lines)


SHAPES = """
text { font: 13px system-ui, sans-serif }
.title { font-size: 16px; font-weight: 600 }
.small { font-size: 11px }
.strong { font-weight: 600 }
.end { text-anchor: end }
.middle { text-anchor: middle }
.grid { stroke-width: 1 }
.axis { stroke-width: 1.5 }
.stroke { stroke-width: 2; fill: none }
.ring { stroke-width: 1.2 }
.d1 { stroke-dasharray: 7 3 }
.d2 { stroke-dasharray: 2 3 }
.d3 { stroke-dasharray: 9 3 2 3 }
.d4 { stroke-dasharray: 1 4 }
""".strip()
# Colours that differ in lightness as well as in hue. Lines differ in their dashes, too.
LIGHT = Palette("#ffffff", "#1f2328", "#59636e", "#e3e6ea", ("#1f6feb", "#b3261e", "#1a7f37", "#9a6700", "#59636e"))
DARK = Palette("#0d1117", "#e6edf3", "#9198a1", "#2a3038", ("#58a6ff", "#ff7b72", "#56d364", "#e3b341", "#9198a1"))


class Drawing:
    """An SVG image.

    Args:
        width, height: in pixels.
        title: the image's name, for screen readers.
        description: what it shows, as text: the figures themselves.
    """

    def __init__(self, width: int, height: int, title: str, description: str) -> None:
        self.width, self.height = width, height
        size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title description">',
            f'<title id="title">{escape(title)}</title>',
            f'<desc id="description">{escape(description)}</desc>',
            f"<style>{SHAPES}\n{LIGHT.rules}\n@media (prefers-color-scheme: dark) {{\n{DARK.rules}\n}}</style>",
        ]
        self.rectangle(0, 0, width, height, "page")

    def line(self, x1: float, y1: float, x2: float, y2: float, classes: str) -> None:
        """Draw a line."""
        self._shape("line", classes, x1=x1, y1=y1, x2=x2, y2=y2)

    def rectangle(self, x: float, y: float, width: float, height: float, classes: str, title: str = "") -> None:
        """Draw a rectangle."""
        self._shape("rect", classes, title, x=x, y=y, width=width, height=height)

    def circle(self, x: float, y: float, radius: float, classes: str, title: str = "") -> None:
        """Draw a circle."""
        self._shape("circle", classes, title, cx=x, cy=y, r=radius)

    def path(self, points: list[tuple[float, float]], classes: str, title: str = "") -> None:
        """Draw a line through points."""
        places = " ".join(f"{_number(x)},{_number(y)}" for x, y in points)
        self._parts.append(f'<polyline class={quoteattr(classes)} points="{places}">{_titled(title)}</polyline>')

    def text(self, x: float, y: float, words: str, classes: str = "") -> None:
        """Write a text; it begins at x unless its classes say `end` or `middle`."""
        self._parts.append(f'<text class={quoteattr(classes)} x="{_number(x)}" y="{_number(y)}">{escape(words)}</text>')

    def _shape(self, name: str, classes: str, title: str = "", **places: float) -> None:
        words = " ".join(f'{key}="{_number(value)}"' for key, value in places.items())
        self._parts.append(f"<{name} class={quoteattr(classes)} {words}>{_titled(title)}</{name}>")

    def __str__(self) -> str:
        return "\n".join([*self._parts, "</svg>"]) + "\n"


@dataclass(frozen=True)
class LogScale:
    """A logarithmic axis.

    Attributes:
        low, high: values at its ends.
        start, end: places of these, in pixels.
    """

    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        """Return where a value is; one beyond the ends is at the end."""
        value = min(max(value, self.low), self.high)
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, steps: tuple[int, ...] = (1, 2, 5)) -> list[float]:
        """Return round values between the ends."""
        powers = range(math.floor(math.log10(self.low)) - 1, math.ceil(math.log10(self.high)) + 1)
        # Rounded, or 0.3 is 0.30000000000000004 and the file differs between machines.
        every = [float(f"{step}e{power}") for power in powers for step in steps]
        return [value for value in every if self.low * 0.999 <= value <= self.high * 1.001]


def _titled(title: str) -> str:
    return f"<title>{escape(title)}</title>" if title else ""


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
