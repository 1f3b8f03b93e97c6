"""The real Fly. Machines are made there, for some seconds each, and paid for: only where FLY_LIVE=1 says so.

Wanted in the environment besides: FLY_API_TOKEN, FLY_APP_NAME (an app that is used for nothing else), and where
this does not run on a machine of Fly, FLY_IMAGE_REF (any image with a shell) and FLY_REGION. For a runner that dials
back: an image with this package and this Python, and FLY_PRIVATE_IP, or FLY_LIVE_ADDRESS for a WireGuard address.

``FLY_LIVE=1 pytest -s tests/backends/fly/test_live.py`` prints what was seen of what no document confirms.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import BootRequest, DragonflyExecutor, FlyBackend, Parent
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.fly.boot_deadline import FlyBootDeadline
from dragonfly_executor.backends.fly.client import MachinesAPI
from dragonfly_executor.backends.fly.errors import FlyAPIError
from dragonfly_executor.backends.fly.machines import FlyMachine
from dragonfly_executor.backends.fly.responses import APIResponse, ResponseKind, classify, taken_by
from dragonfly_executor.backends.fly.settings import APIAccess, Placement
from dragonfly_executor.backends.label import OwnerLabel
from dragonfly_executor.backends.owner import Owner

NEEDED = ("FLY_API_TOKEN", "FLY_APP_NAME", "FLY_IMAGE_REF")

pytestmark = [
    pytest.mark.skipif(os.environ.get("FLY_LIVE") != "1", reason="makes machines on Fly, which cost: set FLY_LIVE=1"),
    pytest.mark.skipif(
        any(not os.environ.get(name) for name in NEEDED), reason=f"the real Fly needs {', '.join(NEEDED)}"
    ),
    pytest.mark.timeout(600),
]


class Seen:
    """A machine on Fly, made without a backend, and what was seen of it."""

    def __init__(self, api: MachinesAPI) -> None:
        self.api = api
        self.made: list[str] = []

    def create(self, name: str, script: str, **config: Any) -> APIResponse:
        """Ask for a machine that runs a script of the shell."""
        label = OwnerLabel(os.urandom(16).hex(), "live-test", Owner.me(), int(time.time()) + 600)
        place = Placement.find(os.environ)
        what = {
            "image": place.image,
            "guest": {"cpu_kind": "shared", "cpus": 1, "memory_mb": 256},
            "init": {"exec": ["/bin/sh", "-c", script]},
            "auto_destroy": True,
            "restart": {"policy": "no"},
            "metadata": label.encode(),
        }
        body = {"name": name, "config": what | config, "skip_secrets": True}
        if place.regions:
            body["region"] = ",".join(place.regions)
        began = time.monotonic()
        patience = FlyBootDeadline(120, BootRequest(1, Parent.new("live-test", 1, "fly"), 120))
        reply = self.api.create(body, patience)
        while classify(reply) is ResponseKind.RATE and not patience.is_over:
            print(f"create {name}: HTTP {reply.status} {reply.text()!r}, headers {dict(reply.headers)}")
            patience.pause(1.5)
            reply = self.api.create(body, patience)
        print(f"create {name}: HTTP {reply.status} in {time.monotonic() - began:.1f} s, headers {dict(reply.headers)}")
        machine = FlyMachine.read(reply.json())
        if machine is not None:
            self.made.append(machine.id)
        return reply

    def created(self, script: str) -> FlyMachine:
        """The same, for who takes for granted that it works."""
        reply = self.create(f"dragonfly-live-{os.urandom(6).hex()}", script)
        machine = FlyMachine.read(reply.json())
        assert machine is not None, reply.text()
        assert machine.state == "created"
        return machine

    def ask(self, action: str, machine: FlyMachine, method: str, rest: str = "", **params: str) -> APIResponse:
        """One request about a machine, and the answer as it is."""
        path = f"/apps/{self.api.access.app}/machines/{machine.id}{rest}"
        query = list(params.items())
        reply = self.api._connections.exchange(
            action, machine.id, method, path, Deadline(60), timeout=30.0, params=query
        )
        print(f"{method} {rest or 'machine'} {params}: HTTP {reply.status} {reply.text()[:200]!r}")
        return reply

    def until(self, machine: FlyMachine, *states: str) -> FlyMachine:
        """Wait until it is in one of these."""
        patience = Deadline(180)
        while not patience.is_over:
            verdict = self.api.wait(machine.id, states, patience)
            found = self.api.get(machine.id, patience)
            print(f"wait for {states}: {verdict}; then {found.standing() if found else 'gone'}")
            assert found is not None
            if found.state in states or verdict is ResponseKind.OK:
                return found
        raise AssertionError(f"{machine} did not come to {states}")


@pytest.fixture
def seen() -> Iterator[Seen]:
    """Makes machines; all are destroyed when a test ends."""
    seen = Seen(MachinesAPI(APIAccess.find(os.environ)))
    yield seen
    for machine_id in seen.made:
        seen.api.destroy(machine_id, Deadline(60))


def test_a_process_that_ends_takes_its_machine_with_it(seen: Seen) -> None:
    """Reference 2: also where it failed; and a machine that is destroyed can still be looked at."""
    for code in (0, 1):
        machine = seen.created(f"exit {code}")
        reply = seen.ask("wait", machine, "GET", "/wait", state="stopped", timeout="20")
        assert reply.status in (200, 404, 408)
        machine = seen.until(machine, "destroyed")
        assert machine.exit is not None
        assert machine.exit.code == code
        print(f"events after exit {code}: {machine.events}")


def test_a_name_is_taken_and_the_answer_says_by_whom(seen: Seen) -> None:
    machine = seen.created("sleep 300")
    again = seen.create(machine.name, "sleep 300")
    print(f"the same name again: HTTP {again.status} {again.text()}")
    assert classify(again) is ResponseKind.NAME_TAKEN
    assert taken_by(again) == machine.id


def test_a_forced_destroy_is_enough(seen: Seen) -> None:
    """And what is open about it: its name meanwhile, and a second one."""
    machine = seen.created("sleep 300")
    seen.until(machine, "started")
    began = time.monotonic()
    assert classify(seen.ask("destroy", machine, "DELETE", force="true")) is ResponseKind.OK
    name_again = seen.create(machine.name, "sleep 300")
    print(f"its name while it is being destroyed, or has just been: HTTP {name_again.status} {name_again.text()[:200]}")
    assert seen.api.destroy(machine.id, Deadline(60))
    print(f"destroyed within {time.monotonic() - began:.1f} s")
    seen.ask("destroy", machine, "DELETE", force="true")
    assert seen.api.destroy(machine.id, Deadline(60)), "whatever that was answered"
    assert machine.id not in [one.id for one in seen.api.runners(Deadline(30))]


def test_machines_are_found_by_what_is_written_on_them(seen: Seen) -> None:
    machine = seen.created("sleep 300")
    listed = [one.id for one in seen.api.runners(Deadline(30))]
    print(f"a list right after the create {'has' if machine.id in listed else 'does not have'} the machine")
    label = OwnerLabel.decode((seen.api.get(machine.id, Deadline(30)) or machine).metadata)
    assert label is not None
    assert label.owner == Owner.me()


def test_what_fly_says_of_bad_requests(seen: Seen) -> None:
    """Printed: statuses and forms that the documents leave open."""
    for name, config in {
        "no such image": {"image": "registry.fly.io/dragonfly-nowhere:none"},
        "no such size": {"guest": {"cpu_kind": "performance", "cpus": 8, "memory_mb": 4096}},
    }.items():
        reply = seen.create(f"dragonfly-live-{os.urandom(6).hex()}", "exit 0", **config)
        print(f"{name}: HTTP {reply.status} {reply.text()!r}, taken for {classify(reply)}")
    stranger = MachinesAPI(APIAccess.find({**os.environ, "FLY_API_TOKEN": "fm2_AAAA"}))
    with pytest.raises(FlyAPIError) as caught:
        stranger.runners(Deadline(20))
    print(f"a token that is none: {caught.value}")
    assert caught.value.status in (401, 403)


def test_a_call_runs_there(tmp_path: Path) -> None:
    """The whole way: create, connect back, call, destroyed."""
    address = os.environ.get("FLY_LIVE_ADDRESS") or os.environ.get("FLY_PRIVATE_IP")
    if not address:
        pytest.skip("no runner can dial this machine: set FLY_LIVE_ADDRESS, or run on Fly")
    backend = FlyBackend(parent_address=address, journal=tmp_path, sync=None)
    began = time.monotonic()
    with DragonflyExecutor(backend=backend, max=1, max_boot_failures=1) as executor:
        assert executor.submit(pow, 2, 10).result(300) == 1024
        print(f"the first result came after {time.monotonic() - began:.1f} s")
    assert backend.journal is not None
    assert backend.journal.entries() == []
