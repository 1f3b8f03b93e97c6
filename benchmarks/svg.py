"""A small writer of SVG: shapes and texts with classes, whose colours follow the reader's light or dark mode."""

from __future__ import annotations

import math
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

# Colours that differ in lightness as well as in hue, so that they differ without colour vision, too.
STYLE = """
text { font: 13px system-ui, sans-serif; fill: var(--ink) }
.title { font-size: 16px; font-weight: 600 }
.small { font-size: 11px; fill: var(--soft) }
.strong { font-weight: 600 }
.end { text-anchor: end }
.middle { text-anchor: middle }
.grid { stroke: var(--grid); stroke-width: 1 }
.axis { stroke: var(--soft); stroke-width: 1.5 }
.page { fill: var(--page) }
.c0 { --c: var(--blue) }
.c1 { --c: var(--red) }
.c2 { --c: var(--green) }
.c3 { --c: var(--brown) }
.c4 { --c: var(--soft) }
.fill { fill: var(--c) }
.stroke { stroke: var(--c); stroke-width: 2; fill: none }
.ring { stroke: var(--soft); stroke-width: 1.2; fill: var(--page) }
.d1 { stroke-dasharray: 7 3 }
.d2 { stroke-dasharray: 2 3 }
.d3 { stroke-dasharray: 9 3 2 3 }
.d4 { stroke-dasharray: 1 4 }
svg {
  --page: #ffffff; --ink: #1f2328; --soft: #6a737d; --grid: #e3e6ea;
  --blue: #1f6feb; --red: #b3261e; --green: #1a7f37; --brown: #9a6700;
}
@media (prefers-color-scheme: dark) {
  svg {
    --page: #0d1117; --ink: #e6edf3; --soft: #9198a1; --grid: #2a3038;
    --blue: #58a6ff; --red: #ff7b72; --green: #56d364; --brown: #e3b341;
  }
}
""".strip()


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
            f"<style>{STYLE}</style>",
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
