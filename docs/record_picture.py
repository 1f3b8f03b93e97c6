"""Run a command in a terminal, and write what it showed, with its times, as an SVG picture that moves.

    python docs/record_picture.py docs/picture.svg python examples/transcode.py --runners 2 --slots 1

The README's picture is made by this command. Pauses in which nothing changes are shortened.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

COLUMNS, ROWS = 88, 24
INTERVAL = 0.1
"""Least seconds between two pictures of the screen."""
LONGEST_PAUSE = 1.2
"""Seconds that a picture stays at the most."""
END = 4.0
"""Seconds that the last picture stays."""
CHARACTER, LINE, MARGIN = 8.43, 18, 14
"""Width of a character, height of a line, and the margin, in pixels."""
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
STYLE = (
    "text { font: 14px ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace; fill: #d8dee9; white-space: pre; }"
)


class Output(NamedTuple):
    """What a program wrote, and when, in seconds from its start."""

    seconds: float
    text: str


class Shown(NamedTuple):
    """A line of the screen, and when it stood there, in seconds."""

    row: int
    text: str
    begin: float
    end: float


def record(command: Sequence[str]) -> Iterator[Output]:
    """Run a command in a terminal, and yield what it writes. RuntimeError if it fails."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "PYTHONUNBUFFERED": "1"}
    started = time.monotonic()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=its, stderr=its, env=environment) as program:
        os.close(its)
        try:
            yield from _read(ours, started)
        finally:
            os.close(ours)
    if program.returncode:
        raise RuntimeError(f"{shlex.join(command)} ended with status {program.returncode}")


def _read(terminal: int, started: float) -> Iterator[Output]:
    left = b""
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # Linux: the program has closed its end
            return
        if not data:
            return
        whole = (left + data).decode(errors="ignore")
        left = (left + data)[len(whole.encode()) :]
        yield Output(time.monotonic() - started, whole)


class Screen:
    """The lines of a terminal on which text is added at the end, and lines are overwritten from their begin."""

    def __init__(self, first: str) -> None:
        self.lines = [first, ""]
        self._column = 0

    def write(self, text: str) -> None:
        """Show text. Colours and movements of the cursor other than the two ends of a line are left out."""
        for character in CONTROL.sub("", text):
            if character == "\n":
                self.lines.append("")
                self._column = 0
            elif character == "\r":
                self._column = 0
            elif character >= " ":
                line = self.lines[-1].ljust(self._column)
                self.lines[-1] = line[: self._column] + character + line[self._column + 1 :]
                self._column += 1

    def visible(self) -> list[str]:
        """Return the lines that fit on the screen."""
        lines = self.lines if self.lines[-1].strip() else self.lines[:-1]
        return [line.rstrip() for line in lines[-ROWS:]]


def lines_over_time(outputs: Sequence[Output], prompt: str) -> tuple[list[Shown], float]:
    """Return each line with the time for which it stands there, and the seconds of the whole."""
    screen = Screen(prompt)
    standing: dict[int, tuple[str, float]] = {}
    shown: list[Shown] = []
    now = last = 0.0

    def look() -> None:
        lines = screen.visible()
        for row in range(max(len(lines), len(standing))):
            text = lines[row] if row < len(lines) else ""
            before = standing.get(row)
            if before is None or before[0] != text:
                if before is not None and before[0]:
                    shown.append(Shown(row, *before, now))
                standing[row] = (text, now)

    look()
    for output in outputs:
        if output.seconds - last >= INTERVAL:
            look()
            now += min(output.seconds - last, LONGEST_PAUSE)
            last = output.seconds
        screen.write(output.text)
    look()
    total = now + END
    shown += [Shown(row, *line, total) for row, line in standing.items() if line[0]]
    return shown, total


def svg(shown: Sequence[Shown], total: float) -> str:
    """Return the picture. It begins anew at its end."""
    height = (max(line.row for line in shown) + 1) * LINE + 2 * MARGIN
    width = round(COLUMNS * CHARACTER) + 2 * MARGIN
    size = f'width="{width}" height="{height}"'
    texts = [
        f'<text x="{MARGIN}" y="{MARGIN + line.row * LINE + 13}" opacity="0" xml:space="preserve">{escape(line.text)}'
        f'<set attributeName="opacity" to="1" begin="all.begin+{line.begin:.2f}s" dur="{line.end - line.begin:.2f}s"/>'
        "</text>"
        for line in shown
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {size}>',
            f"<style>{STYLE}</style>",
            f'<rect {size} rx="8" fill="#1f2430">',
            f'<animate id="all" attributeName="rx" from="8" to="8" begin="0s;all.end" dur="{total:.2f}s"/>',
            "</rect>",
            *texts,
            "</svg>",
            "",
        ]
    )


def main(arguments: Sequence[str]) -> None:
    """Record the command, and write the picture."""
    picture, *command = arguments
    outputs = list(record(command))
    Path(picture).write_text(svg(*lines_over_time(outputs, f"$ {shlex.join(command)}")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
