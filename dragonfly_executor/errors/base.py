"""Errors that both ends of a link may raise. This module is cheap to import."""

from __future__ import annotations

from importlib import import_module

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING
from dragonfly_executor.util.plain_pickle import PicklingError

if TYPE_CHECKING:
    from typing import Any


class DragonflyError(Exception):
    """Base class of all errors that this package defines."""


class CallSerializationError(DragonflyError, PicklingError):
    """A callable or its arguments cannot be pickled. A pool's submit raises it; an executor sets it on the future."""


class SharedObjectError(CallSerializationError):
    """A shared object cannot be used: its handle is closed, belongs to another pool, or is pickled outside of a call.

    Also raised by ``share`` if the pool's serializer cannot share objects.
    """


class MultiprocessingObjectError(DragonflyError, RuntimeError):
    """An object of multiprocessing cannot be used here: it has ended, or the process is not a slot of its pool."""


class ResultSerializationError(DragonflyError, PicklingError):
    """A call ran, but the runner cannot pickle its result."""


class FrameTooLargeError(DragonflyError, ValueError):
    """A payload is larger than the pool's ``max_payload``. No part of the payload was sent."""


class RemoteCallError(DragonflyError):
    """A stand-in for an exception that cannot be pickled.

    Attributes:
        type_name: qualified name of the exception's type on the runner.
        text: ``str()`` of the exception on the runner.
        traceback_text: the traceback on the runner, as text.
    """

    def __init__(self, type_name: str, text: str, traceback_text: str = "") -> None:
        super().__init__(type_name, text, traceback_text)
        self.type_name = type_name
        self.text = text
        self.traceback_text = traceback_text

    def __str__(self) -> str:
        return f"{self.type_name}: {self.text}" if self.text else self.type_name


class RemoteTraceback(Exception):
    """The cause of an exception that came back from a runner. Its text is the traceback on the runner."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    @property
    def tb(self) -> str:
        """Return the text as it is printed. The standard library's ``_RemoteTraceback`` has the same attribute."""
        return str(self)

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


class ProtocolError(DragonflyError):
    """The peer violated the protocol. The link is closed, and the data on it is lost."""


class CallTimeoutError(DragonflyError, TimeoutError):
    """A call's timeout expired: the call did not start in time, or it was stopped while it ran."""


class BudgetExceeded(DragonflyError, RuntimeError):
    """The pool's runners have used up its budget. This call was not started, and no further call will start.

    A call that waited for a retry was started before. Its error text says that the next attempt was not started.
    The error is not a ``BrokenProcessPool``: code that handles ``BrokenProcessPool`` with a new pool spends the budget
    again.

    Attributes:
        machine_seconds: machine time that the runners had used.
        cost: estimated cost of that time in US dollars; None if unknown.
    """

    def __init__(self, message: str, machine_seconds: float = 0.0, cost: float | None = None) -> None:
        super().__init__(message, machine_seconds, cost)
        self.machine_seconds = machine_seconds
        self.cost = cost

    def __str__(self) -> str:
        return str(self.args[0])


class QueueFullError(DragonflyError):
    """A call was not submitted, because as many calls of the pool wait for a slot as ``max_queued`` allows."""


class StartError(DragonflyError, RuntimeError):
    """A pool's threads cannot be started: this process has no threads, or no descriptors, left.

    The failed attempt leaves nothing behind, and no call was submitted. The next submit tries again.
    """


class RequirementsError(DragonflyError, ValueError):
    """A call requires of its runner what no runner of the backend can have. The call was not submitted."""


class ForkedExecutorError(DragonflyError, RuntimeError):
    """A pool was used in a forked child of the process that owns the pool. Make a new pool in the child."""


class NestingError(DragonflyError, RuntimeError):
    """A pool was made in a runner, and runners are already nested too deeply."""


class UnopenedCallError(DragonflyError):
    """A slot cannot unpickle a call. The parent unpickles this error as a `CallDeserializationError`.

    Importing `CallDeserializationError` imports multiprocessing, for which the slot may have no memory or descriptors
    left.
    """

    def __reduce__(self) -> Any:
        return _in_the_parent, self.args


UnopenedCallError.__name__ = UnopenedCallError.__qualname__ = "CallDeserializationError"


def _in_the_parent(*args: Any) -> Exception:
    error: Exception = import_module("dragonfly_executor.errors").CallDeserializationError(*args)
    return error


for _public in list(vars().values()):
    if isinstance(_public, type) and _public.__module__ == __name__:
        _public.__module__ = "dragonfly_executor.errors"
