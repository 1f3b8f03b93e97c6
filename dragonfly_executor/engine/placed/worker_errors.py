"""The end of a placed worker, and the errors that its calls then get."""

from __future__ import annotations

from dragonfly_executor import errors
from dragonfly_executor.core.actions import CANCELLED
from dragonfly_executor.engine.outcome import Outcome
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any


class LostWorker:
    """The end of a worker. It makes an error for each of its calls: one shared error collects their tracebacks.

    Args:
        name: the worker's name.
        failure: why it has ended: an exception, the `Outcome` of its call, or a text.
    """

    def __init__(self, name: str, failure: object) -> None:
        self._name = name
        self._failure = failure

    def settled(self, *, may_have_started: bool) -> object:
        """Return the outcome of a call that the worker did not end, for `Future.settle`."""
        if not isinstance(self._failure, Outcome):
            return self.error(may_have_started=may_have_started)
        # To open the worker's exception may run the user's code, so the thread that asks for it does.
        codec: Any = _WorkerException(self, may_have_started)
        return Outcome(codec, b"", True)

    def error(self, *, may_have_started: bool = False) -> errors.WorkerLostError:
        """Return the error of a call. Only the thread of a user may call this."""
        failure = self._failure
        cause = failure.open()[1] if isinstance(failure, Outcome) else failure
        if isinstance(cause, errors.WorkerLostError):
            why = cause.reason
        else:
            why = f"{type(cause).__name__}: {cause}" if isinstance(cause, BaseException) else str(cause)
        text = f"the worker {self._name} has ended: {why}"
        if may_have_started:
            text += ". The call may have run; use retries= and restart= if it is safe to run twice"
        error = errors.WorkerLostError(text, reason=why, may_have_started=may_have_started)
        if isinstance(cause, errors.RunnerLostError):
            for name in ("exit_code", "signal", "runner_id", "slot_pid", "stack", "output", "out_of_memory"):
                setattr(error, name, getattr(cause, name))
        if isinstance(cause, BaseException):
            error.__cause__ = cause
        return error


class _WorkerException:
    """Decodes the error of a call: the exception that the making of the worker's object raised is its cause."""

    def __init__(self, lost: LostWorker, may_have_started: bool) -> None:
        self._lost = lost
        self._may_have_started = may_have_started

    def decode_error(self, _: object) -> BaseException:
        """See `CallCodec.decode_error`."""
        return self._lost.error(may_have_started=self._may_have_started)


class StoppedWorker:
    """The end of a worker that was stopped. It makes an error for each of its calls.

    Args:
        name: the worker's name.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def settled(self, *, may_have_started: bool) -> object:
        """Return the outcome of a call that the worker did not end, for `Future.settle`."""
        return self.error()

    def error(self) -> RuntimeError:
        """Return the error of a call after that."""
        return RuntimeError(f"cannot call a method of the worker {self._name} after it was stopped: place another one")


def failure_of(outcome: object, *, is_stopping: bool) -> object:
    """Return what has ended a worker whose call has this outcome, for `LostWorker`; None if it has ended well.

    Args:
        outcome: the outcome, as `CallToken.settle` gets it.
        is_stopping: whether the worker was to end.
    """
    if isinstance(outcome, Outcome):
        return outcome if outcome.is_error else None
    if outcome is CANCELLED:
        return None if is_stopping else "its call was cancelled"
    return outcome


def another_run_helps(outcome: object) -> bool:
    """Return whether a worker whose call has this outcome may begin again. It may not if no runner can be had."""
    if isinstance(outcome, errors.PoolBrokenError):
        return False
    return isinstance(outcome, (Outcome, errors.RunnerLostError)) or outcome is CANCELLED
