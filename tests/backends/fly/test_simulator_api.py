"""What the simulator answers: who may ask, what is refused, lists, waits, leases, metadata, and all around them."""

from __future__ import annotations

import threading
from typing import Any

import httpx
import pytest

from tests.backends.fly.asking import ASLEEP, Asker
from tests.support.fly_simulator import errors
from tests.support.fly_simulator.regions import regions_of
from tests.support.fly_simulator.simulator import Simulator
from tests.support.fly_simulator.state import App, Machine
from tests.support.helpers import PATIENCE

STUCK = "registry.fly.io/media:stuck"


def error_of(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]


def names(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [machine["name"] for machine in response.json()]


# -- who may ask -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["Bearer {}", "Bearer FlyV1 {}", "FlyV1 {}", "FlyV1 fm2_other,{}", "bearer {}"])
def test_a_token_is_taken_in_these_forms(fly: Simulator, asker: Asker, form: str) -> None:
    """Section 1.1."""
    response = asker.ask("GET", headers={"Authorization": form.format(fly.token)})
    assert response.status_code == 200


@pytest.mark.parametrize("form", ["", "Bearer fm2_other", "Bearer", "Basic {}", "{}"])
def test_and_in_no_other(fly: Simulator, asker: Asker, form: str) -> None:
    """Section 1.5: nothing is carried out then."""
    headers = {"Authorization": form.format(fly.token)}
    refused = asker.ask("POST", headers=headers, json={"config": {"image": fly.image}})
    assert error_of(refused) == (401, "Authenticate: token validation error")
    assert fly.world.booted == []


def test_a_token_is_good_for_its_apps(fly: Simulator, asker: Asker) -> None:
    fly.world.apps["other"] = App("other", "personal")
    assert asker.http.get("/v1/apps/other").status_code == 403
    fly.tokens["fm2_all"] = None
    everywhere = {"Authorization": "Bearer fm2_all"}
    assert asker.http.get("/v1/apps/other", headers=everywhere).status_code == 200
    assert error_of(asker.http.get("/v1/apps/none", headers=everywhere)) == (404, "not_found: app not found")


def test_no_token_is_kept(fly: Simulator, asker: Asker) -> None:
    asker.ask("GET")
    assert fly.token not in repr(fly.history.calls)


def test_what_every_answer_carries(fly: Simulator, asker: Asker) -> None:
    """Section 1.1."""
    for response in (asker.ask("GET"), asker.ask("GET", "/none"), asker.http.get("/v2")):
        assert response.headers["fly-request-id"].endswith("-cdg")
        assert response.headers["server"].startswith("Fly/")
    cookie = asker.ask("GET").headers["set-cookie"]
    assert cookie.startswith("fly_flaps_affinity=")
    assert "Path=/v1/apps/media" in cookie


# -- create ------------------------------------------------------------------------------------------------------------


def test_what_create_answers(fly: Simulator, asker: Asker) -> None:
    """Sections 1.2 and 1.4: against the documentation's sample."""
    guest = {"cpu_kind": "performance", "cpus": 1, "memory_mb": 4096}
    body = asker.create("runner-1", ASLEEP, guest=guest, metadata={"pool": "a"}, region="cdg").json()
    assert (body["name"], body["state"], body["region"]) == ("runner-1", "created", "cdg")
    assert len(body["id"]) == 14
    assert len(body["instance_id"]) == 26
    assert body["config"]["guest"] == guest
    assert body["image_ref"] == {"registry": "registry.fly.io", "repository": "media", "tag": "deployment-01K"}
    [event] = body["events"]
    assert (event["type"], event["status"], event["source"], event["request"]) == ("launch", "created", "user", None)
    assert isinstance(event["timestamp"], int)
    fly.openapi.violations.clear()  # `region` does not belong into the config


@pytest.mark.parametrize(
    ("guest", "word"),
    [
        ({"cpu_kind": "performance", "cpus": 8, "memory_mb": 8192}, "16384"),
        ({"cpu_kind": "shared", "cpus": 3}, "shared"),
        ({"cpu_kind": "quantum"}, "quantum"),
        ({"memory_mb": 300}, "256"),
        ({"memory_mb": 4096}, "2048"),
        ({"gpus": 1, "gpu_kind": "h100"}, "h100"),
    ],
)
@pytest.mark.parametrize("status", [400, 422])
def test_guests_that_there_are_not(fly: Simulator, asker: Asker, guest: dict[str, Any], word: str, status: int) -> None:
    """Section 6; with which status is not known."""
    fly.switches.bad_guest_status = status
    refused = asker.create("runner-1", guest=guest)
    assert refused.status_code == status
    assert word in refused.text
    assert fly.world.booted == []


@pytest.mark.parametrize(("step", "status"), [(1024, 200), (2048, 400)])
def test_how_fine_memory_is_divided(fly: Simulator, asker: Asker, step: int, status: int) -> None:
    """Section 6: the documentation and FLAME differ."""
    fly.switches.performance_memory_step = step
    guest = {"cpu_kind": "performance", "cpus": 1, "memory_mb": 3072}
    assert asker.create("runner-1", guest=guest, image=STUCK).status_code == status


def test_other_bodies_that_are_refused(fly: Simulator, asker: Asker) -> None:
    fly.switches.env_limit = 100
    config = {"image": fly.image}
    bodies: list[Any] = [
        {}, [], {"config": {}}, {"config": config, "name": "Upper"}, {"config": config, "name": "a" * 64},
        {"config": config, "region": "mars"}, {"config": config | {"env": {"A": 1}}},
        {"config": config | {"env": {"A": "b" * 100}}},
        {"config": config | {"guest": {"cpus": 1}, "size": "shared-cpu-1x"}},
    ]  # fmt: skip
    for body in bodies:
        fly.rates.on = False
        assert asker.ask("POST", json=body).status_code == 400, body
    assert asker.ask("POST", content=b"{").status_code == 400
    fly.switches.name_limit = None
    assert asker.ask("POST", json={"config": config, "name": "a" * 64}).status_code == 200
    assert len(fly.world.booted) == 1
    assert fly.openapi.reason or fly.openapi.violations
    fly.openapi.violations.clear()


def test_regions_in_order_of_preference(fly: Simulator, asker: Asker) -> None:
    """Section 1.2: only what is listed, and 422 where all of that is full."""

    def ask(region: str) -> httpx.Response:
        fly.rates.on = False
        return asker.ask("POST", json={"region": region, "config": {"image": STUCK}})

    fly.world.full = {"cdg": None}
    assert ask("cdg").json() == {"error": "could not find a candidate host", "status": "insufficient_capacity"}
    assert ask("cdg,lhr").json()["region"] == "lhr"
    fly.world.full = {"cdg": errors.over_quota("personal", "cdg", 40960), "lhr": errors.host_full("memory")}
    assert error_of(ask("cdg"))[0] == 403
    assert error_of(ask("lhr")) == (
        409, "aborted: could not reserve resource for machine: insufficient memory available to fulfill request",
    )  # fmt: skip
    assert ask("cdg,eu").json()["region"] == "ams"
    assert error_of(ask("mars")) == (400, "invalid_argument: target region mars not found")
    assert len(fly.world.booted) == 2


def test_aliases_of_regions() -> None:
    assert regions_of("iad,us")[:2] == ["iad", "dfw"]
    assert regions_of("usa") == regions_of("us")
    assert len(regions_of("any")) == 18
    assert set(regions_of("eu,apac,na,sa")) == set(regions_of("any")) - {"jnb"}


@pytest.mark.parametrize("wanted", [402, 422])
def test_a_plan_may_allow_no_more(fly: Simulator, asker: Asker, wanted: int) -> None:
    """Section 1.5: with which status is not known."""
    fly.switches.plan_limit_status = wanted
    fly.app.machine_limit = 1
    status, text = error_of(asker.create())
    assert status == wanted
    assert "payment method" in text


@pytest.mark.parametrize("late", [False, True])
def test_a_slow_create(fly: Simulator, asker: Asker, late: bool) -> None:
    """Section 1.6: whether the machine is there before it is answered is not known."""
    fly.timing.create_latency = 60.0
    fly.switches.create_commits_late = late
    with pytest.raises(httpx.ReadTimeout):
        asker.http.post("/v1/apps/media/machines", json={"config": {"image": STUCK}}, timeout=0.2)
    fly.until(lambda world: fly.history.of("create") and (late or world.booted))
    assert len(fly.world.booted) == (0 if late else 1)


# -- get and list ------------------------------------------------------------------------------------------------------


def test_what_there_never_was(fly: Simulator, asker: Asker) -> None:
    assert error_of(asker.ask("GET", "/00000000000000")) == (404, "not_found: machine not found")
    assert error_of(asker.ask("GET", "/00000000000000/wait")) == (404, "not_found: machine not found")
    assert asker.http.get("/v1/volumes").status_code == 404


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_how_long_destroyed_machines_can_be_read(fly: Simulator, asker: Asker, seconds: float) -> None:
    """Section 7."""
    fly.switches.destroyed_readable = seconds
    machine = asker.created("runner-1", "pass")
    fly.wait_for(machine, "destroyed")
    assert asker.ask("GET", f"/{machine.id}").status_code == (200 if seconds else 404)


def test_lists(fly: Simulator, asker: Asker) -> None:
    """Section 1.2. The parent's own machine is in the list, too."""
    fly.rates.on = False
    one = asker.created("one", ASLEEP, metadata={"pool": "a", "boot": "1"})
    asker.created("two", image=STUCK, metadata={"pool": "a"})
    gone = asker.created("gone", "pass", metadata={"pool": "a"})
    fly.wait_for(one, "started")
    fly.wait_for(gone, "destroyed")

    def listed(**query: Any) -> list[str]:
        return names(asker.ask("GET", params=query))

    assert listed() == ["old-sun-7", "one", "two"]
    assert listed(**{"metadata.pool": "a"}) == ["one", "two"]
    assert listed(**{"metadata.pool": "a", "metadata.boot": "1"}) == ["one"]
    assert listed(**{"metadata.pool": "b"}) == []
    assert listed(state="created,started", **{"metadata.pool": "a"}) == ["one", "two"]
    assert listed(state="created") == ["two"]
    assert listed(region="lhr") == []
    assert listed(include_deleted="true", **{"metadata.pool": "a"}) == ["one", "two", "gone"]
    [summary] = asker.ask("GET", params={"summary": "true", "metadata.boot": "1"}).json()
    assert not {"config", "events", "checks", "host_status"} & set(summary)


@pytest.mark.parametrize("heeded", [True, False])
def test_one_who_does_not_send_the_cookie_sees_late(fly: Simulator, asker: Asker, heeded: bool) -> None:
    """Section 1.1: read-your-writes. That the cookie does it is what its name says."""
    fly.switches.affinity_is_heeded = heeded
    fly.timing.lag = 60.0
    machine = asker.created("runner-1", image=STUCK)
    assert ("runner-1" in names(asker.ask("GET"))) == heeded
    asker.http.cookies.clear()
    assert asker.ask("GET", f"/{machine.id}").status_code == 404
    asker.http.cookies.clear()
    assert "runner-1" not in names(asker.ask("GET"))


def test_lists_of_the_organization(fly: Simulator, asker: Asker) -> None:
    fly.rates.on = False
    fly.world.apps["other"] = App("other", "personal")
    asker.created("one", image=STUCK, metadata={"pool": "a"})
    fly.do(fly.world.add, "other", "elsewhere", "lhr", {"image": STUCK}, "::1")
    body = asker.http.get("/v1/orgs/personal/machines", params={"limit": 2}).json()
    assert [machine["name"] for machine in body["machines"]] == ["old-sun-7", "one"]
    assert body["machines"][1]["config"]["metadata"] == {"pool": "a"}
    query = {"cursor": body["next_cursor"], "summary": "true"}
    rest = asker.http.get("/v1/orgs/personal/machines", params=query).json()
    assert [(machine["name"], machine["app_name"]) for machine in rest["machines"]] == [("elsewhere", "other")]
    assert (rest["next_cursor"], "config" in rest["machines"][0]) == ("", False)
    assert asker.http.get("/v1/orgs/nobodys/machines").status_code == 404


# -- wait --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", ["0", "61", "1.5", "", "1m"])
def test_waits_out_of_range(fly: Simulator, asker: Asker, timeout: str) -> None:
    machine = asker.created("runner-1", image=STUCK)
    refused = asker.ask("GET", f"/{machine.id}/wait", params={"timeout": timeout})
    assert error_of(refused) == (
        400, "invalid_argument: invalid WaitMachineRequest.Timeout: value must be inside range [1s, 1m0s]",
    )  # fmt: skip
    fly.openapi.violations.clear()


def test_a_wait_that_is_over(fly: Simulator, asker: Asker) -> None:
    """Sections 1.2 and 1.5: the default is `started`."""
    fly.timing.second = 0.01
    machine = asker.created("runner-1", image=STUCK)
    over = asker.ask("GET", f"/{machine.id}/wait", params={"timeout": 1})
    assert error_of(over) == (
        408, "deadline_exceeded: machine failed to reach desired state, started, currently created",
    )  # fmt: skip
    fly.rates.on = False
    several = asker.ask("GET", f"/{machine.id}/wait", params={"timeout": 1, "state": "started,destroyed"})
    assert "destroyed, started, currently created" in several.text


def waiting(fly: Simulator, asker: Asker, machine: Machine, state: Any) -> tuple[threading.Thread, list[Any]]:
    """A wait that is held by the time this returns."""
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(asker.wait(machine, state)), name="waiting")
    held = threading.Event()
    fly.faults.on("wait", before=lambda call: held.set())
    thread.start()
    assert held.wait(PATIENCE)
    return thread, answers


@pytest.mark.parametrize("state", ["started", "started,destroyed", ["destroyed", "started"], "settled"], ids=str)
def test_a_wait_is_held_until_the_state_comes(fly: Simulator, asker: Asker, state: Any) -> None:
    machine = asker.created("runner-1", ASLEEP, image=STUCK)
    thread, answers = waiting(fly, asker, machine, state)
    fly.finish_pull(machine)
    thread.join(PATIENCE)
    body = answers[0].json()
    assert (body["ok"], body["state"], body["version"]) == (True, "started", machine.instance_id)
    assert body["event_id"] in {event.id for event in machine.events}


@pytest.mark.parametrize("is_404", [True, False])
def test_waiting_for_stopped_of_one_that_destroys_itself(fly: Simulator, asker: Asker, is_404: bool) -> None:
    """Section 2: often it is 404."""
    fly.switches.wait_stopped_is_404 = is_404
    machine = asker.created("runner-1", "pass", image=STUCK)
    thread, answers = waiting(fly, asker, machine, "stopped")
    fly.finish_pull(machine)
    thread.join(PATIENCE)
    assert answers[0].status_code == (404 if is_404 else 200)


def test_waiting_for_stopped_or_destroyed(fly: Simulator, asker: Asker) -> None:
    machine = asker.created("runner-1", "pass")
    assert asker.wait(machine, "stopped,destroyed").json()["state"] == "destroyed"


@pytest.mark.parametrize("lags", [0, 1])
def test_after_a_wait_for_destroyed_get_may_say_destroying(fly: Simulator, asker: Asker, lags: int) -> None:
    """Section 2."""
    fly.switches.gets_destroying_after_wait = lags
    machine = asker.created("runner-1", "pass")
    assert asker.wait(machine, "destroyed").status_code == 200
    states = [asker.get(machine)["state"] for _ in range(2)]
    assert states == ["destroying"] * lags + ["destroyed"] * (2 - lags)


def test_waiting_after_an_event(fly: Simulator, asker: Asker) -> None:
    fly.timing.second = 0.01
    machine = asker.created("runner-1", ASLEEP)
    fly.until(lambda _: len(machine.events) == 2)
    launch, start = machine.events
    assert asker.wait(machine, "started", 1, from_event_id=launch.id).status_code == 200
    assert asker.wait(machine, "started", 1, from_event_id=start.id).status_code == 408


def test_waiting_for_what_is_no_state(fly: Simulator, asker: Asker) -> None:
    machine = asker.created("runner-1", image=STUCK)
    assert asker.wait(machine, "limbo").status_code == 400
    fly.openapi.violations.clear()


# -- stop and destroy --------------------------------------------------------------------------------------------------


def test_a_stop_with_an_array(fly: Simulator, asker: Asker) -> None:
    machine = asker.created("runner-1", image=STUCK)
    assert error_of(asker.ask("POST", f"/{machine.id}/stop", json=[])) == (
        400, "json: cannot unmarshal array into Go value of type main.stopRequest",
    )  # fmt: skip
    fly.openapi.violations.clear()


@pytest.mark.parametrize("status", [200, 404])
@pytest.mark.parametrize("name", ["force", "kill"])
def test_the_second_destroy(fly: Simulator, asker: Asker, status: int, name: str) -> None:
    """Sections 1.2 and 7."""
    fly.switches.second_destroy = status
    machine = asker.created("runner-1", ASLEEP)
    fly.wait_for(machine, "started")
    assert asker.ask("DELETE", f"/{machine.id}", params={name: "true"}).status_code == 200
    fly.wait_for(machine, "destroyed")
    assert asker.ask("DELETE", f"/{machine.id}", params={name: "true"}).status_code == status


# -- leases ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201])
def test_leases(fly: Simulator, asker: Asker, status: int) -> None:
    """Section 1.2."""
    fly.rates.on = False
    fly.switches.lease_status = status
    machine = asker.created("runner-1", image=STUCK)
    lease = f"/{machine.id}/lease"
    assert asker.ask("GET", lease).status_code == 404
    made = asker.ask("POST", lease, json={"ttl": 60, "description": "mine"})
    assert (made.status_code, made.json()["status"]) == (status, "success")
    data = made.json()["data"]
    assert (data["description"], data["version"]) == ("mine", machine.instance_id)
    nonce = {"fly-machine-lease-nonce": data["nonce"]}
    refused = asker.ask("POST", lease, json={"ttl": 60})
    assert refused.status_code == 409
    assert f"machine ID {machine.id} lease currently held by" in refused.json()["message"]
    assert asker.ask("POST", lease, params={"ttl": 90}, json={}, headers=nonce).json()["data"]["nonce"] == data["nonce"]
    assert asker.ask("POST", f"/{machine.id}/start").status_code == 409
    assert asker.get(machine, include_leases="true")["lease"]["description"] == "mine"
    assert asker.ask("DELETE", lease).status_code == 409
    assert asker.ask("DELETE", lease, headers=nonce).status_code == 200
    assert asker.ask("GET", lease).status_code == 404


def test_a_create_may_take_the_lease(fly: Simulator, asker: Asker) -> None:
    body = asker.ask("POST", json={"config": {"image": STUCK}, "lease_ttl": 60}).json()
    nonce = {"fly-machine-lease-nonce": body["nonce"]}
    assert asker.ask("DELETE", f"/{body['id']}", params={"force": "true"}, headers=nonce).status_code == 200


@pytest.mark.parametrize("how", ["released", "run out"])
def test_destroy_waits_for_a_foreign_lease(fly: Simulator, asker: Asker, how: str) -> None:
    """Section 2: it is not refused."""
    machine = asker.created("runner-1", image=STUCK)
    seconds = 60.0 if how == "released" else 0.1
    lease = fly.do(fly.world.take_lease, machine, seconds, "", None, "somebody")
    if how == "released":
        with pytest.raises(httpx.ReadTimeout):
            asker.http.delete(f"/v1/apps/media/machines/{machine.id}", params={"force": "true"}, timeout=0.1)
        assert machine.state == "created"
        fly.do(fly.world.release_lease, machine, lease.nonce)
    else:
        assert asker.destroy(machine).status_code == 200
    fly.wait_for(machine, "destroyed")


# -- metadata and events -----------------------------------------------------------------------------------------------


def test_metadata(fly: Simulator, asker: Asker) -> None:
    """Section 1.2."""
    fly.rates.on = False
    machine = asker.created("runner-1", image=STUCK, metadata={"a": "1"})
    place = f"/{machine.id}/metadata"
    assert asker.ask("GET", place).json() == {"a": "1"}
    assert asker.ask("POST", f"{place}/b", json={"value": "2"}).status_code == 204
    assert asker.ask("GET", f"{place}/b").json() == {"value": "2"}
    assert asker.ask("PATCH", place, json={"metadata": {"a": None, "c": "3"}}).status_code == 204
    assert asker.ask("PUT", place, json={"metadata": {"d": "4"}}).status_code == 204
    assert asker.ask("DELETE", f"{place}/b").status_code == 204
    assert asker.ask("GET", place).json() == {"c": "3", "d": "4"}
    assert asker.ask("GET", f"{place}/b").status_code == 404
    stale = {"metadata": {}, "machine_version": "01HX"}
    assert asker.ask("PATCH", place, json=stale).status_code == 412
    assert names(asker.ask("GET", params={"metadata.c": "3"})) == ["runner-1"]


def test_events(fly: Simulator, asker: Asker) -> None:
    machine = asker.created("runner-1", "pass")
    fly.wait_for(machine, "destroyed")
    assert [event["type"] for event in asker.ask("GET", f"/{machine.id}/events").json()] == [
        "destroy", "exit", "start", "launch",
    ]  # fmt: skip
    [newest] = asker.ask("GET", f"/{machine.id}/events", params={"limit": 1}).json()
    assert newest["type"] == "destroy"


# -- all else ----------------------------------------------------------------------------------------------------------


def test_apps_regions_and_placements(fly: Simulator, asker: Asker) -> None:
    app = asker.http.get("/v1/apps/media").json()
    assert (app["name"], app["organization"]["slug"], app["machine_count"]) == ("media", "personal", 1)
    regions = asker.http.get("/v1/platform/regions", params={"size": "shared-cpu-1x"}).json()
    assert (regions["Nearest"], {"cdg", "lhr"} <= {row["code"] for row in regions["Regions"]}) == ("cdg", True)
    fly.world.full = {"cdg": None}
    wanted = {"org_slug": "personal", "region": "cdg,lhr", "count": 3}
    placed = asker.http.post("/v1/platform/placements", json=wanted).json()
    assert placed == {"Regions": [{"Region": "lhr", "Count": 3, "Concurrency": 3}]}
    full = asker.http.post("/v1/platform/placements", json=wanted | {"region": "cdg"})
    assert full.json()["status"] == "insufficient_capacity"
