"""The shared objects that a slot has opened."""

from __future__ import annotations

import os
from mmap import ACCESS_COPY, mmap

from dragonfly_executor.core.recently_used import RecentlyUsed
from dragonfly_executor.errors.base import UnopenedCallError
from dragonfly_executor.protocol.frames import Flag
from dragonfly_executor.protocol.shared_entries import NO_DESCRIPTOR, NO_DIGEST, SharedEntry, read_entries
from dragonfly_executor.runner.machine import FALLBACK_MEMORY, total_memory
from dragonfly_executor.runner.shared_requests import SharedRequests
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from dragonfly_executor.runner.agent_stream import AgentStream

    Buffer = bytearray | memoryview

MOST_OBJECTS = 4096
"""Maximum number of objects that a slot keeps open between calls."""
MEMORY_SHARE = 8
"""Divisor of the machine's memory: the bytes of the objects that a slot keeps open between calls."""
MAPPED_FROM = 1024 * 1024
"""Smallest size in bytes of an object that is mapped. A mapping holds a descriptor, so smaller objects are read."""
ATTEMPTS = 3
"""Number of files of one object that are tried."""


class SharedTable:
    """The shared objects of one slot: their bytes, and the objects that were opened from them. One thread.

    Args:
        agent: the stream to the agent.
        open_object: opens the bytes of an object.
        most: maximum number of bytes that are kept between calls; None for a share of the machine's memory.
    """

    def __init__(self, agent: AgentStream, open_object: Callable[[Buffer], Any], most: int | None = None) -> None:
        self._requests = SharedRequests(agent)
        self._open_object = open_object
        self._parent_pid = int(os.environ.get("DRAGONFLY_PARENT_PID", "0"))
        """The process id of the parent, if it runs on this machine; otherwise 0."""
        self._data: dict[int, Buffer] = {}
        """The bytes of objects that no call has opened yet."""
        self._objects: dict[int, Any] = {}
        self._sizes = RecentlyUsed(
            (total_memory() or FALLBACK_MEMORY) // MEMORY_SHARE if most is None else most, MOST_OBJECTS
        )

    def fetch(self, table: bytes, call_id: int, attempt: int) -> None:
        """Get the bytes of all objects that a call needs. Runs none of the user's code.

        Args:
            table: the table in the payload of the call.
            call_id, attempt: the call.

        Raises:
            UnopenedCallError: an object cannot be had.
            MemoryError: this process has no memory for an object.
        """
        entries = {entry.number: entry for entry in read_entries(table)}
        absent = []
        for number, entry in entries.items():
            if number in self._sizes:
                self._sizes.use(number)
            elif not self._fetch_here(entry):
                absent.append(entry)
        if absent:
            self._fetch_elsewhere(absent, call_id, attempt)
        self._drop(self._sizes.evict(entries))

    def load(self, number: int) -> Any:
        """Return an object. The first time, it is opened, which runs code of the object's classes.

        Raises:
            UnopenedCallError: the object was not fetched for this call.
        """
        if number in self._objects:
            return self._objects[number]
        if number not in self._data:
            raise UnopenedCallError(f"the call does not say where shared object {number} is")
        value = self._objects[number] = self._open_object(self._data[number])
        # The object holds what it needs of its bytes.
        self._data.pop(number, None)
        return value

    def forget(self, numbers: Iterable[int]) -> None:
        """Drop these objects: no handle of them is left."""
        for number in numbers:
            self._sizes.remove(number)
            self._drop((number,))

    def _drop(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._data.pop(number, None)
            self._objects.pop(number, None)

    def _keep(self, entry: SharedEntry, read: Callable[[], Buffer]) -> None:
        """Keep the bytes of an object. Without memory for them, drop all other objects first."""
        try:
            data = read()
        except MemoryError:
            self._drop(self._sizes.evict((), 0))
            data = read()
        self._data[entry.number] = data
        self._sizes.add(entry.number, entry.size)

    def _fetch_here(self, entry: SharedEntry) -> bool:
        """Get an object from the payload, or from the memory of a parent on this machine. Return False if it fails."""
        if entry.is_inline:
            self._keep(entry, lambda: bytearray(entry.data))
            return True
        pid = self._parent_pid
        if entry.descriptor == NO_DESCRIPTOR or not pid:
            return False
        # Imported only if it is needed, so that other slots start faster.
        from dragonfly_executor.transport.sealed_memory import map_sealed

        try:
            self._keep(entry, lambda: memoryview(map_sealed(pid, *entry[3:5], entry.size)))
        except OSError as error:
            if entry.digest == NO_DIGEST:
                text = f"shared object {entry.number} cannot be mapped from the parent's memory: {error}"
                raise UnopenedCallError(text) from None
            return False
        return True

    def _fetch_elsewhere(self, entries: list[SharedEntry], call_id: int, attempt: int) -> None:
        """Get objects from the agent, which has them as files, or gets them from the parent."""
        wanted, flags, failure = {entry.number: entry for entry in entries}, 0, ""
        for _ in range(ATTEMPTS):
            again: dict[int, SharedEntry] = {}
            for number, answer_flags, where in self._requests.ask([*wanted.values()], call_id, attempt, flags):
                entry, text = wanted[number], os.fsdecode(where)
                if answer_flags & Flag.ERROR:
                    raise UnopenedCallError(f"shared object {number}, of {entry.size} bytes, is not there: {text}")
                try:
                    self._keep(entry, lambda path=text, size=entry.size: _read_file(path, size))  # type: ignore[misc]
                except OSError as error:
                    again[number] = entry
                    failure = f"{error.strerror or error}: {text}"
            if not again:
                return
            wanted, flags = again, Flag.ERROR
        numbers = ", ".join(map(str, wanted))
        raise UnopenedCallError(f"shared objects cannot be opened on the runner (numbers {numbers}): {failure}")


def _read_file(path: str, size: int) -> Buffer:
    """Return the content of a file: mapped, so that all slots of the machine share its memory.

    Raises:
        OSError: it cannot be opened, or has another size.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        found = os.fstat(fd).st_size
        if found != size:
            raise OSError(f"{found} bytes instead of {size}")
        if size >= MAPPED_FROM:
            return memoryview(mmap(fd, size, access=ACCESS_COPY))
        with open(fd, "rb", closefd=False) as file:
            return bytearray(file.read())
    finally:
        os.close(fd)
