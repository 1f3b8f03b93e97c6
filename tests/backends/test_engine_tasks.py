"""Decisions that the backends on Dask and Ray share, without either of them."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from dragonfly_executor import BootError, BootRequest, BootTimeoutError
from dragonfly_executor.backends.base import Signal
from dragonfly_executor.backends.engine_tasks.backend import EngineTaskBackend, arguments_from_text
from dragonfly_executor.backends.engine_tasks.node import EngineTaskNode
from dragonfly_executor.backends.engine_tasks.task import EngineTask
from tests.support.engine_tasks import WaitingClock, boot_request


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
    """A backend whose client only notes that it is closed. `queue` takes the place of the wait for a worker."""

    _no_worker = "no worker was free within {seconds} s (queue_timeout)"

    def __init__(self, queue: Any = None, **arguments: Any) -> None:
        defaults = dict.fromkeys(("python", "env", "host", "queue_timeout", "sync", "requirements"))
        super().__init__(**{**defaults, "port": 0, **arguments})
        self.closed = threading.Event()
        self.queue = queue

    def _connect(self) -> Any:
        return SimpleNamespace(is_broken=False, close=self.closed.set)

    def _own_address(self) -> str:
        return "10.0.0.1"

    def _make_node(self, client: Any, request: BootRequest) -> TaskNode:
        task = Task(self._task_key(request), self._order(request))
        return TaskNode(task, shares_disk=True, on_stopped=lambda: self._shared.release(client))

    def _queue(self, node: TaskNode, client: Any, request: BootRequest) -> None:
        self.queue(node.task, request)


def is_set() -> Signal:
    signal = Signal()
    signal.set()
    return signal


def test_a_boot_returns_a_node_whose_task_has_begun() -> None:
    clock = WaitingClock()
    backend = TaskBackend(lambda task, _: task.begun.set())
    node = backend.boot(boot_request(clock=clock))
    assert node.host == "w1"
    assert clock.was_queued.is_set()
    assert clock.was_started.is_set()
    assert not backend.closed.is_set()
    node.stop()
    node.stop()
    assert backend.closed.is_set()


def test_a_runner_that_has_dialed_back_has_begun() -> None:
    """The engine's own news of it may come later, or may be lost."""
    backend = TaskBackend(lambda *_: None)
    backend.boot(boot_request(dialed_in=is_set())).stop()


@pytest.mark.parametrize(
    ("queue", "error", "text"),
    [
        (lambda *_: None, BootTimeoutError, r"no worker was free within 2 s \(queue_timeout\)"),
        (lambda task, _: task.end("it broke"), BootError, "it broke"),
        (lambda _, request: request.given_up.set(), BootError, "cancelled"),
    ],
)
def test_a_boot_that_fails_stops_its_task_and_gives_the_client_back(
    queue: Any, error: type[BootError], text: str
) -> None:
    clock, tasks = WaitingClock(), []

    def note(task: Task, request: BootRequest) -> None:
        tasks.append(task)
        queue(task, request)

    backend = TaskBackend(note, queue_timeout=2)
    with pytest.raises(error, match=text) as caught:
        backend.boot(boot_request(clock=clock))
    assert caught.value.phase == "queue"
    assert tasks[0].ended.is_set()
    assert backend.closed.is_set()
    assert not clock.was_started.is_set()


def test_a_listening_address_is_that_toward_the_engine_unless_the_user_names_one() -> None:
    assert TaskBackend().listen_address() == ("10.0.0.1", 0)
    assert TaskBackend(host="10.9.9.9", port=7).listen_address() == ("10.9.9.9", 7)


@pytest.mark.parametrize(
    ("silent", "sessions", "grace"), [(False, [], "0.2 s"), (False, [17], "2 s"), (True, [17], "0 s")]
)
def test_a_runner_has_time_to_end_its_slots_unless_it_is_silent(silent: bool, sessions: list[int], grace: str) -> None:
    node = TaskBackend(lambda task, _: task.begun.set()).boot(boot_request())
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
    assert task.begun.is_set()
    assert task.ended.is_set()


def test_only_the_first_reason_of_an_end_counts() -> None:
    task = Task("key", {})
    task.end("first", "output")
    task.end("second", is_final=True)
    assert (task.error, task.output, task.is_final) == ("first", "output", False)


def test_arguments_are_read_from_texts() -> None:
    texts = {"port": "7", "queue_timeout": "1.5", "resources": "GPU=1 MEM=4e9", "sync": "none", "python": "python3"}
    assert arguments_from_text({**texts, "num_cpus": "2"}, num_cpus=float) == {
        "port": 7, "queue_timeout": 1.5, "resources": {"GPU": 1.0, "MEM": 4e9}, "sync": None, "python": "python3",
        "num_cpus": 2.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"port": "seven"}, "cannot read port=seven"),
        ({"resources": "GPU"}, "cannot read resources=GPU: write NAME=AMOUNT"),
    ],
)
def test_a_text_that_cannot_be_read_is_named(settings: dict[str, str], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        arguments_from_text(settings)
