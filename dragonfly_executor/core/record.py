"""The base class of events and actions.

Events and actions are plain classes, written out. Generating one frozen dataclass takes about a millisecond, and a
program whose first call waits for a first runner pays for thirty of them.
"""

from __future__ import annotations

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import ClassVar


class Record:
    """A record of named values. It does not change after it was made."""

    __slots__ = ()
    __match_args__: ClassVar[tuple[str, ...]] = ()
    __hash__ = None  # type: ignore[assignment]  # it may hold lists

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__match_args__)

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__match_args__)
        return f"{type(self).__name__}({values})"
