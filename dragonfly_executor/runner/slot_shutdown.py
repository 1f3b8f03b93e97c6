"""Ends a slot in order: joins threads and runs exit handlers and finalizers, like a process of multiprocessing.

The agent limits the time for this (`slot_handle.EXIT_TIMEOUT`). A slot that is killed runs none of it.
"""

from __future__ import annotations

import atexit
import sys
from collections.abc import Callable


def forget_inherited_handlers() -> None:
    """Drop the exit handlers that the agent registered. They run in the agent only."""
    atexit._clear()  # noqa: SLF001


def end_in_order() -> None:
    """Join the non-daemon threads, then run the exit handlers. Never raises."""
    threading = sys.modules.get("threading")
    if threading is not None:
        _try(threading._shutdown)  # noqa: SLF001  # as the interpreter does at its end
    # This includes multiprocessing, weakref.finalize (tempfile), logging and coverage, which all register with atexit.
    _try(atexit._run_exitfuncs)  # noqa: SLF001


def flush_standard_streams() -> None:
    """Flush stdout and stderr. Never raises."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            # A call may have closed or replaced the stream. The text that the stream held is lost.
            continue


def _try(step: Callable[[], object]) -> None:
    try:
        step()
    except BaseException as error:  # user code
        sys.excepthook(type(error), error, error.__traceback__)
