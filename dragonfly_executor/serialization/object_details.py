"""Describes multiprocessing's values, pipes, shared memory and proxies, for their stand-ins."""

from __future__ import annotations

import os
import sys

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

BOOT_ID = "/proc/sys/kernel/random/boot_id"


def machine() -> str:
    """Return what identifies this machine since its start; "" if that is unknown."""
    try:
        with open(BOOT_ID) as file:
            return file.read()
    except OSError:
        return ""


def arena_place(wrapper: Any) -> tuple[int, int, str, int, int, int] | None:
    """Return where a value lies in memory that other processes of this user can map.

    Args:
        wrapper: the value's ``BufferWrapper``.

    Returns:
        The process id, a descriptor there, what it refers to, the size of that, and the bytes of the value. None if
        there is no such descriptor.
    """
    (arena, start, _), size = wrapper._state  # noqa: SLF001
    fd = getattr(arena, "fd", -1)
    if sys.platform != "linux" or fd < 0:
        return None
    # The name has random letters, so no other process has a descriptor of the same name by chance.
    return os.getpid(), fd, os.readlink(f"/proc/self/fd/{fd}"), arena.size, start, start + size


def _value(value: Any) -> tuple[Any, Any]:
    found, lock = value.get_obj(), value.get_lock()
    length = getattr(found, "_length_", None)
    element = type(found) if length is None else found._type_
    fields = tuple(field[0] for field in getattr(type(found), "_fields_", ()))
    return value, (lock, element, length, fields, arena_place(found._wrapper))  # noqa: SLF001


def _connection(value: Any) -> tuple[Any, Any]:
    return type(value)(os.dup(value.fileno()), value.readable, value.writable), (value.readable, value.writable)


def _shared_memory(value: Any) -> tuple[Any, Any]:
    return value, (value.name, value.size, machine(), os.fstat(value._fd).st_ino)  # noqa: SLF001


def _proxy(value: Any) -> tuple[Any, Any]:
    return value, (machine(), value.__reduce__(), tuple(getattr(value, "_exposed_", ())))


DESCRIBED = {
    "Synchronized": _value,
    "SynchronizedArray": _value,
    "SynchronizedString": _value,
    "SynchronizedBase": _value,
    "Connection": _connection,
    "SharedMemory": _shared_memory,
    "BaseProxy": _proxy,
}
"""By kind: returns what the parent keeps of an object, and the detail for stand-ins."""
