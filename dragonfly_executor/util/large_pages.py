"""Large pages for new memory. With pages of 4 KiB, the first write to new memory costs several times the copy."""

from __future__ import annotations

import mmap
import sys


def advise(memory: memoryview) -> None:
    """Ask the kernel to map this memory in large pages where it is not mapped yet. Without them, nothing happens.

    Args:
        memory: writable bytes that hold nothing yet.
    """
    if sys.platform != "linux":
        return
    # Imported here, because most programs never have large payloads.
    import ctypes

    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    size = (start + len(memory) - first) // mmap.PAGESIZE * mmap.PAGESIZE
    if size > 0:
        # An error means that this kernel has no large pages, or that they are switched off.
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(size), mmap.MADV_HUGEPAGE)
