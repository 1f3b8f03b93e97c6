"""No machine is left behind: whatever ends when, what there was ends by itself or is found by a sweep."""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import httpx
import pytest

from dragonfly_executor import FlyBackend
from dragonfly_executor.backends.base import CancelToken
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.fly.client import MachinesAPI
from dragonfly_executor.backends.fly.journal import FlyEntry
from dragonfly_executor.backends.fly.settings import APIAccess
from dragonfly_executor.backends.fly.sweep import FoundMachine, Sweeper
from dragonfly_executor.backends.fly.token import APIToken
from dragonfly_executor.backends.label import EXPIRES, KIND, LIFETIME, OWNER, RUNNER, OwnerLabel
from dragonfly_executor.backends.owner import Liveness, Owner
from tests.backends.fly.asking import ASLEEP
from tests.backends.fly.boots import ASLEEP_CONFIG, boot, nothing_is_left
from tests.backends.fly.conftest import Make, MakeBackend
from tests.support.fly_simulator import errors
from tests.support.fly_simulator.calls import Call, Reply
from tests.support.fly_simulator.simulator import Simulator
from tests.support.fly_simulator.state import Machine
from tests.support.helpers import PATIENCE, SOON, watching

LEASE_AND_FAILSAFE = 3.5
"""Seconds after a parent's death until its runners are gone: a lease of two here, or a failsafe of half a one."""
BUSY = 10.0
"""Seconds that a busy machine may add to that."""


@contextmanager
def parent(fly: Simulator, calls: int = 1) -> Iterator[subprocess.Popen[bytes]]:
    """A program as on a machine of Fly. It is gone afterwards."""
    command = [sys.executable, "-m", "tests.backends.fly.parent", str(calls)]
    environment = {**os.environ, **fly.environment}
    root = Path(__file__).parents[3]
    with subprocess.Popen(command, env=environment, cwd=root, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def test_the_program_works_when_nobody_kills_it(on_fly: Simulator, make_backend: MakeBackend) -> None:
    """Otherwise the tests below would say nothing. Its requests are those at which it is killed."""
    on_fly.timing.pull_time = None
    with parent(on_fly) as process:
        # A machine that comes up at once needs no look at it.
        on_fly.until(lambda _: any(REQUESTS["watch"](call) for call in on_fly.history.calls))
        on_fly.finish_pull(on_fly.machine())
        assert process.wait(PATIENCE) == 0
    for call in on_fly.history.calls:
        assert call.action == "get" or any(fits(call) for fits in REQUESTS.values())
    for fits in REQUESTS.values():
        assert any(fits(call) for call in on_fly.history.calls)
    nothing_is_left(on_fly, make_backend())


REQUESTS: dict[str, Callable[[Call], bool]] = {
    "create": lambda call: call.action == "create",
    "sweep": lambda call: call.action == "list",
    "watch": lambda call: call.action == "wait" and call.first("state") == "stopped",
    "destroy": lambda call: call.action == "destroy",
    "wait-for-its-end": lambda call: call.action == "wait" and call.first("state") == "destroyed",
}
"""All that a parent sends while everything goes well."""


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("name", REQUESTS)
def test_a_parent_that_is_killed_at_a_request_leaves_nothing_for_long(
    on_fly: Simulator, make_backend: MakeBackend, name: str, moment: str
) -> None:
    """Each boundary: before Fly has carried it out, and after that, before the answer. Checklist 20."""
    killed: SimpleQueue[float] = SimpleQueue()
    # A machine that comes up at once needs no look at it.
    on_fly.timing.pull_time = None if name == "watch" else 0.3
    with parent(on_fly) as process, watching(process.pid) as (watch,):

        def kill(_call: Call) -> None:
            process.kill()
            assert watch.ended()
            killed.put(time.time())

        on_fly.faults.on("*", where=REQUESTS[name], **{moment: kill})
        # Asked for, since who kills it may not have noted that yet when its end is seen here.
        killed_at = killed.get(timeout=PATIENCE)
    for machine in on_fly.world.booted:
        on_fly.finish_pull(machine)
        # Nobody is asked: lease and failsafe end the runner, and Fly destroys a machine whose process has ended.
        on_fly.wait_for(machine, "destroyed")
    assert on_fly.history.billed_past(lambda machine: killed_at + LEASE_AND_FAILSAFE + BUSY) == {}
    backend = make_backend()
    assert backend.journal is not None
    assert len(on_fly.world.booted) <= 1
    swept = backend.sweep()
    assert swept.left == []
    # What was asked for, and of which there is no trace, is not forgotten before its time is over.
    entries = backend.journal.entries()
    assert {entry.machine_id for entry in entries} <= {None}
    assert on_fly.history.left == []


def test_a_parent_that_is_killed_while_a_call_runs_leaves_nothing(on_fly: Simulator, make_backend: MakeBackend) -> None:
    with parent(on_fly, calls=1000000) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"called\n"
        machine = on_fly.machine()
        process.kill()
    on_fly.wait_for(machine, "destroyed")
    make_backend().sweep()
    nothing_is_left(on_fly, make_backend())


# -- the sweep ---------------------------------------------------------------------------------------------------------


def label(**other: Any) -> OwnerLabel:
    return OwnerLabel("b0", "pool", Owner.me(), int(time.time()) + 3600)._replace(**other)


def gone() -> Owner:
    """A process of this machine that has ended."""
    return Owner.me()._replace(started=1)


def elsewhere() -> Owner:
    """One of a machine that nobody here knows."""
    return Owner.me()._replace(host="elsewhere")


def machine_of(fly: Simulator, written: dict[str, str], name: str = "dragonfly-x") -> Machine:
    """A machine that somebody has made, started."""
    config = {
        "image": fly.image, "metadata": written, "auto_destroy": True, "restart": {"policy": "no"},
        "init": {"cmd": ["python", "-c", ASLEEP]},
    }  # fmt: skip
    world, machines = fly.world, fly._machines
    machine: Machine = fly.do(lambda: world.add("media", name, "cdg", config, fly.parent.private_ip))
    fly.do(machines.launch, machine)
    fly.wait_for(machine, "started")
    return machine


def entry_of(backend: FlyBackend, **other: Any) -> FlyEntry:
    access = backend.api.access
    now = time.time()
    entry = FlyEntry("dragonfly-x", access.app, access.host, label(owner=gone()), now, now + 3600)._replace(**other)
    assert backend.journal is not None
    backend.journal.write(entry)
    return entry


def look(backend: FlyBackend) -> list[FoundMachine]:
    return Sweeper(backend.api, backend.journal).look(Deadline(PATIENCE))


LABELS: dict[str, tuple[Callable[[], dict[str, str]], Liveness | None]] = {
    "owner-gone": (lambda: label(owner=gone()).encode(), Liveness.GONE),
    "expired": (lambda: label(owner=elsewhere(), expires=1).encode(), Liveness.GONE),
    "expired-by-its-owner's-clock": (
        lambda: label(owner=elsewhere(), expires=1, lifetime=60).encode(),
        Liveness.UNKNOWN,
    ),
    "expired-and-owner-alive": (lambda: label(expires=1).encode(), Liveness.ALIVE),
    "owner-alive": (lambda: label().encode(), Liveness.ALIVE),
    "elsewhere": (lambda: label(owner=elsewhere()).encode(), Liveness.UNKNOWN),
    "no-metadata": (dict, None),
    "another-tool": (lambda: {"app": "x", "dragonfly_kind": "database"}, None),
    "half-a-label": (lambda: {KIND: RUNNER, EXPIRES: "1"}, None),
    "no-owner": (lambda: {**label().encode(), OWNER: "me"}, None),
    "no-lifetime": (lambda: {**label().encode(), LIFETIME: "long"}, None),
    "no-expiry": (lambda: {**label().encode(), EXPIRES: "soon"}, None),
}


@pytest.mark.parametrize("case", LABELS)
def test_a_sweep_takes_what_is_left_behind_and_nothing_else(
    on_fly: Simulator, make_backend: MakeBackend, case: str
) -> None:
    """By what is written on machines alone: the journal is another machine's, or was lost with it."""
    write, liveness = LABELS[case]
    machine = machine_of(on_fly, write())
    backend = make_backend(journal=False)
    assert [found.liveness for found in look(backend)] == ([] if liveness is None else [liveness])
    swept = backend.sweep()
    assert [found.name for found in swept.destroyed] == ([machine.name] if liveness is Liveness.GONE else [])
    assert (machine.state == "destroyed") == (liveness is Liveness.GONE)
    assert on_fly.parent.state == "started"


DAY = 24 * 3600.0


def at(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


@pytest.mark.parametrize(
    ("date", "created", "written", "liveness"),
    [
        # This machine's clock is a day ahead of Fly's, and the owner's is not.
        (-DAY, -DAY - 60, {"expires": int(time.time() - DAY) + 3600}, Liveness.UNKNOWN),
        # It is a day behind.
        (DAY, DAY - 7200, {"expires": int(time.time() + DAY) - 3600}, Liveness.GONE),
        # The owner's was a day behind, or ahead: what counts is how long ago Fly has made it.
        (0.0, -60, {"expires": int(time.time() - DAY), "lifetime": 3600}, Liveness.UNKNOWN),
        (0.0, -7200, {"expires": int(time.time() + DAY), "lifetime": 3600}, Liveness.GONE),
        (None, -60, {"expires": int(time.time()) - 3600}, Liveness.GONE),
    ],
    ids=["sweeper-ahead", "sweeper-behind", "owner-behind", "owner-ahead", "undated"],
)
def test_fly_says_what_time_it_is(date: float | None, created: float, written: Any, liveness: Liveness) -> None:
    """A clock that is wrong, here or where the machine was asked for, has nobody's machine destroyed."""
    now = time.time()
    said = {
        "id": "7811", "name": "dragonfly-x", "state": "started", "created_at": at(now + created),
        "config": {"metadata": label(owner=elsewhere(), **written).encode()},
    }  # fmt: skip
    headers = {} if date is None else {"date": format_datetime(datetime.fromtimestamp(now + date, UTC), True)}
    transport = httpx.MockTransport(
        lambda _: httpx.Response(200, stream=httpx.ByteStream(json.dumps([said]).encode()), headers=headers)
    )
    api = MachinesAPI(APIAccess("media", APIToken("fm2_canary"), "http://fly.invalid"), transport)
    assert [found.liveness for found in Sweeper(api, None).look(Deadline(PATIENCE))] == [liveness]


@pytest.mark.parametrize(("state", "liveness"), [("stopped", Liveness.GONE), ("started", Liveness.UNKNOWN)])
def test_a_parent_on_another_machine_of_the_app_is_asked_after(
    on_fly: Simulator, make_backend: MakeBackend, state: str, liveness: Liveness
) -> None:
    """A machine that was stopped holds no pool any more."""
    world = on_fly.world
    other = on_fly.do(lambda: world.add("media", "other", "cdg", {"image": on_fly.image}, "::1", by_request=False))
    on_fly.do(world.move, other, state)
    machine_of(on_fly, label(owner=elsewhere()._replace(host=f"fly:{other.id}")).encode())
    assert [found.liveness for found in look(make_backend())] == [liveness]


def test_a_parent_whose_machine_was_started_anew_is_gone(on_fly: Simulator, make_backend: MakeBackend) -> None:
    """Fly numbers its machines: this one is the same, and its kernel is not."""
    machine_of(on_fly, label(owner=Owner.me()._replace(boot="an earlier one")).encode())
    assert [found.liveness for found in look(make_backend())] == [Liveness.GONE]


@pytest.mark.parametrize("lie", ["empty", "lag"])
def test_an_empty_list_is_no_proof(on_fly: Simulator, make_backend: MakeBackend, lie: str) -> None:
    """Reference 1.6: on one day lists came back empty for real apps. The journal's machines are asked for by number."""
    machine = machine_of(on_fly, label(owner=gone()).encode())
    backend = make_backend()
    entry_of(backend, machine_id=machine.id)
    on_fly.faults.on("list", times=math.inf, reply=Reply(200, []))
    swept = backend.sweep()
    assert [found.name for found in swept.destroyed] == [machine.name]
    nothing_is_left(on_fly, backend)


def test_what_is_known_by_name_alone_is_kept_until_it_shows(on_fly: Simulator, make_backend: MakeBackend) -> None:
    backend = make_backend()
    entry = entry_of(backend)
    (found,) = look(backend)
    assert (found.machine, found.liveness, found.name) == (None, Liveness.GONE, entry.name)
    assert backend.sweep() == ([], [])
    assert backend.journal is not None
    assert backend.journal.entries() == [entry]
    machine_of(on_fly, label(owner=gone()).encode(), entry.name)
    assert [one.name for one in backend.sweep().destroyed] == [entry.name]
    nothing_is_left(on_fly, backend)


def test_what_has_expired_and_never_showed_is_forgotten(on_fly: Simulator, make_backend: MakeBackend) -> None:
    backend = make_backend()
    entry_of(backend, expires=time.time() - 60)
    assert backend.sweep() == ([], [])
    nothing_is_left(on_fly, backend)


def test_what_a_living_owner_asked_for_is_not_forgotten(on_fly: Simulator, make_backend: MakeBackend) -> None:
    """Its boot may go on; and the clock by which it expired may be wrong."""
    backend = make_backend()
    entry = entry_of(backend, label=label(), expires=time.time() - 60)
    assert backend.sweep() == ([], [])
    assert backend.journal is not None
    assert backend.journal.entries() == [entry]


def test_another_apps_entries_are_not_this_ones(on_fly: Simulator, make_backend: MakeBackend) -> None:
    backend = make_backend()
    entry = entry_of(backend, app="other", machine_id="7811")
    assert look(backend) == []
    assert backend.journal is not None
    assert backend.journal.entries() == [entry]


def test_a_damaged_entry_is_as_good_as_its_name(on_fly: Simulator, make_backend: MakeBackend) -> None:
    backend = make_backend()
    entry = entry_of(backend)
    assert backend.journal is not None
    (backend.journal.folder / f"{entry.name}.json").write_bytes(b'{"label": [')
    assert [found.liveness for found in look(backend)] == [Liveness.UNKNOWN]
    machine_of(on_fly, label(owner=gone()).encode(), entry.name)
    assert [one.name for one in backend.sweep().destroyed] == [entry.name]
    nothing_is_left(on_fly, backend)


def test_a_name_that_somebody_else_has_now_is_not_taken_from_them(on_fly: Simulator, make_backend: MakeBackend) -> None:
    """The journal says that it is nobody's; what is written on the machine says another thing."""
    backend = make_backend()
    entry = entry_of(backend, abandoned=True)
    machine = machine_of(on_fly, label(boot="another").encode(), entry.name)
    assert backend.sweep() == ([], [])
    assert machine.state == "started"


def end_of_sweep() -> None:
    """Wait for the sweep beside the boots."""
    for thread in threading.enumerate():
        if thread.name == "dragonfly-fly-sweep":
            thread.join(PATIENCE)


def test_a_sweep_goes_with_the_first_boot(
    on_fly: Simulator, make_backend: MakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    machine = machine_of(on_fly, label(owner=gone()).encode())
    backend = make_backend(sweep=True, machine_config=ASLEEP_CONFIG)
    with caplog.at_level(logging.WARNING, "dragonfly_executor"):
        nodes = [boot(backend), boot(backend)]
        end_of_sweep()
    assert machine.state == "destroyed"
    assert f"destroyed machine {machine.name}, which was left behind" in caplog.text
    assert len(on_fly.history.of("list")) == 1
    assert sorted(found.id for found in on_fly.history.left) == sorted(node.machine_id for node in nodes)
    for node in nodes:
        node.stop()
    nothing_is_left(on_fly, backend)


@pytest.mark.parametrize(
    "trouble", [{"reply": errors.platform(503)}, {"reply": errors.forbidden("media")}, {"hang": True}]
)
def test_a_sweep_that_goes_wrong_ends_no_boot(
    on_fly: Simulator,
    make_backend: MakeBackend,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    trouble: dict[str, Any],
) -> None:
    """It is one warning."""
    monkeypatch.setattr("dragonfly_executor.backends.fly.boot.FIRST_SWEEP_TIMEOUT", 0.4)
    on_fly.faults.on("list", times=math.inf, **trouble)
    backend = make_backend(sweep=True, machine_config=ASLEEP_CONFIG)
    node = boot(backend)
    end_of_sweep()
    node.stop()
    nothing_is_left(on_fly, backend)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "could not look for machines that were left behind" in warning


@pytest.mark.parametrize("moment", [0.0, 60.0])
def test_no_call_waits_for_the_sweep(
    on_fly: Simulator, make: Make, make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch, moment: float
) -> None:
    """The list hangs for as long as it may, 10 s: the first call has long returned. Its runner ends the boot's wait."""
    monkeypatch.setattr("dragonfly_executor.backends.background_sweep.SWEEP_WAIT", moment)
    on_fly.faults.on("list", times=math.inf, hang=True)
    backend = make_backend(sweep=True)
    with make(backend) as executor:
        assert executor.submit(pow, 2, 5).result(2 * SOON) == 32
        (thread,) = [thread for thread in threading.enumerate() if thread.name == "dragonfly-fly-sweep"]
    thread.join(SOON)
    assert not thread.is_alive(), "it ends with the last machine"
    nothing_is_left(on_fly, backend)


def test_a_boot_that_is_given_up_does_not_wait_for_the_sweep(
    on_fly: Simulator, make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dragonfly_executor.backends.background_sweep.SWEEP_WAIT", 60.0)
    given_up = CancelToken()
    on_fly.faults.on("list", times=math.inf, hang=True, before=lambda call: given_up.set())
    backend = make_backend(sweep=True, machine_config=ASLEEP_CONFIG)
    boot(backend, given_up=given_up).stop()
    nothing_is_left(on_fly, backend)


def test_a_sweep_that_was_cut_short_is_due_again(
    on_fly: Simulator, make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dragonfly_executor.backends.background_sweep.SWEEP_GRACE", 0.1)
    left_behind = machine_of(on_fly, label(owner=gone()).encode())
    on_fly.faults.on("list", hang=True)
    backend = make_backend(sweep=True, machine_config=ASLEEP_CONFIG)
    boot(backend).stop()
    end_of_sweep()
    assert left_behind.state == "started"
    node = boot(backend, number=2)
    end_of_sweep()
    assert left_behind.state == "destroyed"
    node.stop()
    nothing_is_left(on_fly, backend)


def test_the_last_machine_waits_a_moment_for_the_sweep(on_fly: Simulator, make_backend: MakeBackend) -> None:
    """So that a program with one short call sweeps as well."""
    left_behind = machine_of(on_fly, label(owner=gone()).encode())
    on_fly.faults.on("list", delay=0.3)
    backend = make_backend(sweep=True, machine_config=ASLEEP_CONFIG)
    boot(backend).stop()
    assert left_behind.state == "destroyed"
    nothing_is_left(on_fly, backend)


def test_where_no_thread_is_to_be_had_the_next_boot_sweeps(
    on_fly: Simulator, make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_behind = machine_of(on_fly, label(owner=gone()).encode())
    backend = make_backend(sweep=True, machine_config=ASLEEP_CONFIG)

    def none(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr("dragonfly_executor.backends.background_sweep.threading.Thread.start", none)
        first = boot(backend)
    assert left_behind.state == "started"
    second = boot(backend, number=2)
    end_of_sweep()
    assert left_behind.state == "destroyed"
    for node in (first, second):
        node.stop()
    nothing_is_left(on_fly, backend)


def test_a_boot_that_goes_on_is_not_taken_for_left_behind(
    on_fly: Simulator, make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where this process cannot even tell that it lives itself, as in some containers."""
    monkeypatch.setattr("dragonfly_executor.backends.owner._space", lambda: "")
    backend = make_backend(sweep=True, machine_config=ASLEEP_CONFIG)
    on_fly.faults.on("create", nth=2, delay=0.5)
    nodes = [boot(backend), boot(backend, number=2)]
    end_of_sweep()
    backend.sweep()
    assert sorted(found.id for found in on_fly.history.left) == sorted(node.machine_id for node in nodes)
    for node in nodes:
        node.stop()
    nothing_is_left(on_fly, backend)


def test_what_a_sweep_cannot_destroy_it_says(
    on_fly: Simulator, make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = machine_of(on_fly, label(owner=gone()).encode())
    on_fly.faults.on("destroy", times=math.inf, reply=errors.unauthorized())
    ((found, why),) = make_backend().sweep().left
    assert found.name == machine.name
    assert "token validation error" in why
    assert on_fly.token not in why


def test_two_sweeps_at_once_are_as_good_as_one(on_fly: Simulator, make_backend: MakeBackend) -> None:
    """Of two processes: the second finds what the first one takes gone."""
    machine_of(on_fly, label(owner=gone()).encode())
    first, second = make_backend(), make_backend()
    found = look(first)
    first.sweep()
    assert Sweeper(second.api, second.journal).sweep(Deadline(PATIENCE), found).left == []
    nothing_is_left(on_fly, second)
