"""Escapes for text from runners, so that the text cannot control the terminal that shows it.

Colours and other SGR sequences (``ESC [ ... m``) pass, and are reset at the end of the text. Every other control
character is replaced by its Python escape: control characters start sequences that move the cursor, overwrite text,
set titles, or make the terminal type. Characters that reverse the direction of text are escaped, too.
"""

from __future__ import annotations

CSI = "\x1b["
RESET = "\x1b[0m"
MAX_SGR = 64
"""Maximum length of an SGR sequence's parameters, in characters. A longer sequence is escaped."""
TURNS = "\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
CONTROLS = [code for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"]
VISIBLE = {code: f"\\x{code:02x}" for code in CONTROLS} | {ord(turn): f"\\u{ord(turn):04x}" for turn in TURNS}


def escape_controls(text: str) -> str:
    """Return the text with all control characters escaped, except line ends, tabs and SGR sequences."""
    if text.isprintable():
        return text
    first, *rest = text.split(CSI)
    shown = [first.translate(VISIBLE)]
    has_sgr = False
    for part in rest:
        end = len(part) - len(part.lstrip("0123456789;:"))
        if part[end : end + 1] == "m" and end <= MAX_SGR:
            has_sgr = True
            shown += CSI, part[: end + 1], part[end + 1 :].translate(VISIBLE)
        else:
            shown += CSI.translate(VISIBLE), part.translate(VISIBLE)
    if has_sgr:
        shown.append(RESET)
    return "".join(shown)


def split_at_carriage_returns(line: str) -> list[str]:
    """Split a line at its carriage returns, which progress bars write, so that each part gets its own tag."""
    return [piece for piece in line.split("\r") if piece] or [""]
