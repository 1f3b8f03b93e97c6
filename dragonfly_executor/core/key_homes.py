"""The places to which calls with a key were sent last."""

from __future__ import annotations

from collections import OrderedDict

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

MAX_KEYS: Final = 10_000
"""Number of keys whose homes are known. The key that was used longest ago is forgotten first."""


class KeyHomes:
    """By key, its home: the place to which a call with this key was sent last.

    The place of the core's pool is a runner, that of a runner is a slot. A place may be gone: the caller looks.
    """

    __slots__ = ("_homes",)

    def __init__(self) -> None:
        self._homes: OrderedDict[int, int] = OrderedDict()

    def get(self, key: int) -> int:
        """Return the home of a key; 0, which is no place, if it has none."""
        return self._homes.get(key, 0)

    def put(self, key: int, place: int) -> None:
        """Set the home of a key."""
        homes = self._homes
        if key in homes:
            homes.move_to_end(key)
        elif len(homes) >= MAX_KEYS:
            homes.popitem(last=False)
        homes[key] = place
