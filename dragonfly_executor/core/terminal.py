"""Text from elsewhere on a terminal: whatever else it does, it leaves what stands there alone.

Colours and other renditions (SGR, ``ESC [ ... m``) pass, and are reset at the end of the line. Every other control
character is shown as Python's own escape of it: those begin sequences that move the cursor, write over what was there,
set titles, or have the terminal type. So do the characters that turn the direction of text around.
"""

from __future__ import annotations

CSI = "\x1b["
RESET = "\x1b[0m"
MAX_SGR = 64
"""Characters of one rendition's numbers; no rendition needs as many."""
TURNS = "\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
CONTROLS = [code for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"]
VISIBLE = {code: f"\\x{code:02x}" for code in CONTROLS} | {ord(turn): f"\\u{ord(turn):04x}" for turn in TURNS}


def harmless(text: str) -> str:
    """The text with nothing in it that a terminal obeys, but ends of lines, tabs and renditions."""
    if text.isprintable():
        return text
    first, *rest = text.split(CSI)
    shown = [first.translate(VISIBLE)]
    has_renditions = False
    for part in rest:
        end = len(part) - len(part.lstrip("0123456789;:"))
        if part[end : end + 1] == "m" and end <= MAX_SGR:
            has_renditions = True
            shown += CSI, part[: end + 1], part[end + 1 :].translate(VISIBLE)
        else:
            shown += CSI.translate(VISIBLE), part.translate(VISIBLE)
    if has_renditions:
        shown.append(RESET)
    return "".join(shown)


def overwritten(line: str) -> list[str]:
    """A line as the lines that it was: each carriage return begins anew, as a progress bar does."""
    return [piece for piece in line.split("\r") if piece] or [""]
