"""A door for runners that dial back, without a pool behind it: for tests of backends, and of what comes in."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from dragonfly_executor.backends.base import Backend, BootRequest
from dragonfly_executor.engine.boot.dialback import DialBack
from dragonfly_executor.engine.worker_threads import Crew
from dragonfly_executor.errors import BootError
from dragonfly_executor.protocol.parent import Parent
from dragonfly_executor.transport.listener import Listener
from dragonfly_executor.transport.loop import Loop
from dragonfly_executor.transport.tls import TlsSocket

T = TypeVar("T")


class Reception:
    """Listens where the backend says, on a loop and a thread of its own; `close` ends all of it.

    Args:
        backend: whose runners dial in.
        patience: seconds that each step may take.
        limits: of the `Listener`.

    Attributes:
        allowed: the requests that a backend may be given now.
        failed: the boots for which there is no door, and why.
        joined: the numbers of the runners that have proved who they are.
        warnings: what a pool would log.
    """

    def __init__(self, backend: Backend, patience: float = 30.0, **limits: Any) -> None:
        self.allowed: SimpleQueue[BootRequest] = SimpleQueue()
        self.failed: SimpleQueue[tuple[int, BootError]] = SimpleQueue()
        self.joined: SimpleQueue[int] = SimpleQueue()
        self.warnings: SimpleQueue[str] = SimpleQueue()
        self._patience = patience
        self._backend = backend
        self._bugs: list[BaseException] = []
        self._loop = Loop()
        self._crew = Crew("reception-crew", 1, self._bugs.append)
        self.dial_back = DialBack(backend, self._loop, self._crew, self, partial(Listener, **limits))
        self._thread = threading.Thread(target=self._run, name="reception", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._loop.run()
        except BaseException as bug:  # whoever asks next waits in vain; `close` says why
            self._bugs.append(bug)

    # -- what the engine is to a door ---------------------------------------------------------------------------------

    def boot_is_expected(self, request: BootRequest) -> None:
        """See `engine.boot.dialback.Host`."""
        self.allowed.put(request)

    def boot_cannot_be_expected(self, runner_id: int, error: BootError) -> None:
        """See `engine.boot.dialback.Host`."""
        self.failed.put((runner_id, error))

    def runner_dialed_in(self, runner_id: int) -> None:
        """See `engine.boot.dialback.Host`."""
        self.joined.put(runner_id)

    def warn(self, text: str) -> None:
        """See `engine.boot.dialback.Host`."""
        self.warnings.put(text)

    # -- what a test does with it -------------------------------------------------------------------------------------

    def ask(self, question: Callable[[], T]) -> T:
        """The answer to a question, given on the loop's thread."""
        answers: SimpleQueue[T] = SimpleQueue()
        self._loop.call_soon_threadsafe(lambda: answers.put(question()))
        return answers.get(timeout=self._patience)

    def begin(self, number: int = 1, timeout: float | None = None) -> None:
        """Want a runner, for so many seconds."""
        parent = Parent.new("reception", number, self._backend.name)
        request = BootRequest(number, parent, self._patience if timeout is None else timeout)
        self.ask(lambda: self.dial_back.expect(request))

    def request(self, number: int = 1, timeout: float | None = None) -> BootRequest:
        """Want a runner; what the backend has to be given to boot it."""
        self.begin(number, timeout)
        return self.allowed.get(timeout=self._patience)

    def forget(self, number: int = 1) -> None:
        """Do not want it any more."""
        self.ask(lambda: self.dial_back.forget(number))

    def take(self, number: int = 1) -> TlsSocket | None:
        """The connection of a runner that has joined, once."""
        return self.ask(lambda: self.dial_back.take(number))

    def close(self) -> None:
        """End it; raises what went wrong on its threads."""
        self.ask(self.dial_back.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._crew.close()
        self._crew.join()
        if self._bugs:
            raise self._bugs[0]
