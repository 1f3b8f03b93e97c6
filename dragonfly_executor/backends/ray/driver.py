"""The driver: a process of its own that is connected to Ray, and creates and stops actors for its parent.

    python -P -m dragonfly_executor.backends.ray.driver FD

It exchanges pickled messages with its parent over the inherited socket FD, and ends with that socket. Ray kills the
actors of a driver that has ended, so a parent that is killed leaves none. A process has one connection to Ray, which
the user's program may need for itself, and Ray ends a driver that has lost its cluster: so this is not the parent.
"""

from __future__ import annotations

import os
import select
import sys
import threading
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from dragonfly_executor.backends.ray.actor import runner_class
from dragonfly_executor.backends.ray.driver_watch import DriverWatch, look_at_cluster

STOP_TIMEOUT = 5.0
"""Seconds that an actor may take to end its agent. Then Ray kills the actor, and the agent ends with it."""
THREADS = 3
"""Threads of an actor: `run`, `started` and `stop` may run at once."""


class Driver:
    """The actors of one parent, by key.

    Args:
        connection: to the parent.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._actors: dict[str, Any] = {}
        self._started: dict[str, str] = {}
        """Ray's id of the node of each actor that has one, by the actor's key."""
        self._watch: DriverWatch | None = None

    def serve(self) -> None:
        """Connect to Ray and follow the parent's orders, until the parent is gone."""
        address, namespace = self._connection.recv()
        end_with_parent(self._connection.fileno())
        try:
            _connect(address, namespace)
        except Exception as error:  # of any kind: Ray's, grpc's, and RuntimeError
            self._send("unconnected", "", _why_unconnected(error))
            return
        self._watch = DriverWatch(self, self._send)
        self._send("connected", "", "")
        while True:
            order, *arguments = self._connection.recv()
            getattr(self, order)(*arguments)

    def boot(self, key: str, order: dict[str, Any], options: bytes) -> None:
        """Create an actor for a runner."""
        import cloudpickle
        import ray

        try:
            actor_class = ray.remote(runner_class())
            actor = actor_class.options(**cloudpickle.loads(options), max_concurrency=THREADS, max_restarts=0).remote()
        except Exception as error:  # Ray checks options only here
            self._send("ended", key, {"failed": "refused", "error": _text(error)})
            return
        self._actors[key] = actor
        ran, started = actor.run.remote(order), actor.started.remote()
        started.future().add_done_callback(partial(self._tell, "started", key))
        ran.future().add_done_callback(partial(self._tell, "ended", key))
        if self._watch is not None:
            self._watch.look_soon()

    def look(self) -> None:
        """Tell the parent what the cluster has."""
        try:
            self._send("looked", "", look_at_cluster())
        except Exception as error:  # Ray's own
            self._send("looked", "", _text(error))

    def count_waiting(self) -> int:
        """See `WatchedActors`."""
        return len({*self._actors} - {*self._started})

    def nodes(self) -> dict[str, str]:
        """See `WatchedActors`."""
        return self._started.copy()

    def stop(self, key: str, grace: float, sessions: list[int]) -> None:
        """Stop a runner and its actor."""
        actor = self._actors.pop(key, None)
        if actor is None:
            self._send("stopped", key, None)
            return
        if key not in self._started:
            # It waits for its node, and would not run `stop` before it has one.
            self._kill(key, actor)
            return
        del self._started[key]
        # A thread of its own: a callback of Ray must not wait for Ray.
        threading.Thread(target=self._stop_agent, args=(key, actor, grace, sessions), daemon=True).start()

    def _stop_agent(self, key: str, actor: Any, grace: float, sessions: list[int]) -> None:
        import ray

        with suppress(Exception):  # the actor or Ray is gone, and `_kill` finds out which
            ray.get(actor.stop.remote(grace, sessions), timeout=grace + STOP_TIMEOUT)
        self._kill(key, actor)

    def _kill(self, key: str, actor: Any) -> None:
        import ray

        try:
            ray.kill(actor, no_restart=True)
        except Exception as error:  # the actor or Ray is gone
            self._send("stopped", key, _text(error))
        else:
            self._send("stopped", key, None)

    def _tell(self, event: str, key: str, future: Any) -> None:
        """Tell the parent what a method of an actor has returned. Any thread."""
        error = future.exception()
        if error is None:
            value = future.result()
            if event == "started":
                self._started[key] = value["node"]
        elif event == "started":
            return  # `run` fails with the same error
        else:
            value = {"failed": "Ray", "kind": type(error).__name__, "error": _text(error)}
        self._send(event, key, value)

    def _send(self, *message: Any) -> None:
        with self._sending:
            try:
                self._connection.send(message)
            except OSError:
                os._exit(0)  # the parent is gone


def end_with_parent(fd: int) -> None:
    """End this process when the parent is gone, whatever it does then: Ray takes minutes to give up a connection.

    Args:
        fd: of the connection to the parent.
    """
    hung_up = select.poll()
    hung_up.register(fd, 0)  # asks for POLLHUP alone, which comes unasked

    def wait() -> None:
        hung_up.poll()
        os._exit(0)

    threading.Thread(target=wait, name="dragonfly-ray-parent", daemon=True).start()


def _connect(address: str, namespace: str | None) -> None:
    import logging

    import ray

    ray.init(address, namespace=namespace, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)


def _why_unconnected(error: BaseException) -> str:
    """Return why Ray did not connect. Its own error does not say that the cluster refuses the token."""
    cause: BaseException | None = error
    while cause is not None:
        # Ray writes the traceback of this error into the text of another one.
        if "AuthenticationError" in f"{type(cause).__name__} {cause}":
            return (
                "the cluster refuses this program's token, or wants one and got none: set RAY_AUTH_MODE=token, and the "
                "cluster's token in RAY_AUTH_TOKEN, or in the file that RAY_AUTH_TOKEN_PATH names (default: "
                "~/.ray/auth_token)"
            )
        cause = cause.__cause__ or cause.__context__
    return _text(error)


def _text(error: BaseException) -> str:
    """Return the first lines of an error's text: Ray's are long."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:4])[:600]}" if lines else type(error).__name__


def main(fd: int) -> None:
    """Run a driver on this descriptor. Does not return."""
    os.set_inheritable(fd, False)
    try:
        Driver(Connection(fd)).serve()
    except (EOFError, OSError):
        pass  # the parent is gone, or has closed the connection
    finally:
        # Ray kills the actors when the driver's connection ends. Ray's exit handlers may wait for a lost cluster.
        os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
