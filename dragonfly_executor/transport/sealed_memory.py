"""Memory that can no longer change, and that other processes of this user on this machine can map.

It is a memfd with all seals, so it has no name in a file system, and ends with its last descriptor and mapping. A
process that maps it need not fear that it shrinks. Another process opens it through ``/proc`` of the owner. Linux only.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from collections.abc import Sequence
from mmap import ACCESS_COPY, ACCESS_READ, mmap

from dragonfly_executor.transport.sockets import Buffer

_AT_ONCE = 64 * 1024 * 1024
"""Bytes of one write. A Ctrl-C is handled between two writes."""


class SealedMemory:
    """A copy of some buffers in sealed memory.

    Args:
        parts: the buffers.

    Attributes:
        descriptor: its descriptor; -1 once it is closed.
        inode: the number by which a process that opens it knows that it is this memory.
        size: its size in bytes.

    Raises:
        OSError: there is no such memory on this system, or none is left, or no descriptor is left.
    """

    def __init__(self, parts: Sequence[Buffer]) -> None:
        self.descriptor = -1
        self._mapped: memoryview | None = None
        self.size = 0
        if sys.platform != "linux":
            raise OSError(errno.ENOSYS, "sealed memory exists on Linux only")
        made: list[int] = []
        try:
            # In one step: an interrupt between the call and the assignment would lose the descriptor.
            made.extend(map(os.memfd_create, ("dragonfly-shared",), (os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING,)))
            for part in parts:
                view = memoryview(part).cast("B")
                self.size += len(view)
                while view:
                    view = view[os.write(made[0], view[:_AT_ONCE]) :]
            fcntl.fcntl(made[0], fcntl.F_ADD_SEALS, _seals())
            self.inode = os.fstat(made[0]).st_ino
            self.descriptor = made[0]
        except BaseException:
            self.descriptor = -1
            for fd in made:
                os.close(fd)
            raise

    def __del__(self) -> None:
        self.close()

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
        descriptor, self.descriptor = self.descriptor, -1
        self._mapped = None
        if descriptor >= 0:
            os.close(descriptor)


def is_reachable() -> bool:
    """Return True if other processes of this user can open this process's descriptors through ``/proc``."""
    try:
        # The files of a process that must not be inspected belong to root.
        return sys.platform == "linux" and os.stat("/proc/self/fd").st_uid == os.geteuid()
    except OSError:
        return False


def map_sealed(pid: int, descriptor: int, inode: int, size: int) -> mmap:
    """Map another process's sealed memory. What this process writes there, no other process sees.

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
        return mmap(fd, size, access=ACCESS_COPY)
    finally:
        os.close(fd)


def _seals() -> int:
    return fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
