"""The exception tree.

    DragonflyError
    ├── CallSerializationError (PicklingError)        a callable or its arguments cannot be pickled
    │   └── SharedObjectError                         a handle of a shared object cannot be used
    ├── CallDeserializationError (BrokenProcessPool)  the runner cannot unpickle a call
    ├── ResultSerializationError (PicklingError)      a result cannot be pickled
    ├── ResultDeserializationError (BrokenProcessPool)the parent cannot unpickle a result
    ├── MultiprocessingObjectError (RuntimeError)     an object of multiprocessing cannot be used here
    ├── FrameTooLargeError (ValueError)               a payload is over the pool's maximum
    ├── RemoteCallError                               stands in for an exception that cannot be pickled
    ├── ProtocolError                                 the peer violated the protocol
    ├── CallTimeoutError (TimeoutError)               a call's timeout expired
    ├── RunnerLostError (BrokenProcessPool)           the slot or the runner of a call died
    │   ├── PoisonCallError                           ... on every attempt of the call
    │   └── WorkerLostError                           a placed worker has ended
    ├── BootError (BrokenProcessPool)                 no runner could be booted
    │   ├── BootTimeoutError (TimeoutError)
    │   ├── HostKeyError                              a host's key is unknown, or has changed
    │   ├── RunnerAuthError                           a peer that dialed in could not authenticate
    │   └── VersionMismatchError
    ├── PoolBrokenError (BrokenProcessPool)           the pool cannot go on
    │   └── InitializerError
    ├── BudgetExceeded (RuntimeError)                 runners have used up the budget: no more calls begin
    ├── QueueFullError                                as many calls wait as may: this one was not submitted
    ├── StartError (RuntimeError)                     a pool has no thread, or no descriptor, to start with
    ├── RequirementsError (ValueError)                no runner can have what a call requires
    ├── ForkedExecutorError (RuntimeError)            used in a forked child of the parent
    └── NestingError (RuntimeError)                   pools in runners are nested too deeply

An error that a ``ProcessPoolExecutor`` reports as ``BrokenProcessPool`` is a ``BrokenProcessPool`` here, too, so that
existing ``except`` clauses hold. Importing that class imports all of ``multiprocessing``, which neither a runner nor a
program without a pool needs. So the module `broken` is loaded on the first use of one of its names (PEP 562).

A pool loads `broken` while its first runner starts (`load`): once memory or descriptors run out, no import works any
more, and then errors matter. Until then `StartError`, which is always loaded, stands for the errors that cannot be
loaded.
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
    MultiprocessingObjectError,
    NestingError,
    ProtocolError,
    QueueFullError,
    RemoteCallError,
    RemoteTraceback,
    RequirementsError,
    ResultSerializationError,
    SharedObjectError,
    StartError,
)
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType
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
        WorkerLostError,
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
    "MultiprocessingObjectError",
    "NestingError",
    "PoisonCallError",
    "PoolBrokenError",
    "ProtocolError",
    "QueueFullError",
    "RemoteCallError",
    "RemoteTraceback",
    "RequirementsError",
    "ResultDeserializationError",
    "ResultSerializationError",
    "RunnerAuthError",
    "RunnerLostError",
    "SharedObjectError",
    "StartError",
    "VersionMismatchError",
    "WorkerLostError",
]


def load() -> None:
    """Load all errors, so that each can be raised later, even if imports then fail. Further calls do nothing.

    Raises:
        StartError: the errors cannot be loaded, because memory or descriptors ran out.
    """
    if "PoolBrokenError" in globals():
        return
    broken = load_module("dragonfly_executor.errors.broken")
    globals().update({name: getattr(broken, name) for name in __all__ if name not in globals()})


def load_module(name: str) -> ModuleType:
    """Import a module of this package that a pool needs once its first runner is up.

    Raises:
        StartError: the module cannot be loaded, because memory or descriptors ran out.
    """
    try:
        return import_module(name)
    except (ImportError, MemoryError, OSError) as shortage:
        raise StartError(
            "the pool cannot start, and was cleaned up: there is no memory or no file descriptor to load "
            f"{name} ({type(shortage).__name__}: {shortage}). Raise the limits (ulimit -v, ulimit -n); "
            "then make another pool"
        ) from shortage


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    load()
    return globals()[name]
