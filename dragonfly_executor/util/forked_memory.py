"""Decides whether forked children get a mapping of memory."""

from __future__ import annotations

import mmap
import sys

DO_FORK, DONT_FORK = (getattr(mmap, name, None) for name in ("MADV_DOFORK", "MADV_DONTFORK"))


def set_inherited(memory: mmap.mmap, *, inherited: bool) -> None:
    """Have the children that are forked from now on get this memory, or not. Without effect where that is impossible.

    Args:
        memory: a mapping. Children get it unless this function says otherwise.
        inherited: whether they get it.
    """
    advice = DO_FORK if inherited else DONT_FORK
    if advice is not None and sys.platform.startswith("linux"):
        memory.madvise(advice)
