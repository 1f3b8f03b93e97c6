"""Errors that subclass ``BrokenProcessPool``, for code written for ``ProcessPoolExecutor``."""

from __future__ import annotations

from dragonfly_executor.errors.base import DragonflyError
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures.process import BrokenProcessPool
else:
    try:
        from concurrent.futures.process import BrokenProcessPool
    except RuntimeError:
        # The interpreter is exiting, and that module can no longer be imported. So no code can have its class.
        from concurrent.futures import BrokenExecutor as BrokenProcessPool


class RunnerLostError(DragonflyError, BrokenProcessPool):
    """The slot or the runner of a call died. Other calls are not affected.

    Attributes:
        exit_code: exit status of the process that died; None if a signal ended it, or if the status is unknown.
        signal: number of the signal that ended the process, or None.
        runner_id: the runner's id in ``stats()``; None if unknown.
        may_have_started: False only if the call provably never ran.
        output: the last 4 KiB that the call wrote to stderr, if the pool's ``output`` mode reads it; otherwise "".
        stack: the Python stack of a slot that a fault ended (SIGSEGV, say), from faulthandler; otherwise "".
        out_of_memory: True if the kernel killed the slot because memory ran out; the text states the limit.
        slot_pid: process id of the slot that died; None if the whole runner was lost.
    """

    def __init__(
        self,
        message: str,
        *,
        exit_code: int | None = None,
        signal: int | None = None,
        runner_id: int | None = None,
        may_have_started: bool = True,
        output: str = "",
        stack: str = "",
        out_of_memory: bool = False,
        slot_pid: int | None = None,
    ) -> None:
        super().__init__(message)
        self.slot_pid = slot_pid
        self.exit_code = exit_code
        self.signal = signal
        self.runner_id = runner_id
        self.may_have_started = may_have_started
        self.output = output
        self.stack = stack
        self.out_of_memory = out_of_memory

    def __str__(self) -> str:
        return "\n".join(filter(None, (str(self.args[0]), self.stack, self.output)))


class PoisonCallError(RunnerLostError):
    """The slot of a call died on every attempt that its retries allowed. The call is not tried again."""


class WorkerLostError(RunnerLostError):
    """A placed worker has ended, and did not end this method call. The cause is the reason, if that is an exception.

    Attributes:
        reason: why the worker has ended, as text.
    """

    def __init__(self, message: str, *, reason: str = "", may_have_started: bool = False) -> None:
        super().__init__(message, may_have_started=may_have_started)
        self.reason = reason


class BootError(DragonflyError, BrokenProcessPool):
    """No runner could be booted for the calls that waited.

    Attributes:
        phase: the phase in which the boot failed: "create", "connect", "handshake", "sync", "requirements" ...; by SSH
            also "resolve", "host key", "auth", "python" and "bootstrap".
        attempts: number of boots that failed in a row.
        output: the end of the node's output, or "".
        final: True if every further boot fails until a person changes something, for example a refused credential. The
            pool then does not try up to ``max_boot_failures`` boots: it waits for the pending boots, and if these bring
            no runner either, the waiting calls fail with this error. A backend passes ``final=True``; None takes the
            class's value, which is False unless a subclass sets it.
    """

    final: bool = False

    def __init__(
        self, message: str, phase: str = "create", attempts: int = 1, output: str = "", final: bool | None = None
    ) -> None:
        super().__init__(message, phase, attempts, output, final)
        self.phase = phase
        self.attempts = attempts
        self.output = output
        if final is not None:
            self.final = final

    def __str__(self) -> str:
        text = f"{self.args[0]} (phase: {self.phase}, attempts: {self.attempts})"
        return f"{text}\n{self.output}" if self.output else text


class BootTimeoutError(BootError, TimeoutError):
    """A boot did not finish within ``boot_timeout``."""


class RunnerAuthError(BootError):
    """A peer that dialed in could not prove that it is the expected runner."""


class VersionMismatchError(BootError):
    """Parent and runner are incompatible: their Python, package, cloudpickle or protocol versions differ."""

    final = True


class HostKeyError(BootError):
    """A host's key is unknown, or differs from the known key. The host is not tried again."""

    final = True


class CallDeserializationError(DragonflyError, BrokenProcessPool):
    """The runner cannot unpickle a call's payload. The cause is the error on the runner. The call did not start."""


class ResultDeserializationError(DragonflyError, BrokenProcessPool):
    """A call ran, but its result cannot be unpickled here. The thread that asks for the result gets this error.

    Attributes:
        size: the result's size in bytes; None if unknown. The error's cause is a MemoryError if there was no memory for
            the result.
    """

    def __init__(self, message: str, size: int | None = None) -> None:
        super().__init__(message, size)
        self.size = size

    def __str__(self) -> str:
        return str(self.args[0])


class PoolBrokenError(DragonflyError, BrokenProcessPool):
    """The pool cannot go on. Make a new pool."""


class InitializerError(PoolBrokenError):
    """The pool's initializer raised, hung or died in a slot. The cause is the traceback in the slot."""


for _public in list(vars().values()):
    if isinstance(_public, type) and _public.__module__ == __name__:
        _public.__module__ = "dragonfly_executor.errors"
