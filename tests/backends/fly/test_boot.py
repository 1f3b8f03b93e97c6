"""A machine for each runner: created, dialed back from, destroyed; and what is told when it does not come so far."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import BootError, BootTimeoutError, FlyBackend, Parent, RunnerLostError
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.protocol.parent import VARIABLE
from dragonfly_executor.runner import exit_codes
from tests.backends.fly.asking import ASLEEP, Asker
from tests.backends.fly.boots import ASLEEP_CONFIG, nothing_is_left
from tests.backends.fly.conftest import Make, MakeBackend
from tests.support.fly_simulator import errors
from tests.support.fly_simulator.calls import Reply
from tests.support.fly_simulator.faults import rate_limited
from tests.support.fly_simulator.simulator import Simulator
from tests.support.helpers import PATIENCE, Events, Gate, Mailbox, error_of
from tests.support.payloads import hold


def test_a_call_runs_on_a_machine_which_is_gone_afterwards(
    on_fly: Simulator, make: Make, make_backend: MakeBackend
) -> None:
    backend = make_backend()
    events = Events()
    with make(backend, on_event=events) as executor:
        assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
        machine = on_fly.machine()
        assert executor.submit(eval, "__import__('os').environ['FLY_MACHINE_ID']").result() == machine.id
        assert machine.id in events.wait("up")["node"]["create"]
    nothing_is_left(on_fly, backend)


def test_two_runners_are_two_machines(on_fly: Simulator, make: Make, make_backend: MakeBackend) -> None:
    backend = make_backend()
    with make(backend, max=2, max_concurrency=1) as executor:
        ask = "__import__('threading').Event().wait(0.3) or __import__('os').environ['FLY_MACHINE_ID']"
        ids = {future.result(PATIENCE) for future in [executor.submit(eval, ask) for _ in range(8)]}
        assert ids == {machine.id for machine in on_fly.world.booted}
        assert len(ids) == 2
    nothing_is_left(on_fly, backend)


def test_a_runner_drains_before_its_machine_reaches_its_max_lifetime(
    on_fly: Simulator, make: Make, make_backend: MakeBackend, mailbox: Mailbox, gate: Gate
) -> None:
    """Its call hears which limit ended it, and the next call has another machine."""
    backend = make_backend(max_lifetime=15)
    with make(backend) as executor:
        lost = executor.submit(hold, mailbox.path, gate.path)
        mailbox.read()
        error = error_of(lost)
        assert isinstance(error, RunnerLostError)
        assert "the max_lifetime of its machine, 15 s, had passed" in str(error)
        assert executor.submit(pow, 2, 10).result(PATIENCE) == 1024
        assert len({machine.id for machine in on_fly.world.booted}) == 2
    nothing_is_left(on_fly, backend)


def test_an_idle_runner_is_destroyed_and_the_next_call_has_another(
    on_fly: Simulator, make: Make, make_backend: MakeBackend
) -> None:
    backend = make_backend()
    with make(backend, idle_shutdown_after=0.1) as executor:
        assert executor.submit(pow, 2, 3).result(PATIENCE) == 8
        on_fly.wait_for(on_fly.machine(), "destroyed")
        assert executor.submit(pow, 2, 4).result(PATIENCE) == 16
    assert len(on_fly.world.booted) == 2
    nothing_is_left(on_fly, backend)


def test_it_listens_on_the_private_address_and_on_no_other(
    on_fly: Simulator, make: Make, make_backend: MakeBackend
) -> None:
    """And what a machine is told is that address, and a token that is good once."""
    seen: list[list[str]] = []

    def look(_call: Any) -> None:
        # Other programs of this machine may listen on all addresses.
        own = {str(link.stat().st_ino) for link in Path("/proc/self/fd").iterdir() if link.is_socket()}
        with open("/proc/net/tcp6", encoding="ascii") as table:
            rows = [line.split() for line in table]
        seen.append([row[1].partition(":")[0] for row in rows if row[3] == "0A" and row[9] in own])

    on_fly.faults.on("create", before=look)
    with make(make_backend()) as executor:
        assert executor.submit(pow, 2, 3).result(PATIENCE) == 8
    (listening,) = seen
    assert in_the_kernels_words(on_fly.parent.private_ip) in listening
    assert "0" * 32 not in listening


def test_what_a_machine_is_told_of_its_parent(on_fly: Simulator, make: Make, make_backend: MakeBackend) -> None:
    """Where it is, by which certificate it is known, and a token that is good once. And what `Parent.get` shows."""
    with make(make_backend()) as executor:
        assert executor.submit(pow, 2, 3).result(PATIENCE) == 8
        env = on_fly.machine().config["env"]
        shown = executor.submit(Parent.get).result(PATIENCE)
    assert env.keys() == {VARIABLE}
    told = Parent.decode(env[VARIABLE])
    assert (told.pool, told.runner_id, told.backend, told.pid, told.depth) == (
        executor.pool.name, 1, "fly", os.getpid(), 1,
    )  # fmt: skip
    assert told.address is not None
    assert told.address.startswith(f"[{on_fly.parent.private_ip}]:")
    assert re.fullmatch("[0-9a-f]{64}", told.fingerprint or "")
    assert re.fullmatch("[0-9a-f]{64}", told.token or "")
    assert shown == told._replace(token=None, slot=0)


def test_outside_of_fly_an_address_is_given(
    on_fly: Simulator, make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A laptop in the private network; it has none of a machine's environment."""
    for name in on_fly.environment:
        monkeypatch.delenv(name)
    place = {"app": "media", "image": on_fly.image, "host": on_fly.url, "region": "cdg", "python": sys.executable}
    address = on_fly.parent.private_ip
    backend = FlyBackend(token=on_fly.token, parent_address=address, journal=tmp_path, sync=None, **place)
    with make(backend) as executor:
        assert executor.submit(os.getenv, "FLY_MACHINE_ID").result(PATIENCE) == on_fly.machine().id
    nothing_is_left(on_fly, backend)


def in_the_kernels_words(address: str) -> str:
    import ipaddress

    packed = ipaddress.IPv6Address(address).packed
    return "".join(packed[at : at + 4][::-1].hex() for at in range(0, 16, 4)).upper()


def test_a_machine_that_fly_stops_lets_calls_finish(
    on_fly: Simulator, make: Make, make_backend: MakeBackend, mailbox: Mailbox, gate: Gate, asker: Asker
) -> None:
    """As in a migration or by `fly machine stop`: the main process passes it on, and the agent drains."""
    backend = make_backend()
    with make(backend, max=2) as executor:
        finishing = executor.submit(
            eval, f"open({mailbox.path!r}, 'w').write('runs\\n') and open({gate.path!r}, 'rb').read(1) and None"
        )
        assert mailbox.read() == "runs"
        machine = on_fly.machine()
        assert asker.ask("POST", f"/{machine.id}/stop", json={}).status_code == 200
        # Its parent is told, and sends what comes now elsewhere.
        assert executor.submit(pow, 2, 2).result(PATIENCE) == 4
        assert not finishing.done()
        gate.open()
        assert finishing.result(PATIENCE) is None
        on_fly.wait_for(machine, "destroyed")
        assert executor.submit(pow, 2, 3).result(PATIENCE) == 8
    nothing_is_left(on_fly, backend)


@pytest.mark.parametrize("how", ["stop_grace", "stop_config"])
def test_a_call_that_takes_longer_than_it_may_is_lost_and_the_error_says_who_stopped_the_machine(
    on_fly: Simulator, make: Make, make_backend: MakeBackend, mailbox: Mailbox, asker: Asker, how: str
) -> None:
    options: dict[str, Any] = {
        "stop_grace": {"stop_grace": 0.2},
        "stop_config": {"machine_config": {"stop_config": {"timeout": "5200ms"}}},
    }[how]
    with make(make_backend(**options)) as executor:
        lost = executor.submit(
            eval, f"open({mailbox.path!r}, 'w').write('runs\\n') and __import__('threading').Event().wait()"
        )
        assert mailbox.read() == "runs"
        assert asker.ask("POST", f"/{on_fly.machine().id}/stop", json={}).status_code == 200
        error = error_of(lost)
        assert isinstance(error, RunnerLostError)
        assert "Fly (for maintenance of its host, or by `fly machine stop`) had stopped its runner" in str(error)
        assert "which gives calls 0.2 s to finish: FlyBackend(stop_grace=) gives calls longer" in str(error)
        assert executor.submit(pow, 2, 3).result(PATIENCE) == 8


def test_fly_waits_as_long_as_calls_may_take_and_somewhat_longer(
    on_fly: Simulator, make: Make, make_backend: MakeBackend, mailbox: Mailbox, gate: Gate, asker: Asker
) -> None:
    """A call that needs more than half a minute: here a second is a hundredth of one."""
    on_fly.timing.second = 0.01
    backend = make_backend(stop_grace=240.0)
    with make(backend) as executor:
        finishing = executor.submit(
            eval, f"open({mailbox.path!r}, 'w').write('runs\\n') and open({gate.path!r}, 'rb').read(1) and 'all of it'"
        )
        assert mailbox.read() == "runs"
        machine = on_fly.machine()
        assert machine.config["stop_config"] == {"signal": "SIGTERM", "timeout": "245s"}
        assert asker.ask("POST", f"/{machine.id}/stop", json={}).status_code == 200
        # Longer than the usual 30 s, as it counts here.
        assert not threading.Event().wait(0.4)
        gate.open()
        assert finishing.result(PATIENCE) == "all of it"


# -- answers that are final --------------------------------------------------------------------------------------------


def test_with_a_token_that_was_revoked_fly_is_asked_once_and_what_waits_fails(
    on_fly: Simulator, make: Make, make_backend: MakeBackend
) -> None:
    backend = make_backend(token="fm2_revoked")
    with make(backend, max_boot_failures=5) as executor:
        first = executor.submit(pow, 2, 3)
        error = error_of(first)
        assert isinstance(error, BootError)
        assert "HTTP 401" in str(error)
        assert (error.final, error.attempts) == (True, 1)
        assert on_fly.history.statuses("create") == [401]
        # Whoever asks again is not told from memory.
        assert error_of(executor.submit(pow, 2, 3)) is not error
        assert on_fly.history.statuses("create") == [401, 401]
    nothing_is_left(on_fly, backend)


def test_an_answer_that_is_final_takes_nothing_from_the_machines_that_start_already(
    on_fly: Simulator, make: Make, make_backend: MakeBackend
) -> None:
    """The token is revoked between two creates: the first one's machine takes the calls of both."""
    on_fly.timing.pull_time = None
    on_fly.faults.on("create", nth=2, times=math.inf, reply=errors.unauthorized())
    backend = make_backend()
    events = Events()
    with make(backend, max=2, max_concurrency=1, boot_wait=lambda state: 3600.0, on_event=events) as executor:
        calls = [executor.submit(pow, 2, number) for number in range(4)]
        assert "HTTP 401" in events.wait("boot failed")["text"]
        on_fly.finish_pull(on_fly.machine())
        assert [call.result(PATIENCE) for call in calls] == [1, 2, 4, 8]
        assert on_fly.history.statuses("create").count(200) == 1
    # A boot that the end of the pool cuts short may be in the journal: nobody has heard the answer that it got.
    assert on_fly.history.left == []


# -- a machine that ends while it boots --------------------------------------------------------------------------------


def dies(on_fly: Simulator, make: Make, backend: Any, **options: Any) -> BootError:
    """What the call is told; nothing is left, and nobody has waited for the end of the boot's time."""
    with make(backend, boot_timeout=300.0, max_boot_failures=1, **options) as executor:
        error = error_of(executor.submit(pow, 2, 3))
    assert isinstance(error, BootError)
    assert not isinstance(error, BootTimeoutError)
    on_fly.until(lambda world: not world.alive)
    nothing_is_left(on_fly, backend)
    return error


def test_an_entrypoint_that_swallows_the_command_is_named(
    on_fly: Simulator, make: Make, make_backend: MakeBackend
) -> None:
    """Of a server that starts, whatever it is given; and of one that ends at once, as if all was well."""
    image = on_fly.images[on_fly.image]
    server = ("python", "-c", ASLEEP)
    on_fly.images["registry.fly.io/media:server"] = dataclasses.replace(image, entrypoint=server)
    on_fly.images["registry.fly.io/media:done"] = dataclasses.replace(image, entrypoint=("python", "-c", "pass"))
    done = dies(on_fly, make, make_backend(image="registry.fly.io/media:done"))
    assert "exit code 0: a runner never exits with this code itself: perhaps its runner was never started" in str(done)
    # A look takes seconds; here it is over at once, so that the next one sees the machine as it is.
    on_fly.faults.on("wait", nth=1, reply=errors.not_reached(["stopped"], "created"), delay=0.3)
    silent = times_out(make, make_backend(image="registry.fly.io/media:server"), 1.5)
    for error in (done, silent):
        assert "the image's ENTRYPOINT does not run the command that it is given" in str(error)
        assert 'init={"entrypoint": ["/usr/bin/env"]}' in str(error)


def test_what_the_error_says_about_an_entrypoint_helps(
    on_fly: Simulator, make: Make, make_backend: MakeBackend
) -> None:
    image = dataclasses.replace(on_fly.images[on_fly.image], entrypoint=("python", "-c", "pass"))
    on_fly.images["registry.fly.io/media:done"] = image
    backend = make_backend(image="registry.fly.io/media:done", init={"entrypoint": ["/usr/bin/env"]}, sync=None)
    with make(backend) as executor:
        assert executor.submit(pow, 2, 3).result(PATIENCE) == 8
    nothing_is_left(on_fly, backend)


@pytest.mark.parametrize(
    ("image", "code", "says"),
    [
        ("no-python", 127, "the command that starts the runner was not found"),
        ("broken-import", 1, "is dragonfly_executor installed in the image"),
        ("out-of-memory", 137, "killed because its memory was full: raise memory_mb="),
    ],
)
def test_what_ends_while_it_boots_says_how(
    on_fly: Simulator, make: Make, make_backend: MakeBackend, image: str, code: int, says: str
) -> None:
    """Reference 5.3: with the exit code and the flag from its events, and not at the deadline."""
    on_fly.switches.exit_event_omits_zero = code == 137
    on_fly.switches.exit_event_nested = code == 1
    error = dies(on_fly, make, make_backend(image=f"registry.fly.io/media:{image}"))
    assert f"exit code {code}" in str(error)
    assert says in str(error)
    assert error.phase == "start"
    assert "launch/created -> start/started -> exit/stopped" in error.output


def test_a_machine_that_fails_to_launch_is_told(on_fly: Simulator, make: Make, make_backend: MakeBackend) -> None:
    error = dies(on_fly, make, make_backend(image="registry.fly.io/media:launch-failed"))
    assert "before its runner had dialed back" in str(error)


def test_a_machine_that_somebody_else_destroys_is_told(
    on_fly: Simulator, make: Make, make_backend: MakeBackend
) -> None:
    backend = make_backend(machine_config=ASLEEP_CONFIG)
    on_fly.faults.on("wait", before=lambda call: on_fly.destroy(on_fly.machine()))
    error = dies(on_fly, make, backend)
    assert "before its runner had dialed back" in str(error)


def test_a_runner_that_cannot_reach_its_parent_says_so(
    on_fly: Simulator, make: Make, make_backend: MakeBackend
) -> None:
    """A laptop whose address is not routable: the machine's own log cannot be read, its exit code can."""
    backend = make_backend(parent_address="[fdaa:dead:beef::1]:4369", bind="::1", failsafe=0.3)
    error = dies(on_fly, make, backend)
    assert f"exit code {exit_codes.UNREACHABLE}" in str(error)
    assert "could not reach the parent at [fdaa:dead:beef::1]:4369" in str(error)
    assert "private network (6PN)" in str(error)


@pytest.mark.parametrize("exit_is_404", [True, False], ids=["404", "ok"])
def test_both_ways_in_which_a_wait_ends_are_understood(
    on_fly: Simulator, make: Make, make_backend: MakeBackend, exit_is_404: bool
) -> None:
    """Reference 2: a wait for `stopped` often ends with a 404 where machines destroy themselves."""
    on_fly.switches.wait_stopped_is_404 = exit_is_404
    on_fly.switches.gets_destroying_after_wait = 2
    on_fly.timing.destroy_time = 0.5
    error = dies(on_fly, make, make_backend(image="registry.fly.io/media:no-python"))
    assert "exit code 127" in str(error)


@pytest.mark.parametrize(
    "change",
    [
        {"state": "limbo"},
        {"state": "failed"},
        {"state": None, "events": None, "config": None, "host_status": "unreachable"},
        {"events": [None, 1, {"request": 1}, {"type": "exit", "request": {"exit_event": None}}]},
        {"new": {"deep": []}, "checks": "x", "region": 1},
    ],
    ids=["unknown-state", "failed", "nothing-known", "strange-events", "strange-fields"],
)
def test_strange_descriptions_crash_nothing(
    on_fly: Simulator, make: Make, make_backend: MakeBackend, change: dict[str, Any]
) -> None:
    """Reference 5.3: a typed error, or a call that runs."""
    on_fly.faults.on("create", change=lambda body: {**body, **{k: v for k, v in change.items() if k != "state"}})
    on_fly.faults.on("get", times=math.inf, change=lambda body: {**body, **change})
    backend = make_backend()
    with make(backend, max_boot_failures=1) as executor:
        future = executor.submit(pow, 2, 3)
        if change.get("state") == "failed":
            assert isinstance(future.exception(PATIENCE), BootError | None)
        else:
            assert future.result(PATIENCE) == 8
    nothing_is_left(on_fly, backend)


@pytest.mark.parametrize(
    ("action", "trouble"),
    [
        ("wait", {"reply": Reply(502, "<html>Bad Gateway</html>")}),
        ("wait", {"reply": errors.rate_limited()}),
        ("wait", {"cut": True}),
        ("wait", {"reply": errors.no_machine()}),
        ("get", {"reply": Reply(200, "<html>")}),
        ("get", {"truncate": 9}),
        ("get", {"reset": True}),
        ("get", {"reply": errors.no_machine()}),
    ],
    ids=["wait-502", "wait-429", "wait-cut", "wait-404", "get-html", "get-truncated", "get-reset", "get-404"],
)
def test_a_look_that_goes_wrong_ends_no_boot(
    on_fly: Simulator, make: Make, make_backend: MakeBackend, action: str, trouble: dict[str, Any]
) -> None:
    """A slow machine is looked at often meanwhile. One that is new may not be known to whoever answers."""
    on_fly.timing.pull_time = 0.3
    on_fly.faults.on(action, **trouble)
    if action == "get":
        on_fly.faults.on("wait", reply=errors.not_reached(["stopped"], "created"))
    backend = make_backend()
    with make(backend, max_boot_failures=1) as executor:
        assert executor.submit(pow, 2, 3).result(PATIENCE) == 8
    on_fly.until(lambda world: not world.alive)
    nothing_is_left(on_fly, backend)


@pytest.mark.parametrize("known", [True, False])
def test_a_machine_that_nobody_knows_is_gone(
    on_fly: Simulator, make: Make, make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """At once where it was there before, else after the time in which a new one might not show."""
    monkeypatch.setattr("dragonfly_executor.backends.fly.node.UNSEEN", 3600.0 if known else 0.5)
    on_fly.faults.on("wait", times=math.inf, reply=errors.no_machine())
    on_fly.faults.on("get", nth=2 if known else 1, times=math.inf, reply=errors.no_machine())
    error = dies(on_fly, make, make_backend(machine_config=ASLEEP_CONFIG))
    assert "is gone before its runner had dialed back" in str(error)
    # It is destroyed all the same, whether it had started or not.
    on_fly.wait_for(on_fly.machine(), "destroyed")


# -- a machine that takes too long -------------------------------------------------------------------------------------


def times_out(make: Make, backend: Any, seconds: float) -> BootTimeoutError:
    with make(backend, boot_timeout=seconds, max_boot_failures=1) as executor:
        error = error_of(executor.submit(pow, 2, 3))
    assert isinstance(error, BootTimeoutError)
    return error


def test_a_machine_that_never_starts_is_destroyed_before_it_is_told(
    on_fly: Simulator, make: Make, make_backend: MakeBackend
) -> None:
    """Reference 2: one was stuck in `created` for 2 hours and 20 minutes."""
    backend = make_backend(image="registry.fly.io/media:stuck")
    when: list[int] = []
    with make(backend, boot_timeout=3.0, max_boot_failures=1) as executor:
        future = executor.submit(pow, 2, 3)
        future.add_done_callback(lambda _: when.append(len(on_fly.history.left)))
        error = error_of(future)
    assert isinstance(error, BootTimeoutError)
    assert when == [0]
    assert "did not dial back within 3 s" in str(error)
    assert "state created" in error.output
    nothing_is_left(on_fly, backend)


def test_a_machine_whose_runner_says_nothing_is_told_with_what_was_waited_for(
    on_fly: Simulator, make: Make, make_backend: MakeBackend
) -> None:
    # A look takes seconds; here it is over at once, so that the next one sees the machine as it is.
    on_fly.faults.on("wait", nth=1, reply=errors.not_reached(["stopped"], "created"), delay=0.3)
    error = times_out(make, make_backend(machine_config=ASLEEP_CONFIG), 1.5)
    assert "state started" in error.output
    assert f"Its runner should dial [{on_fly.parent.private_ip}]:" in error.output
    assert "fly logs -a media" in error.output
    assert on_fly.history.left == []


@pytest.mark.parametrize("commit", [False, True])
def test_a_create_without_an_answer_is_told_with_what_came_instead(
    on_fly: Simulator, make: Make, make_backend: MakeBackend, commit: bool
) -> None:
    """Before the pool's own time is over: that would only know that there is no node. And nothing is left then."""
    on_fly.faults.on("create", times=math.inf, reply=errors.platform(502), commit=commit)
    backend = make_backend(machine_config=ASLEEP_CONFIG)
    when: list[int] = []
    with make(backend, boot_timeout=3.0, max_boot_failures=1) as executor:
        future = executor.submit(pow, 2, 3)
        future.add_done_callback(lambda _: when.append(len(on_fly.history.left)))
        error = error_of(future)
    assert "HTTP 502: 502 bad gateway" in str(error)
    assert when == [0]
    if commit:
        nothing_is_left(on_fly, backend)


@pytest.mark.parametrize("door", ["closed", "open"])
def test_a_machine_that_starts_too_late_is_refused_and_ends(
    on_fly: Simulator, make: Make, make_backend: MakeBackend, door: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could not be destroyed either: Fly says no to that. Others are waited for, or nobody is."""
    monkeypatch.setattr("dragonfly_executor.backends.fly.node.STOP_TIMEOUT", 0.3)
    on_fly.timing.pull_time = 0.9
    on_fly.faults.on("destroy", times=math.inf, reply=errors.platform(503))
    backend = make_backend(failsafe=0.5)
    with make(backend, boot_timeout=0.5, max_boot_failures=1) as executor:
        assert isinstance(error_of(executor.submit(pow, 2, 3)), BootTimeoutError)
        (machine,) = on_fly.world.booted
        if door == "open":
            on_fly.images[on_fly.image] = on_fly.images["registry.fly.io/media:stuck"]
            other = make(make_backend(sweep=False), boot_timeout=PATIENCE)
            other.submit(pow, 2, 3)
        on_fly.wait_for(machine, "destroyed")
        assert machine.exits[0].code in (exit_codes.UNREACHABLE, exit_codes.REFUSED)
    assert backend.journal is not None
    on_fly.faults.clear()
    backend.sweep()
    assert machine.name not in [entry.name for entry in backend.journal.entries()]


def test_a_shutdown_does_not_wait_for_a_boot(
    on_fly: Simulator, make: Make, make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither for Fly's answer to be better, nor for a machine to start."""
    answered, pause = threading.Event(), Deadline.pause

    def noticed(patience: Deadline, seconds: float) -> None:
        answered.set()
        pause(patience, seconds)

    monkeypatch.setattr(Deadline, "pause", noticed)
    on_fly.faults.on("create", times=math.inf, reply=rate_limited("60"))
    backend = make_backend()
    executor = make(backend, boot_timeout=3600.0)
    future = executor.submit(pow, 2, 3)
    assert answered.wait(PATIENCE)
    future.cancel()
    executor.kill_workers()
    executor.shutdown()
    nothing_is_left(on_fly, backend)

    on_fly.faults.clear()
    stuck = make_backend(image="registry.fly.io/media:stuck")
    executor = make(stuck, boot_timeout=3600.0)
    executor.submit(pow, 2, 3)
    on_fly.machine()
    executor.kill_workers()
    executor.shutdown()
    nothing_is_left(on_fly, stuck)
