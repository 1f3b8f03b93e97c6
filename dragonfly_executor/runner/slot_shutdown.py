"""How a slot ends in order: threads are joined, exit handlers and finalizers run, as in a process of multiprocessing.

The agent bounds it (`slot_handle.EXIT_PATIENCE`). A slot that is killed runs none of this.
"""

from __future__ import annotations

import atexit
import sys
from collections.abc import Callable


def forget_inherited_handlers() -> None:
    """Drop the exit handlers that the agent has registered: they are the agent's, and run there."""
    atexit._clear()  # noqa: SLF001


def end_in_order() -> None:
    """Join the threads that are no daemons, then run what was registered to run at exit. Never raises."""
    threading = sys.modules.get("threading")
    if threading is not None:
        _try(threading._shutdown)  # noqa: SLF001  # what the interpreter itself calls at its end
    # With those of multiprocessing, weakref.finalize (tempfile), logging, and coverage: all of them register here.
    _try(atexit._run_exitfuncs)  # noqa: SLF001


def _try(step: Callable[[], object]) -> None:
    try:
        step()
    except BaseException:  # the user's own code
        sys.excepthook(*sys.exc_info())
