"""`dragonfly list`, `sweep` and `destroy`: whose machines there are, what they cost, and how they go."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import httpx
import pytest

from dragonfly_executor.backends.fly.client import MachinesAPI
from dragonfly_executor.backends.fly.journal import FlyEntry
from dragonfly_executor.backends.fly.prices import PRICES
from dragonfly_executor.backends.label import OwnerLabel
from dragonfly_executor.backends.owner import Owner
from dragonfly_executor.cli.main import main
from dragonfly_executor.cli.terminal import duration
from tests.backends.fly.asking import ASLEEP, Asker
from tests.backends.fly.boots import ASLEEP_CONFIG, boot, nothing_is_left
from tests.backends.fly.conftest import MakeBackend
from tests.support.fly_simulator import errors
from tests.support.fly_simulator.simulator import Simulator
from tests.support.fly_simulator.state import Machine

Capture = pytest.CaptureFixture[str]
GUEST = {"cpu_kind": "performance", "cpus": 2, "memory_mb": 4096}


@pytest.fixture(scope="module")
def dead() -> Owner:
    """A process that was, on this machine."""
    program = "from dragonfly_executor.backends.owner import Owner; print(Owner.me().encode())"
    printed = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True, text=True).stdout
    owner = Owner.decode(printed.strip())
    assert owner is not None
    return owner


@pytest.fixture
def left_behind(on_fly: Simulator, asker: Asker, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes machines that say whose they are."""

    def make(name: str, owner: Owner, lifetime: float = 3600.0) -> Machine:
        label = OwnerLabel(f"boot-{name}", "nightly", owner, int(time.time() + lifetime))
        on_fly.rates.of["create"] = (100.0, 100.0)
        return asker.created(name, ASLEEP, metadata=label.encode(), guest=GUEST)

    return make


def here(owner: Owner) -> Owner:
    """As it would be known to a process that is on the parent's machine."""
    return owner._replace(host=Owner.me().host)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(capsys: Capture, *arguments: str) -> tuple[int, str, str]:
    status = main(arguments)
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def machines(capsys: Capture, *arguments: str) -> list[dict[str, Any]]:
    status, out, _ = run(capsys, "list", "--json", *arguments)
    assert status == 0
    said = json.loads(out)
    assert said["prices_as_of"] == PRICES.as_of
    found: list[dict[str, Any]] = said["machines"]
    return found


def stands(fly: Simulator, *expected: Machine) -> None:
    """These machines are there, and no others but the parent's."""
    assert {machine.id for machine in fly.history.left} == {machine.id for machine in expected}


# -- list --------------------------------------------------------------------------------------------------------------


def test_a_machine_that_a_pool_has_is_listed_with_all_that_is_known(
    on_fly: Simulator, make_backend: MakeBackend, capsys: Capture
) -> None:
    backend = make_backend(machine_config=ASLEEP_CONFIG, region="cdg")
    node = boot(backend)
    (found,) = machines(capsys)
    machine = on_fly.machine()
    assert (found["id"], found["name"], found["app"]) == (machine.id, machine.name, "media")
    assert (found["region"], found["pool"], found["owner"]) == ("cdg", "Tests of Fly", "alive")
    assert found["why"] == f"process {os.getpid()} on fly:{on_fly.parent.id} has it"
    assert (found["listed"], found["in_journal"], found["may_run"]) == (True, True, True)
    assert found["guest"]["memory_mb"] == 4096
    assert 0 <= found["age"] < 60
    price = PRICES.per_second(found["guest"], ["cdg"])
    assert price is not None
    assert found["cost"] == pytest.approx(found["age"] * price)
    assert found["expires"] > time.time()
    node.stop()
    assert machines(capsys) == []
    nothing_is_left(on_fly, backend)


def test_people_get_a_table(on_fly: Simulator, left_behind: Any, dead: Owner, capsys: Capture) -> None:
    machine = left_behind("runner-a", here(dead))
    on_fly.wait_for(machine, "started")
    status, out, err = run(capsys, "list")
    assert (status, err) == (0, "")
    head, row, costs, advice = out.splitlines()
    assert head.split() == ["MACHINE", "NAME", "STATE", "REGION", "SIZE", "AGE", "COST", "POOL", "OWNER"]
    assert row.startswith(f"{machine.id}  runner-a  started")
    assert "performance-2x" in row
    assert " $0.0" in row
    assert row.endswith(f"nightly  gone: process {dead.pid} on fly:{on_fly.parent.id} is gone")
    assert f"estimates, by prices as of {PRICES.as_of}" in costs
    assert advice == "1 of them left behind: `dragonfly sweep` destroys them."
    on_fly.destroy(machine)


def test_a_table_fits_the_terminal(
    on_fly: Simulator, left_behind: Any, dead: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = left_behind("runner-a", here(dead))
    on_fly.wait_for(machine, "started")
    said = Terminal()
    monkeypatch.setattr(sys, "stdout", said)
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["list"]) == 0
    lines = said.getvalue().splitlines()
    costs = next(place for place, line in enumerate(lines) if line.startswith("Costs are estimates"))
    assert max(map(len, lines[:costs])) <= 80
    assert f"MACHINE  {machine.id}" in lines
    assert "POOL     nightly" in lines
    on_fly.destroy(machine)


def test_an_empty_list_is_not_taken_for_a_proof(on_fly: Simulator, capsys: Capture) -> None:
    """Reference §1.6: lists have come back empty for apps that had machines."""
    assert "Fly's list may lag behind" in run(capsys, "list")[1]
    assert "Fly's list may lag behind" in run(capsys, "sweep")[1]
    assert "Fly's list may lag behind" in run(capsys, "destroy", "--all", "--yes")[1]


def test_what_is_not_listed_is_known_from_the_journal(
    on_fly: Simulator, make_backend: MakeBackend, capsys: Capture
) -> None:
    backend = make_backend(machine_config=ASLEEP_CONFIG)
    node = boot(backend)
    on_fly.faults.on("list", change=lambda body: [])
    (found,) = machines(capsys)
    assert (found["id"], found["owner"]) == (node.machine_id, "alive")
    node.stop()


def test_a_boot_that_only_the_journal_knows_of_is_shown_and_costs_nothing(
    on_fly: Simulator, make_backend: MakeBackend, capsys: Capture
) -> None:
    backend = make_backend()
    label = OwnerLabel("boot-1", "nightly", Owner.me(), int(time.time() + 3600))
    entry = FlyEntry("dragonfly-x", "media", on_fly.url, label, time.time(), time.time() + 3600, None, "cdg", GUEST)
    assert backend.journal is not None
    backend.journal.write(entry)
    (found,) = machines(capsys)
    assert (found["id"], found["state"], found["cost"], found["may_run"]) == (None, "asked for", None, False)
    assert "asked for" in run(capsys, "list")[1]


def test_what_the_journal_has_is_shown_where_fly_cannot_be_asked(
    on_fly: Simulator, make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    backend = make_backend(machine_config=ASLEEP_CONFIG, region="cdg")
    node = boot(backend)
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("FLY_API_TOKEN", "fm2_revoked")
        status, out, err = run(capsys, "list", "--json")
        assert (status, err.startswith("dragonfly: listing the machines of media: HTTP 401")) == (1, True)
        (found,) = json.loads(out)["machines"]
        assert (found["id"], found["state"], found["region"]) == (node.machine_id, "not known", "cdg")
        assert (found["owner"], found["why"], found["may_run"]) == ("unknown", "Fly could not be asked", True)
        assert (found["listed"], found["in_journal"]) == (False, True)
    node.stop()


def test_all_apps_of_the_journal_are_looked_at_where_none_is_named(
    on_fly: Simulator, make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    backend = make_backend(machine_config=ASLEEP_CONFIG)
    node = boot(backend)
    monkeypatch.delenv("FLY_APP_NAME")
    assert [found["app"] for found in machines(capsys)] == ["media"]
    node.stop()
    with pytest.raises(SystemExit) as ended:
        main(["list"])
    assert ended.value.code == 2
    assert "Give --app, or set FLY_APP_NAME" in capsys.readouterr().err


def test_ages_and_costs_go_by_flys_clock_and_by_this_ones_what_was_only_written_here(
    on_fly: Simulator, make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """It is tomorrow there, or this machine's clock is wrong."""
    now = time.time()
    created, there = (datetime.fromtimestamp(now + seconds, UTC) for seconds in (86400 - 600, 86400))
    label = OwnerLabel("boot-1", "nightly", Owner("another", "boot", "space", 1, 1), int(now + 3600), 7200)
    said = {
        "id": "7811", "name": "dragonfly-a", "state": "started", "region": "cdg", "created_at": created.isoformat(),
        "config": {"metadata": label.encode(), "guest": GUEST},
    }  # fmt: skip
    transport = httpx.MockTransport(
        lambda _: httpx.Response(
            200, stream=httpx.ByteStream(json.dumps([said]).encode()), headers={"date": format_datetime(there, True)}
        )
    )
    monkeypatch.setattr("dragonfly_executor.cli.fleet.fleet.MachinesAPI", lambda access: MachinesAPI(access, transport))
    journal = make_backend().journal
    assert journal is not None
    journal.write(FlyEntry("dragonfly-b", "media", on_fly.url, label, now - 60, now + 3600, None, "cdg", GUEST))
    found = {machine["name"]: machine for machine in machines(capsys)}
    assert found["dragonfly-a"]["age"] == pytest.approx(600, abs=50)
    price = PRICES.per_second(GUEST, ["cdg"])
    assert price is not None
    assert found["dragonfly-a"]["cost"] == pytest.approx(found["dragonfly-a"]["age"] * price)
    assert found["dragonfly-b"]["age"] == pytest.approx(60, abs=50)


# -- sweep -------------------------------------------------------------------------------------------------------------


def test_a_sweep_destroys_what_is_left_behind_and_nothing_else(
    on_fly: Simulator, left_behind: Any, dead: Owner, asker: Asker, capsys: Capture
) -> None:
    """What is not ours is left alone, and so is what somebody may still have."""
    left_behind("runner-dead", here(dead))
    expired = left_behind("runner-expired", Owner("another", "boot", "space", 1, 1), lifetime=-60)
    alive = left_behind("runner-alive", Owner.me())
    elsewhere = left_behind("runner-elsewhere", Owner("another", "boot", "space", 1, 1))
    foreign = asker.created("web-1", ASLEEP)
    status, out, _ = run(capsys, "sweep", "--yes")
    assert status == 0
    assert set(out.splitlines()) == {"destroyed runner-dead", f"destroyed {expired.name}"}
    stands(on_fly, alive, elsewhere, foreign)
    for machine in (alive, elsewhere, foreign):
        on_fly.destroy(machine)


def test_what_a_killed_parent_has_left_is_known_at_once_and_goes(on_fly: Simulator, capsys: Capture) -> None:
    """After kill -9. Its machine would go on sleeping for a day."""
    program = (
        "import signal; from dragonfly_executor import FlyBackend; "
        "from tests.backends.fly.boots import ASLEEP_CONFIG, boot; "
        "node = boot(FlyBackend(machine_config=ASLEEP_CONFIG)); print(node.machine_id, flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        machine_id = parent.stdout.readline().strip()
        parent.kill()
    (found,) = machines(capsys)
    assert (found["id"], found["owner"], found["in_journal"]) == (machine_id, "gone", True)
    assert run(capsys, "sweep", "--yes")[:2] == (0, f"destroyed {found['name']}\n")
    assert machines(capsys) == []
    stands(on_fly)


def test_a_sweep_asks_first(
    on_fly: Simulator, left_behind: Any, dead: Owner, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    machine = left_behind("runner-a", here(dead))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    status, out, err = run(capsys, "sweep")
    assert (status, out) == (1, "")
    assert "cannot ask for confirmation without a terminal; give --yes" in err
    monkeypatch.setattr("sys.stdin", Terminal("\n"))
    status, out, err = run(capsys, "sweep")
    assert (status, out) == (1, "")
    assert "runner-a" in err
    assert "Destroy these 1 machines? [y/N] dragonfly: nothing was destroyed" in err
    stands(on_fly, machine)
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    status, out, _ = run(capsys, "sweep", "--json")
    assert (status, json.loads(out)["destroyed"]) == (0, ["runner-a"])
    stands(on_fly)


def test_what_cannot_be_destroyed_is_said(
    on_fly: Simulator, left_behind: Any, dead: Owner, asker: Asker, capsys: Capture
) -> None:
    machine = left_behind("runner-a", here(dead))
    on_fly.faults.on("destroy", commit=False, reply=errors.forbidden("media"))
    status, out, _ = run(capsys, "sweep", "--yes")
    assert status == 1
    assert out.startswith("NOT destroyed runner-a: ")
    assert "HTTP 403" in out
    stands(on_fly, machine)
    on_fly.destroy(machine)


# -- destroy -----------------------------------------------------------------------------------------------------------


def test_machines_are_destroyed_by_id_and_by_name_and_others_are_not(
    on_fly: Simulator, left_behind: Any, asker: Asker, capsys: Capture
) -> None:
    first, second = left_behind("runner-a", Owner.me()), left_behind("runner-b", Owner.me())
    third, foreign = left_behind("runner-c", Owner.me()), asker.created("web-1", ASLEEP)
    status, out, err = run(capsys, "destroy", "--yes", first.id, "runner-b", foreign.id, "nonsense!")
    assert status == 1
    assert out.splitlines() == ["destroyed runner-a", "destroyed runner-b"]
    assert f"dragonfly: {foreign.id}: no pool has booted such a machine" in err
    assert "dragonfly: nonsense!: no pool" in err
    stands(on_fly, third, foreign)
    assert run(capsys, "destroy", "--all", "--yes")[0] == 0
    stands(on_fly, foreign)
    assert second.name == "runner-b"
    on_fly.destroy(foreign)


def test_a_machine_that_is_not_listed_is_destroyed_by_its_id(
    on_fly: Simulator, left_behind: Any, capsys: Capture
) -> None:
    machine = left_behind("runner-a", Owner.me())
    on_fly.faults.on("list", change=lambda body: [])
    assert run(capsys, "destroy", "--yes", machine.id)[:2] == (0, "destroyed runner-a\n")
    stands(on_fly)


def test_who_destroys_what_is_in_use_is_told(
    on_fly: Simulator, left_behind: Any, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    machine = left_behind("runner-a", Owner.me())
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    assert "1 of them in use: their calls are lost? [y/N]" in run(capsys, "destroy", "--all")[2]
    stands(on_fly, machine)
    on_fly.destroy(machine)


@pytest.mark.parametrize("arguments", [[], ["--all", "some"]])
def test_either_machines_or_all(arguments: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["destroy", *arguments])
    assert ended.value.code == 2
    assert "or give --all" in capsys.readouterr().err


# -- what is wrong -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["list", "sweep"])
def test_a_token_that_is_refused_is_a_line_without_it(
    on_fly: Simulator, monkeypatch: pytest.MonkeyPatch, capsys: Capture, command: str
) -> None:
    monkeypatch.setenv("FLY_API_TOKEN", "fm2_secret-canary")
    status, out, err = run(capsys, command)
    assert status == 1
    assert err.startswith("dragonfly: listing the machines of media: HTTP 401")
    assert "canary" not in out + err


@pytest.mark.parametrize(
    ("environment", "arguments", "said"),
    [
        ({"FLY_APP_NAME": ""}, [], "Give --app, or set FLY_APP_NAME (a machine"),
        ({}, ["--app", "a/b"], "--app is no name of a Fly app: 'a/b'"),
        ({"FLY_APP_NAME": "a/b"}, [], "FLY_APP_NAME is no name of a Fly app: 'a/b'"),
        ({"FLY_API_TOKEN": ""}, [], "Set FLY_API_TOKEN: `fly tokens create deploy -a media` prints one"),
        ({"FLY_FLAPS_BASE_URL": "ftp://x"}, [], "FLY_FLAPS_BASE_URL must be the URL of the Machines API"),
        ({}, ["--journal", "/dev/null"], "/dev/null'. Give --journal, or set XDG_STATE_HOME"),
    ],
    ids=["no-app", "app", "app-in-environment", "no-token", "url", "journal"],
)
def test_what_is_missing_or_wrong_is_called_what_it_is_called_here(
    on_fly: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
    environment: dict[str, str],
    arguments: list[str],
    said: str,
) -> None:
    """An option where there is one, else the variable: nobody can give a command an argument of a function."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for command in (["list"], ["sweep"], ["destroy", "--all"]):
        with pytest.raises(SystemExit) as ended:
            main([*command, *arguments])
        assert ended.value.code == 2
        printed = capsys.readouterr().err
        assert said in printed
        assert not re.search(r"\b(app|token|host|journal)=", printed)


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.9, "0 s"), (61, "1 min 1 s"), (3 * 3600 + 125, "3 h 2 min"), (90000, "1 d 1 h")]
)
def test_durations_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said
