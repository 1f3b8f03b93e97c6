"""The exception tree.

    DragonflyError
    ├── CallSerializationError (PicklingError)        a callable or its arguments cannot travel
    ├── CallDeserializationError (BrokenProcessPool)  the runner cannot open a call
    ├── ResultSerializationError (PicklingError)      a result cannot travel
    ├── ResultDeserializationError (BrokenProcessPool)the parent cannot open a result
    ├── FrameTooLargeError (ValueError)               a payload is over the pool's maximum
    ├── RemoteCallError                               stands in for an exception that cannot travel
    ├── ProtocolError                                 the peer broke the rules of the wire
    ├── CallTimeoutError (TimeoutError)               a call's budget ran out
    ├── RunnerLostError (BrokenProcessPool)           what ran the call died
    │   └── PoisonCallError                           ... on every attempt that the call had
    ├── BootError (BrokenProcessPool)                 no runner could be booted
    │   ├── BootTimeoutError (TimeoutError)
    │   ├── HostKeyError                              a host is not known, or not the one that it was
    │   ├── RunnerAuthError                           who dialed in could not prove that it may
    │   └── VersionMismatchError
    ├── PoolBrokenError (BrokenProcessPool)           the pool cannot go on
    │   └── InitializerError
    ├── BudgetExceeded (RuntimeError)                 runners have used what they may: no more calls begin
    ├── StartError (RuntimeError)                     a pool has no thread, or no descriptor, to start with
    ├── ForkedExecutorError (RuntimeError)            used in a forked child of the parent
    └── NestingError (RuntimeError)                   runners in runners in runners

What a ``ProcessPoolExecutor`` reports as ``BrokenProcessPool`` is a ``BrokenProcessPool`` here as well, so that
existing ``except`` clauses hold. Importing that class imports all of ``multiprocessing``, which neither a runner nor a
program without a pool needs: `broken` is loaded when one of its names is first asked for (PEP 562). A pool loads it
while its first runner starts (`load`): when memory or descriptors run out, nothing can be imported any more, and then
errors matter. Until then `StartError`, which is always there, stands for those that cannot be loaded.
"""

from __future__ import annotations

from importlib import import_module

from dragonfly_executor.errors.base import (
    BudgetExceeded,
    CallSerializationError,
    CallTimeoutError,
    DragonflyError,
    ForkedExecutorError,
    FrameTooLargeError,
    NestingError,
    ProtocolError,
    RemoteCallError,
    RemoteTraceback,
    ResultSerializationError,
    StartError,
)

# A runner imports this, and importing typing would take as long as all the rest. Type checkers take the name for true.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.errors.broken import (
        BootError,
        BootTimeoutError,
        CallDeserializationError,
        HostKeyError,
        InitializerError,
        PoisonCallError,
        PoolBrokenError,
        ResultDeserializationError,
        RunnerAuthError,
        RunnerLostError,
        VersionMismatchError,
    )

__all__ = [
    "BootError",
    "BootTimeoutError",
    "BudgetExceeded",
    "CallDeserializationError",
    "CallSerializationError",
    "CallTimeoutError",
    "DragonflyError",
    "ForkedExecutorError",
    "FrameTooLargeError",
    "HostKeyError",
    "InitializerError",
    "NestingError",
    "PoisonCallError",
    "PoolBrokenError",
    "ProtocolError",
    "RemoteCallError",
    "RemoteTraceback",
    "ResultDeserializationError",
    "ResultSerializationError",
    "RunnerAuthError",
    "RunnerLostError",
    "StartError",
    "VersionMismatchError",
]


def load() -> None:
    """Load all errors, so that each can be raised while nothing can be imported any more. Twice is fine.

    Raises:
        StartError: they cannot be loaded: there is no memory for it, or no descriptor.
    """
    if "PoolBrokenError" in globals():
        return
    try:
        broken = import_module("dragonfly_executor.errors.broken")
    except (ImportError, MemoryError, OSError) as shortage:
        raise StartError(
            "the pool cannot start, and nothing of it is left: there is no memory or no descriptor to load "
            f"{__name__} ({type(shortage).__name__}: {shortage}). Raise the limits (ulimit -v, ulimit -n); "
            "then make another pool"
        ) from shortage
    globals().update({name: getattr(broken, name) for name in __all__ if name not in globals()})


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    load()
    return globals()[name]
