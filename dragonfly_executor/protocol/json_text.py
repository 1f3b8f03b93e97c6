"""Writes JSON without the module `json`, which both ends load only to read it: it takes milliseconds to import."""

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
