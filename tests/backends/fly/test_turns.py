"""A boot on Fly counts from when its create is sent; and its runner, once it is there, ends every wait."""

from __future__ import annotations

import math
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dragonfly_executor import Budget, FlyBackend
from dragonfly_executor.backends.base import BootRequest, Signal
from dragonfly_executor.backends.fly import client
from dragonfly_executor.backends.fly.node import FlyNode
from dragonfly_executor.backends.fly.rate_limit import RATES, RateLimit
from tests.backends.fly.boots import ASLEEP_CONFIG, nothing_is_left, request
from tests.backends.fly.conftest import Make, MakeBackend
from tests.support.fly_simulator import errors
from tests.support.fly_simulator.calls import Reply
from tests.support.fly_simulator.faults import rate_limited
from tests.support.fly_simulator.simulator import Simulator
from tests.support.helpers import PATIENCE, values

FOR_EVER = 3600.0


@pytest.fixture
def backend(make_backend: MakeBackend) -> FlyBackend:
    return make_backend(machine_config=ASLEEP_CONFIG)


class Clock:
    """Hears what a pool hears, and how many creates Fly had seen by then."""

    def __init__(self, fly: Simulator) -> None:
        self._fly = fly
        self.heard: list[tuple[str, int]] = []

    def queued(self) -> None:
        self.heard.append(("queued", len(self._fly.history.of("create"))))

    def started(self) -> None:
        self.heard.append(("started", len(self._fly.history.of("create"))))

    def ending(self, seconds: float, ended_by: str) -> None:
        assert 0 < seconds <= 86400, ended_by


def timed(fly: Simulator, **more: Any) -> tuple[BootRequest, Clock]:
    clock = Clock(fly)
    return request(**more)._replace(clock=clock), clock


# -- turns -------------------------------------------------------------------------------------------------------------


def test_a_boot_starts_as_its_create_is_sent(on_fly: Simulator, backend: FlyBackend) -> None:
    """What is loaded and written down before that takes none of its time, and its turn does not either."""
    asked, clock = timed(on_fly)
    backend.boot(asked).stop()
    assert clock.heard == [("queued", 0), ("started", 0)]
    nothing_is_left(on_fly, backend)


@pytest.mark.parametrize("refusal", [rate_limited("0"), errors.volume_host_full()], ids=["429", "full-host"])
def test_a_boot_that_is_refused_waits_again(on_fly: Simulator, make_backend: MakeBackend, refusal: Reply) -> None:
    """There is no machine."""
    backend = make_backend(machine_config=ASLEEP_CONFIG, region="cdg,lhr")
    on_fly.faults.on("create", reply=refusal, commit=False)
    asked, clock = timed(on_fly)
    backend.boot(asked).stop()
    assert clock.heard[:3] == [("queued", 0), ("started", 0), ("queued", 1)]
    assert clock.heard[-1] == ("started", 1)
    nothing_is_left(on_fly, backend)


def test_a_boot_whose_machine_may_be_there_goes_on_counting(on_fly: Simulator, backend: FlyBackend) -> None:
    """It was made, and nobody was told."""
    on_fly.faults.on("create", cut=True)
    asked, clock = timed(on_fly)
    backend.boot(asked).stop()
    assert clock.heard == [("queued", 0), ("started", 0), ("started", 1)]
    nothing_is_left(on_fly, backend)


def test_a_boot_that_waits_for_its_turn_loses_no_time(
    on_fly: Simulator, backend: FlyBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last one waits for longer than it may take."""
    monkeypatch.setitem(RATES, "create", RateLimit(3.0, 1))
    with ThreadPoolExecutor(8) as threads:
        nodes = list(threads.map(lambda number: backend.boot(request(1.5, number)), range(8)))
        assert on_fly.history.statuses("create") == [200] * 8
        list(threads.map(lambda node: node.stop(), nodes))
    nothing_is_left(on_fly, backend)


def test_a_pool_whose_machines_wait_for_their_turn_fails_no_boot(
    on_fly: Simulator, make: Make, make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it pay for machines that there are not."""
    monkeypatch.setitem(RATES, "create", RateLimit(0.01, 1))
    turns = threading.Semaphore(0)
    waiting = threading.Semaphore(0)

    def wait_for_turn(deadline: Any, seconds: float) -> None:
        deadline._request.queued()
        waiting.release()
        assert turns.acquire(timeout=PATIENCE)

    monkeypatch.setattr("dragonfly_executor.backends.fly.boot_deadline.FlyBootDeadline.wait_for_turn", wait_for_turn)
    backend = make_backend(machine_config=ASLEEP_CONFIG)
    backend.max_concurrent_boots = 3
    executor = make(backend, max=9, max_concurrency=1, boot_timeout=FOR_EVER, budget=Budget(machine_time=FOR_EVER))
    futures = [executor.submit(pow, 2, number) for number in range(9)]
    for _ in range(2):
        assert waiting.acquire(timeout=PATIENCE)
    on_fly.until(lambda world: world.booted)
    stats = executor.pool.stats()
    assert (stats.runners_booting, stats.boots_failed) == (3, 0)
    assert sum(runner.machine_seconds > 0 for runner in stats.runners) <= 1
    for future in futures:
        future.cancel()
    turns.release(9)


# -- a runner that is there --------------------------------------------------------------------------------------------


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers would be waited for all day."""
    monkeypatch.setattr(client, "CREATE_TIMEOUT", FOR_EVER)
    monkeypatch.setattr(client, "TIMEOUT", FOR_EVER)


@pytest.mark.parametrize(
    "answer",
    [
        {"hang": True},
        {"reply": errors.platform(500), "times": math.inf},
        {"reply": rate_limited("3600"), "times": math.inf},
    ],
    ids=["hangs", "500", "429"],
)
@pytest.mark.parametrize("listed", ["at-once", "late", "never"])
def test_a_runner_that_is_there_completes_its_boot(
    on_fly: Simulator, make: Make, make_backend: MakeBackend, patient: None, answer: dict[str, Any], listed: str
) -> None:
    """Whatever has become of the create's answer, and of the list's; and its machine is destroyed all the same."""
    on_fly.faults.on("create", commit=True, **answer)
    if listed != "at-once":
        reply = Reply(200, []) if listed == "late" else errors.platform(500)
        on_fly.faults.on("list", times=math.inf, reply=reply)
    backend = make_backend()
    executor = make(backend, boot_timeout=FOR_EVER)
    assert executor.submit(pow, 2, 5).result(PATIENCE) == 32
    stats = executor.pool.stats()
    assert (stats.boots_attempted, stats.boots_failed) == (1, 0)
    on_fly.faults.clear()
    if listed != "at-once":
        # The pool has yet to see the machine. If the machine ended by itself before that, its end could not be seen,
        # and the journal would keep its name until it has expired.
        pid = on_fly.pid(on_fly.machine())
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
    executor.shutdown()
    nothing_is_left(on_fly, backend)


def test_a_runner_that_is_there_but_not_wanted_is_undone(on_fly: Simulator, backend: FlyBackend, patient: None) -> None:
    """It dialed in just before the boot was given up."""
    dialed_in = Signal()
    asked = request()._replace(dialed_in=dialed_in)
    on_fly.faults.on("create", hang=True, after=lambda call: dialed_in.set())
    node = backend.boot(asked)
    assert isinstance(node, FlyNode)
    assert node.machine_id == on_fly.machine().id
    node.stop()
    nothing_is_left(on_fly, backend)


def test_values_of_many_calls_come_from_such_a_runner(
    on_fly: Simulator, make: Make, make_backend: MakeBackend, patient: None
) -> None:
    on_fly.faults.on("create", hang=True, times=math.inf)
    executor = make(make_backend(), max=2, max_concurrency=1)
    assert values(executor.submit(pow, 2, number) for number in range(6)) == [2**number for number in range(6)]
