"""What the tests of the backends on Dask and Ray share: boots without a pool, the contract, a program to kill.

python -m tests.support.engine_tasks BACKEND ADDRESS CALLS MAILBOX GATE [RESOURCE]

runs that program: its pool has this number of calls, each on a runner of its own of the cluster at ADDRESS.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

import pytest

from dragonfly_executor import BootError, BootRequest, DaskBackend, DragonflyExecutor, Parent, RayBackend
from dragonfly_executor.backends.base import Backend, CancelToken, Node
from dragonfly_executor.testing import BackendContract
from tests.support.helpers import PATIENCE, Gate, Mailbox, all_ended, watching
from tests.support.payloads import hold
from tests.support.silent_program import silent_program

BACKENDS = {"dask": DaskBackend, "ray": RayBackend}
SECRET = "5ec2e7" * 8


class EngineCluster(Protocol):
    """A cluster that the tests have started."""

    address: str

    def agents(self) -> Sequence[object]:
        """Return the agents that run on the cluster."""


# -- boots without a pool ----------------------------------------------------------------------------------------------


def boot_request(**more: object) -> BootRequest:
    """A boot whose runner has no parent to dial."""
    return BootRequest(1, Parent.new("test", 1, "test"), PATIENCE, CancelToken())._replace(**more)


def secret_parent() -> Parent:
    """A parent whose token is `SECRET`. It does not answer."""
    return Parent.new("test", 1, "test")._replace(address="127.0.0.1:9", token=SECRET, fingerprint="00" * 32)


def boot_error(backend: Backend, **more: object) -> BootError:
    """The error of a boot, at once or after its node has waited. `more` are fields of its request."""
    try:
        node = backend.boot(boot_request(**more))
    except BootError as error:
        return error
    try:
        return end_of(node)
    finally:
        node.stop()


def end_of(node: Node) -> BootError:
    """The error of a node whose runner will never dial back."""
    error = node.ended(PATIENCE)
    assert error is not None
    return error


def begun(backend: Backend, **more: object) -> Node:
    """A node whose runner was started. `more` are fields of the boot's request."""
    request = boot_request(**{"clock": WaitingClock(), **more})
    node = backend.boot(request)
    assert isinstance(request.clock, WaitingClock)
    assert request.clock.was_started.wait(PATIENCE), node.progress()
    return node


class WaitingClock:
    """A boot's clock that notes when the boot waits in the queue, when it goes on, and when its node ends."""

    def __init__(self) -> None:
        self.was_queued, self.was_started = threading.Event(), threading.Event()
        self.endings: SimpleQueue[tuple[float, str]] = SimpleQueue()

    def queued(self) -> None:
        self.was_queued.set()

    def started(self) -> None:
        self.was_started.set()

    def ending(self, seconds: float, ended_by: str) -> None:
        self.endings.put((seconds, ended_by))


# -- the contract ------------------------------------------------------------------------------------------------------


class EngineTaskContract(BackendContract):
    """The contract of a backend on a cluster. A subclass adds the steps at which only its own boots can hang."""

    @pytest.fixture(autouse=True)
    def _cluster(self, cluster: EngineCluster, make_backend: Callable[..., Backend], tmp_path: Path) -> Iterator[None]:
        self.cluster, self.make_backend, self.folder = cluster, make_backend, tmp_path  # type: ignore[method-assign]
        with ExitStack() as self.stack:
            yield

    def make_broken_backend(self) -> Backend:
        return self.make_backend(python="/nowhere/python")

    def kill(self, node: Any) -> None:
        assert node.task.begun.wait(PATIENCE)
        with watching(node.task.pid) as agent:
            os.kill(node.task.pid, signal.SIGKILL)
            assert all_ended(agent)

    def left_running(self, backend: Backend) -> Sequence[object]:
        return self.cluster.agents()

    def make_backend_that_waits(self, resource: str) -> tuple[Backend, Callable[[], object]]:
        """Return a backend that asks for a resource that no worker has, and a function that waits for a queued task."""
        backend: Any = self.make_backend(resources={resource: 1})
        queued, queue = threading.Semaphore(0), backend._queue

        def tell(*arguments: Any) -> None:
            queue(*arguments)
            queued.release()

        backend._queue = tell
        return backend, lambda: queued.acquire(timeout=PATIENCE)

    def make_backend_with_silent_runner(self) -> tuple[Backend, Callable[[], object]]:
        """Return a backend whose runners never dial, and a function that waits until one runs."""
        python, wait = silent_program(self.folder / "runner")
        return self.make_backend(python=python), wait


# -- a program to kill -------------------------------------------------------------------------------------------------


@contextmanager
def program(
    backend: str, cluster: EngineCluster, mailbox: Mailbox, gate: Gate, *resources: str, calls: int = 1
) -> Iterator[subprocess.Popen[bytes]]:
    """Run this module as a program; kill it if it still runs.

    Args:
        backend: "dask" or "ray".
        cluster: where its runner is.
        mailbox, gate: of its call; see `hold`.
        resources: names of resources that the runner needs.
        calls: number of its calls, and of its runners at most.
    """
    words = [backend, cluster.address, str(calls), mailbox.path, gate.path, *resources]
    running = subprocess.Popen([sys.executable, "-m", "tests.support.engine_tasks", *words])
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def main(name: str, address: str, calls: str, mailbox: str, gate: str, *resources: str) -> None:
    """Does not return by itself."""
    backend = BACKENDS[name](address, sync=None, resources=dict.fromkeys(resources, 1))
    executor = DragonflyExecutor(backend=backend, max=int(calls))
    for _ in range(int(calls)):
        executor.submit(hold, mailbox, gate)
    signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
