"""The shared objects of a fake runner."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dragonfly_executor.protocol.frames import Flag, Frame, Kind
from dragonfly_executor.protocol.shared_entries import SharedEntry, read_entries, read_numbers
from dragonfly_executor.serialization.layout import shared_table

if TYPE_CHECKING:
    from dragonfly_executor.serialization.layout import Received

EVERY_CHUNK = 2**31
"""Number of chunks to request at once."""


class FakeShared:
    """The shared objects that the parent has sent to a fake runner. Its slots are threads, so they share them.

    Args:
        say: sends a frame to the parent: its kind, the call id and attempt in it, and its detail.
        open_object: opens the bytes of an object.
    """

    def __init__(self, say: Callable[..., None], open_object: Callable[[Any], Any]) -> None:
        self._say = say
        self._open_object = open_object
        self._data: dict[int, bytearray] = {}
        self._complete: set[int] = set()
        self._objects: dict[int, Any] = {}
        self._waiting: list[tuple[set[int], Callable[[], None]]] = []
        self._opening = threading.RLock()

    def when_here(self, data: Received, run: Callable[[], None]) -> None:
        """Run a call when the objects that its payload names are here."""
        absent: set[int] = set()
        for entry in read_entries(shared_table(data)):
            if entry.number in self._complete:
                continue
            if entry.is_inline:
                self._data[entry.number] = bytearray(entry.data)
                self._complete.add(entry.number)
                continue
            absent.add(entry.number)
            self._want(entry)
        if absent:
            self._waiting.append((absent, run))
        else:
            run()

    def _want(self, entry: SharedEntry) -> None:
        if entry.number not in self._data:
            self._data[entry.number] = bytearray()
            self._say(Kind.SHARED_WANT, (entry.number, 0), detail=EVERY_CHUNK)

    def arrived(self, frame: Frame) -> None:
        """Handle a piece of an object, and run the calls that have waited for the last one."""
        number = frame.call_id
        if number not in self._data:
            return  # it was freed meanwhile
        self._data[number] += frame.payload
        if frame.flags & Flag.MORE:
            return
        self._complete.add(number)
        waiting, self._waiting = self._waiting, []
        for absent, run in waiting:
            absent.discard(number)
            if absent:
                self._waiting.append((absent, run))
            else:
                run()

    def forget(self, frame: Frame) -> None:
        """Drop the objects that the parent does not have any more."""
        for number in read_numbers(frame.payload):
            self._complete.discard(number)
            self._data.pop(number, None)
            self._objects.pop(number, None)

    def load(self, number: int) -> Any:
        """Return an object. The first time, it is opened."""
        with self._opening:
            if number not in self._objects:
                self._objects[number] = self._open_object(self._data[number])
            return self._objects[number]
