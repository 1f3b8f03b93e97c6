"""A start in several steps, each of which may fail. After it everything exists, or nothing."""

from __future__ import annotations

import threading
from _thread import get_ident, start_new_thread
from collections.abc import Callable

from dragonfly_executor import errors
from dragonfly_executor.engine.latch import Latch


class _StartAttempt:
    """One attempt: its thread and its error."""

    def __init__(self) -> None:
        self.thread: threading.Thread | None = None
        self.failure: BaseException | None = None
        self.is_over = Latch()

    def join(self) -> None:
        """Wait until the attempt is over and its thread has ended."""
        self.is_over.wait()
        if self.thread is not None:
            self.thread.join()


class EngineStart:
    """A start that runs once, when it is first needed, on a thread of its own.

    An interrupt comes only to the main thread, so none comes between two steps of a start. A caller that is interrupted
    only stops waiting; the start goes on.

    Args:
        name: the pool's name.
        bring_up: makes everything, unless it exists. If a step fails, it undoes the earlier ones and raises. Several
            threads may call it at once.
    """

    def __init__(self, name: str, bring_up: Callable[[], object]) -> None:
        self._name = name
        self._bring_up = bring_up
        self._starters: set[int] = set()
        self._attempts: set[tuple[int, _StartAttempt]] = set()
        """Attempts that have begun, until a thread has waited for their end."""

    def wait(self) -> None:
        """Run the start, or wait until another thread has run it.

        Raises:
            StartError: there is no thread or no descriptor for it. Nothing of the attempt is left.
            Exception: any other error of `bring_up`.
        """
        if get_ident() in self._starters:
            # The garbage collector may run a finalizer on this thread, and the finalizer cannot wait for its own
            # thread.
            raise errors.StartError(f"pool {self._name!r} cannot be used yet: this thread is still starting it")
        attempt = _StartAttempt()
        try:
            # One step both starts the thread and records it. `Thread.start` takes several.
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
        """Wait until no attempt is under way, including attempts whose caller was interrupted."""
        if get_ident() in self._starters:
            return
        for _, attempt in list(self._attempts):
            attempt.join()
            self._forget(attempt)

    def _forget(self, attempt: _StartAttempt) -> None:
        for entry in list(self._attempts):
            if entry[1] is attempt:
                self._attempts.discard(entry)

    def _explained(self, error: BaseException) -> errors.StartError:
        return errors.StartError(
            f"pool {self._name!r} could not be started, and was cleaned up: {type(error).__name__}: {error}. "
            "The next submit tries again. This process may need more threads (ulimit -u, pids.max) or descriptors "
            "(ulimit -n)"
        )

    def _begin(self, attempt: _StartAttempt) -> None:
        """Start the thread of the attempt. This runs on a thread that was started in one step."""
        try:
            name = f"dragonfly-{self._name}-start"
            attempt.thread = threading.Thread(target=self._run, args=(attempt,), name=name, daemon=True)
            attempt.thread.start()
        except BaseException as error:
            attempt.thread, attempt.failure = None, error
            attempt.is_over.open()

    def _run(self, attempt: _StartAttempt) -> None:
        """Make the attempt, on its own thread."""
        self._starters.add(get_ident())
        try:
            self._bring_up()
        except BaseException as error:
            attempt.failure = error
        self._starters.discard(get_ident())
        attempt.is_over.open()
