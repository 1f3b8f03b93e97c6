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


def is_composite(kind: Any) -> bool:
    """Return whether an item or attribute of this type of ctypes is an object that refers to the memory."""
    if hasattr(kind, "_fields_"):
        return True
    return hasattr(kind, "_length_") and getattr(kind._type_, "_type_", None) not in ("c", "u")


def field_type(kind: Any, name: str) -> Any:
    """Return the type of a field of a structure; None if there is no such field."""
    for base in kind.__mro__:
        for field in vars(base).get("_fields_", ()):
            if field[0] == name:
                return field[1]
    return None


def _value(value: Any) -> tuple[Any, Any]:
    found, lock = value.get_obj(), value.get_lock()
    return value, (lock, type(found), arena_place(found._wrapper))  # noqa: SLF001


def _raw_value(value: Any) -> tuple[Any, Any]:
    return value, (type(value), arena_place(value._wrapper))  # noqa: SLF001


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
    "RawValue": _raw_value,
    "Connection": _connection,
    "SharedMemory": _shared_memory,
    "BaseProxy": _proxy,
}
"""By kind: returns what the parent keeps of an object, and the detail for stand-ins."""
