"""A runner's container."""

from __future__ import annotations

import logging
from collections.abc import Callable

from dragonfly_executor.backends.base import CancelToken, Node
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.docker.engine import DockerEngine, DockerError
from dragonfly_executor.errors import BootError

logger = logging.getLogger("dragonfly_executor")

TRIES = 3
"""Number of attempts to remove a container."""
PAUSE = 0.5
"""Seconds between two attempts."""
LINES = 20
"""Lines at the end of a container's log that are read for an error."""


class DockerNode(Node):
    """A container. It exists until `stop`, even after it has ended, so that its last output can be read.

    Args:
        engine: the Engine.
        name: the container's name.
        forget, abandon: called at the end of `stop`: if the container is gone, or if it may still be there. `abandon`
            returns as text how it gets removed.
        then: called last.
    """

    shares_disk = False
    stopper = "Docker (another program has stopped the container, or the kernel has killed it for its memory)"
    stop_advice = "DockerBackend(memory=...) gives containers more memory"

    def __init__(
        self,
        engine: DockerEngine,
        name: str,
        forget: Callable[[], object],
        abandon: Callable[[], str],
        then: Callable[[], object] = lambda: None,
    ) -> None:
        self.name = name
        self.then = then
        self._engine = engine
        self._forget = forget
        self._abandon = abandon
        self._stopped = CancelToken()

    def stop(self) -> None:
        """See `Node.stop`. Kills and removes the container."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        pause = Deadline(TRIES * PAUSE)
        for left in reversed(range(TRIES)):
            try:
                self._engine.remove(self.name)
            except DockerError as error:
                if left:
                    pause.pause(PAUSE)
                    continue
                logger.warning("container %s may still be there: %s. %s", self.name, error, self._abandon())
            else:
                self._forget()
            break
        self.then()

    def ended(self, wait: float) -> BootError | None:
        """See `Node.ended`."""
        try:
            # The request hangs until the container has ended.
            answer = self._engine.ask(
                "POST", f"/containers/{self.name}/wait", timeout=wait, given_up=self._stopped, fine=(404,)
            )
        except DockerError as error:
            if not error.is_timeout:
                Deadline(wait, self._stopped).pause(wait)
            # An Engine that is away says nothing about the container.
            return None
        if answer.status_code == 404:
            return BootError(f"container {self.name} is gone", "connect")
        status = answer.json().get("StatusCode")
        return BootError(f"container {self.name} ended with status {status}", "connect", output=self.output())

    def output(self) -> str:
        """See `Node.output`: the last lines of the container's log."""
        query = {"stdout": True, "stderr": True, "tail": LINES}
        try:
            log = self._engine.ask("GET", f"/containers/{self.name}/logs", query=query).content
        except DockerError:
            return ""
        return read_log(log).decode(errors="replace").strip()


def read_log(log: bytes) -> bytes:
    """Return the text of a log. Each part has one byte for the stream, three of padding and four for its length."""
    text = b""
    while len(log) >= 8:
        end = 8 + int.from_bytes(log[4:8])
        text, log = text + log[8:end], log[end:]
    return text
