"""What calls write, on its way to the parent: its window, and its bytes as text.

The window: for each slot the parent has at most `WINDOW` on its side or on the way that nobody has consumed. It says
what was consumed, and beyond that the agent reads no more of what the slot writes. So a call that writes faster than
somebody reads is held up by its own pipe, and takes nobody's memory.
"""

from __future__ import annotations

WINDOW = 256 * 1024
"""What a slot may have on its way, in `weight`s."""
GRANT = 16 * 1024
"""So much is consumed before the parent says so."""
OVERHEAD = 256
"""What a piece weighs beyond its bytes: single bytes take their room in memory, too."""
LOG_FIELDS: dict[str, type] = {
    "name": str, "levelno": int, "levelname": str, "created": float, "msecs": float, "pathname": str, "filename": str,
    "module": str, "lineno": int, "funcName": str, "process": int, "processName": str, "thread": int,
    "threadName": str, "stack_info": str, "exc_text": str,
}  # fmt: skip
"""What travels of a record of `logging`, beside its message, and of what type it is."""
MAX_LINE = 64 * 1024
"""Bytes after which a line is cut."""


def weight(raw: bytes) -> int:
    """What an OUTPUT, header and all, counts for in the window."""
    return len(raw) + OVERHEAD


class Text:
    """Bytes of UTF-8, split anywhere, as text. What is no UTF-8 is replaced."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """The text that is complete with `data`, in one piece, or none."""
        data = self._rest + data
        whole = _whole(data)
        self._rest = data[whole:]
        return [data[:whole].decode(errors="replace")] if whole else []

    def end(self) -> list[str]:
        """What was left of a character that has never become whole."""
        rest, self._rest = self._rest, b""
        return [rest.decode(errors="replace")] if rest else []


class Lines:
    """Bytes of UTF-8, split anywhere, as lines without their ends. One that is longer than `MAX_LINE` is cut."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[str]:
        """The lines that are complete with `data`."""
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
        """The last line, where no end of a line has come."""
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
    """The place at `position`, or the nearest before it, where a character begins."""
    for back in range(4):
        if data[position - back] & 0xC0 != 0x80:
            return position - back
    return position  # no character is that long: it is no UTF-8


def _whole(data: bytes) -> int:
    """How many of these bytes can be decoded now: all, but for the beginning of a character at their end."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 != 0x80:
            needed = 2 if byte & 0xE0 == 0xC0 else 3 if byte & 0xF0 == 0xE0 else 4 if byte & 0xF8 == 0xF0 else 1
            return len(data) - back if needed > back else len(data)
    return len(data)
