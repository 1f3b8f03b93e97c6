"""Requests and success replies against Fly's OpenAPI document; and the documentation's samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.fly.client import MachinesAPI
from dragonfly_executor.backends.fly.settings import APIAccess
from tests.backends.fly.asking import ASLEEP, Asker
from tests.support.fly_simulator import openapi
from tests.support.fly_simulator.deviations import DEVIATIONS
from tests.support.fly_simulator.openapi import OpenApi
from tests.support.fly_simulator.simulator import Simulator

STUCK = "registry.fly.io/media:stuck"


@pytest.fixture
def checked(fly: Simulator) -> list[str]:
    """The violations, each of which the test has to take out of this list."""
    if fly.openapi.reason:
        pytest.skip(fly.openapi.reason)
    return fly.openapi.violations


def taken(violations: list[str]) -> list[str]:
    found = list(violations)
    violations.clear()
    return found


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"config": {"image": STUCK}, "nmae": "a"}, "'nmae' was unexpected"),
        ({"config": {"image": STUCK, "guest": {"memory": 256}}}, "'memory' was unexpected"),
        ({"config": {"image": STUCK, "restart": {"policy": "never"}}}, "'never' is not one of"),
        ({"config": {"image": STUCK, "auto_destroy": "yes"}}, "'yes' is not of type 'boolean'"),
        ({"config": {"image": STUCK, "init": {"cmd": "python"}}}, "'python' is not of type 'array'"),
        ({"config": {"image": STUCK, "env": {"A": 1}}}, "1 is not of type 'string'"),
        ({"config": {}}, "'image' is a required property"),
        ({"name": "a"}, "'config' is a required property"),
    ],
)
def test_bodies_that_do_not_fit(asker: Asker, checked: list[str], body: Any, word: str) -> None:
    """Whatever the API answers: it may well take them."""
    asker.ask("POST", json=body)
    # The machine's config is in the reply again.
    violation, *rest = taken(checked)
    assert all(each.startswith("reply to") for each in rest)
    assert violation.startswith("POST /v1/apps/{app_name}/machines: body")
    assert word in violation


@pytest.mark.parametrize(
    ("path", "query", "word"),
    [
        ("", {"metadata": "a"}, "unknown query parameter metadata"),
        ("", {"meta.pool": "a"}, "unknown query parameter meta.pool"),
        ("", {"include_deleted": "1"}, "not a boolean"),
        ("/x/wait", {"timeout": "10s"}, "not an integer"),
        ("/x/wait", {"state": "ended"}, "not among"),
    ],
)
def test_queries_that_do_not_fit(asker: Asker, checked: list[str], path: str, query: Any, word: str) -> None:
    asker.ask("GET", path, params=query)
    [violation] = taken(checked)
    assert word in violation


def test_a_body_where_there_is_none(fly: Simulator, asker: Asker, checked: list[str]) -> None:
    asker.ask("POST", "/x/start", json={})
    asker.ask("POST", "/x/signal")
    assert taken(checked) == [
        "POST /v1/apps/{app_name}/machines/{machine_id}/start: a body where none is wanted",
        "POST /v1/apps/{app_name}/machines/{machine_id}/signal: no body",
    ]


def test_requests_that_are_not_carried_out_are_checked_as_well(
    fly: Simulator, asker: Asker, checked: list[str]
) -> None:
    fly.faults.on("create", cut=True, commit=False)
    with pytest.raises(Exception, match="disconnected"):
        asker.ask("POST", json={})
    assert "'config' is a required property" in taken(checked)[0]


def test_replies_that_do_not_fit(
    fly: Simulator, asker: Asker, checked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What this simulator itself gets wrong."""
    from tests.support.fly_simulator import bodies

    real = bodies.machine_body
    monkeypatch.setattr(bodies, "machine_body", lambda *args, **more: real(*args, **more) | {"state": 1, "status": "x"})
    asker.create(image=STUCK)
    found = taken(checked)
    assert len(found) == 2
    assert all(violation.startswith("reply to POST /v1/apps/{app_name}/machines: body") for violation in found)
    fly.switches.lease_status = 202
    asker.ask("POST", f"/{fly.machine().id}/lease", json={})
    assert "status 202 is not among" in taken(checked)[0]


def test_each_known_deviation_is_one(checked: list[str]) -> None:
    """A newer document that has them right is noticed here."""
    path = openapi.document_path()
    assert path is not None
    import json

    for reason, change in DEVIATIONS:
        document = json.loads(path.read_bytes())
        before = json.dumps(document)
        change(document["paths"], document["components"]["schemas"])
        assert json.dumps(document) != before, reason
    raw = json.loads(path.read_bytes())
    listing = raw["paths"]["/v1/apps/{app_name}/machines"]["get"]["parameters"]
    assert "metadata.{key}" not in {parameter["name"] for parameter in listing}
    assert raw["components"]["schemas"]["main.statusCode"]["enum"] == ["unknown", "insufficient_capacity", "name_taken"]
    assert "regions" in raw["components"]["schemas"]["main.regionResponse"]["properties"]


def test_without_the_document_nothing_is_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(openapi.VARIABLE, str(tmp_path / "none.json"))
    unchecked = OpenApi()
    assert openapi.VARIABLE in (unchecked.reason or "")


# -- the documentation's samples, as the reference quotes them ---------------------------------------------------------


def test_an_exit_event_has_the_fields_of_the_sample(fly: Simulator, asker: Asker) -> None:
    """Section 2."""
    machine = asker.created("runner-1", "pass")
    fly.wait_for(machine, "destroyed")
    [event] = [event for event in asker.get(machine)["events"] if event["type"] == "exit"]
    assert set(event) == {"id", "type", "status", "request", "source", "timestamp"}
    assert (event["status"], event["source"]) == ("stopped", "flyd")
    exit_event = event["request"]["exit_event"]
    assert exit_event | {"exited_at": 0} == {
        "exit_code": 0, "guest_exit_code": 0, "guest_signal": -1, "signal": -1, "oom_killed": False,
        "requested_stop": False, "restarting": False, "exited_at": 0,
    }  # fmt: skip
    assert event["request"]["restart_count"] == 0


def test_a_machine_has_the_fields_of_the_sample(fly: Simulator, asker: Asker) -> None:
    """Section 1.4."""
    body = asker.create("runner-1", ASLEEP).json()
    assert set(body) >= {
        "id", "name", "state", "region", "instance_id", "private_ip", "created_at", "updated_at", "config", "image_ref",
        "events", "checks", "host_status",
    }  # fmt: skip
    assert body["config"]["guest"] == {"cpu_kind": "shared", "cpus": 1, "memory_mb": 256}
    assert body["created_at"].endswith("Z")
    assert "nonce" not in body


def test_a_wait_has_the_fields_of_the_document(fly: Simulator, asker: Asker) -> None:
    """Section 1.2: it is no machine."""
    machine = asker.created("runner-1", ASLEEP)
    assert set(asker.wait(machine, "started").json()) == {"ok", "state", "event_id", "version"}


@pytest.mark.parametrize("key", ["Regions", "regions"])
def test_regions_are_read_as_the_wire_and_as_the_document_have_them(on_fly: Simulator, key: str) -> None:
    on_fly.faults.on("regions", change=lambda body: {key: [*body["Regions"][:2], {"code": 1}, None]})
    assert MachinesAPI(APIAccess.find(on_fly.environment)).regions(Deadline(10.0)) == ["ams", "arn"]
