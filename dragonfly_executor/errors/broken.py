"""Errors that are a ``BrokenProcessPool`` to code written for ``ProcessPoolExecutor``."""

from __future__ import annotations

from dragonfly_executor.errors.base import DragonflyError

try:
    from concurrent.futures.process import BrokenProcessPool
except RuntimeError:
    # The interpreter is ending, and that module can only be imported before. Then nobody has its class, to catch it.
    from concurrent.futures import BrokenExecutor as BrokenProcessPool  # type: ignore[assignment]


class RunnerLostError(DragonflyError, BrokenProcessPool):
    """The slot or the runner that had a call died. Other calls are not affected.

    Attributes:
        exit_code: exit status of the process that died; None if a signal ended it, or if nobody knows.
        signal: number of the signal that ended it, or None.
        runner_id: the runner, as it stands in ``stats()``; None if unknown.
        may_have_started: False only where the call provably never ran.
        output: the last 4 KiB that the call wrote to stderr, where the pool's ``output`` is read; else "".
        stack: the Python stack of a slot that a fault ended (SIGSEGV, say), as faulthandler wrote it; else "".
        out_of_memory: whether the kernel killed the slot since memory ran out; the text says the limit.
    """

    def __init__(
        self,
        message: str,
        exit_code: int | None = None,
        signal: int | None = None,
        runner_id: int | None = None,
        may_have_started: bool = True,
        output: str = "",
        stack: str = "",
        out_of_memory: bool = False,
    ) -> None:
        super().__init__(message, exit_code, signal, runner_id, may_have_started, output, stack, out_of_memory)
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
    """A call whose slot died on every attempt that its retries allowed. It is not tried again."""


class BootError(DragonflyError, BrokenProcessPool):
    """No runner could be booted for the calls that waited.

    Attributes:
        phase: how far the boot came: "create", "connect", "handshake", "sync", "requirements" ...; by SSH also
            "resolve", "host key", "auth", "python" and "bootstrap".
        attempts: boots that failed in a row.
        output: the last of what the node printed, or "".
        final: whether no further boot can end better until a person has changed something, as where a credential is
            refused. Then the pool does not go on up to ``max_boot_failures``: it waits for the boots that are under
            way, and where they bring no runner either, what waits fails with this error. A backend says so with
            ``final=True``; None is what the class says, which is False unless a subclass says otherwise.
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
    """Somebody who dialed in could not prove that it is the runner that is waited for."""


class VersionMismatchError(BootError):
    """Parent and runner cannot speak with each other: their Python, package, cloudpickle or protocol differ."""

    final = True


class HostKeyError(BootError):
    """A host showed a key that nobody vouches for, or another one than it used to. It is not tried again."""

    final = True


class CallDeserializationError(DragonflyError, BrokenProcessPool):
    """The runner could not open a call's payload; its cause names what went wrong there. The call did not start."""


class ResultDeserializationError(DragonflyError, BrokenProcessPool):
    """A call ran, and what it returned cannot be opened here; raised in the thread that asks for the result.

    Attributes:
        size: bytes that it takes; None if unknown. Its cause is a MemoryError where there was no memory for them.
    """

    def __init__(self, message: str, size: int | None = None) -> None:
        super().__init__(message, size)
        self.size = size

    def __str__(self) -> str:
        return str(self.args[0])


class PoolBrokenError(DragonflyError, BrokenProcessPool):
    """The pool cannot go on. Make a new one."""


class InitializerError(PoolBrokenError):
    """The pool's initializer raised, hung or died in a slot; its traceback there is the cause."""


for _public in list(vars().values()):
    if isinstance(_public, type) and _public.__module__ == __name__:
        _public.__module__ = "dragonfly_executor.errors"
