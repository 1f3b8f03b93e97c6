"""Nodes that wait in a queue: they do not time out, report their progress, and are released if no call needs them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import pytest

from dragonfly_executor import BootError, BootRequest, BootTimeoutError, Node, Pool
from dragonfly_executor.backends.base import Signal
from dragonfly_executor.engine.boot.pending_boot import PROGRESS_LOG_INTERVAL
from dragonfly_executor.testing import VirtualClock
from dragonfly_executor.transport.loop import Loop
from tests.engine.conftest import MakePool
from tests.support.dialback import EmptyNodeBackend, runner_of
from tests.support.helpers import PATIENCE, Events, error_of
from tests.support.payloads import echo


class QueuedNode(Node):
    """A node that waits until the test lets it start, or end."""

    is_queued = True
    shares_disk = True

    def __init__(self, request: BootRequest, told: Callable[[int], object]) -> None:
        self.request = request
        self.says: Callable[[], str] = lambda: f"job {request.runner_id} is PENDING"
        self.error: BootError | None = None
        self.polls = SimpleQueue[int]()
        self._go_on = Signal()
        self._told = told

    def start(self) -> None:
        self.is_queued = False
        self.request.started()

    def fail(self, error: BootError) -> None:
        self.error = error
        self._go_on.set()

    def look(self) -> None:
        """End the current poll: the pool sees what there is to see."""
        self._go_on.set()

    def ended(self, wait: float) -> BootError | None:
        self.polls.put(1)
        self._go_on.wait(PATIENCE)
        self._go_on.clear()
        return self.error

    def progress(self) -> str:
        return self.says()

    def stop(self) -> None:
        self._go_on.set()
        self._told(self.request.runner_id)


class QueueBackend(EmptyNodeBackend):
    """Each of its nodes waits in a queue at first."""

    default_max = 4

    def __init__(self, clock: VirtualClock | None = None) -> None:
        super().__init__()
        self._clock = clock
        self.queue = SimpleQueue[QueuedNode]()

    def default_slots(self) -> int:
        return 1

    def make_loop(self) -> Loop:
        return super().make_loop() if self._clock is None else self._clock.make_loop()

    def boot(self, request: BootRequest) -> Node:
        request.queued()
        node = QueuedNode(request, self.stopped.put)
        self.queue.put(node)
        return node

    def node(self) -> QueuedNode:
        """Return the next node, once the pool polls it."""
        node = self.queue.get(timeout=PATIENCE)
        node.polls.get(timeout=PATIENCE)
        return node


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def backend(clock: VirtualClock) -> QueueBackend:
    return QueueBackend(clock)


def wait_until(is_so: Callable[[], object]) -> None:
    """Ask until it is so. The engine thread answers each question after the work that it had before."""
    for _ in range(100_000):
        if is_so():
            return
    raise AssertionError("the pool did not reach this state")


def waiting(pool: Pool) -> int:
    return pool.stats().boots_queued


def test_a_node_in_a_queue_is_not_late(make_pool: MakePool, backend: QueueBackend, clock: VirtualClock) -> None:
    """The time of its boot begins when it starts."""
    pool = make_pool(backend=backend, boot_timeout=10, max_boot_failures=1)
    future = pool.submit(echo, 1)
    node = backend.node()
    clock.advance(100_000)
    assert waiting(pool) == 1
    assert pool.stats().machine_seconds == 0
    node.start()
    wait_until(lambda: waiting(pool) == 0)
    clock.advance(9)
    assert not future.done()
    assert pool.stats().machine_seconds == 9
    clock.advance(1)
    error = error_of(future)
    assert isinstance(error, BootTimeoutError)
    assert "did not dial back within 10 s" in str(error)


def test_a_runner_that_dials_back_has_left_the_queue(make_pool: MakePool) -> None:
    """Its platform may say so later, or never."""
    backend = QueueBackend()
    pool = make_pool(backend=backend, boot_timeout=PATIENCE)
    future = pool.submit(echo, 1)
    node = backend.node()
    assert waiting(pool) == 1
    with runner_of(node.request.parent):
        assert future.result(PATIENCE) == 1
        assert node.request.dialed_in is not None
        assert node.request.dialed_in.is_set()
        assert (waiting(pool), pool.stats().runners_up) == (0, 1)
        node.look()
        pool.shutdown()


def test_a_node_that_no_call_needs_any_more_is_given_back(
    make_pool: MakePool, backend: QueueBackend, clock: VirtualClock
) -> None:
    events = Events()
    pool = make_pool(backend=backend, max=3, max_concurrency=1, on_event=events)
    futures = []
    for number in range(3):
        futures.append(pool.submit(echo, number))
        backend.node()
    futures[0].cancel()
    wait_until(lambda: pool.stats().calls_queued == 2)
    clock.advance(4.9)
    assert waiting(pool) == 3
    clock.advance(0.1)
    assert backend.stopped.get(timeout=PATIENCE) == 3
    assert "no call needs it any more" in events.wait("boot given up")["text"]
    wait_until(lambda: pool.stats().runners_stopping == 0)
    assert waiting(pool) == 2
    assert (pool.stats().boots_failed, pool.stats().boots_attempted) == (0, 3)


def test_a_node_that_ends_in_the_queue_fails_its_boot(make_pool: MakePool, backend: QueueBackend) -> None:
    pool = make_pool(backend=backend, max_boot_failures=1)
    future = pool.submit(echo, 1)
    backend.node().fail(BootError("job 1 was cancelled", "queue"))
    assert "job 1 was cancelled" in str(error_of(future))


def test_nodes_report_their_progress(make_pool: MakePool, backend: QueueBackend) -> None:
    pool = make_pool(backend=backend, max=2, max_concurrency=1)
    futures = [pool.submit(echo, number) for number in range(2)]
    nodes = sorted((backend.node() for _ in futures), key=lambda node: node.request.runner_id)
    wait_until(lambda: pool.stats().progress == ("job 1 is PENDING", "job 2 is PENDING"))
    assert "2 booting (2 in a queue: job 1 is PENDING and 1 more)" in pool.stats().explain
    nodes[0].start()
    wait_until(lambda: pool.stats().progress == ("job 2 is PENDING",))


def test_progress_is_logged_at_once_and_then_at_intervals(
    make_pool: MakePool, backend: QueueBackend, clock: VirtualClock
) -> None:
    events = Events()
    pool = make_pool(backend=backend, on_event=events)
    future = pool.submit(echo, 1)
    node = backend.node()

    def poll(text: str) -> None:
        node.says = lambda: text
        node.look()
        node.polls.get(timeout=PATIENCE)

    poll("first")
    poll("too soon")
    clock.advance(PROGRESS_LOG_INTERVAL)
    poll("later")
    assert events.wait("queued")["text"] == "runner 1 waits to start: first"
    assert events.wait("queued")["text"] == "runner 1 waits to start: later"
    future.cancel()


def raises() -> str:
    raise RuntimeError("a bug of the backend")


@pytest.mark.parametrize(
    ("says", "progress"),
    [(raises, ()), (lambda: "", ()), (lambda: "\x1b[2Jjob", (r"\x1b[2Jjob",)), (lambda: "x" * 9999, ("x" * 500,))],
)
def test_a_progress_text_is_made_safe_to_print(
    make_pool: MakePool, backend: QueueBackend, says: Callable[[], Any], progress: tuple[str, ...]
) -> None:
    """The node's class may be third-party code, and its text goes to terminals."""
    pool = make_pool(backend=backend)
    future = pool.submit(echo, 1)
    node = backend.node()
    node.says = says
    assert pool.stats().progress == progress
    node.look()
    node.polls.get(timeout=PATIENCE)
    assert waiting(pool) == 1
    future.cancel()


def test_a_node_that_takes_its_time_to_say_it_delays_no_call(make_pool: MakePool, backend: QueueBackend) -> None:
    """Only the thread that asks waits."""
    pool = make_pool(backend=backend, max=2, max_concurrency=1)
    future = pool.submit(echo, 1)
    node = backend.node()
    asked, answer = threading.Event(), threading.Event()

    def says() -> str:
        asked.set()
        answer.wait(PATIENCE)
        return "late"

    node.says = says
    found: list[tuple[str, ...]] = []
    thread = threading.Thread(target=lambda: found.append(pool.stats().progress))
    thread.start()
    assert asked.wait(PATIENCE)
    other = pool.submit(echo, 2)
    assert backend.queue.get(timeout=PATIENCE)
    other.cancel()
    answer.set()
    thread.join()
    assert found == [("late",)]
    future.cancel()
