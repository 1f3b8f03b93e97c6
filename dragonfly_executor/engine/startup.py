"""The start of something that takes several steps, each of which may fail: then all is there, or nothing is."""

from __future__ import annotations

import threading
from _thread import get_ident, start_new_thread
from collections.abc import Callable

from dragonfly_executor import errors
from dragonfly_executor.engine.latch import Latch


class _Attempt:
    """One try: the thread that makes it, and why it failed."""

    def __init__(self) -> None:
        self.thread: threading.Thread | None = None
        self.failure: BaseException | None = None
        self.is_over = Latch()

    def join(self) -> None:
        """Wait until the try is over, and its thread has ended."""
        self.is_over.wait()
        if self.thread is not None:
            self.thread.join()


class Start:
    """Has something brought up once, when it is first needed, on a thread of its own.

    An interrupt comes to the main thread alone. So there is no step of a start after which one could come, and nobody
    need know how far a start had got: whoever is interrupted only waits no longer.

    Args:
        name: of the pool that it belongs to.
        bring_up: brings it up, unless it is; if that fails, it undoes what it has done and raises. May be called on
            several threads at once.
    """

    def __init__(self, name: str, bring_up: Callable[[], object]) -> None:
        self._name = name
        self._bring_up = bring_up
        self._starters: set[int] = set()
        self._attempts: set[tuple[int, _Attempt]] = set()
        """Those that began, until somebody has waited for their end."""

    def wait(self) -> None:
        """Bring it up, or wait until somebody else has.

        Raises:
            StartError: there is no thread for it, or no descriptor. Nothing is left of the attempt.
            Exception: what else `bring_up` raised.
        """
        if get_ident() in self._starters:
            # The garbage collector runs anybody's code anywhere, and nothing can be waited for here.
            raise errors.StartError(f"pool {self._name!r} cannot be used yet: this very thread is starting it")
        attempt = _Attempt()
        try:
            # One step, in which the thread starts and is noted. `Thread.start` is not one.
            self._attempts.update(zip(map(start_new_thread, (self._begin,), ((attempt,),)), (attempt,), strict=False))
        except (RuntimeError, MemoryError) as error:
            raise self._explained(error) from error
        attempt.join()
        self._forget(attempt)
        failure = attempt.failure
        if failure is None:
            return
        is_ours = isinstance(failure, errors.DragonflyError)
        try:
            if isinstance(failure, (RuntimeError, MemoryError, OSError)) and not is_ours:
                raise self._explained(failure) from failure
            raise failure
        finally:
            del failure, attempt  # its traceback holds this frame

    def join(self) -> None:
        """Wait until nothing is coming up, and no thread of an attempt is left whose waiter was interrupted."""
        if get_ident() in self._starters:
            return
        for _, attempt in list(self._attempts):
            attempt.join()
            self._forget(attempt)

    def _forget(self, attempt: _Attempt) -> None:
        for entry in list(self._attempts):
            if entry[1] is attempt:
                self._attempts.discard(entry)

    def _explained(self, error: BaseException) -> errors.StartError:
        return errors.StartError(
            f"pool {self._name!r} could not be started, and nothing of it is left: {type(error).__name__}: {error}. "
            "The next submit tries again; this process may need more threads (ulimit -u, pids.max) or descriptors "
            "(ulimit -n)"
        )

    def _begin(self, attempt: _Attempt) -> None:
        """On a thread that is no more than a step."""
        try:
            name = f"dragonfly-{self._name}-start"
            attempt.thread = threading.Thread(target=self._run, args=(attempt,), name=name, daemon=True)
            attempt.thread.start()
        except BaseException as error:
            attempt.thread, attempt.failure = None, error
            attempt.is_over.open()

    def _run(self, attempt: _Attempt) -> None:
        """On the thread of its own."""
        self._starters.add(get_ident())
        try:
            self._bring_up()
        except BaseException as error:
            attempt.failure = error
        self._starters.discard(get_ident())
        attempt.is_over.open()
