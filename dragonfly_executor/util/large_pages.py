"""Memory for large new objects. The kernel maps new memory when it is first written, by pages of 4 KiB.

That costs several times as much as the copy. It costs less in large pages, and if many pages are mapped in one step.
"""

from __future__ import annotations

import mmap
import sys
from functools import cache

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

LEAST = 256 * 1024
"""Size in bytes from which it pays to prepare the memory of an object."""
LARGE = 4 * 1024 * 1024
"""Size in bytes from which an object gets large pages. Most of a smaller one would lie outside of them."""
_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE, which mmap does not name


def prepare(memory: memoryview) -> None:
    """Have the kernel map this memory, if it is not mapped yet, at a lower cost. If it cannot, nothing happens.

    Args:
        memory: writable bytes that hold nothing yet.
    """
    if sys.platform != "linux" or len(memory) < LEAST:
        return
    # Imported here, because most programs never have large payloads.
    from ctypes import addressof, c_char

    start = addressof(c_char.from_buffer(memory))
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    size = (start + len(memory) - first) // mmap.PAGESIZE * mmap.PAGESIZE
    advise, is_mapped = _system_calls()
    if len(memory) >= LARGE:
        # An error means that this kernel has no large pages, or that they are switched off.
        advise(first, size, mmap.MADV_HUGEPAGE)
    elif not is_mapped(first + size - mmap.PAGESIZE):
        # Memory that was in use before is mapped, and to find that out for each page would take longer.
        advise(first, size, _POPULATE_WRITE)


@cache
def _system_calls() -> tuple[Any, Any]:
    """Return ``madvise``, and a function that tells whether a page is mapped.

    They hold the interpreter lock. If another thread is busy, to get the lock back takes longer than they do.
    """
    from ctypes import PYFUNCTYPE, PyDLL, c_char_p, c_int, c_size_t, c_void_p, create_string_buffer

    library = PyDLL(None)
    advise = PYFUNCTYPE(c_int, c_void_p, c_size_t, c_int)(("madvise", library))
    mincore = PYFUNCTYPE(c_int, c_void_p, c_size_t, c_char_p)(("mincore", library))

    def is_mapped(page: int) -> bool:
        answer = create_string_buffer(1)
        return mincore(page, mmap.PAGESIZE, answer) != 0 or answer.raw != b"\0"

    return advise, is_mapped
