"""``dragonfly doctor --backend fly``: what somebody sees who asks why no machine comes."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import pytest

from dragonfly_executor.backends.label import OwnerLabel
from dragonfly_executor.backends.owner import Owner
from dragonfly_executor.cli.main import main
from tests.backends.fly.asking import ASLEEP, Asker
from tests.support.fly_simulator import errors
from tests.support.fly_simulator.simulator import Simulator

Capture = pytest.CaptureFixture[str]
CHECKS = ["app", "token", "image", "machine", "permissions", "machines", "region", "address"]


def examine(capsys: Capture, *arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit status, and findings by name."""
    status = main(["doctor", "--backend", "fly", "--json", *arguments])
    told = json.loads(capsys.readouterr().out)
    (findings,) = told["hosts"].values()
    return status, {finding["name"]: finding for finding in findings}


def test_without_a_boot_everything_is_looked_at_and_no_machine_made(
    on_fly: Simulator, asker: Asker, capsys: Capture
) -> None:
    status, found = examine(capsys)
    assert list(found) == CHECKS
    assert {name: finding["ok"] for name, finding in found.items()} == dict.fromkeys(CHECKS, True)
    assert status == 0
    assert found["app"]["text"] == f"media, by the API at {on_fly.url}"
    assert found["image"]["text"] == f"{on_fly.image}, which is this machine's own"
    assert found["machine"]["text"].startswith("performance-2x with 4096 MB; about ")
    assert found["machine"]["text"].endswith("; cdg is not on the list, and counts as the most expensive region")
    assert found["machine"]["figures"]["usd_per_second"] > 0
    assert found["region"]["text"] == "cdg"
    assert on_fly.parent.private_ip in found["address"]["text"]
    assert on_fly.world.booted == []


def test_with_a_boot_the_machine_is_looked_at_and_gone_afterwards(on_fly: Simulator, capsys: Capture) -> None:
    status, found = examine(capsys, "--boot", "--python", sys.executable)
    assert status == 0, found
    boot = ["create", "start", "connect", "handshake", "sync", "requirements", "first result", "node", "resources"]
    assert list(found) == [*CHECKS, *boot, "round trip", "bandwidth"]
    assert on_fly.machine().id in found["create"]["text"]
    assert on_fly.history.left == []


def test_a_boot_that_fails_says_how_far_it_came(on_fly: Simulator, capsys: Capture) -> None:
    status, found = examine(capsys, "--boot", "--python", "/nowhere/python")
    assert status == 1
    assert (found["create"]["ok"], found["start"]["ok"], found["connect"]["ok"]) == (True, False, None)
    assert "exit code 127" in found["start"]["text"]
    assert "fly logs" in found["start"]["advice"]
    assert on_fly.history.left == []


def test_what_is_missing_is_named_with_where_to_get_it(
    on_fly: Simulator, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    for name in ("FLY_APP_NAME", "FLY_API_TOKEN", "FLY_IMAGE_REF", "FLY_PRIVATE_IP", "FLY_REGION"):
        monkeypatch.delenv(name)
    status, found = examine(capsys, "--boot")
    assert status == 1
    assert {name: finding["ok"] for name, finding in found.items()} == {
        "app": False, "token": None, "image": False, "permissions": None, "region": None, "address": False,
        "boot": None,
    }  # fmt: skip
    assert "Give --app, or set FLY_APP_NAME" in found["app"]["advice"]
    assert "Give --image, or set FLY_IMAGE_REF" in found["image"]["advice"]
    assert "fly image show" in found["image"]["advice"]
    assert "Give --parent-address, or set FLY_PRIVATE_IP" in found["address"]["advice"]
    assert "fly wireguard create" in found["address"]["advice"]
    assert on_fly.history.calls == []
    status, found = examine(capsys, "--app", "media")
    assert found["app"]["ok"]
    assert "Set FLY_API_TOKEN: `fly tokens create deploy -a media`" in found["token"]["advice"]
    status, found = examine(capsys, "--app", "no app")
    assert (found["app"]["ok"], found["token"]["ok"]) == (False, None)
    assert "--app is no name of a Fly app" in found["app"]["advice"]


@pytest.mark.parametrize(
    ("reply", "advice"),
    [
        (errors.unauthorized(), "has expired, or was revoked: fly tokens create deploy -a media"),
        (errors.forbidden("media"), "another app's, or may not do this"),
        (errors.no_app(), "fly apps list"),
    ],
    ids=["401", "403", "404"],
)
def test_what_fly_refuses_is_said_with_what_to_do(
    on_fly: Simulator, capsys: Capture, reply: errors.ApiError, advice: str
) -> None:
    on_fly.faults.on("list", reply=reply)
    status, found = examine(capsys)
    assert status == 1
    assert found["permissions"]["ok"] is False
    assert f"HTTP {reply.status}" in found["permissions"]["text"]
    assert advice in found["permissions"]["advice"]
    assert found["region"]["ok"] is None
    assert found["address"]["ok"], "what does not depend on it is looked at"


def test_the_token_is_in_nothing_that_is_printed(
    on_fly: Simulator, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("FLY_API_TOKEN", "FlyV1 fm2_canary")
    assert main(["doctor", "--backend", "fly"]) == 1
    printed = capsys.readouterr()
    assert "canary" not in printed.out + printed.err
    assert "permissions    FAILED" in printed.out


@pytest.mark.parametrize(("region", "ok"), [("lhr,eu", True), ("any", True), ("lhr,moon", False)])
def test_regions_are_those_that_fly_has(on_fly: Simulator, capsys: Capture, region: str, ok: bool) -> None:
    found = examine(capsys, "--region", region)[1]["region"]
    assert found["ok"] is ok
    if ok and region.startswith("lhr"):
        assert "this machine is in cdg: traffic between is billed" in found["text"]
    if not ok:
        assert found["text"] == "moon: unknown"
        assert "cdg" in found["advice"]


def test_regions_that_fly_does_not_tell_are_no_failure(on_fly: Simulator, capsys: Capture) -> None:
    on_fly.faults.on("regions", reply=errors.forbidden("media"))
    status, found = examine(capsys)
    assert status == 0
    assert found["region"]["ok"] is None


def test_machines_that_were_left_behind_are_a_finding(on_fly: Simulator, asker: Asker, capsys: Capture) -> None:
    label = OwnerLabel("boot-1", "nightly", Owner.me()._replace(started=1), int(time.time()) + 3600)
    machine = asker.created("runner-a", ASLEEP, metadata=label.encode())
    status, found = examine(capsys)
    assert status == 1
    assert found["machines"]["text"] == "1 that pools have booted, 1 of them left behind"
    assert found["machines"]["advice"] == "dragonfly sweep destroys them"
    on_fly.destroy(machine)


@pytest.mark.parametrize(
    ("address", "ok", "said"),
    [
        ("fdaa:9:9:9::1", False, "must be an address of this machine"),
        ("127.0.0.1:0", True, "not in fdaa::/16"),
        ("nonsense:port", False, "HOST or HOST:PORT"),
    ],
)
def test_an_address_that_runners_cannot_dial_is_a_finding(
    on_fly: Simulator, capsys: Capture, address: str, ok: bool, said: str
) -> None:
    found = examine(capsys, "--parent-address", address)[1]["address"]
    assert found["ok"] is ok
    assert said in found["text"] + found["advice"]


def test_an_image_without_a_tag_that_exists_is_a_finding(on_fly: Simulator, capsys: Capture) -> None:
    """Reference §3.1."""
    found = examine(capsys, "--image", "registry.fly.io/media:latest")[1]["image"]
    assert found["ok"] is False
    assert "fly image show" in found["advice"]


@pytest.mark.parametrize("command", [["doctor", "--backend", "fly"], ["list"]])
def test_who_lacks_httpx_is_told_what_to_install(
    on_fly: Simulator, monkeypatch: pytest.MonkeyPatch, capsys: Capture, command: list[str]
) -> None:
    monkeypatch.setitem(sys.modules, "dragonfly_executor.backends.fly.client", None)
    monkeypatch.setitem(sys.modules, "dragonfly_executor.cli.fleet.fleet", None)
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 2
    assert "pip install 'dragonfly-executor[fly]'" in capsys.readouterr().err


def test_hosts_are_not_for_fly(on_fly: Simulator, capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["doctor", "--backend", "fly", "gpu1"])
    assert "--app says where" in capsys.readouterr().err
