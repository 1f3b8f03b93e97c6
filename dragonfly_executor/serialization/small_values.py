"""Finds out whether `pickle.dumps` may pickle a value, or whether it needs the pickler that copies no large buffers."""

from __future__ import annotations

from types import NoneType

from dragonfly_executor.serialization.layout import IN_BAND_BELOW
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

ATOMS = frozenset({NoneType, bool, float, int, str})
"""Types whose pickles refer to nothing, and hold no buffer that could travel beside the pickle.

`pickle.dumps` pickles these twice as fast as a `Pickler` that writes to a `Sink`. It copies large ``bytes`` objects, so
``bytes`` is not among the types.
"""

FIXED_ATOMS = ATOMS - {str}
"""The atoms that cannot be large, apart from numbers of many digits."""
LEAST_TEXT = 64 * 1024
"""Characters from which a ``str`` travels beside the pickle (`large_text`)."""
_NUMBERS = frozenset({NoneType, bool, float, int})
_CONTAINERS = frozenset({list, tuple, dict})
_FEW = 64
"""Length of a container up to which checking the types of its values takes less time than a `Pickler`."""
_DEPTH = 2
_MOST_NUMBERS = 4096
"""Length of a list up to which checking the types takes less time than a `Pickler`."""


def are_small(values: Iterable[Any], depth: int = _DEPTH) -> bool:
    """Return whether `pickle.dumps` may pickle these: each is an atom, or ``bytes`` that take no time to copy.

    A list, a tuple or a dict of a few such values may stand among them. A large ``str`` is not small: it travels beside
    the pickle.

    Args:
        values: the objects.
        depth: how deep containers may stand in each other.
    """
    for value in values:
        kind = type(value)
        if kind is str:
            if len(value) > IN_BAND_BELOW and (depth != _DEPTH or len(value) >= LEAST_TEXT):
                return False
        elif kind in ATOMS:
            continue
        elif kind is bytes:
            if len(value) > IN_BAND_BELOW:
                return False
        elif kind not in _CONTAINERS or len(value) > _FEW:
            return False
        elif kind is dict:
            if not (depth and are_small(value, depth - 1) and are_small(value.values(), depth - 1)):
                return False
        elif not _NUMBERS.issuperset(map(type, value)) and not (depth and are_small(value, depth - 1)):
            return False
    return True


def are_small_items(values: Any) -> bool:
    """Return whether `pickle.dumps` may pickle these items of a map: they are few, and small."""
    kind = type(values)
    if kind is range:
        return True
    return (kind is list or kind is tuple) and (
        len(values) <= _MOST_NUMBERS and (_NUMBERS.issuperset(map(type, values)) or are_small(values, _DEPTH - 1))
    )


def are_numbers(values: list[Any]) -> bool:
    """Return whether `pickle.dumps` may pickle these: they are few, and each is a number, a bool or None.

    Often they are the values of a chunk of a map.
    """
    return len(values) <= _MOST_NUMBERS and _NUMBERS.issuperset(map(type, values))
