"""The start of something that takes several steps, each of which may fail: then all is there, or nothing is."""

from __future__ import annotations

import threading
from _thread import get_ident, start_new_thread
from collections.abc import Callable
from queue import SimpleQueue

from dragonfly_executor import errors

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from typing import TypeAlias

    Outcome: TypeAlias = SimpleQueue[tuple[BaseException | None, threading.Thread | None]]


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
        self._threads: set[threading.Thread] = set()
        """Those that began, until somebody has waited for their end."""

    @property
    def is_under_way(self) -> bool:
        """Whether it may just be coming up."""
        return bool(self._starters)

    def wait(self) -> None:
        """Bring it up, or wait until somebody else has.

        Raises:
            StartError: there is no thread for it, or no descriptor. Nothing is left of the attempt.
            Exception: what else `bring_up` raised.
        """
        if get_ident() in self._starters:
            # The garbage collector runs anybody's code anywhere, and nothing can be waited for here.
            raise errors.StartError(f"pool {self._name!r} cannot be used yet: this very thread is starting it")
        outcome: Outcome = SimpleQueue()
        try:
            # One step, which `Thread.start` is not.
            start_new_thread(self._begin, (outcome,))
        except (RuntimeError, MemoryError) as error:
            raise self._explained(error) from error
        failure, thread = outcome.get()
        if thread is not None:
            self._join(thread)
        if failure is None:
            return
        is_ours = isinstance(failure, errors.DragonflyError)
        try:
            if isinstance(failure, (RuntimeError, MemoryError, OSError)) and not is_ours:
                raise self._explained(failure) from failure
            raise failure
        finally:
            del failure  # its traceback holds this frame

    def join(self) -> None:
        """Wait until no thread is left of starts whose waiter was interrupted."""
        for thread in list(self._threads):
            self._join(thread)

    def _join(self, thread: threading.Thread) -> None:
        if thread is not threading.current_thread():
            thread.join()
            self._threads.discard(thread)

    def _explained(self, error: BaseException) -> errors.StartError:
        return errors.StartError(
            f"pool {self._name!r} could not be started, and nothing of it is left: {type(error).__name__}: {error}. "
            "The next submit tries again; this process may need more threads (ulimit -u, pids.max) or descriptors "
            "(ulimit -n)"
        )

    def _begin(self, outcome: Outcome) -> None:
        """On a thread that is no more than a step."""
        try:
            name = f"dragonfly-{self._name}-start"
            thread = threading.Thread(target=self._run, args=(outcome,), name=name, daemon=True)
            thread.start()
        except BaseException as error:
            outcome.put((error, None))

    def _run(self, outcome: Outcome) -> None:
        """On the thread of its own."""
        failure: BaseException | None = None
        self._threads.add(threading.current_thread())
        self._starters.add(get_ident())
        try:
            self._bring_up()
        except BaseException as error:
            failure = error
        self._starters.discard(get_ident())
        outcome.put((failure, threading.current_thread()))
        del failure
