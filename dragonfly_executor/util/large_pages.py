"""Memory for large new objects. The kernel maps new memory when it is first written, by pages of 4 KiB.

That costs several times as much as the copy. It costs less in large pages.
"""

from __future__ import annotations

import mmap
import sys
from functools import cache

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

LARGE = 4 * 1024 * 1024
"""Size in bytes from which an object gets large pages. Most of a smaller one lies outside of them."""


def prepare(memory: memoryview) -> None:
    """Ask the kernel to map this memory in large pages where it is not mapped yet. Without them, nothing happens.

    Args:
        memory: writable bytes that hold nothing yet.
    """
    if sys.platform != "linux" or len(memory) < LARGE:
        return
    # Imported here, because most programs never have large payloads.
    from ctypes import addressof, c_char

    start = addressof(c_char.from_buffer(memory))
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    size = (start + len(memory) - first) // mmap.PAGESIZE * mmap.PAGESIZE
    # An error means that this kernel has no large pages, or that they are switched off.
    _madvise()(first, size, mmap.MADV_HUGEPAGE)


@cache
def _madvise() -> Any:
    """Return ``madvise``. It holds the interpreter lock: to get the lock back may take longer than the call."""
    from ctypes import PYFUNCTYPE, PyDLL, c_int, c_size_t, c_void_p

    return PYFUNCTYPE(c_int, c_void_p, c_size_t, c_int)(("madvise", PyDLL(None)))
