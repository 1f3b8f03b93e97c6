"""What nobody knows for certain of Fly: a backend that is right must be so whichever way it is.

The simulator has a switch for each such behaviour (`tests.support.fly_simulator.uncertain`). Here a pool lives its
whole life under every other position of every switch: machines that end while they boot, answers that are lost,
refusals, calls, the end, a sweep. What the switches themselves do is in the tests of the simulator.
"""

from __future__ import annotations

import dataclasses
import os
import threading
import time
import typing
from typing import Any

import pytest

from dragonfly_executor import BootError, BootTimeoutError
from dragonfly_executor.backends.fly import creation, node
from dragonfly_executor.backends.label import OwnerLabel
from dragonfly_executor.backends.owner import Owner
from tests.backends.fly.boots import boot, nothing_is_left
from tests.backends.fly.conftest import Make, MakeBackend
from tests.support.fly_simulator import errors
from tests.support.fly_simulator.simulator import Simulator
from tests.support.fly_simulator.state import Machine
from tests.support.fly_simulator.uncertain import Switches
from tests.support.helpers import PATIENCE, Events, error_of

Positions = dict[str, Any]

LIVES: tuple[Positions, ...] = (
    {"retry_after": "seconds", "errors_are_html": False, "second_destroy": 404, "starting_is_shown": False},
    {"retry_after": "date", "rate_body_is_plain": True, "second_destroy": 409, "exit_event_nested": True},
    {"second_destroy": 412, "wait_stopped_is_404": False, "exit_event_omits_zero": True, "secret_wins": False},
    {"skips_secrets": False},
    {"gets_destroying_after_wait": 2, "name_free_while_destroying": True, "exited_at_is_text": True},
    {"destroyed_readable": 0.0, "wait_takes_from_rate": False, "create_commits_late": True},
    # docs/fly.md: a machine's environment gets about half a kilobyte from here.
    {"name_limit": None, "env_limit": 640},
)
"""Nothing of it matters to what a pool gets done. Those in one line have nothing to do with each other."""
NO_IMAGE = {"image": "registry.fly.io/media:nowhere"}
REFUSALS: tuple[tuple[Positions, Positions, str], ...] = (
    *(({"missing_image_status": status}, NO_IMAGE, "MANIFEST_UNKNOWN") for status in (403, 404, 409, 412, 422)),
    *(
        ({"bad_guest_status": status}, {"machine_config": {"guest": {"cpus": 3}}}, "no performance guest with 3 cpus")
        for status in (403, 404, 409, 412, 422)
    ),
    *(({"plan_limit_status": status}, {}, "add a payment method") for status in (400, 402, 403, 409, 412)),
    ({"performance_memory_step": 2048}, {"cpus": 1, "memory_mb": 3072}, "not a multiple of 2048 MB"),
    ({"name_limit": 40}, {}, "longer than 40 characters"),
    ({"env_limit": 100}, {}, "the limit is 100"),
)
"""Under these a machine with these options is refused, in these words."""
LATER: tuple[Positions, ...] = ({"missing_image": "launch_failed"}, {"missing_image": "stuck"})
"""Under these an image that is missing shows when there is a machine."""
SEEN_LATE: Positions = {"affinity_is_heeded": False}
"""Under this there may seem to be no machine when one has just been created."""
NOT_MET = {"lease_status": "the backend takes no lease"}
"""Why nothing that the backend asks for depends on it; the lives below see to it that this stays true."""


class Noted(Switches):
    """Switches that know which of them were looked at."""

    def __init__(self) -> None:
        self.read: set[str] = set()
        super().__init__()

    def __getattribute__(self, name: str) -> Any:
        if name in NAMES:
            self.read.add(name)
        return super().__getattribute__(name)


NAMES = {field.name for field in dataclasses.fields(Switches)}


def turned(fly: Simulator, positions: Positions) -> Noted:
    """The simulator's switches, these in another position."""
    noted = Noted()
    for name, value in positions.items():
        setattr(noted, name, value)
    noted.read.clear()
    fly.switches = fly.world.switches = noted
    return noted


def name_of(case: Positions) -> str:
    return ",".join(f"{name}={value}" for name, value in case.items())


# -- each is tried -----------------------------------------------------------------------------------------------------


def test_every_switch_is_tried_in_every_other_position() -> None:
    """Whoever adds a switch says here where it is tried."""
    tried: dict[str, set[Any]] = {name: set() for name in NOT_MET}
    for case in (*LIVES, *(case for case, _, _ in REFUSALS), *LATER, SEEN_LATE):
        for name, value in case.items():
            tried.setdefault(name, set()).add(value)
    assert tried.keys() == NAMES
    kinds = typing.get_type_hints(Switches)
    for field in dataclasses.fields(Switches):
        if field.name not in NOT_MET:
            assert tried[field.name], field.name
            assert field.default not in tried[field.name], f"{field.name}: that is how it stands anyway"
            assert tried[field.name] >= positions(kinds[field.name]) - {field.default}, field.name


def positions(kind: Any) -> set[Any]:
    """All that there are, where these can be counted."""
    if kind is bool:
        return {True, False}
    if typing.get_origin(kind) is typing.Literal:
        return set(typing.get_args(kind))
    parts = typing.get_args(kind)
    return set().union(*map(positions, parts)) if parts else {None} if kind is type(None) else set()


# -- a life ------------------------------------------------------------------------------------------------------------


def secret() -> str | None:
    return os.environ.get("PASSWORD")


def give_trouble(fly: Simulator) -> None:
    """Something of all that the switches are about."""
    name: str = fly.image.rpartition(":")[0]
    images = {0: f"{name}:no-python", 1: f"{name}:stuck"}
    fly.pulled = lambda machine: images.get(fly.world.booted.index(machine), fly.image)
    fly.timing.create_latency = 0.05
    fly.rates.refusals["create"] = 1
    # The first machine has destroyed itself by the time that it is told to go.
    fly.faults.on("destroy", before=lambda call: fly.wait_for(fly.machine(), "destroyed"))
    # The second one was made and nobody was told; and somebody destroys it, which lasts until its name is used again.
    lost = {"reply": errors.platform(502), "commit": True}
    fly.faults.on("create", nth=3, after=lambda call: fly.do(destroy_slowly, fly), **lost)
    fly.faults.on("create", nth=4, after=lambda call: fly.finish_destroy(fly.world.booted[1]))


def destroy_slowly(fly: Simulator) -> None:
    usual, fly.timing.destroy_time = fly.timing.destroy_time, 60.0
    fly._machines.destroy(fly.world.booted[1])
    fly.timing.destroy_time = usual


def left_behind(fly: Simulator) -> Machine:
    """A machine of a program that has ended."""
    label = OwnerLabel("b0", "another", Owner.me()._replace(started=1), int(time.time()) + 3600)
    config = {"image": fly.image, "metadata": label.encode()}
    return fly.do(lambda: fly.world.add("media", "dragonfly-left", "cdg", config, "::1"))


def lives(fly: Simulator, make: Make, make_backend: MakeBackend) -> str:
    """A pool, from its first boot, which fails, to the sweep after it. Returns what was said of that boot."""
    fly.app.secrets["PASSWORD"] = "of the app"
    options = {"python": "python3", "cpus": 1, "memory_mb": 3072}
    backend = make_backend(skip_secrets=False, env={"PASSWORD": "of the config"}, **options)
    give_trouble(fly)
    events = Events()
    with make(backend, on_event=events, max_boot_failures=5) as executor:
        futures = [executor.submit(pow, number, 2) for number in range(3)]
        assert [future.result(PATIENCE) for future in futures] == [0, 1, 4]
        passed = executor.submit(secret).result(PATIENCE)
    assert passed == ("of the app" if fly.switches.secret_wins else "of the config")
    free = fly.switches.name_free_while_destroying
    assert fly.history.statuses("create")[:4] == [429, 200, 502, 200 if free else 409]
    assert len(fly.world.booted) == 3
    assert fly.history.left == []
    left = left_behind(fly)
    swept = backend.sweep()
    assert [one.name for one in swept.destroyed] == [left.name]
    assert swept.left == []
    nothing_is_left(fly, backend)
    assert fly.history.of("lease") == []
    told: str = events.wait("boot failed")["text"]
    return told


def test_a_life_as_the_switches_stand(on_fly: Simulator, make: Make, make_backend: MakeBackend) -> None:
    noted = turned(on_fly, {})
    assert "exit code 127" in lives(on_fly, make, make_backend)
    assert noted.read >= {name for life in LIVES for name in life}


@pytest.mark.parametrize("life", LIVES, ids=name_of)
def test_a_life_with_some_of_them_turned(
    on_fly: Simulator, make: Make, make_backend: MakeBackend, life: Positions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "UNSEEN", 0.5)
    noted = turned(on_fly, life)
    told = lives(on_fly, make, make_backend)
    # What cannot be looked at any more has no exit code.
    assert ("is gone" if "destroyed_readable" in life else "exit code 127") in told
    assert noted.read >= life.keys(), "a switch that nothing looks at is none"


# -- a refusal ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("case", "options", "says"), REFUSALS, ids=[name_of(case) for case, _, _ in REFUSALS])
def test_what_is_refused_is_told_whatever_the_status(
    on_fly: Simulator,
    make_backend: MakeBackend,
    monkeypatch: pytest.MonkeyPatch,
    case: Positions,
    options: Positions,
    says: str,
) -> None:
    """And at once: only an image that is missing is asked for again, as it may have been pushed just now."""
    monkeypatch.setattr(creation, "TRIES_ON_MISSING_IMAGE", 2)
    on_fly.app.machine_limit = 1 if "plan_limit_status" in case else None
    noted = turned(on_fly, case)
    backend = make_backend(**options)
    with pytest.raises(BootError, match=says) as caught:
        boot(backend)
    assert not isinstance(caught.value, BootTimeoutError)
    assert len(on_fly.history.calls) == (3 if options is NO_IMAGE else 1)
    assert noted.read >= case.keys()
    nothing_is_left(on_fly, backend)


@pytest.mark.parametrize("case", LATER, ids=name_of)
def test_an_image_that_turns_out_to_be_missing_ends_the_boot(
    on_fly: Simulator, make: Make, make_backend: MakeBackend, case: Positions
) -> None:
    """By the word that its launch has failed, or with the boot's time."""
    noted = turned(on_fly, case)
    stuck = case["missing_image"] == "stuck"
    backend = make_backend(**NO_IMAGE)
    # The boot must also send its create request within this time, on a machine that is busy.
    with make(backend, boot_timeout=3.0 if stuck else 300.0, max_boot_failures=1) as executor:
        error = error_of(executor.submit(pow, 2, 3))
    assert isinstance(error, BootError)
    assert isinstance(error, BootTimeoutError) == stuck
    assert noted.read >= case.keys()
    nothing_is_left(on_fly, backend)


def test_a_machine_that_is_not_to_be_seen_yet_is_waited_for(
    on_fly: Simulator, make: Make, make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference 1.5: right after a create another host may be asked, which does not know of it."""
    monkeypatch.setattr(node, "UNSEEN", 3600.0)
    noted = turned(on_fly, SEEN_LATE)
    on_fly.timing.lag, on_fly.timing.pull_time = 3600.0, None
    looked = threading.Event()
    on_fly.faults.on("get", nth=2, before=lambda call: looked.set())
    backend = make_backend()
    with make(backend, max_boot_failures=1) as executor:
        future = executor.submit(pow, 2, 3)
        assert looked.wait(PATIENCE)
        on_fly.finish_pull(on_fly.machine())
        assert future.result(PATIENCE) == 8
        assert set(on_fly.history.statuses("get")) == {404}
        on_fly.timing.lag = 0.0
    assert noted.read >= SEEN_LATE.keys()
    nothing_is_left(on_fly, backend)
