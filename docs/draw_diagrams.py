"""Draw the diagrams of docs/how-it-works.md: each is a list of boxes and arrows below.

    python docs/draw_diagrams.py

writes docs/diagrams/NAME.svg. A test compares the files with the lists.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent / "diagrams"
STYLE = (
    "text { font: 13px sans-serif; fill: #1f2430; text-anchor: middle } .small { font-size: 11px; fill: #4c566a } "
    ".title { font-weight: bold } .box { fill: #eceff4; stroke: #4c566a } .frame { fill: none; stroke: #8891a5; "
    "stroke-dasharray: 5 3 } .arrow { stroke: #3f51b5; stroke-width: 1.5; fill: none; marker-end: url(#head) }"
)
HEAD = (
    '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0L8 4L0 8z" fill="#3f51b5"/></marker></defs>'
)


class Box(NamedTuple):
    """A box, or a dashed frame around others, with its title and smaller lines under it."""

    x: int
    y: int
    width: int
    height: int
    title: str
    lines: tuple[str, ...] = ()
    is_frame: bool = False

    def svg(self) -> str:
        middle = self.x + self.width // 2
        first = self.y + 18 if self.is_frame else self.y + self.height // 2 + 5 - 8 * len(self.lines)
        texts = [f'<text class="title" x="{middle}" y="{first}">{escape(self.title)}</text>']
        for number, line in enumerate(self.lines, 1):
            texts.append(f'<text class="small" x="{middle}" y="{first + 16 * number}">{escape(line)}</text>')
        kind = "frame" if self.is_frame else "box"
        size = f'x="{self.x}" y="{self.y}" width="{self.width}" height="{self.height}" rx="6"'
        return f'<rect class="{kind}" {size}/>{"".join(texts)}'


class Arrow(NamedTuple):
    """A straight arrow, with a text above its middle."""

    x1: int
    y1: int
    x2: int
    y2: int
    text: str = ""
    dx: int = 0

    def svg(self) -> str:
        label = f'<text class="small" x="{(self.x1 + self.x2) // 2 + self.dx}" y="{(self.y1 + self.y2) // 2 - 6}">'
        text = f"{label}{escape(self.text)}</text>" if self.text else ""
        return f'<path class="arrow" d="M{self.x1} {self.y1}L{self.x2} {self.y2}"/>{text}'


class Diagram(NamedTuple):
    """A diagram: its size, its description for those who do not see it, and its parts."""

    width: int
    height: int
    description: str
    parts: tuple[Box | Arrow, ...]

    def svg(self) -> str:
        size = f'viewBox="0 0 {self.width} {self.height}" width="{self.width}" height="{self.height}"'
        start = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n<title>{escape(self.description)}</title>'
        ground = f'<rect width="{self.width}" height="{self.height}" fill="#ffffff"/>'
        return "\n".join([start, f"<style>{STYLE}</style>", HEAD, ground, *(p.svg() for p in self.parts), "</svg>\n"])


def runner(y: int, title: str, work: tuple[str, ...] = ()) -> tuple[Box | Arrow, ...]:
    """Return the parts of a runner with two slots. `work` is what its agent does."""
    return (
        Box(430, y, 320, 110, title, is_frame=True),
        Box(450, y + 30, 110, 65, "agent", work),
        Box(625, y + 25, 110, 34, "slot"),
        Box(625, y + 68, 110, 34, "slot"),
        Arrow(560, y + 50, 625, y + 42),
        Arrow(560, y + 75, 625, y + 85),
    )


DIAGRAMS = {
    "processes": Diagram(
        760, 250,
        "A program with its engine thread, and two runners with an agent and slots each",
        (
            Box(10, 10, 250, 230, "your program: the parent", is_frame=True),
            Box(30, 45, 100, 80, "your threads", ("pickle calls,", "take results")),
            Box(150, 45, 95, 80, "engine", ("one thread,", "owns the pool")),
            Box(30, 150, 215, 75, "backend", ("boots nodes and stops them,", "knows no calls")),
            Arrow(130, 85, 150, 85),
            *runner(10, "runner 1", ("forks and watches", "slots")),
            *runner(130, "runner 2, on another machine"),
            Arrow(245, 75, 450, 65, "link: frames"),
            Arrow(245, 100, 450, 180, "link: frames", 30),
        ),
    ),
    "call": Diagram(
        620, 150,
        "The path of a call: your thread, queue, agent, slot, and its result back",
        (
            Box(10, 40, 110, 60, "your thread", ("pickles the call,", "opens the result")),
            Box(160, 40, 110, 60, "queue", ("waits for a slot", "that is free")),
            Box(330, 40, 110, 60, "agent", ("forwards it", "unopened")),
            Box(500, 40, 110, 60, "slot", ("unpickles it,", "runs it")),
            Arrow(120, 70, 160, 70),
            Arrow(270, 70, 330, 70, "CALL"),
            Arrow(440, 70, 500, 70, "CALL"),
            Arrow(555, 100, 555, 135),
            Arrow(555, 135, 65, 135, "RESULT, the same way back"),
            Arrow(65, 135, 65, 100),
        ),
    ),
    "runner": Diagram(
        760, 130,
        "The life of a runner: queued, booting, up, draining, gone",
        (
            Box(10, 40, 110, 60, "queued", ("at a rate limit,", "or in a queue")),
            Box(165, 40, 110, 60, "booting", ("create, connect,", "handshake, sync")),
            Box(335, 40, 110, 60, "up", ("takes calls,", "or is idle")),
            Box(505, 40, 110, 60, "draining", ("finishes calls,", "takes no more")),
            Box(660, 40, 90, 60, "gone", ("nothing of it", "is left")),
            Arrow(120, 70, 165, 70, "its turn"),
            Arrow(275, 70, 335, 70, "HELLO"),
            Arrow(445, 70, 505, 70, "idle, end"),
            Arrow(615, 70, 660, 70, "stop"),
        ),
    ),
}  # fmt: skip


def main() -> None:
    """Write all diagrams."""
    FOLDER.mkdir(exist_ok=True)
    for name, diagram in DIAGRAMS.items():
        (FOLDER / f"{name}.svg").write_text(diagram.svg())


if __name__ == "__main__":
    main()
