"""The host of a runner reboots: the same machine starts again, with a token that is used up, and ends cleanly."""

from __future__ import annotations

import logging
import math
import time
from typing import Any

import pytest

from dragonfly_executor.backends.fly import node as node_module
from dragonfly_executor.protocol.parent import VARIABLE, Parent
from dragonfly_executor.runner import exit_codes
from tests.backends.fly.boots import nothing_is_left
from tests.backends.fly.conftest import Make, MakeBackend
from tests.support.fly_simulator import errors
from tests.support.fly_simulator.simulator import Simulator
from tests.support.fly_simulator.state import Machine
from tests.support.helpers import PATIENCE, Events, Gate, Mailbox


@pytest.fixture
def undestroyed(on_fly: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parent cannot destroy machines: what becomes of them is their own doing."""
    monkeypatch.setattr(node_module, "STOP_TIMEOUT", 0.2)
    on_fly.faults.on("destroy", times=math.inf, reply=errors.platform(503))


def date_back(machine: Machine, seconds: float) -> None:
    """Have its boot been over for so long."""
    parent = Parent.decode(machine.config["env"][VARIABLE])
    assert parent.until is not None
    machine.config["env"][VARIABLE] = parent._replace(until=int(time.time() - seconds)).encode()


def test_what_a_machine_is_told_of_the_end_of_its_boot(
    on_fly: Simulator, make: Make, make_backend: MakeBackend
) -> None:
    began = time.time()
    with make(make_backend(), boot_timeout=100.0) as executor:
        told = executor.submit(Parent.get).result(PATIENCE)
    assert told is not None
    assert told.until is not None
    assert began + 99 < told.until <= time.time() + 100


def test_a_call_that_may_be_tried_again_goes_to_another_machine(
    on_fly: Simulator, make: Make, make_backend: MakeBackend, mailbox: Mailbox, gate: Gate
) -> None:
    backend = make_backend()
    with make(backend) as executor:
        call = executor.options(retries=1).submit(
            eval, f"open({mailbox.path!r}, 'w').write('runs\\n') and open({gate.path!r}, 'rb').read(1) and 'done'"
        )
        assert mailbox.read() == "runs"
        first = on_fly.machine()
        on_fly.reboot(first)
        assert mailbox.read() == "runs"
        gate.open()
        assert call.result(PATIENCE) == "done"
        on_fly.wait_for(first, "destroyed")
    nothing_is_left(on_fly, backend)


def test_a_machine_that_starts_again_long_after_its_boot_ends_at_once_and_cleanly(
    on_fly: Simulator, make: Make, make_backend: MakeBackend, undestroyed: None, caplog: pytest.LogCaptureFixture
) -> None:
    """It does not even dial."""
    with make(make_backend(failsafe=PATIENCE)) as executor:
        assert executor.submit(pow, 2, 3).result(PATIENCE) == 8
        machine = on_fly.machine()
        date_back(machine, 1000.0)
        on_fly.reboot(machine)
        on_fly.wait_for(machine, "destroyed")
        assert "this machine was restarted, for example after a reboot of its host" in on_fly.log(machine)
        assert [ended.code for ended in machine.exits] == [exit_codes.STARTED_AGAIN]
        assert executor.submit(pow, 2, 3).result(PATIENCE) == 8
    assert "RunnerAuthError" not in caplog.text


def test_clocks_that_differ_by_minutes_end_no_boot(on_fly: Simulator, make: Make, make_backend: MakeBackend) -> None:
    def late(call: Any) -> None:
        parent = Parent.decode(call.body["config"]["env"][VARIABLE])
        call.body["config"]["env"][VARIABLE] = parent._replace(until=int(time.time() - 200)).encode()

    on_fly.faults.on("create", before=late)
    with make(make_backend()) as executor:
        assert executor.submit(pow, 2, 3).result(PATIENCE) == 8


def test_one_that_comes_again_while_others_are_waited_for_is_told_from_a_stranger(
    on_fly: Simulator, make: Make, make_backend: MakeBackend, undestroyed: None, caplog: pytest.LogCaptureFixture
) -> None:
    """The door is open for another boot, and its certificate is the same."""
    events = Events()
    on_fly.faults.on("create", nth=2, times=math.inf, hang=True, commit=False)
    with caplog.at_level(logging.WARNING), make(make_backend(), max=2, min=2, on_event=events) as executor:
        number = events.wait("up")["runner_id"]
        machine = on_fly.machine()
        on_fly.reboot(machine)
        on_fly.wait_for(machine, "destroyed")
        assert [ended.code for ended in machine.exits] == [exit_codes.REFUSED]
        executor.kill_workers()
    assert f"Runner {number} has connected before: a token is valid once; a machine that is restarted" in caplog.text
