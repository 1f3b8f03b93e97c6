"""The stand-ins of multiprocessing's values, arrays, pipes and shared memory."""

from __future__ import annotations

import os
import sys
from mmap import mmap

from dragonfly_executor.errors.base import MultiprocessingObjectError
from dragonfly_executor.runner.proxy_stand_ins import proxy
from dragonfly_executor.runner.stand_ins import LockableStandIn, StandIn
from dragonfly_executor.serialization.object_details import machine
from dragonfly_executor.util import plain_pickle as pickle
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, NoReturn

    from dragonfly_executor.runner.stand_ins import Requests

VALUES = "multiprocessing.sharedctypes"


def mapped(place: tuple[int, int, str, int, int, int] | None) -> memoryview | None:
    """Return the memory of a value of the parent; None if this process cannot map it.

    Args:
        place: see `arena_place`.
    """
    if place is None:
        return None
    pid, fd, name, total, start, end = place
    path = f"/proc/{pid}/fd/{fd}"
    try:
        if os.readlink(path) != name:
            return None
        own = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            return memoryview(mmap(own, total))[start:end]
        finally:
            os.close(own)
    except (OSError, ValueError):
        return None


def travelling(index: Any) -> Any:
    """Return an index in the form in which it travels."""
    return (index.start, index.stop, index.step) if isinstance(index, slice) else index


class ValueStandIn(LockableStandIn):
    """Stands for a `Value`, and is the base of the others: attributes are requests.

    On the parent's machine the memory itself is mapped. It is used by `get_obj`, and by a thread that holds the lock.
    """

    ORIGINAL = (VALUES, "Synchronized")
    _NAMES: frozenset[str] = frozenset({"value"})

    def __init__(self, client: Requests, number: int, detail: Any) -> None:
        super().__init__(client, number, detail)
        self._lock, element, self._length, fields, place = detail
        self._fields = frozenset(fields)
        memory = mapped(place)
        kind = element if self._length is None else element * self._length
        self._memory: Any = None if memory is None else kind.from_buffer(memory)

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Acquire the lock."""
        return self._lock.acquire(block, timeout)  # type: ignore[no-any-return]

    def release(self) -> None:
        """Release the lock."""
        self._lock.release()

    def get_lock(self) -> Any:
        """Return the lock."""
        return self._lock

    def get_obj(self) -> Any:
        """Return the value without its lock: the memory itself on the parent's machine, a stand-in elsewhere."""
        return UnlockedValue(self) if self._memory is None else self._memory

    def _held(self) -> Any:
        """Return the memory if this thread has the lock and the memory is mapped here; None if not."""
        return self._memory if self._memory is not None and self._lock.is_held_here() else None

    def __getattr__(self, name: str) -> Any:
        return self._get(name, True)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._NAMES or name in vars(self).get("_fields", ()):
            self._set(name, value, True)
        else:
            object.__setattr__(self, name, value)

    def _get(self, name: str, locked: bool) -> Any:
        if name not in self._NAMES and name not in vars(self).get("_fields", ()):
            raise AttributeError(f"{self.ORIGINAL[1]!r} object has no attribute {name!r}")
        memory = self._held()
        return self._call("get", locked, name) if memory is None else getattr(memory, name)

    def _set(self, name: str, value: Any, locked: bool) -> None:
        memory = self._held()
        if memory is None:
            self._call("set", locked, name, value)
        else:
            setattr(memory, name, value)


class StructureStandIn(ValueStandIn):
    """Stands for a `Value` of a structure."""

    ORIGINAL = (VALUES, "SynchronizedBase")
    _NAMES = frozenset()


class ArrayStandIn(ValueStandIn):
    """Stands for an `Array`."""

    ORIGINAL = (VALUES, "SynchronizedArray")
    _NAMES = frozenset()

    def __len__(self) -> int:
        return self._length or 0

    def __getitem__(self, index: Any) -> Any:
        return self._item(index, True)

    def __setitem__(self, index: Any, value: Any) -> None:
        self._set_item(index, value, True)

    def _item(self, index: Any, locked: bool) -> Any:
        memory = self._held()
        return self._call("item", locked, travelling(index)) if memory is None else memory[index]

    def _set_item(self, index: Any, value: Any, locked: bool) -> None:
        memory = self._held()
        if memory is not None:
            memory[index] = value
        else:
            self._call("set_item", locked, travelling(index), list(value) if isinstance(value, tuple) else value)


class StringStandIn(ArrayStandIn):
    """Stands for an `Array` of characters."""

    ORIGINAL = (VALUES, "SynchronizedString")
    _NAMES = frozenset({"value", "raw"})


class UnlockedValue:
    """The result of `get_obj` on another machine: the same requests, without the lock.

    Args:
        owner: the stand-in with the lock.
    """

    def __init__(self, owner: Any) -> None:
        object.__setattr__(self, "_owner", owner)

    def __getattr__(self, name: str) -> Any:
        return self._owner._get(name, False)  # noqa: SLF001

    def __setattr__(self, name: str, value: Any) -> None:
        self._owner._set(name, value, False)  # noqa: SLF001

    def __len__(self) -> int:
        return len(self._owner)

    def __getitem__(self, index: Any) -> Any:
        return self._owner._item(index, False)  # noqa: SLF001

    def __setitem__(self, index: Any, value: Any) -> None:
        self._owner._set_item(index, value, False)  # noqa: SLF001


class ConnectionStandIn(StandIn):
    """Stands for an end of a `Pipe`."""

    ORIGINAL = ("multiprocessing.connection", "Connection")

    def __init__(self, client: Requests, number: int, detail: Any) -> None:
        super().__init__(client, number, detail)
        self.readable, self.writable = detail
        self.closed = False

    def send(self, obj: Any) -> None:
        """Send an object."""
        self._require(self.writable, "read-only")
        self._call("send", pickle.dumps(obj, 5))

    def send_bytes(self, buf: Any, offset: int = 0, size: int | None = None) -> None:
        """Send bytes as one message."""
        self._require(self.writable, "read-only")
        view = memoryview(buf).cast("B")
        end = len(view) if size is None else offset + size
        if offset < 0 or end < offset or end > len(view):
            raise ValueError("offset or size is negative, or beyond the end of the buffer")
        self._call("send", bytes(view[offset:end]))

    def recv(self) -> Any:
        """Wait for an object, and return it.

        Raises:
            EOFError: the other end is closed, and nothing is left.
        """
        return pickle.loads(self.recv_bytes())

    def recv_bytes(self, maxlength: int | None = None) -> bytes:
        """Wait for a message, and return its bytes.

        Raises:
            EOFError: the other end is closed, and nothing is left.
            OSError: the message has more than `maxlength` bytes.
        """
        self._require(self.readable, "write-only")
        if maxlength is not None and maxlength < 0:
            raise ValueError("negative maxlength")
        return self._call("receive", maxlength)  # type: ignore[no-any-return]

    def recv_bytes_into(self, buf: Any, offset: int = 0) -> int:
        """Wait for a message, copy its bytes into a buffer, and return their number."""
        view = memoryview(buf).cast("B")
        if not 0 <= offset <= len(view):
            raise ValueError("offset is negative, or beyond the end of the buffer")
        data = self.recv_bytes()
        if len(data) > len(view) - offset:
            from multiprocessing import BufferTooShort

            raise BufferTooShort(data)
        view[offset : offset + len(data)] = data
        return len(data)

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Return whether there is something to receive, within `timeout` seconds."""
        self._require(self.readable, "write-only")
        return self._call("poll", timeout)  # type: ignore[no-any-return]

    def fileno(self) -> NoReturn:
        """Raise an error: the descriptor is in the parent, so the connection cannot be waited for by selectors."""
        self._require(True, "")
        raise MultiprocessingObjectError("the descriptor of this connection is in the parent: use poll()")

    def close(self) -> None:
        """Close this end in this slot."""
        if not self.closed:
            self.closed = True
            self._client.drop(self.number)
            self._client.flush()

    def _require(self, is_allowed: bool, what: str) -> None:
        if self.closed:
            raise OSError("handle is closed")
        if not is_allowed:
            raise OSError(f"connection is {what}")

    def __enter__(self) -> ConnectionStandIn:  # noqa: PYI034  # Self is in typing
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not self.closed:
            self._client.drop(self.number)


class MemoryStandIn(StandIn):
    """Stands for `SharedMemory` on another machine. Each access of `buf` is a request."""

    ORIGINAL = ("multiprocessing.shared_memory", "SharedMemory")

    def __init__(self, client: Requests, number: int, detail: Any) -> None:
        super().__init__(client, number, detail)
        self.name, self.size = detail[:2]
        self.buf = RemoteBuffer(self)

    def close(self) -> None:
        """Do nothing: the parent has the memory."""

    def unlink(self) -> NoReturn:
        """Raise an error: the parent has the memory."""
        raise MultiprocessingObjectError("a block of shared memory is unlinked on the machine that it is on")


class RemoteBuffer:
    """The bytes of a block of shared memory on another machine."""

    def __init__(self, owner: MemoryStandIn) -> None:
        self._owner = owner

    def __len__(self) -> int:
        return self._owner.size  # type: ignore[no-any-return]

    def __getitem__(self, index: Any) -> Any:
        return self._owner._call("item", travelling(index))  # noqa: SLF001

    def __setitem__(self, index: Any, value: Any) -> None:
        self._owner._call(  # noqa: SLF001
            "set_item", travelling(index), value if isinstance(value, int) else bytes(value)
        )


def shared_memory(client: Requests, number: int, detail: Any) -> Any:
    """Return a block of shared memory: the block itself on the parent's machine, a stand-in elsewhere."""
    name, _, boot, inode = detail
    if boot and boot == machine():
        found = attached(name)
        if found is not None:
            if os.fstat(found._fd).st_ino == inode:  # noqa: SLF001
                return found
            found.close()
    return MemoryStandIn(client, number, detail)


def attached(name: str) -> Any:
    """Open a block of shared memory by its name; None if there is none.

    multiprocessing's resource tracker must not know: it unlinks what a process has opened when that process ends.
    """
    from multiprocessing import resource_tracker, shared_memory

    try:
        if sys.version_info >= (3, 13):
            return shared_memory.SharedMemory(name, track=False)
        register = resource_tracker.register
        resource_tracker.register = lambda name, rtype: None
        try:
            return shared_memory.SharedMemory(name)
        finally:
            resource_tracker.register = register
    except (FileNotFoundError, PermissionError):
        return None


VALUE_STAND_INS: dict[str, Any] = {
    **{
        kind.ORIGINAL[1]: kind
        for kind in (ValueStandIn, StructureStandIn, ArrayStandIn, StringStandIn, ConnectionStandIn)
    },
    "SharedMemory": shared_memory,
    "BaseProxy": proxy,
}
"""By kind: makes the stand-in."""
