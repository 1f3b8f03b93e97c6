"""Giving a machine back: told until it is told, waited for until it is gone, bounded, and written down if it is not."""

from __future__ import annotations

import logging
import math
import threading
from typing import Any

import pytest

from dragonfly_executor import FlyBackend
from dragonfly_executor.backends.fly import node as node_module
from tests.backends.fly.boots import ASLEEP_CONFIG, boot, nothing_is_left
from tests.backends.fly.conftest import Make, MakeBackend
from tests.support.fly_simulator import errors
from tests.support.fly_simulator.calls import Reply
from tests.support.fly_simulator.faults import rate_limited
from tests.support.fly_simulator.simulator import Simulator
from tests.support.helpers import PATIENCE


@pytest.fixture
def backend(make_backend: MakeBackend) -> FlyBackend:
    return make_backend(machine_config=ASLEEP_CONFIG)


@pytest.fixture
def short_stops(monkeypatch: pytest.MonkeyPatch) -> float:
    """Seconds that a stop may take."""
    monkeypatch.setattr(node_module, "STOP_TIMEOUT", 0.6)
    return 0.6


def test_a_machine_is_destroyed_with_force_whatever_runs_there(on_fly: Simulator, backend: FlyBackend) -> None:
    node = boot(backend)
    on_fly.wait_for(on_fly.machine(), "started")
    node.stop()
    nothing_is_left(on_fly, backend)
    (call,) = on_fly.history.of("destroy")
    assert call.first("force") == "true"
    node.stop()
    assert len(on_fly.history.of("destroy")) == 1


def test_two_threads_stop_it_once(on_fly: Simulator, backend: FlyBackend) -> None:
    node = boot(backend)
    threads = [threading.Thread(target=node.stop) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(on_fly.history.of("destroy")) == 1
    nothing_is_left(on_fly, backend)


@pytest.mark.parametrize("second", [200, 404, 412])
def test_a_machine_that_is_gone_already_is_gone(on_fly: Simulator, backend: FlyBackend, second: int) -> None:
    """Which status that gets is not known (reference 7)."""
    on_fly.switches.second_destroy = second
    node = boot(backend)
    on_fly.destroy(on_fly.machine())
    on_fly.wait_for(on_fly.machine(), "destroyed")
    node.stop()
    nothing_is_left(on_fly, backend)


def test_a_machine_that_fly_does_not_know_any_more_is_gone(on_fly: Simulator, backend: FlyBackend) -> None:
    on_fly.switches.destroyed_readable = 0.0
    node = boot(backend)
    on_fly.destroy(on_fly.machine())
    on_fly.wait_for(on_fly.machine(), "destroyed")
    node.stop()
    nothing_is_left(on_fly, backend)


@pytest.mark.parametrize(
    "trouble",
    [
        {"reply": errors.not_stopped()},
        {"reply": rate_limited()},
        {"reply": errors.platform(500)},
        {"reply": errors.platform(503, html=True)},
        {"reply": errors.flaps_timed_out()},
        {"reply": errors.lease_held("7811", "somebody", "2026-01-01T00:00:00Z")},
        {"reply": Reply(409, "")},
        {"reset": True},
        {"cut": True, "commit": True},
        {"truncate": 3},
        {"reply": errors.platform(502), "commit": True},
    ],
    ids=["412", "429", "500", "503", "408", "lease", "empty-409", "reset", "cut-done", "truncated-done", "502-done"],
)
def test_what_is_in_the_way_does_not_last(on_fly: Simulator, backend: FlyBackend, trouble: dict[str, Any]) -> None:
    node = boot(backend)
    on_fly.faults.on("destroy", times=2, **trouble)
    node.stop()
    nothing_is_left(on_fly, backend)


@pytest.mark.parametrize(
    "trouble",
    [
        {"reply": errors.platform(502)},
        {"reset": True},
        {"reply": errors.no_machine()},
        {"reply": errors.not_reached(["destroyed"], "destroying"), "times": 3},
    ],
    ids=["502", "reset", "404", "408s"],
)
def test_the_wait_for_its_end_may_go_wrong(on_fly: Simulator, backend: FlyBackend, trouble: dict[str, Any]) -> None:
    node = boot(backend)
    on_fly.faults.on("wait", **trouble)
    node.stop()
    on_fly.until(lambda world: not world.alive)
    nothing_is_left(on_fly, backend)


@pytest.mark.parametrize(
    "trouble",
    [
        {"hang": True, "commit": False},
        {"reply": errors.platform(503)},
        {"reply": errors.unauthorized()},
        {"reply": rate_limited("3600")},
        {"delay": 30.0},
    ],
    ids=["hang", "503", "401", "429", "foreign-lease"],
)
def test_a_stop_is_bounded_and_what_is_left_is_written_down(
    on_fly: Simulator,
    backend: FlyBackend,
    trouble: dict[str, Any],
    short_stops: float,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And a later sweep sees to it, though its owner, this process, is alive."""
    node = boot(backend)
    on_fly.faults.on("destroy", times=math.inf, **trouble)
    with caplog.at_level(logging.WARNING, "dragonfly_executor"):
        node.stop()
    assert "A later sweep destroys it" in caplog.text
    assert on_fly.token not in caplog.text
    (machine,) = on_fly.history.left
    assert backend.journal is not None
    (entry,) = backend.journal.entries()
    assert (entry.name, entry.machine_id, entry.abandoned) == (machine.name, machine.id, True)
    on_fly.faults.clear()
    assert [one.name for one in backend.sweep().destroyed] == [machine.name]
    nothing_is_left(on_fly, backend)


def test_a_lost_host_keeps_its_machine_and_is_told_once(
    on_fly: Simulator, backend: FlyBackend, short_stops: float
) -> None:
    """Reference 2: it is destroyed when the host comes back; until then it is written down."""
    node = boot(backend)
    machine = on_fly.machine()
    on_fly.wait_for(machine, "started")
    on_fly.lose_host(machine)
    node.stop()
    assert machine.state == "destroying"
    assert backend.journal is not None
    assert [entry.abandoned for entry in backend.journal.entries()] == [True]
    assert len(on_fly.history.of("destroy")) == 1
    on_fly.find_host_again(machine)
    on_fly.wait_for(machine, "destroyed")
    backend.sweep()
    nothing_is_left(on_fly, backend)


def test_a_journal_that_cannot_be_written_stops_nothing(
    on_fly: Simulator, backend: FlyBackend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    node = boot(backend)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    node.stop()
    assert on_fly.history.left == []


def test_connections_end_with_the_last_machine(on_fly: Simulator, backend: FlyBackend) -> None:
    """They are kept until then: what follows a boot needs no other."""
    first, second = boot(backend), boot(backend)
    first.stop()
    assert backend.api._connections._idle
    second.stop()
    assert not backend.api._connections._idle


def test_a_pool_that_is_shut_down_waits_until_its_machines_are_gone(
    on_fly: Simulator, make: Make, make_backend: MakeBackend
) -> None:
    on_fly.timing.destroy_time = 0.5
    backend = make_backend()
    executor = make(backend)
    assert executor.submit(pow, 2, 3).result(PATIENCE) == 8
    executor.shutdown()
    nothing_is_left(on_fly, backend)


def test_without_a_journal_it_is_seen_to_for_longer(
    on_fly: Simulator, make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No sweep goes on with it while this process lives."""
    monkeypatch.setattr(node_module, "STOP_TIMEOUT", 0.0)
    monkeypatch.setattr(node_module, "UNRECORDED_TIMEOUT", 20.0)
    node = boot(make_backend(machine_config=ASLEEP_CONFIG, journal=False))
    on_fly.faults.on("destroy", times=3, reply=errors.platform(503))
    node.stop()
    assert on_fly.history.left == []
    assert "could not be confirmed" not in caplog.text


def test_a_machine_that_cannot_be_destroyed_holds_its_place_for_a_moment(
    on_fly: Simulator, make: Make, make_backend: MakeBackend, short_stops: float
) -> None:
    """It stands in the journal: the next runner boots, and the pool ends, though each DELETE fails."""
    on_fly.faults.on("destroy", times=math.inf, reply=errors.platform(503))
    backend = make_backend()
    executor = make(backend, max=1, single_use=True)
    assert [executor.submit(pow, 2, number).result(PATIENCE) for number in range(2)] == [1, 2]
    executor.shutdown()
    assert backend.journal is not None
    assert [entry.abandoned for entry in backend.journal.entries()] == [True, True]
    on_fly.faults.clear()
    backend.sweep()
    nothing_is_left(on_fly, backend)
