"""Writes JSON, and reads the simplest of it, without the module `json`, which takes milliseconds to import."""

from __future__ import annotations

_ESCAPES = {code: f"\\u{code:04x}" for code in (*range(32), *b'"\\')}
"""Escapes of the characters that JSON does not allow in texts."""


def to_json(value: object) -> bytes:
    """Return a value as JSON. Its numbers must be finite."""
    return _text(value).encode(errors="surrogatepass")


def _text(value: object) -> str:
    if isinstance(value, str):
        return f'"{value.translate(_ESCAPES)}"'
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_text(name)}: {_text(each)}" for name, each in value.items()) + "}"
    raise TypeError(f"JSON has no {type(value).__name__}")


def simple_object(text: str) -> dict[str, str | int] | None:
    """Return an object of texts and whole numbers that `to_json` wrote; None if the text may be anything else."""
    parts = text.split('"')
    is_whole = text[:1] == "{" and text[-1:] == "}" and len(parts) % 2
    if not is_whole or text.count("\\") != text.count("\\u00"):
        return None
    # As quotation marks within texts are escaped, each one begins or ends a text.
    found: dict[str, str | int] = {}
    place = 1
    try:
        while place < len(parts):
            name, between = _unescaped(parts[place]), parts[place + 1].strip(" ,}")
            if between == ":":
                found[name] = _unescaped(parts[place + 2])
                place += 4
            else:
                found[name] = int(between.removeprefix(":"))
                place += 2
    except (ValueError, IndexError):
        return None
    return found


def _unescaped(text: str) -> str:
    first, *escaped = text.split("\\u")
    return first + "".join(chr(int(part[:4], 16)) + part[4:] for part in escaped)
