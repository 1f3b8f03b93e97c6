"""What can be made to go wrong between a client and the simulator, and how often it may be asked."""

from __future__ import annotations

import email.utils
import math
import threading
import time
from typing import Any

import httpx
import pytest

from tests.backends.fly.asking import ASLEEP, Asker
from tests.support.fly_simulator import errors
from tests.support.fly_simulator.calls import Call, Reply
from tests.support.fly_simulator.faults import rate_limited
from tests.support.fly_simulator.simulator import Simulator
from tests.support.helpers import PATIENCE

STUCK = "registry.fly.io/media:stuck"


# -- which requests ----------------------------------------------------------------------------------------------------


def test_a_fault_meets_the_requests_that_it_is_for(fly: Simulator, asker: Asker) -> None:
    fly.rates.on = False
    fault = fly.faults.on("list", nth=2, times=2, reply=errors.platform(503))
    asker.create(image=STUCK)
    assert [asker.ask("GET").status_code for _ in range(5)] == [200, 503, 503, 200, 200]
    assert fault.used == 2
    of_created = {"times": math.inf, "where": lambda call: call.first("state") == "created"}
    fly.faults.on("list", reply=errors.platform(500), **of_created)
    assert [asker.ask("GET", params={"state": state}).status_code for state in ("created", "started")] == [500, 200]
    fly.faults.clear()
    assert asker.ask("GET", params={"state": "created"}).status_code == 200


def test_any_request_can_be_counted(fly: Simulator, asker: Asker) -> None:
    fly.faults.on("*", nth=2, reply=errors.platform(502))
    assert [asker.ask("GET").status_code, asker.http.get("/v1/apps/media").status_code] == [200, 502]


def test_of_several_faults_the_first_one_is_met(fly: Simulator, asker: Asker) -> None:
    fly.faults.on("list", reply=errors.platform(500))
    fly.faults.on("list", times=2, reply=errors.platform(503))
    assert [asker.ask("GET").status_code for _ in range(3)] == [500, 503, 200]


# -- what happens to them ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        errors.host_full(), errors.no_capacity(), errors.volume_host_full(), errors.host_disabled(),
        errors.over_quota("personal", "cdg", 40960), errors.payment_needed(), errors.no_candidate_host(),
        errors.concurrent_update(), errors.flaps_timed_out(), errors.unauthorized(),
        errors.platform(500, html=False), errors.platform(504, html=True), rate_limited("3600"),
    ],
    ids=str,
)  # fmt: skip
def test_an_answer_instead_of_the_true_one(fly: Simulator, asker: Asker, reply: errors.ApiError) -> None:
    """Nothing is carried out then."""
    fly.faults.on("create", reply=reply)
    response = asker.create(image=STUCK)
    assert response.status_code == reply.status
    assert response.text == reply.body if isinstance(reply.body, str) else response.json() == reply.body
    assert response.headers.get("retry-after") == reply.headers.get("Retry-After")
    assert fly.world.booted == []
    [call] = fly.history.of("create")
    assert not call.committed
    assert asker.create(image=STUCK).status_code == 200


@pytest.mark.parametrize("html", [True, False])
def test_the_form_of_what_the_platform_answers(fly: Simulator, asker: Asker, html: bool) -> None:
    """Section 7: whether it is JSON is not known."""
    fly.switches.errors_are_html = html
    fly.faults.on("list", reply=errors.platform(502))
    response = asker.ask("GET")
    assert response.headers["content-type"].partition(";")[0] == ("text/html" if html else "application/json")
    assert "<h1>502 bad gateway</h1>" in response.text if html else response.json() == {"error": "bad gateway"}


@pytest.mark.parametrize("reply", [errors.flaps_timed_out(), errors.platform(502, html=True)], ids=str)
def test_carried_out_and_answered_otherwise(fly: Simulator, asker: Asker, reply: errors.ApiError) -> None:
    fly.faults.on("create", commit=True, reply=reply)
    assert asker.create(image=STUCK).status_code == reply.status
    assert len(fly.world.booted) == 1
    assert [(call.committed, call.reply and call.reply.status) for call in fly.history.calls] == [(True, reply.status)]
    assert asker.create(image=STUCK).status_code == 409


@pytest.mark.parametrize("commit", [True, False])
@pytest.mark.parametrize(
    ("how", "error"), [("cut", httpx.RemoteProtocolError), ("reset", httpx.ReadError), ("hang", httpx.ReadTimeout)]
)
def test_no_answer(fly: Simulator, asker: Asker, how: str, error: type[Exception], commit: bool) -> None:
    fly.faults.on("create", commit=commit, **{how: True})
    with pytest.raises(error):
        asker.ask("POST", json={"config": {"image": STUCK}}, timeout=0.1 if how == "hang" else PATIENCE)
    fly.until(lambda world: fly.history.of("create") and len(world.booted) == commit)
    assert fly.history.statuses("create") == [None]
    assert asker.ask("GET").status_code == 200


def test_half_an_answer(fly: Simulator, asker: Asker) -> None:
    fly.faults.on("list", truncate=20)
    with pytest.raises(httpx.RemoteProtocolError):
        asker.ask("GET")


def test_half_of_the_json(fly: Simulator, asker: Asker) -> None:
    fly.faults.on("list", reply=Reply(200, b'[{"id": "'))
    response = asker.ask("GET")
    assert (response.status_code, response.content) == (200, b'[{"id": "')


def test_another_body(fly: Simulator, asker: Asker) -> None:
    """Lists that lie, states that nobody knows, fields too many or too few."""
    fly.faults.on("list", change=lambda body: [])
    assert asker.ask("GET").json() == []
    machine = asker.created(image=STUCK)
    fly.faults.on("get", change=lambda body: body | {"state": "limbo", "more": {}})
    body = asker.get(machine)
    assert (body["state"], body["more"]) == ("limbo", {})
    assert asker.get(machine)["state"] == "created"


def test_a_connection_that_dies_after_its_answer(fly: Simulator, asker: Asker) -> None:
    fly.faults.on("list", cut_after=True)
    assert asker.ask("GET").status_code == 200
    fly.until(lambda _: not fly.connections)
    assert asker.ask("GET").status_code == 200


def test_connections_can_be_cut_at_any_time(fly: Simulator, asker: Asker) -> None:
    machine = asker.created(image=STUCK)
    fly.faults.on("get", before=lambda call: fly.cut_connections())
    with pytest.raises(httpx.RemoteProtocolError):
        asker.get(machine)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_test_acts_before_or_after_a_request_is_carried_out(fly: Simulator, asker: Asker, when: str) -> None:
    """It may wait there for what happens in the simulator meanwhile."""
    seen: list[Any] = []

    def hook(call: Call) -> None:
        seen.append((call.number, call.action, len(fly.world.booted), threading.current_thread().name))
        if when == "after":
            fly.wait_for(fly.machine(), "started")

    fly.faults.on("create", **{when: hook})
    asker.ask("GET")
    assert asker.create("runner-1", ASLEEP).status_code == 200
    assert seen == [(2, "create", int(when == "after"), "fly-simulator-hook-2")]


@pytest.mark.parametrize(("when", "there"), [("delay", 0), ("late", 1)])
def test_a_request_may_take_long_before_or_after(fly: Simulator, asker: Asker, when: str, there: int) -> None:
    fly.faults.on("create", **{when: 60.0})
    with pytest.raises(httpx.ReadTimeout):
        asker.http.post("/v1/apps/media/machines", json={"config": {"image": STUCK}}, timeout=0.2)
    fly.until(lambda world: fly.history.calls and len(world.booted) == there)


def test_what_fails_in_a_hook_fails_the_test(fly: Simulator, asker: Asker) -> None:
    def hook(call: Call) -> None:
        raise ValueError("in the hook")

    fly.faults.on("list", before=hook)
    assert asker.ask("GET").status_code == 500
    [trouble] = fly.reset()
    assert "in the hook" in trouble


# -- rates -------------------------------------------------------------------------------------------------------------


def test_creates_are_limited_for_each_app(fly: Simulator, asker: Asker) -> None:
    """Section 1.5: one a second, three at once."""
    statuses = [asker.create(f"runner-{number}", image=STUCK).status_code for number in range(4)]
    assert statuses == [200, 200, 200, 429]
    assert len(fly.world.booted) == 3


def test_all_else_is_limited_for_each_machine(fly: Simulator, asker: Asker) -> None:
    machines = [asker.created(f"runner-{number}", image=STUCK) for number in range(2)]
    for machine in machines:
        statuses = [asker.ask("GET", f"/{machine.id}/events").status_code for _ in range(4)]
        assert statuses == [200, 200, 200, 429]
    assert [asker.ask("GET", f"/{machines[0].id}").status_code for _ in range(10)] == [200] * 10


def test_rates_can_be_others(fly: Simulator, asker: Asker) -> None:
    fly.rates.of["list"] = (0.001, 1)
    assert [asker.ask("GET").status_code for _ in range(2)] == [200, 429]
    fly.rates.on = False
    assert asker.ask("GET").status_code == 200


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("form", [None, "seconds", "date"])
def test_the_form_of_429(fly: Simulator, asker: Asker, form: Any, plain: bool) -> None:
    """Sections 1.5 and 7: nobody knows."""
    fly.switches.retry_after, fly.switches.rate_body_is_plain = form, plain
    fly.rates.of["list"] = (0.1, 1)
    asker.ask("GET")
    refused = asker.ask("GET")
    assert refused.status_code == 429
    assert refused.text == "rate limit exceeded" if plain else refused.json() == {"error": "rate limit exceeded"}
    header = refused.headers.get("retry-after")
    if form == "seconds":
        assert header == "10"
    elif form == "date":
        assert email.utils.parsedate_to_datetime(header).timestamp() > time.time() + 5
    else:
        assert header is None


@pytest.mark.parametrize("takes", [True, False])
def test_whether_waits_count(fly: Simulator, asker: Asker, takes: bool) -> None:
    """Section 7."""
    fly.switches.wait_takes_from_rate = takes
    fly.timing.second = 0.001
    machine = asker.created(image=STUCK)
    statuses = [asker.wait(machine, "started", 1).status_code for _ in range(4)]
    assert statuses == [408] * 3 + [429 if takes else 408]


# -- one server for many tests -----------------------------------------------------------------------------------------


def test_a_reset_ends_what_is_held(fly: Simulator, asker: Asker) -> None:
    machine = asker.created("runner-1", ASLEEP)
    fly.wait_for(machine, "started")
    errors_seen: list[Exception] = []
    held = threading.Event()

    def wait() -> None:
        try:
            asker.wait(machine, "destroyed", 60)
        except httpx.HTTPError as error:
            errors_seen.append(error)

    fly.faults.on("wait", before=lambda call: held.set())
    thread = threading.Thread(target=wait, name="waiting")
    thread.start()
    assert held.wait(PATIENCE)
    assert fly.reset() == []
    thread.join(PATIENCE)
    assert [type(error) for error in errors_seen] == [httpx.RemoteProtocolError]
    assert (fly.world.booted, fly.history.calls) == ([], [])
