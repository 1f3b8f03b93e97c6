"""Who has a machine is written on it, with the parent's app, and renewed: so what is left behind is known soon."""

from __future__ import annotations

import logging
import math
import time
from typing import Any

import pytest

from dragonfly_executor.backends.base import BootRequest, Node
from dragonfly_executor.backends.fly.node import FlyNode
from dragonfly_executor.backends.label import APP, HELD, HOLD, HOLD_FOR, OwnerLabel
from dragonfly_executor.backends.owner import Liveness, Owner
from dragonfly_executor.testing import FakeBackend
from tests.backends.fly.boots import ASLEEP_CONFIG, boot, nothing_is_left
from tests.backends.fly.conftest import Make, MakeBackend
from tests.backends.fly.test_leaks import elsewhere, label, look, machine_of
from tests.support.fly_simulator import errors
from tests.support.fly_simulator.calls import Reply
from tests.support.fly_simulator.simulator import Simulator
from tests.support.fly_simulator.state import App, Machine
from tests.support.helpers import PATIENCE

LONG_AGO = 600.0
"""Seconds: so old is a machine that is known everywhere."""


def made_by(fly: Simulator, written: OwnerLabel, age: float = LONG_AGO) -> Machine:
    """A runner with this written on it."""
    machine = machine_of(fly, written.encode())
    machine.created_at = time.time() - age
    return machine


def parent_in(fly: Simulator, app: str, *, is_there: bool, state: str = "started") -> OwnerLabel:
    """What a parent on a machine of this app writes; another machine of the app is there in any case."""
    world = fly.world
    fly.tokens[fly.token] = None
    world.apps.setdefault(app, App(app, "personal"))
    config: dict[str, Any] = {"image": fly.image}
    fly.do(lambda: world.add(app, f"{app}-1", "cdg", config, "::1", by_request=False))
    number = "00000000000000"
    if is_there:
        other = fly.do(lambda: world.add(app, f"{app}-2", "cdg", config, "::1", by_request=False))
        fly.do(world.move, other, state)
        number = other.id
    return label(owner=elsewhere()._replace(host=f"fly:{number}"), app=app)


# -- what is written ---------------------------------------------------------------------------------------------------


def test_the_label_names_the_parents_app_and_says_how_long_it_holds(
    on_fly: Simulator, make_backend: MakeBackend
) -> None:
    backend = make_backend(machine_config=ASLEEP_CONFIG)
    node = boot(backend, 30.0)
    written = on_fly.machine().metadata
    assert (written[APP], written[HOLD]) == ("media", str(int(HOLD_FOR) + 30))
    assert HELD not in written
    assert backend.journal is not None
    (entry,) = backend.journal.entries()
    assert entry.label == OwnerLabel.decode(written)
    node.stop()
    nothing_is_left(on_fly, backend)


def test_a_parent_outside_of_fly_names_no_app(on_fly: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLY_MACHINE_ID")
    assert Owner.me().app == ""


@pytest.mark.parametrize("app", ["", "../other", "a b", "x/y"])
def test_what_is_no_app_is_asked_nothing(app: str) -> None:
    """It would become a part of an address."""
    assert OwnerLabel.decode({**label().encode(), APP: app}) == label()


@pytest.mark.parametrize("key", [HOLD, HELD])
def test_a_claim_that_cannot_be_read_is_none(key: str) -> None:
    assert OwnerLabel.decode({**label().encode(), key: "for ever"}) == label()


def test_labels_from_before_are_read() -> None:
    """On machines, and in journals: see `test_journal`."""
    assert OwnerLabel.decode(label().encode()) == label()
    assert label().held_until(time.time()) is None


# -- a living parent renews --------------------------------------------------------------------------------------------


def test_a_living_parent_renews(
    on_fly: Simulator, make: Make, make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FlyNode, "renew_every", 0.2)
    began = time.time()
    with make(make_backend()) as executor:
        assert executor.submit(pow, 2, 3).result(PATIENCE) == 8
        machine = on_fly.machine()
        on_fly.until(lambda world: HELD in machine.metadata)
        assert began + HOLD_FOR - 5 < int(machine.metadata[HELD]) < time.time() + HOLD_FOR + 5
        on_fly.until(lambda world: len(on_fly.history.of("metadata_key")) >= 2)
    assert on_fly.openapi.violations == []


@pytest.mark.parametrize("trouble", [errors.platform(503), errors.unauthorized()])
def test_a_claim_that_cannot_be_renewed_is_a_warning_and_no_more(
    on_fly: Simulator,
    make_backend: MakeBackend,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    trouble: errors.ApiError,
) -> None:
    monkeypatch.setattr("dragonfly_executor.backends.fly.node.RENEW_TIMEOUT", 0.5)
    node = boot(make_backend(machine_config=ASLEEP_CONFIG))
    on_fly.faults.on("metadata_key", times=math.inf, reply=trouble)
    node.renew()
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "could not renew the claim on machine" in warning
    on_fly.faults.clear()
    node.renew()
    assert HELD in on_fly.machine().metadata
    node.stop()
    node.renew()
    assert len(caplog.records) == 1


def test_a_pool_renews_nodes_for_as_long_as_it_has_them(make: Make) -> None:
    """Whatever the backend is."""
    renewed: list[int] = []

    class Renewing(FakeBackend):
        def boot(self, request: BootRequest) -> Node:
            node = super().boot(request)
            node.renew_every = 0.01
            node.renew = lambda: renewed.append(request.runner_id)  # type: ignore[method-assign]
            return node

    executor = make(Renewing())
    assert executor.submit(pow, 2, 3).result(PATIENCE) == 8
    deadline = time.monotonic() + PATIENCE
    while len(renewed) < 3 and time.monotonic() < deadline:
        assert executor.submit(pow, 2, 3).result(PATIENCE) == 8
    executor.shutdown()
    assert set(renewed) == {1}


# -- what a sweep makes of it ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held", "liveness"),
    [(None, Liveness.GONE), (-3600, Liveness.GONE), (-100, Liveness.UNKNOWN), (3600, Liveness.UNKNOWN)],
    ids=["never", "not-any-more", "just-over", "renewed"],
)
def test_what_nobody_has_renewed_is_left_behind(
    on_fly: Simulator, make_backend: MakeBackend, held: float | None, liveness: Liveness
) -> None:
    """Of a parent that nobody here can ask after; its time is not over for a day."""
    until = 0 if held is None else int(time.time() + held)
    made_by(on_fly, label(owner=elsewhere(), hold=3600, held=until), 3 * 3600.0)
    (found,) = look(make_backend())
    assert found.liveness is liveness
    if liveness is Liveness.GONE:
        assert found.why == "its owner has not renewed its claim"


def test_what_was_made_just_now_is_held(on_fly: Simulator, make_backend: MakeBackend) -> None:
    made_by(on_fly, label(owner=elsewhere(), hold=3600), 1800.0)
    assert [found.liveness for found in look(make_backend())] == [Liveness.UNKNOWN]


def test_an_owner_that_is_seen_to_live_keeps_what_it_has_not_renewed(
    on_fly: Simulator, make_backend: MakeBackend
) -> None:
    made_by(on_fly, label(hold=3600), 3 * 3600.0)
    assert [found.liveness for found in look(make_backend())] == [Liveness.ALIVE]


@pytest.mark.parametrize("app", ["media", "web"])
@pytest.mark.parametrize(
    ("state", "liveness"),
    [("started", Liveness.UNKNOWN), ("stopped", Liveness.GONE), ("destroyed", Liveness.GONE), (None, Liveness.GONE)],
    ids=str,
)
def test_a_parent_is_asked_after_in_its_own_app(
    on_fly: Simulator, make_backend: MakeBackend, app: str, state: str | None, liveness: Liveness
) -> None:
    """Also one whose machine Fly does not even know any more."""
    machine = made_by(on_fly, parent_in(on_fly, app, is_there=state is not None, state=state or ""))
    backend = make_backend()
    (found,) = look(backend)
    assert found.liveness is liveness
    assert f"of app {app}" in found.why
    backend.sweep()
    assert (machine.state == "destroyed") == (liveness is Liveness.GONE)


def test_an_app_that_may_not_be_asked_says_nothing(on_fly: Simulator, make_backend: MakeBackend) -> None:
    """As where the token is the runners' app's alone."""
    made_by(on_fly, parent_in(on_fly, "web", is_there=False))
    on_fly.tokens[on_fly.token] = frozenset({"media"})
    assert [found.liveness for found in look(make_backend())] == [Liveness.UNKNOWN]


def test_an_app_that_is_gone_says_nothing(on_fly: Simulator, make_backend: MakeBackend) -> None:
    made_by(on_fly, label(owner=elsewhere()._replace(host="fly:0000"), app="web"))
    assert [found.liveness for found in look(make_backend())] == [Liveness.UNKNOWN]


def test_an_empty_list_does_not_say_that_a_parent_is_gone(on_fly: Simulator, make_backend: MakeBackend) -> None:
    """Reference 1.6: on one day lists came back empty for real apps."""
    made_by(on_fly, parent_in(on_fly, "web", is_there=False))
    backend = make_backend()
    on_fly.faults.on("list", times=math.inf, where=lambda call: call.app == "web", reply=Reply(200, []))
    assert [found.liveness for found in look(backend)] == [Liveness.UNKNOWN]


def test_a_parent_that_has_just_begun_may_not_be_known_everywhere(on_fly: Simulator, make_backend: MakeBackend) -> None:
    made_by(on_fly, parent_in(on_fly, "web", is_there=False), 5.0)
    assert [found.liveness for found in look(make_backend())] == [Liveness.UNKNOWN]


def test_a_parent_of_which_nobody_wrote_the_app_stays_unknown(on_fly: Simulator, make_backend: MakeBackend) -> None:
    made_by(on_fly, parent_in(on_fly, "web", is_there=False)._replace(app=""))
    assert [found.liveness for found in look(make_backend())] == [Liveness.UNKNOWN]
