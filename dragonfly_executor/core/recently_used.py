"""Decides which objects of a bounded table are evicted: the least recently used ones."""

from __future__ import annotations

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container


class RecentlyUsed:
    """The sizes of the objects in a table, the least recently used first. It holds no object itself.

    Args:
        most: maximum number of bytes of all objects together.
        most_objects: maximum number of objects.
    """

    def __init__(self, most: int, most_objects: int) -> None:
        self._most = most
        self._most_objects = most_objects
        self._sizes: dict[int, int] = {}
        self.total = 0
        """Bytes of all objects."""

    def __len__(self) -> int:
        return len(self._sizes)

    def __contains__(self, number: object) -> bool:
        return number in self._sizes

    def add(self, number: int, size: int) -> None:
        """Add an object as the most recently used."""
        self.remove(number)
        self._sizes[number] = size
        self.total += size

    def use(self, number: int) -> None:
        """Mark an object as the most recently used."""
        self._sizes[number] = self._sizes.pop(number)

    def remove(self, number: int) -> None:
        """Remove an object, if it is there."""
        self.total -= self._sizes.pop(number, 0)

    def evict(self, pinned: Container[int], most: int | None = None) -> list[int]:
        """Remove the least recently used objects beyond the bounds, and return them.

        Args:
            pinned: objects that are needed now. They stay, even if they are beyond the bounds.
            most: the bound in bytes, if it is not the table's own.
        """
        most = self._most if most is None else most
        evicted: list[int] = []
        total, count = self.total, len(self._sizes)
        if total <= most and count <= self._most_objects:
            return evicted
        for number, size in self._sizes.items():
            if total <= most and count <= self._most_objects:
                break
            if number not in pinned:
                evicted.append(number)
                total, count = total - size, count - 1
        for number in evicted:
            self.remove(number)
        return evicted
