"""Memory that can no longer change, and that other processes of this user on this machine can map.

It is a memfd with all seals, so it has no name in a file system, and ends with its last descriptor and mapping. A
process that maps it need not fear that it shrinks. Another process opens it through ``/proc`` of the owner. Linux only.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import weakref
from collections.abc import Sequence
from contextlib import suppress
from mmap import ACCESS_COPY, ACCESS_READ, mmap

from dragonfly_executor.transport.sockets import Buffer

_AT_ONCE = 64 * 1024 * 1024
"""Bytes of one write. A Ctrl-C is handled between two writes."""


class SealedMemory:
    """A copy of some buffers in sealed memory.

    Args:
        parts: the buffers.

    Attributes:
        inode: the number by which a process that opens it knows that it is this memory.
        size: its size in bytes.

    Raises:
        OSError: there is no such memory on this system, or none is left, or no descriptor is left.
    """

    def __init__(self, parts: Sequence[Buffer]) -> None:
        self._opened: list[int] = []
        self._mapped: memoryview | None = None
        self.size = 0
        if sys.platform != "linux":
            raise OSError(errno.ENOSYS, "sealed memory exists on Linux only")
        # Two, because a Ctrl-C during one of them loses it.
        for _ in range(2):
            weakref.finalize(self, _close, self._opened).atexit = False
        # In one step: an interrupt between the call and an assignment loses the descriptor.
        self._opened.extend(map(os.memfd_create, ("dragonfly-shared",), (os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING,)))
        descriptor = self._opened[0]
        for part in parts:
            view = memoryview(part).cast("B")
            self.size += len(view)
            while view:
                view = view[os.write(descriptor, view[:_AT_ONCE]) :]
        seal(descriptor)
        self.inode = os.fstat(descriptor).st_ino

    @property
    def descriptor(self) -> int:
        """The descriptor of the memory; -1 once it is closed."""
        opened = self._opened
        return opened[0] if opened else -1

    def view(self) -> memoryview:
        """Return the bytes. They stay mapped while the view exists.

        Raises:
            ValueError: the memory is closed.
        """
        if self._mapped is None:
            if self.descriptor < 0:
                raise ValueError("the memory is closed")
            self._mapped = memoryview(mmap(self.descriptor, self.size, access=ACCESS_READ))
        return self._mapped

    def close(self) -> None:
        """Close the descriptor. Memory that is mapped somewhere stays until it is unmapped."""
        self._mapped = None
        _close(self._opened)


def _close(opened: list[int]) -> None:
    """Remove the descriptor from the list and close it, in one step that no interrupt divides."""
    with suppress(IndexError):  # it is closed already
        next(map(os.close, iter(opened.pop, None)), None)


def is_reachable() -> bool:
    """Return True if other processes of this user can open this process's descriptors through ``/proc``."""
    try:
        # The files of a process that must not be inspected belong to root.
        return sys.platform == "linux" and os.stat("/proc/self/fd").st_uid == os.geteuid()
    except OSError:
        return False


def map_sealed(pid: int, descriptor: int, inode: int, size: int) -> mmap:
    """Map another process's sealed memory. No other process sees this process's writes there.

    Args and raises as `open_sealed`.
    """
    fd = open_sealed(pid, descriptor, inode, size)
    try:
        return mmap(fd, size, access=ACCESS_COPY)
    finally:
        os.close(fd)


def open_sealed(pid: int, descriptor: int, inode: int, size: int) -> int:
    """Return a descriptor of another process's sealed memory.

    Args:
        pid, descriptor: the owner's process id, and its descriptor.
        inode, size: what the owner has said of the memory.

    Raises:
        OSError: the memory cannot be opened, or it is another file by now.
    """
    fd = os.open(f"/proc/{pid}/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(fd)
        if (status.st_ino, status.st_size) != (inode, size) or fcntl.fcntl(fd, fcntl.F_GET_SEALS) != _seals():
            raise OSError(errno.ESTALE, "the descriptor belongs to another file by now")
    except BaseException:
        os.close(fd)
        raise
    return fd


def seal(fd: int) -> None:
    """Set all seals: the memory of a memfd cannot change any more.

    Raises:
        OSError: the kernel refuses.
    """
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _seals())


def _seals() -> int:
    return fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
