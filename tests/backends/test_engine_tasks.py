"""Decisions that the backends on Dask and Ray share, without either of them."""

from __future__ import annotations

import threading
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest

from dragonfly_executor import BootError, BootRequest, BootTimeoutError
from dragonfly_executor.backends.base import Signal
from dragonfly_executor.backends.engine_tasks.backend import EngineTaskBackend
from dragonfly_executor.backends.engine_tasks.node import EngineTaskNode
from dragonfly_executor.backends.engine_tasks.task import EngineTask
from tests.support.engine_tasks import WaitingClock, boot_request
from tests.support.helpers import PATIENCE


class Task(EngineTask):
    @property
    def place(self) -> str:
        return "worker w1"


class TaskNode(EngineTaskNode[Task]):
    def placed(self) -> None:
        self.host = "w1"

    def _stop_task(self, grace: float, timeout: float) -> None:
        self.task.end(f"stopped after {grace:g} s")


class TaskBackend(EngineTaskBackend[Any, TaskNode]):
    """A backend whose client only notes that it is closed. `queue` is called with each task that is queued."""

    def __init__(self, queue: Any = lambda task: None, **arguments: Any) -> None:
        defaults = dict.fromkeys(("python", "env", "host", "queue_timeout", "sync", "requirements"))
        super().__init__(**{**defaults, "port": 0, "labels": (), **arguments})
        self.closed = threading.Event()
        self.queue = queue

    def _connect(self) -> Any:
        return SimpleNamespace(is_broken=False, close=self.closed.set)

    def _own_address(self) -> str:
        return "10.0.0.1"

    def _make_node(self, client: Any, request: BootRequest) -> TaskNode:
        task = Task(self._task_key(request), self._order(request))
        return TaskNode(task, request, shares_disk=True, on_stopped=lambda: self._shared.release(client))

    def _queue(self, node: TaskNode, client: Any) -> None:
        self.queue(node.task)


def test_a_boot_returns_a_node_that_waits_and_the_clock_starts_when_its_task_begins() -> None:
    clock = WaitingClock()
    backend = TaskBackend()
    node = backend.boot(boot_request(clock=clock))
    node.task.standing = "2 of 3 wait"
    assert (node.is_queued, node.progress(), node.host) == (True, "2 of 3 wait", "")
    assert clock.was_queued.is_set()
    assert not clock.was_started.is_set()
    node.task.begun.set()
    assert clock.was_started.is_set()
    assert (node.is_queued, node.host) == (False, "w1")
    assert not backend.closed.is_set()
    node.stop()
    node.stop()
    assert backend.closed.is_set()


def test_a_runner_that_has_dialed_back_has_begun() -> None:
    """The engine's own news of it may come later, or may be lost."""
    clock, dialed_in = WaitingClock(), Signal()
    node = TaskBackend().boot(boot_request(clock=clock, dialed_in=dialed_in))
    dialed_in.set()
    assert clock.was_started.is_set()
    assert not node.is_queued
    node.stop()


def test_a_task_that_ends_in_the_queue_never_starts_the_clock() -> None:
    clock = WaitingClock()
    node = TaskBackend(lambda task: task.end("it broke", "last words", is_final=True)).boot(boot_request(clock=clock))
    error = node.ended(PATIENCE)
    assert error is not None
    assert (error.args[0], error.phase, error.output, error.final) == ("it broke", "queue", "last words", True)
    assert not clock.was_started.is_set()
    node.stop()


def test_a_task_that_ends_after_it_began_has_failed_to_connect() -> None:
    node = TaskBackend(lambda task: task.begun.set()).boot(boot_request())
    node.task.end("it broke")
    error = node.ended(PATIENCE)
    assert error is not None
    assert error.phase == "connect"
    assert node.explain_loss() == "it broke"
    node.stop()


def test_a_task_waits_no_longer_than_queue_timeout() -> None:
    node = TaskBackend(queue_timeout=0.01).boot(boot_request())
    node.task.standing = "no worker has GPU=1"
    error = node.ended(PATIENCE)
    assert isinstance(error, BootTimeoutError)
    assert error.phase == "queue"
    assert "no worker has GPU=1. It did not start within 0.01 s (queue_timeout): raise" in str(error)
    node.stop()


def test_queue_timeout_is_over_when_the_task_begins() -> None:
    node = TaskBackend(lambda task: task.begun.set(), queue_timeout=0).boot(boot_request())
    assert node.ended(0) is None
    node.stop()


def test_a_stop_wakes_the_thread_that_waits_for_the_end() -> None:
    node = TaskBackend().boot(boot_request())
    ended: SimpleQueue[object] = SimpleQueue()
    thread = threading.Thread(target=lambda: ended.put(node.ended(PATIENCE)))
    thread.start()
    node.stop()
    assert ended.get(timeout=PATIENCE) is None
    thread.join()


def test_a_task_that_cannot_be_queued_is_stopped_and_the_client_given_back() -> None:
    tasks = []

    def refuse(task: Task) -> None:
        tasks.append(task)
        raise BootError("refused", "create")

    backend = TaskBackend(refuse)
    with pytest.raises(BootError, match="refused"):
        backend.boot(boot_request())
    assert tasks[0].ended.is_set()
    assert backend.closed.is_set()


def test_a_listening_address_is_that_toward_the_engine_unless_the_user_names_one() -> None:
    assert TaskBackend().listen_address() == ("10.0.0.1", 0)
    assert TaskBackend(host="10.9.9.9", port=7).listen_address() == ("10.9.9.9", 7)


@pytest.mark.parametrize(
    ("silent", "sessions", "grace"), [(False, [], "0.2 s"), (False, [17], "2 s"), (True, [17], "0 s")]
)
def test_a_runner_has_time_to_end_its_slots_unless_it_is_silent(silent: bool, sessions: list[int], grace: str) -> None:
    node = TaskBackend(lambda task: task.begun.set()).boot(boot_request())
    node.is_silent, node.sessions = silent, sessions
    node.stop()
    assert node.task.error == f"stopped after {grace}"


@pytest.mark.parametrize(
    ("result", "text", "is_final"),
    [
        ({"failed": "no package", "error": "No module"}, "install it for the workers' Python", True),
        ({"failed": "no process", "error": "No such file"}, "worker w1 could not start a runner: No such file", False),
        ({"code": 3, "output": "last words"}, "the runner on worker w1 exited with status 3", False),
        ({"code": -9, "output": ""}, "the runner on worker w1 was killed by SIGKILL", False),
        (None, "worker w1 answered None", False),
    ],
)
def test_the_end_of_a_runner_says_why(result: object, text: str, is_final: bool) -> None:
    task = Task("key", {})
    task.take_result(result)
    assert text in task.error
    assert task.is_final == is_final
    assert not task.begun.is_set()
    assert task.ended.is_set()


def test_only_the_first_reason_of_an_end_counts() -> None:
    task = Task("key", {})
    task.end("first", "output")
    task.end("second", is_final=True)
    assert (task.error, task.output, task.is_final) == ("first", "output", False)
