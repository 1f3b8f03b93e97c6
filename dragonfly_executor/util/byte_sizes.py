"""Numbers of bytes as people write them: ``8 * 2**30``, ``"8GiB"``, ``"500 MB"``."""

from __future__ import annotations

import re

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING
from dragonfly_executor.util.validation import whole

if TYPE_CHECKING:
    from typing import Final

UNITS: Final[dict[str, int]] = {
    "": 1,
    "B": 1,
    **{f"{letter}B": 1000**power for power, letter in enumerate("kMGTP", 1)},
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGTP", 1)},
}
"""Units with their numbers of bytes: SI prefixes, and the binary prefixes of IEC 80000-13."""
_SIZE: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", re.ASCII)


def byte_size(value: int | str, name: str) -> int:
    """Return a number of bytes, rounded down.

    Args:
        value: a whole number of bytes, or text: a number and a unit of `UNITS`, in any case, such as ``"1.5 GiB"``.
        name: the argument's name, for error texts.

    Raises:
        TypeError: `value` is neither a whole number nor text.
        ValueError: `value` is negative, or has no such form.
    """
    if not isinstance(value, str):
        try:
            return whole(value, name, 0)
        except TypeError:
            text = f'{name} must be a whole number of bytes or text such as "8GiB", not {type(value).__name__}'
            raise TypeError(text) from None
    matched = _SIZE.fullmatch(value)
    units = {unit.lower(): size for unit, size in UNITS.items()}
    size = units.get(matched[2].lower()) if matched is not None else None
    if matched is None or size is None:
        raise ValueError(f'{name} must be a number and a unit, such as "8GiB" or "500MB", not {value!r:.50}')
    number, _, decimals = matched[1].partition(".")
    return int(number + decimals) * size // int(10 ** len(decimals))
