"""The stand-ins of multiprocessing's values, arrays and shared memory."""

from __future__ import annotations

import os
import sys

from dragonfly_executor.errors.base import MultiprocessingObjectError
from dragonfly_executor.runner.connection_stand_in import ConnectionStandIn
from dragonfly_executor.runner.memory_parts import MemoryPart, mapped, raw_value, travelling
from dragonfly_executor.runner.proxy_stand_ins import proxy
from dragonfly_executor.runner.stand_ins import LockableStandIn, StandIn
from dragonfly_executor.serialization.object_details import machine
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, NoReturn

    from dragonfly_executor.runner.stand_ins import Requests

VALUES = "multiprocessing.sharedctypes"


class ValueStandIn(LockableStandIn):
    """Stands for a `Value`, and is the base of the others: attributes are requests.

    On the parent's machine the memory itself is mapped. It is used by `get_obj`, and by a thread that holds the lock.
    """

    ORIGINAL = (VALUES, "Synchronized")
    _NAMES: frozenset[str] = frozenset({"value"})

    def __init__(self, client: Requests, number: int, detail: Any) -> None:
        super().__init__(client, number, detail)
        self._lock, self._kind, place = detail
        self._fields = frozenset(field[0] for field in getattr(self._kind, "_fields_", ()))
        memory = mapped(place)
        self._memory: Any = None if memory is None else self._kind.from_buffer(memory)

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
        return MemoryPart(self, self._kind, False) if self._memory is None else self._memory

    def _held(self) -> Any:
        """Return the memory if this thread has the lock and the memory is mapped here; None if not."""
        return self._memory if self._memory is not None and self._lock.is_held_here() else None

    def __getattr__(self, name: str) -> Any:
        if name not in self._NAMES and name not in vars(self).get("_fields", ()):
            raise AttributeError(f"{self.ORIGINAL[1]!r} object has no attribute {name!r}")
        return getattr(self._target(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._NAMES or name in vars(self).get("_fields", ()):
            setattr(self._target(), name, value)
        else:
            object.__setattr__(self, name, value)

    def _target(self) -> Any:
        """Return what reads and writes: the memory if this thread has the lock, or requests that acquire the lock."""
        return MemoryPart(self, self._kind, True) if (memory := self._held()) is None else memory


class StructureStandIn(ValueStandIn):
    """Stands for a `Value` of a structure."""

    ORIGINAL = (VALUES, "SynchronizedBase")
    _NAMES = frozenset()


class ArrayStandIn(ValueStandIn):
    """Stands for an `Array`."""

    ORIGINAL = (VALUES, "SynchronizedArray")
    _NAMES = frozenset()

    def __len__(self) -> int:
        return self._kind._length_  # type: ignore[no-any-return]

    def __getitem__(self, index: Any) -> Any:
        return self._target()[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self._target()[index] = value


class StringStandIn(ArrayStandIn):
    """Stands for an `Array` of characters."""

    ORIGINAL = (VALUES, "SynchronizedString")
    _NAMES = frozenset({"value", "raw"})


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
    "RawValue": raw_value,
    "SharedMemory": shared_memory,
    "BaseProxy": proxy,
}
"""By kind: makes the stand-in."""
