"""Errors that both ends of a link may raise: cheap to import."""

from __future__ import annotations

from importlib import import_module
from pickle import PicklingError

# A runner imports this, and importing typing would take as long as all the rest. Type checkers take the name for true.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class DragonflyError(Exception):
    """Every error that this package raises of its own."""


class CallSerializationError(DragonflyError, PicklingError):
    """A callable or its arguments could not be pickled; a pool's submit raises it, an executor's future has it."""


class ResultSerializationError(DragonflyError, PicklingError):
    """A call ran, and what it returned could not be pickled on the runner."""


class FrameTooLargeError(DragonflyError, ValueError):
    """A payload is larger than the pool's ``max_payload``. Nothing of it was sent."""


class RemoteCallError(DragonflyError):
    """Stands in for an exception that cannot travel.

    Attributes:
        type_name: qualified name of the exception's type on the runner.
        text: ``str()`` of the exception there.
        traceback_text: the traceback there, as text.
    """

    def __init__(self, type_name: str, text: str, traceback_text: str = "") -> None:
        super().__init__(type_name, text, traceback_text)
        self.type_name = type_name
        self.text = text
        self.traceback_text = traceback_text

    def __str__(self) -> str:
        return f"{self.type_name}: {self.text}" if self.text else self.type_name


class RemoteTraceback(Exception):
    """The cause of an exception that came back from a runner: its traceback there, as text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    @property
    def tb(self) -> str:
        """Return the text as it is printed, as the standard library's class for the same purpose has it."""
        return str(self)

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


class ProtocolError(DragonflyError):
    """The peer broke the rules of the wire. The link is closed; what was on it is lost."""


class CallTimeoutError(DragonflyError, TimeoutError):
    """A call's budget ran out: it was not started in time, or it was stopped while it ran."""


class BudgetExceeded(DragonflyError, RuntimeError):
    """The pool's runners have used up its budget, so the call was not started, and none will be.

    A call that waited to be tried again was started before, and its text says so: its next attempt was not.
    It is no ``BrokenProcessPool``: who answers that with a new pool would spend the budget again.

    Attributes:
        machine_seconds: what runners had used by then.
        cost: what that is estimated to cost, in US dollars; None where that is not known.
    """

    def __init__(self, message: str, machine_seconds: float = 0.0, cost: float | None = None) -> None:
        super().__init__(message, machine_seconds, cost)
        self.machine_seconds = machine_seconds
        self.cost = cost

    def __str__(self) -> str:
        return str(self.args[0])


class StartError(DragonflyError, RuntimeError):
    """A pool's threads could not be started: this process may have no more threads, or no more descriptors.

    Nothing of the attempt is left, and nothing was submitted. The next submit tries again.
    """


class ForkedExecutorError(DragonflyError, RuntimeError):
    """A pool was used in a forked child of the process that owns it. Make a new one in the child."""


class NestingError(DragonflyError, RuntimeError):
    """A pool was made in a runner that is already too many runners deep."""


class UnopenedCallError(DragonflyError):
    """In a slot: a call cannot be opened. It becomes a `CallDeserializationError` as it is unpickled in the parent.

    That class brings multiprocessing, which the slot may have no memory and no descriptors for at that moment.
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
