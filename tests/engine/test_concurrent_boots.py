"""Many boots at once: each has a thread and a clock of its own, and nodes are given back beside them."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

import pytest

from dragonfly_executor import Backend, BootError, BootRequest, BootTimeoutError, Budget, Node, Pool
from dragonfly_executor.backends.base import GivenUp
from dragonfly_executor.testing import FakeBackend, FakeRunner, VirtualClock
from tests.engine.conftest import MakeExecutor, MakePool
from tests.engine.test_boot_failures import ObservedBackend
from tests.support.helpers import PATIENCE, Events, error_of, values
from tests.support.payloads import echo

AT_ONCE: dict[str, Any] = {"boot_wait": lambda state: 0.0}


class Meeting(FakeBackend):
    """Its boots wait until so many of them are under way."""

    def __init__(self, count: int, **options: Any) -> None:
        super().__init__(slots=1, **options)
        self._meeting = threading.Barrier(count)

    def boot(self, request: BootRequest) -> Node:
        self._meeting.wait(PATIENCE)
        return super().boot(request)


class Turns(FakeBackend):
    """A boot waits for its turn, which the test gives it, and for its answer, which the test gives it, too."""

    def __init__(self, *script: FakeRunner, answers: bool = True, **options: Any) -> None:
        super().__init__(*script, slots=1, **options)
        self.waiting = SimpleQueue[tuple[BootRequest, GivenUp]]()
        """Boots that wait for their turn, and what lets each go on."""
        self.asked = SimpleQueue[BootRequest]()
        self._answers = answers

    def wait_for_turn(self, request: BootRequest) -> None:
        request.queued()
        turn, either = GivenUp(), threading.Event()
        assert request.given_up is not None
        request.given_up.call(either.set)
        turn.call(either.set)
        self.waiting.put((request, turn))
        either.wait()
        if request.given_up.is_set():
            raise BootError("nobody wanted it any more")
        request.started()
        self.asked.put(request)

    def boot(self, request: BootRequest) -> Node:
        self.wait_for_turn(request)
        if not self._answers:
            assert request.given_up is not None
            request.given_up.wait()
            raise BootError("there was no answer")
        return super().boot(request)

    def give_turns(self, count: int) -> None:
        for _ in range(count):
            self.waiting.get(timeout=PATIENCE)[1].set()
            self.asked.get(timeout=PATIENCE)


class Watched(Turns):
    """Its nodes tell when they are given back."""

    def boot(self, request: BootRequest) -> Node:
        node: Any = super().boot(request)
        real, node.stopped = node.stop, threading.Event()

        def stop() -> None:
            real()
            node.stopped.set()

        node.stop = stop
        return node


def one_boot_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other thread for boots is to be had."""
    real = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if "-boots-" in thread.name and not thread.name.endswith("-boots-1"):
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)


def submit(pool: Pool, count: int) -> list[Future[int]]:
    return [pool.submit(echo, number) for number in range(count)]


# -- threads -----------------------------------------------------------------------------------------------------------


def test_forty_boots_run_at_once(make_pool: MakePool) -> None:
    """None waits for the thread of another one."""
    pool = make_pool(max=40, max_concurrency=1, single_use=True, backend=Meeting(40))
    assert values(submit(pool, 40)) == list(range(40))
    assert (pool.stats().boots_attempted, pool.stats().boots_failed) == (40, 0)


def test_a_backend_says_how_many_boots_it_can_run(make_pool: MakePool) -> None:
    """The pool asks for no more, and each one that ends makes room."""
    backend = Turns()
    backend.max_concurrent_boots = 3
    pool = make_pool(max=9, single_use=True, backend=backend)
    futures = submit(pool, 9)
    first = [backend.waiting.get(timeout=PATIENCE) for _ in range(3)]
    stats = pool.stats()
    assert (stats.runners_booting, stats.boots_attempted) == (3, 3)
    assert stats.limits_that_bind == ("max_concurrent_boots",)
    first[1][1].set()
    fourth = backend.waiting.get(timeout=PATIENCE)
    assert pool.stats().runners_booting == 3
    for _, turn in (first[0], first[2], fourth):
        turn.set()
    backend.give_turns(5)
    assert values(futures) == list(range(9))


@pytest.mark.parametrize("count", [0, -1, 1.5, "9", True, None])
def test_a_backend_with_a_number_of_boots_that_is_none_is_refused(count: Any) -> None:
    backend = FakeBackend()
    backend.max_concurrent_boots = count
    with pytest.raises((TypeError, ValueError), match="max_concurrent_boots of the fake backend must be"):
        Pool("refused", min=0, max=1, backend=backend)


def test_boots_whose_threads_cannot_be_started_wait_and_do_not_fail(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their time has not begun. One thread does it all."""
    clock, hold = VirtualClock(), threading.Event()
    one_boot_thread(monkeypatch)
    backend = FakeBackend(FakeRunner(hold=hold), slots=1, clock=clock)
    pool = make_pool(max=3, backend=backend, boot_timeout=30, single_use=True, **AT_ONCE)
    futures = submit(pool, 3)
    clock.advance(20)
    hold.set()
    assert futures[0].result(PATIENCE) == 0
    assert values(futures) == [0, 1, 2]
    assert pool.stats().boots_failed == 0


def test_a_node_is_given_back_while_all_boots_block(make_pool: MakePool) -> None:
    """Else a machine costs money for as long as others take to come."""
    events = Events()
    backend = Watched(FakeRunner(dies_after=1))
    backend.max_concurrent_boots = 2
    pool = make_pool(max=4, max_concurrency=1, backend=backend, on_event=events, retries=1)
    first = pool.submit(echo, 1)
    backend.give_turns(1)
    assert first.result(PATIENCE) == 1
    others = submit(pool, 3)
    backend.waiting.get(timeout=PATIENCE)
    backend.waiting.get(timeout=PATIENCE)
    # The runner has died of the first of these calls: its node goes, though all threads of boots are taken.
    assert events.wait("down")["runner_id"] == 1
    assert backend.nodes[0].stopped.wait(PATIENCE)
    for future in others:
        future.cancel()


def test_nodes_are_given_back_at_once_when_no_thread_can_be_started(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at the interpreter's end. Each of these nodes takes until all are being given back."""
    meeting, real = threading.Barrier(5), threading.Thread.start

    class Slow(FakeBackend):
        def boot(self, request: BootRequest) -> Node:
            node: Any = super().boot(request)
            stop = node.stop

            def stop_slowly() -> None:
                meeting.wait(PATIENCE)
                stop()

            node.stop = stop_slowly
            return node

    events, backend = Events(), Slow(slots=1)
    pool = make_pool(min=5, max=5, max_concurrency=1, backend=backend, on_event=events)
    for _ in range(5):
        events.wait("up")

    def start(thread: threading.Thread) -> None:
        if "-release-" in thread.name:
            raise RuntimeError("can't create new thread at interpreter shutdown")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    pool.shutdown()
    assert [node.stops for node in backend.nodes] == [1] * 5


# -- clocks ------------------------------------------------------------------------------------------------------------


def test_a_boot_has_its_time_from_when_its_node_is_asked_for(make_pool: MakePool) -> None:
    """However long it waits for its turn, it neither fails nor costs anything."""
    clock = VirtualClock()
    backend = Turns(clock=clock)
    pool = make_pool(max=3, boot_timeout=30, single_use=True, backend=backend, budget=Budget(machine_time=100))
    futures = submit(pool, 3)
    waiting = [backend.waiting.get(timeout=PATIENCE) for _ in range(3)]
    clock.advance(10_000)
    assert (pool.stats().machine_seconds, pool.stats().boots_failed) == (0.0, 0)
    for _, turn in waiting:
        turn.set()
    assert values(futures) == [0, 1, 2]
    assert pool.stats().boots_failed == 0


def test_a_boot_that_was_asked_for_uses_its_time_up(make_pool: MakePool) -> None:
    """From that moment on: it had waited for long. It costs what it takes from then on."""
    clock = VirtualClock()
    backend = Turns(answers=False, clock=clock)
    pool = make_pool(boot_timeout=30, max_boot_failures=1, backend=backend, **AT_ONCE)
    future = pool.submit(echo, 1)
    _, turn = backend.waiting.get(timeout=PATIENCE)
    clock.advance(1000)
    turn.set()
    backend.asked.get(timeout=PATIENCE)
    clock.advance(29)
    assert not future.done()
    assert pool.stats().machine_seconds == pytest.approx(29)
    clock.advance(2)
    error = error_of(future)
    assert isinstance(error, BootTimeoutError)
    assert "within 30 s" in str(error)
    assert pool.stats().machine_seconds == pytest.approx(31)


def test_a_boot_that_has_to_wait_again_has_all_of_its_time_after_that(make_pool: MakePool) -> None:
    """It was refused at a rate limit, say. There was no node, so it has cost nothing."""
    clock = VirtualClock()

    class Refused(Turns):
        def boot(self, request: BootRequest) -> Node:
            self.wait_for_turn(request)
            return super().boot(request)

    backend = Refused(clock=clock)
    pool = make_pool(boot_timeout=30, backend=backend)
    future = pool.submit(echo, 1)
    for _ in range(2):
        _, turn = backend.waiting.get(timeout=PATIENCE)
        clock.advance(29)
        assert pool.stats().machine_seconds == 0.0
        turn.set()
        backend.asked.get(timeout=PATIENCE)
    assert future.result(PATIENCE) == 1


def test_a_backend_that_never_says_so_counts_from_its_boot(make_pool: MakePool) -> None:
    clock, begun = VirtualClock(), threading.Event()

    class Silent(FakeBackend):
        def boot(self, request: BootRequest) -> Node:
            begun.set()
            return super().boot(request)

    pool = make_pool(backend=Silent(FakeRunner(hangs=True), clock=clock), boot_timeout=30, max_boot_failures=1)
    future = pool.submit(echo, 1)
    assert begun.wait(PATIENCE)
    clock.advance(10)
    assert pool.stats().machine_seconds == pytest.approx(10)
    clock.advance(21)
    assert isinstance(error_of(future), BootTimeoutError)


def test_a_node_that_comes_while_its_backend_is_said_to_wait_is_a_node(make_pool: MakePool) -> None:
    """A backend may forget to say that it goes on."""
    clock = VirtualClock()

    class Forgetful(ObservedBackend):
        def boot(self, request: BootRequest) -> Node:
            request.queued()
            return super().boot(request)

    backend = Forgetful(FakeRunner(silent=True), clock)
    pool = make_pool(backend=backend, boot_timeout=30, max_boot_failures=1)
    future = pool.submit(echo, 1)
    assert backend.taken.wait(PATIENCE)
    clock.advance(31)
    error = error_of(future)
    assert isinstance(error, BootTimeoutError)
    assert error.phase == "handshake"


# -- what is given up --------------------------------------------------------------------------------------------------


def test_a_boot_that_waits_for_its_turn_is_given_up_and_not_failed(make_pool: MakePool) -> None:
    """Its backend raises then, and that is no failure: nothing backs off."""
    events, backend = Events(), Turns()
    pool = make_pool(max=2, single_use=True, backend=backend, on_event=events, boot_wait=lambda state: 1000.0)
    futures = submit(pool, 2)
    for _ in range(2):
        backend.waiting.get(timeout=PATIENCE)
    pool.resize(max=1)
    assert "resized" in events.wait("boot given up")["text"]
    pool.resize(max=2)
    backend.waiting.get(timeout=PATIENCE)
    stats = pool.stats()
    assert (stats.boots_failed, stats.back_off_until, stats.last_boot_error) == (0, None, None)
    assert "boot failed" not in events.heard
    for future in futures:
        future.cancel()


@pytest.mark.parametrize("raises", [BootError("cut"), OSError("cut"), SystemExit(1)], ids=repr)
def test_a_boot_that_was_given_up_and_then_raises_is_told_as_given_up(
    make_pool: MakePool, raises: BaseException
) -> None:
    """Whatever it raises: `stats` knows of no failure, no pause is made, and the hooks hear why."""
    events, ends, begun = Events(), SimpleQueue[tuple[object, Any]](), threading.Event()

    class Raising(FakeBackend):
        def boot(self, request: BootRequest) -> Node:
            if request.runner_id > 1:
                return super().boot(request)
            assert request.given_up is not None
            begun.set()
            request.given_up.wait()
            raise raises

    pool = make_pool(
        max=1,
        backend=Raising(),
        on_event=events,
        on_grow_end=lambda result, facts: ends.put((result, facts)),
        boot_wait=lambda state: 1000.0,
        max_boot_failures=1,
    )
    future = pool.submit(echo, 1)
    assert begun.wait(PATIENCE)
    pool.resize(min=1, max=1)
    pool._engine.post(_leaving(1))
    assert "leaving" in events.wait("boot given up")["text"]
    assert future.result(PATIENCE) == 1, "the next boot waits for nothing"
    stats = pool.stats()
    assert (stats.boots_attempted, stats.boots_failed, stats.back_off_until) == (2, 0, None)
    result, _ = ends.get(timeout=PATIENCE)
    assert "given up: leaving" in str(result)
    assert "boot failed" not in events.heard


def _leaving(runner_id: int) -> Any:
    from dragonfly_executor.core.events import RunnerLeaving

    return RunnerLeaving(runner_id)


def test_a_boot_that_has_no_thread_yet_is_dropped_without_a_trace(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backend never hears of it, and nobody else does."""
    events, hold, clock = Events(), threading.Event(), VirtualClock()
    one_boot_thread(monkeypatch)
    backend = FakeBackend(FakeRunner(hold=hold), slots=1, clock=clock)
    pool = make_pool(max=3, backend=backend, on_event=events, single_use=True)
    futures = submit(pool, 3)
    assert events.wait("boot")["runner_id"] == 1
    for future in futures[1:]:
        assert future.cancel()
    pool.resize(max=1)
    clock.advance(0)
    assert [runner.id for runner in pool.stats().runners] == [1]
    hold.set()
    assert futures[0].result(PATIENCE) == 0
    pool.shutdown()
    assert len(backend.requests) == 1
    events.wait("down")
    assert set(events.heard) == {"boot", "up", "down"}
    assert events.heard.count("boot") == 1


def test_a_backend_that_hangs_holds_a_shutdown_up_for_seconds_at_most(
    make: MakeExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    """It breaks its promise: it was told that nobody wants the runner any more."""
    clock, hold, begun = VirtualClock(), threading.Event(), threading.Event()

    class Hanging(FakeBackend):
        def boot(self, request: BootRequest) -> Node:
            begun.set()
            return super().boot(request)

    backend = Hanging(FakeRunner(hold=hold), clock=clock)
    executor = make(backend=backend, boot_timeout=3600)
    future = executor.submit(echo, 1)
    assert begun.wait(PATIENCE)
    executor.shutdown(wait=False, cancel_futures=True)
    future.cancel()
    clock.advance(4.9)
    assert executor.pool.stats().runners_stopping == 1
    clock.advance(0.2)
    executor.shutdown()
    assert "-boots-1 has not ended: its job still blocks" in caplog.text
    hold.set()
    for thread in threading.enumerate():
        if "-boots-" in thread.name:
            thread.join(PATIENCE)
    assert [node.stops for node in backend.nodes] == [1]
    assert backend.running == []


def test_a_boot_that_gets_no_thread_for_one_that_hangs_ends(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other thread is to be had, as at the interpreter's end: nothing waits for ever."""
    clock, hold, begun = VirtualClock(), threading.Event(), threading.Event()
    one_boot_thread(monkeypatch)

    class Hanging(FakeBackend):
        def boot(self, request: BootRequest) -> Node:
            begun.set()
            return super().boot(request)

    backend = Hanging(FakeRunner(hold=hold), clock=clock)
    pool = make_pool(backend=backend, boot_timeout=30, max_boot_failures=2, **AT_ONCE)
    future = pool.submit(echo, 1)
    assert begun.wait(PATIENCE)
    clock.advance(31)
    assert not future.done()
    clock.advance(31)
    error = error_of(future)
    assert isinstance(error, BootTimeoutError)
    assert "no thread was free within 30 s: the backend blocks in 1 other boots" in str(error)
    hold.set()


def test_a_place_is_kept_by_a_boot_that_hangs_until_the_backend_comes_back(make_pool: MakePool) -> None:
    """A backend that runs one boot at a time is not asked for two, and calls do not wait for nothing."""
    clock, hold = VirtualClock(), threading.Event()
    begun, made = SimpleQueue[int](), SimpleQueue[Any]()

    class OneAtATime(FakeBackend):
        max_concurrent_boots = 1

        def boot(self, request: BootRequest) -> Node:
            begun.put(request.runner_id)
            node = super().boot(request)
            made.put(node)
            return node

    backend = OneAtATime(FakeRunner(hold=hold), clock=clock)
    pool = make_pool(max=3, backend=backend, boot_timeout=30, **AT_ONCE)
    future = pool.submit(echo, 1)
    begun.get(timeout=PATIENCE)
    clock.advance(31)
    error = error_of(future)
    assert isinstance(error, BootError)
    assert "1 boots that were given up still block in the backend" in str(error)
    assert isinstance(error.__cause__, BootTimeoutError)
    assert begun.empty()
    hold.set()
    # When the late node is given back, the engine knows.
    made.get(timeout=PATIENCE).agent.join(PATIENCE)
    clock.advance(0)
    assert pool.call(echo, 2) == 2


def test_rude_backends_do_not_know_of_all_this(make: MakeExecutor) -> None:
    """One that has none of our attributes but `boot` is a backend."""

    class Plain(Backend):
        name = "plain"
        default_max = 2

        def boot(self, request: BootRequest) -> Node:
            return FakeBackend().boot(request)

    assert make(backend=Plain()).submit(echo, 1).result(PATIENCE) == 1
