"""`DriverProcess`: the process that is connected to Ray for a backend. All of its boots and nodes share it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from typing import Any

from dragonfly_executor.backends.agent_command import runner_options
from dragonfly_executor.backends.base import Signal
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.ray.cluster_look import ClusterLook
from dragonfly_executor.backends.ray.runner_actor import RunnerActor
from dragonfly_executor.errors import BootError

END_TIMEOUT = 1.0
"""Seconds that a driver has to end once its connection is closed. It has nothing to finish."""


class DriverProcess:
    """A driver, and the runners that it knows. Any thread.

    Args:
        address: of the cluster, as for ``ray.init``.
        namespace: for the actors; None for one of their own.

    Attributes:
        connected: set when the driver is connected to Ray, or has failed to connect or ended: see `error`.
        error: why the driver is not connected; "" if it is connected, or still connects.
    """

    def __init__(self, address: str, namespace: str | None) -> None:
        self.connected = Signal()
        self.error = ""
        self._looks: SimpleQueue[ClusterLook | str] = SimpleQueue()
        self._lock = threading.Lock()
        self._actors: dict[str, RunnerActor] = {}
        own, theirs = socket.socketpair()
        options = runner_options()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [
                        sys.executable,
                        "-P",
                        *options,
                        "-m",
                        "dragonfly_executor.backends.ray.driver",
                        str(theirs.fileno()),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    # Ctrl-C at the terminal must reach only the parent, which decides what to stop.
                    start_new_session=True,
                )
            except BaseException:
                own.close()
                raise
        self._socket = own
        self._connection = Connection(os.dup(own.fileno()))
        self._connection.send((address, namespace))
        self._reader = threading.Thread(target=self._read, name="dragonfly-ray", daemon=True)
        self._reader.start()

    @property
    def is_broken(self) -> bool:
        """Return True if the driver has ended, or could not connect."""
        return bool(self.error)

    def boot(self, actor: RunnerActor) -> None:
        """Have an actor created for a runner.

        Raises:
            BootError: the actor's options cannot be pickled.
        """
        import cloudpickle

        with self._lock:
            self._actors[actor.key] = actor
        try:
            options = cloudpickle.dumps(actor.options)
        except Exception as error:  # of any kind: the options may hold the user's objects
            text = f"the options of RayBackend cannot be pickled: {type(error).__name__}: {error}"
            raise BootError(text, "create", final=True) from error
        self._send("boot", actor.key, actor.order, options)

    def look(self, timeout: float) -> ClusterLook | str:
        """Return what the cluster has, or the error of the driver that cannot say it. For one thread.

        Args:
            timeout: seconds for the connection, and for the look.
        """
        Deadline(timeout, self.connected).pause(timeout)
        if not self.connected.is_set() or self.error:
            return self.error or "it does not answer"
        self._send("look")
        try:
            return self._looks.get(timeout=timeout)
        except Empty:
            return self.error or "it does not answer"

    def stop(self, actor: RunnerActor, grace: float, sessions: Sequence[int]) -> None:
        """Have a runner and its actor stopped. `RunnerActor.stopped` is set then."""
        self._send("stop", actor.key, grace, list(sessions))

    def close(self) -> None:
        """End the driver, and with it all actors that are left. Blocks."""
        if not self.connected.is_set():
            # While the driver connects to Ray, it does not read from its parent.
            self._process.kill()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(END_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._connection.close()
        self._socket.close()

    def descriptors(self) -> list[int]:
        """Return the descriptors that a forked child must close, so that the driver notices the parent's end."""
        return [self._connection.fileno(), self._socket.fileno()]

    def _send(self, *message: Any) -> None:
        with self._lock, suppress(OSError):  # `_read` notices that the driver has ended
            self._connection.send(message)

    def _read(self) -> None:
        """Take the driver's events until the driver ends."""
        try:
            while True:
                event, key, value = self._connection.recv()
                with self._lock:
                    actor = self._actors.get(key)
                if event == "unconnected":
                    self.error = value
                elif event == "connected":
                    self.connected.set()
                elif event == "cluster":
                    self._note_standing(ClusterLook(*value))
                elif event == "looked":
                    self._looks.put(value if isinstance(value, str) else ClusterLook(*value))
                elif actor is not None:
                    actor.take(event, value)
        except (EOFError, OSError):
            self.error = self.error or "the connection to the Ray cluster has ended"
        finally:
            with self._lock:
                actors = [*self._actors.values()]
            for actor in actors:
                actor.take("lost", None)
            self.connected.set()

    def _note_standing(self, look: ClusterLook) -> None:
        """Tell the actors that wait how they stand."""
        with self._lock:
            waiting = [actor for actor in self._actors.values() if not actor.begun.is_set()]
        for actor in waiting:
            actor.standing = look.standing(actor.options, len(waiting))

    def forget(self, actor: RunnerActor) -> None:
        """Take no more events of this actor."""
        with self._lock:
            self._actors.pop(actor.key, None)
