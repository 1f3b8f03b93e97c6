"""Boots that begin at once: one request to the backend, and an outcome of its own for each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import Any

import pytest

from dragonfly_executor import BootError, BootRequest, Node, Pool
from dragonfly_executor.backends.boot_request import when_all_given_up
from dragonfly_executor.core.capacity import Capacity, Requirements
from dragonfly_executor.engine.boot.boot_batches import BootBatches
from dragonfly_executor.engine.boot.node_booter import NodeBooter
from dragonfly_executor.testing import FakeBackend
from tests.engine.conftest import MakeExecutor, MakePool
from tests.engine.test_concurrent_boots import one_boot_thread
from tests.engine.test_queued_nodes import wait_until
from tests.support.helpers import PATIENCE, Events, error_of, values
from tests.support.payloads import echo

Outcome = tuple[BootRequest, Node | BootError]
AT_ONCE: dict[str, Any] = {"boot_wait": lambda state: 0.0}


class ManyBackend(FakeBackend):
    """Boots many nodes at once. The test may say how the first batch goes.

    Attributes:
        batches: the requests of each batch.
        threads: the threads on which boots ran.
    """

    max_boots_per_request = 100

    def __init__(self, first: Callable[[ManyBackend, Sequence[BootRequest]], Iterator[Outcome]] | None = None) -> None:
        super().__init__(slots=1)
        self._first = first
        self.batches = SimpleQueue[list[BootRequest]]()
        self.threads: set[str] = set()

    def boot_many(self, requests: Sequence[BootRequest]) -> Iterator[Outcome]:
        self.threads.add(threading.current_thread().name)
        self.batches.put([*requests])
        first, self._first = self._first, None
        yield from super().boot_many(requests) if first is None else first(self, requests)

    def batch(self) -> list[BootRequest]:
        return self.batches.get(timeout=PATIENCE)


def numbers(requests: Sequence[BootRequest]) -> list[int]:
    return [request.runner_id for request in requests]


def up(told: Events, count: int) -> None:
    """Wait until so many runners have come up, those counted that came while the test waited for another event."""
    while told.heard.count("up") < count:
        told.wait("up")


def test_boots_of_one_event_are_one_request(make_pool: MakePool) -> None:
    """On one thread, with a token to cancel for each."""
    backend, told = ManyBackend(), Events()
    pool = make_pool(min=40, max=40, backend=backend, on_event=told)
    requests = backend.batch()
    assert numbers(requests) == list(range(1, 41))
    assert len({id(request.given_up) for request in requests}) == 40
    up(told, 40)
    assert backend.batches.empty()
    assert len(backend.threads) == 1
    assert (pool.stats().boots_attempted, pool.stats().boots_failed) == (40, 0)


def test_a_request_is_no_larger_than_the_backend_allows(make_pool: MakePool) -> None:
    """The last boot is alone, so it is an ordinary boot."""
    backend, told = ManyBackend(), Events()
    backend.max_boots_per_request = 2
    make_pool(min=5, max=5, backend=backend, on_event=told)
    up(told, 5)
    assert sorted([numbers(backend.batch()), numbers(backend.batch())]) == [[1, 2], [3, 4]]
    assert backend.batches.empty()


def test_a_part_of_the_boots_may_fail(make_pool: MakePool) -> None:
    """The calls run on the others meanwhile. Each error is that of its own boot, and is tried again."""

    def three_of_five(backend: ManyBackend, requests: Sequence[BootRequest]) -> Iterator[Outcome]:
        for request in requests[3:]:
            yield request, BootError(f"no capacity for {request.runner_id}")
        for request in requests[:3]:
            yield request, backend.boot(request)

    backend, told = ManyBackend(three_of_five), Events()
    pool = make_pool(min=5, max=5, backend=backend, on_event=told, max_boot_failures=5, **AT_ONCE)
    assert {told.wait("boot failed")["runner_id"] for _ in range(2)} == {4, 5}
    assert values([pool.submit(echo, number) for number in range(5)]) == list(range(5))
    up(told, 5)
    stats = pool.stats()
    assert (stats.boots_attempted, stats.boots_failed, stats.runners_up) == (7, 2, 5)


class StrangeError(BootError):
    """An error that cannot be copied."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


@pytest.mark.parametrize("error", [BootError("no answer"), StrangeError("no ", "answer"), OSError("no answer")])
def test_a_request_that_breaks_off_fails_the_boots_that_have_no_outcome(make_pool: MakePool, error: Exception) -> None:
    def one_then_none(backend: ManyBackend, requests: Sequence[BootRequest]) -> Iterator[Outcome]:
        yield requests[1], backend.boot(requests[1])
        raise error

    backend, told = ManyBackend(one_then_none), Events()
    pool = make_pool(min=4, max=4, backend=backend, on_event=told, max_boot_failures=9, **AT_ONCE)
    texts = [told.wait("boot failed")["text"] for _ in range(3)]
    assert all("no answer" in text for text in texts)
    up(told, 4)
    assert (pool.stats().boots_attempted, pool.stats().boots_failed) == (7, 3)


class Receiver:
    """A boot that keeps its outcome."""

    def __init__(self) -> None:
        self.outcome: Any = None
        self.is_shared = False

    def thread_started(self) -> None:
        """Nothing: the test has no timeout."""

    def node_arrived(self, node: Node) -> None:
        self.outcome = node

    def backend_raised(self, error: BootError, *, is_shared: bool) -> None:
        self.outcome, self.is_shared = error, is_shared


def test_a_request_that_fails_is_one_failure_in_a_row(make_pool: MakePool) -> None:
    """However many boots it had: the calls wait for the next one."""

    def none(backend: ManyBackend, requests: Sequence[BootRequest]) -> Iterator[Outcome]:
        raise BootError("the controller is away")
        yield

    backend, told = ManyBackend(none), Events()
    pool = make_pool(min=5, max=5, backend=backend, on_event=told, max_boot_failures=2, **AT_ONCE)
    futures = [pool.submit(echo, number) for number in range(5)]
    assert values(futures) == list(range(5))
    up(told, 5)
    assert (pool.stats().boots_attempted, pool.stats().boots_failed) == (10, 5)


@pytest.mark.parametrize("error", [BootError("no answer", final=True), StrangeError("no ", "answer")])
def test_each_boot_has_an_error_of_its_own(error: BootError) -> None:
    """Its output and its attempts are added to it."""
    error.__cause__ = OSError("the cause")

    def none(backend: ManyBackend, requests: Sequence[BootRequest]) -> Iterator[Outcome]:
        raise error
        yield

    class Here:
        def call_soon_threadsafe(self, callback: Callable[[], object]) -> None:
            callback()

    here: Any = Here()
    receivers = [Receiver() for _ in range(3)]
    parent: Any = None
    requests = [BootRequest(number, parent, 1.0) for number in range(3)]
    NodeBooter(ManyBackend(none), None, here).boot_many([*zip(requests, receivers, strict=True)])
    errors = [receiver.outcome for receiver in receivers]
    assert len({id(each) for each in errors}) == 3
    assert [receiver.is_shared for receiver in receivers] == [False, True, True]
    for each in errors:
        assert isinstance(each, BootError)
        assert "no answer" in str(each)
        assert (each.final, each.__cause__) == (error.final, error.__cause__)


def test_a_boot_without_an_outcome_fails_and_a_node_of_no_boot_is_stopped(make_pool: MakePool) -> None:
    def confused(backend: ManyBackend, requests: Sequence[BootRequest]) -> Iterator[Outcome]:
        yield requests[0], backend.boot(requests[0])
        yield requests[0], backend.boot(requests[0])
        yield requests[1], None  # type: ignore[misc]

    backend, told = ManyBackend(confused), Events()
    pool = make_pool(min=3, max=3, backend=backend, on_event=told, max_boot_failures=9, **AT_ONCE)
    texts = [told.wait("boot failed")["text"] for _ in range(2)]
    assert any("did not return this one" in text for text in texts)
    up(told, 3)
    assert backend.nodes[1].stops == 1
    assert pool.stats().runners_up == len(backend.running) == 3


class HeldBackend(ManyBackend):
    """Its first batch waits for the test, or until all of its boots are given up."""

    def __init__(self) -> None:
        super().__init__(HeldBackend._hold)
        self.go, self.all_given_up = threading.Event(), threading.Event()

    def _hold(self, requests: Sequence[BootRequest]) -> Iterator[Outcome]:
        assert isinstance(self, HeldBackend)
        nobody = when_all_given_up(requests)
        nobody.call(self.go.set)
        self.go.wait(PATIENCE)
        if nobody.is_set():
            self.all_given_up.set()
            raise BootError("nobody wants them any more")
        for request in requests:
            yield request, self.boot(request)


def test_a_boot_that_is_given_up_leaves_the_others_alone(make_pool: MakePool) -> None:
    """Its node comes all the same, with the others, and is stopped."""
    backend, told = HeldBackend(), Events()
    pool = make_pool(min=3, max=3, backend=backend, on_event=told)
    requests = backend.batch()
    pool.resize(min=2, max=2)
    assert requests[2].given_up is not None
    assert requests[2].given_up.wait(PATIENCE)
    assert [request.given_up.is_set() for request in requests if request.given_up] == [False, False, True]
    backend.go.set()
    assert told.wait("boot given up")["runner_id"] == 3
    up(told, 2)
    assert [node.stops for node in backend.nodes] == [0, 0, 1]
    assert (pool.stats().boots_failed, pool.stats().runners_up) == (0, 2)


def test_a_pool_that_ends_gives_all_of_them_up(make_pool: MakePool) -> None:
    backend = HeldBackend()
    pool = make_pool(min=3, max=3, backend=backend)
    backend.batch()
    pool.shutdown()
    assert backend.all_given_up.is_set()
    assert backend.nodes == []


def test_a_boot_that_was_aborted_before_its_thread_is_not_asked_for(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is one thread for boots: the second batch waits for it, and loses a boot meanwhile."""
    one_boot_thread(monkeypatch)
    backend, told = HeldBackend(), Events()
    backend.max_boots_per_request = 2
    pool = make_pool(min=5, max=5, backend=backend, on_event=told)
    assert numbers(backend.batch()) == [1, 2]
    pool.resize(min=3, max=3)
    wait_until(lambda: pool.stats().runners_booting == 3)
    backend.go.set()
    up(told, 3)
    # Of the second batch one boot is left, so it is an ordinary boot. Nothing is left of the third.
    assert backend.batches.empty()
    assert sorted(numbers(backend.requests)) == [1, 2, 3]


@pytest.mark.parametrize("count", [0, 1.5, "9", None])
def test_a_backend_with_a_number_of_boots_that_is_none_is_refused(count: Any) -> None:
    backend = ManyBackend()
    backend.max_boots_per_request = count
    with pytest.raises((TypeError, ValueError), match="max_boots_per_request of the fake backend must be"):
        Pool("refused", min=0, max=1, backend=backend)


class Job:
    """A boot that was not cancelled."""

    def __init__(self) -> None:
        self.receiver = self

    def run(self, request: BootRequest) -> None:
        """Nothing: the workers of this test run no job."""

    def begin(self) -> bool:
        return True


def test_only_boots_that_require_the_same_are_asked_for_together() -> None:
    """A batch is closed at the end of the pass in which it was opened, and has the oldest boot first."""
    soon: list[Callable[[], object]] = []
    ran: list[tuple[Any, ...]] = []

    class Here:
        def call_soon(self, callback: Callable[[], object]) -> None:
            soon.append(callback)

        def run(self, job: Any, *args: Any) -> None:
            ran.append(args)

    here: Any = Here()
    batches = BootBatches(ManyBackend(), here, here, here)
    gpus = [None, Requirements(gpus=1), None, Requirements(gpus=2), Requirements(gpus=1), None]
    for number, requires in reversed([*enumerate(gpus, 1)]):
        parent: Any = None
        batches.add(Job(), BootRequest(number, parent, 1.0, requires=requires))  # type: ignore[arg-type]
    assert len(soon) == 1
    assert not ran
    soon.pop()()
    assert [numbers([request for _, request in batch]) for (batch,) in ran] == [[1, 3, 6], [2, 5], [4]]


# -- a node that is another one than was asked for ---------------------------------------------------------------------


class SmallBackend(FakeBackend):
    """Its nodes have two CPUs, whatever they were asked to have. Each boot waits for the test."""

    def __init__(self) -> None:
        super().__init__(slots=2)
        self.asked, self.go = SimpleQueue[BootRequest](), threading.Semaphore(0)

    def boot(self, request: BootRequest) -> Node:
        self.asked.put(request)
        self.go.acquire()
        node = super().boot(request)
        node.capacity = Capacity(2.0)
        return node


def test_a_runner_that_is_too_small_runs_the_calls_that_fit(
    make: MakeExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    """The boot counts as failed for the calls that asked for it."""
    backend = SmallBackend()
    executor = make(None, backend=backend, max=1, max_boot_failures=1)
    large = executor.options(requires={"cpus": 4}).submit(echo, "large")
    required = backend.asked.get(timeout=PATIENCE).requires
    assert required is not None
    assert required.cpus == 4
    small = [executor.submit(echo, "small"), executor.options(requires={"cpus": 2}).submit(echo, "two")]
    backend.go.release()
    assert values(small) == ["small", "two"]
    error = error_of(large)
    assert isinstance(error, BootError)
    assert "runner 1 has 2 CPUs, and the calls that wait for it require 4 CPUs" in str(error)
    executor.shutdown()
    assert "require less. It runs other calls, which fit there" in caplog.text
    assert len(backend.nodes) == 1
    assert backend.nodes[0].stops == 1


def test_a_runner_that_is_too_small_is_stopped_if_no_call_fits(make: MakeExecutor) -> None:
    backend = SmallBackend()
    executor = make(None, backend=backend, max=2, max_boot_failures=1)
    large = executor.options(requires={"cpus": 4}).submit(echo, "large")
    backend.asked.get(timeout=PATIENCE)
    backend.go.release()
    assert "require less" in str(error_of(large))
    assert backend.nodes[0].stops == 1
    assert executor.pool.stats().runners_up == 0
