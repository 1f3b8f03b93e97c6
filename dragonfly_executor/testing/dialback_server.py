"""A listener for runners that dial back, without a pool: for tests of backends, and of the handshake."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from dragonfly_executor.backends.base import Backend, BootRequest
from dragonfly_executor.engine.boot.dialback import DialBack
from dragonfly_executor.engine.worker_threads import WorkerThreads
from dragonfly_executor.errors import BootError
from dragonfly_executor.protocol.parent import Parent
from dragonfly_executor.transport.listener import Listener
from dragonfly_executor.transport.loop import Loop
from dragonfly_executor.transport.tls_socket import TlsSocket

T = TypeVar("T")


class DialBackServer:
    """A listener at the backend's address, on a loop and a thread of its own. `close` ends both.

    Args:
        backend: the backend whose runners dial in.
        timeout: seconds that each step may take.
        limits: arguments of the `Listener`.

    Attributes:
        allowed: the requests that may be passed to the backend now.
        failed: the boots for which the listener cannot be opened, with the error.
        joined: the numbers of the runners that have authenticated.
        warnings: the texts that a pool logs.
        untaken: the connections that `take` has not returned yet, on the loop's thread.
    """

    def __init__(self, backend: Backend, timeout: float = 30.0, **limits: Any) -> None:
        self.allowed: SimpleQueue[BootRequest] = SimpleQueue()
        self.failed: SimpleQueue[tuple[int, BootError]] = SimpleQueue()
        self.joined: SimpleQueue[int] = SimpleQueue()
        self.warnings: SimpleQueue[str] = SimpleQueue()
        self.untaken: dict[int, TlsSocket] = {}
        self._timeout = timeout
        self._backend = backend
        self._bugs: list[BaseException] = []
        self._loop = Loop()
        self._workers = WorkerThreads("reception-workers", 1, self._bugs.append)
        self.dial_back = DialBack(backend, self._loop, self._workers, self.warnings.put, partial(Listener, **limits))
        self._thread = threading.Thread(target=self._run, name="reception", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._loop.run()
        except BaseException as bug:  # the next `ask` times out, and `close` raises this error
            self._bugs.append(bug)

    def ask(self, question: Callable[[], T]) -> T:
        """Call `question` on the loop's thread, and return its result."""
        answers: SimpleQueue[T] = SimpleQueue()
        self._loop.call_soon_threadsafe(lambda: answers.put(question()))
        return answers.get(timeout=self._timeout)

    def begin(self, number: int = 1, timeout: float | None = None) -> None:
        """Expect a runner for `timeout` seconds."""
        parent = Parent.new("reception", number, self._backend.name)
        request = BootRequest(number, parent, self._timeout if timeout is None else timeout)
        self.ask(lambda: self.dial_back.expect(request, _ExpectedRunner(self, number)))

    def request(self, number: int = 1, timeout: float | None = None) -> BootRequest:
        """Expect a runner, and return the request with which the backend boots it."""
        self.begin(number, timeout)
        return self.allowed.get(timeout=self._timeout)

    def forget(self, number: int = 1) -> None:
        """Stop expecting a runner, and close its connection if nothing has taken it."""

        def stop_expecting() -> None:
            """Do so, on the loop's thread."""
            self.dial_back.forget(number)
            self._close_untaken(number)

        self.ask(stop_expecting)

    def take(self, number: int = 1) -> TlsSocket | None:
        """Return the connection of a runner that has joined, once; None if there is none."""
        return self.ask(lambda: self.untaken.pop(number, None))

    def descriptors(self) -> list[int]:
        """Return the descriptors of the listener, and of the connections that nothing has taken."""
        return self.ask(lambda: [*self.dial_back.descriptors(), *(sock.fileno() for sock in self.untaken.values())])

    def _close_untaken(self, number: int) -> None:
        sock = self.untaken.pop(number, None)
        if sock is not None:
            sock.close()

    def close(self) -> None:
        """Stop listening, and raise the first error of its threads."""
        self.ask(self.dial_back.close)
        for number in list(self.untaken):
            self._close_untaken(number)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._workers.close()
        self._workers.join()
        if self._bugs:
            raise self._bugs[0]


class _ExpectedRunner:
    """A boot of a reception: see `engine.boot.dialback.DialBackReceiver`."""

    def __init__(self, reception: DialBackServer, number: int) -> None:
        self._reception = reception
        self._number = number

    def listener_opened(self, request: BootRequest) -> None:
        """Let the test boot the runner."""
        self._reception.allowed.put(request)

    def listener_failed(self, error: BootError) -> None:
        """Record the error."""
        self._reception.failed.put((self._number, error))

    def runner_joined(self, connection: TlsSocket) -> None:
        """Keep the connection until the test takes it."""
        self._reception.untaken[self._number] = connection
        self._reception.joined.put(self._number)
