"""Memory that a program has freed, and that the C library keeps for the next large object."""

from __future__ import annotations

LARGEST = 32 * 1024 * 1024
"""Size in bytes of the largest block by which glibc adapts (its ``DEFAULT_MMAP_THRESHOLD_MAX`` on 64-bit systems)."""
OVERHEAD = 64 * 1024
"""Bytes that are left for the headers of Python and of the C library."""


def keep_freed_memory() -> None:
    """Have the C library keep up to 64 MiB of freed memory, as it does once a program has freed a block of 32 MiB.

    glibc begins with a threshold of 128 KiB: it returns freed memory to the kernel when that much is at the end of the
    heap. Then each new large object has a page fault for each page of 4 KiB, which takes longer than copying
    the page. Whenever a block of up to 32 MiB is freed that has pages of its own, glibc raises the threshold to twice
    the block's size (mallopt(3), ``M_MMAP_THRESHOLD``). So one such block is allocated and freed here. Its pages are
    never written, so it takes no memory. A program that has set a threshold itself keeps its own. Other C libraries do
    nothing.
    """
    try:
        bytes(LARGEST - OVERHEAD)
    except MemoryError:
        return  # a limit of address space: the C library continues as before
