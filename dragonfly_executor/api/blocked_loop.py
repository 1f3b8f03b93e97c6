"""The warning that a call blocks the event loop of asyncio in which it is made."""

from __future__ import annotations

import sys
import warnings


def warn_of_blocked_loop(pool: str) -> bool:
    """Warn if a task of this thread is about to wait for a call, so that no other task of its loop can go on.

    Not in notebooks: a notebook runs each cell in a loop, and a cell may block it.

    Args:
        pool: the name of the pool.

    Returns:
        True if it has warned.
    """
    # Not by an import: a program without asyncio does not pay for it.
    asyncio = sys.modules.get("asyncio")
    running_loop = getattr(asyncio, "_get_running_loop", None)  # another thread may be importing asyncio
    if running_loop is None or running_loop() is None or "ipykernel" in sys.modules:
        return False
    warnings.warn(
        f"call() on the pool {pool!r} blocks the running asyncio event loop, with all its tasks, until the call has "
        "ended: use `await pool.acall(fn, ...)`",
        RuntimeWarning,
        stacklevel=4,
    )
    return True
