"""The flow control window for output of calls, and the decoding of output bytes to text.

For each slot, at most `WINDOW` of unconsumed output is at the parent or in transit. The parent reports consumed output,
and the agent reads no more of a slot whose window is full. So a call that writes faster than its output is consumed is
held up by its own pipe, and no process buffers the excess.
"""

from __future__ import annotations

WINDOW = 256 * 1024
"""Maximum unconsumed output of a slot, in units of `weight`."""
GRANT = 16 * 1024
"""Amount of consumed output after which the parent reports it to the agent."""
OVERHEAD = 256
"""Weight of a piece beyond its bytes: a piece of a single byte takes memory, too."""
LOG_FIELDS: dict[str, type] = {
    "name": str, "levelno": int, "levelname": str, "created": float, "msecs": float, "pathname": str, "filename": str,
    "module": str, "lineno": int, "funcName": str, "process": int, "processName": str, "thread": int,
    "threadName": str, "stack_info": str, "exc_text": str,
}  # fmt: skip
"""Fields of a `logging` record that are sent beside its message, and their types."""
MAX_LINE = 64 * 1024
"""Length in bytes after which a line is split."""


def weight(raw: bytes) -> int:
    """Return how much an OUTPUT frame counts in the window, in bytes. `raw` includes the header."""
    return len(raw) + OVERHEAD


class TextDecoder:
    """A decoder from UTF-8 bytes, split anywhere, to text. Invalid bytes are replaced."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """Return the text that `data` completes, as a list of one piece or none."""
        data = self._rest + data
        whole = _whole(data)
        self._rest = data[whole:]
        return [data[:whole].decode(errors="replace")] if whole else []

    def end(self) -> list[str]:
        """Return the rest of a character that was never completed, as a list of one piece or none."""
        rest, self._rest = self._rest, b""
        return [rest.decode(errors="replace")] if rest else []


class LineDecoder:
    """A decoder from UTF-8 bytes, split anywhere, to lines without line ends. Lines longer than `MAX_LINE` are cut."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that `data` completes."""
        *ended, rest = data.split(b"\n")
        lines: list[str] = []
        for piece in ended:
            self._rest += piece
            self._cut(lines)
            lines.append(self._rest.decode(errors="replace"))
            self._rest.clear()
        self._rest += rest
        self._cut(lines)
        return lines

    def end(self) -> list[str]:
        """Return the last line if it has no line end, as a list of one line or none."""
        rest = self._rest.decode(errors="replace")
        self._rest.clear()
        return [rest] if rest else []

    def _cut(self, lines: list[str]) -> None:
        start = 0
        while len(self._rest) - start > MAX_LINE:
            end = _between_characters(self._rest, start + MAX_LINE)
            lines.append(self._rest[start:end].decode(errors="replace"))
            start = end
        if start:
            del self._rest[:start]


def _between_characters(data: bytes | bytearray, position: int) -> int:
    """Return `position`, or the nearest position before it at which a character begins."""
    for back in range(4):
        if data[position - back] & 0xC0 != 0x80:
            return position - back
    return position  # no UTF-8 character is that long, so the bytes are not UTF-8


def _whole(data: bytes) -> int:
    """Return how many of these bytes can be decoded now: all except an incomplete character at the end."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 != 0x80:
            needed = 2 if byte & 0xE0 == 0xC0 else 3 if byte & 0xF0 == 0xE0 else 4 if byte & 0xF8 == 0xF0 else 1
            return len(data) - back if needed > back else len(data)
    return len(data)
