"""What the simulator's machines do: states, processes, events, names. Sections are those of the reference."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
from typing import Any

import pytest

from tests.backends.fly.asking import ASLEEP, Asker
from tests.support.fly_simulator.images import SYSTEM_PATH
from tests.support.fly_simulator.processes import environment_of
from tests.support.fly_simulator.simulator import Simulator
from tests.support.fly_simulator.state import Machine
from tests.support.fly_simulator.values import Exit
from tests.support.helpers import SOON, Gate, Mailbox, watching


def states_of(machine: Machine) -> list[str]:
    return [state for _, state in machine.changes]


def telling_env(mailbox: Mailbox) -> str:
    """What a machine runs that is to tell its environment."""
    return f"import json, os; open({mailbox.path!r}, 'w').write(json.dumps(dict(os.environ)) + '\\n')"


def exit_events(body: Any) -> list[Any]:
    return [event["request"]["exit_event"] for event in body["events"] if event["type"] == "exit"]


def test_a_machine_is_created_starts_ends_and_destroys_itself(fly: Simulator, asker: Asker) -> None:
    """Section 2: also where it ends with another code than 0."""
    machine = asker.created("runner-1", "import sys; sys.exit(3)")
    assert asker.wait(machine, "destroyed").json()["state"] == "destroyed"
    assert states_of(machine) == ["created", "starting", "started", "stopped", "destroying", "destroyed"]
    body = asker.get(machine)
    assert body["state"] == "destroyed"
    assert [event["type"] for event in body["events"]] == ["destroy", "exit", "start", "launch"]
    assert [event["source"] for event in body["events"]] == ["flyd", "flyd", "flyd", "user"]
    assert exit_events(body)[0]["exit_code"] == 3
    assert fly.history.left == []


def test_its_process_has_the_environment_of_a_machine_and_nothing_else(
    fly: Simulator, asker: Asker, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sections 3.1 and 3.3."""
    monkeypatch.setenv("OF_THE_PARENT", "1")
    machine = asker.created("runner-1", telling_env(mailbox), env={"DRAGONFLY_PARENT": "[::1]:1"})
    found = json.loads(mailbox.read())
    # What the shell and Python add themselves.
    for own in ("PWD", "SHLVL", "_", "LC_CTYPE", "OLDPWD"):
        found.pop(own, None)
    assert {name for name in found if not name.startswith("COVERAGE_")} == {
        "HOME", "PATH", "TERM", "TMPDIR", "DRAGONFLY_PARENT", "FLY_APP_NAME", "FLY_MACHINE_ID", "FLY_ALLOC_ID",
        "FLY_MACHINE_VERSION", "FLY_REGION", "FLY_IMAGE_REF", "FLY_PRIVATE_IP", "FLY_VM_MEMORY_MB", "FLY_API_TOKEN",
    }  # fmt: skip
    assert found["FLY_MACHINE_ID"] == found["FLY_ALLOC_ID"] == machine.id
    assert found["FLY_MACHINE_VERSION"] == machine.instance_id
    assert found["FLY_PRIVATE_IP"] == machine.private_ip
    assert (machine.private_ip == fly.parent.private_ip) == bool(fly.addresses.reason)


@pytest.mark.parametrize("secret_wins", [True, False])
def test_secrets_are_injected_unless_they_are_skipped(
    fly: Simulator, asker: Asker, mailbox: Mailbox, secret_wins: bool
) -> None:
    """Section 3.3: of a secret and a variable with one name, the secret wins; what fly.toml does, at least."""
    fly.switches.secret_wins = secret_wins
    fly.app.secrets["DATABASE_URL"] = "of the app"
    asker.created("runner-1", telling_env(mailbox), env={"DATABASE_URL": "of the config"})
    assert json.loads(mailbox.read())["DATABASE_URL"] == ("of the app" if secret_wins else "of the config")
    config = {"image": fly.image, "init": {"cmd": ["python", "-c", telling_env(mailbox)]}, "auto_destroy": True}
    asker.ask("POST", json={"name": "runner-2", "config": config, "skip_secrets": True})
    assert not {"DATABASE_URL", "FLY_API_TOKEN"} & set(json.loads(mailbox.read()))


def test_a_forced_destroy_ends_whatever_runs_in_it(fly: Simulator, asker: Asker, mailbox: Mailbox) -> None:
    """A machine ends with its first process, and nothing of it stays: whatever session it moved to."""
    code = (
        "import os, signal, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'], start_new_session=True)\n"
        f"open({mailbox.path!r}, 'w').write(f'{{child.pid}}\\n')\n" + ASLEEP
    )
    machine = asker.created("runner-1", code)
    with watching(int(mailbox.read()), fly.pid(machine) or 0) as processes:
        refused = asker.destroy(machine, force=False)
        assert (refused.status_code, refused.json()["error"]) == (
            412,
            "failed_precondition: unable to destroy machine, not currently stopped, suspended, failed or created",
        )
        assert asker.destroy(machine).json() == {"ok": True}
        fly.wait_for(machine, "destroyed")
        assert all(process.ended(SOON) for process in processes)
    assert machine.exits[0].code == 137


def test_what_its_first_process_leaves_behind_ends_with_it(
    fly: Simulator, asker: Asker, mailbox: Mailbox, gate: Gate
) -> None:
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'], start_new_session=True)\n"
        f"open({mailbox.path!r}, 'w').write(f'{{child.pid}}\\n')\n"
        f"open({gate.path!r}, 'rb', 0).read(1)"
    )
    machine = asker.created("runner-1", code)
    with watching(int(mailbox.read())) as (left,):
        assert not left.ended(0.0)
        gate.open()
        assert left.ended(SOON)
    fly.wait_for(machine, "destroyed")
    assert machine.exits == [Exit(0)]


@pytest.mark.parametrize("free", [False, True])
def test_a_name_is_taken_until_its_machine_is_destroyed(fly: Simulator, asker: Asker, free: bool) -> None:
    """Section 1.6: whether it is taken while it is being destroyed is not known."""
    fly.switches.name_free_while_destroying = free
    fly.timing.destroy_time = 60.0
    machine = asker.created("runner-1", ASLEEP)
    refused = asker.create("runner-1", ASLEEP)
    assert (refused.status_code, refused.json()) == (409, {
        "error": f"already_exists: unique machine name violation, machine ID {machine.id} already exists with"
        ' name "runner-1"'
    })  # fmt: skip
    asker.destroy(machine)
    assert machine.state == "destroying"
    assert asker.create("runner-1", ASLEEP).status_code == (200 if free else 409)


def test_a_name_may_be_used_again(fly: Simulator, asker: Asker) -> None:
    first = asker.created("runner-1", ASLEEP)
    asker.destroy(first)
    fly.wait_for(first, "destroyed")
    second = asker.created("runner-1", ASLEEP)
    assert second.id != first.id
    assert fly.history.most_at_once() == 1


@pytest.mark.parametrize(
    ("image", "ended", "said"),
    [
        ("no-python", Exit(127), "No such file"),
        ("broken-import", Exit(1), "this image lacks libfly.so"),
        ("out-of-memory", Exit(137, oom=True), ""),
    ],
)
def test_an_image_may_be_unfit(fly: Simulator, asker: Asker, image: str, ended: Exit, said: str) -> None:
    """Section 5.3: what becomes of the runner's command in such an image."""
    init = {"cmd": ["python", "-m", "dragonfly_executor.runner"]}
    machine = asker.created("runner-1", image=f"registry.fly.io/media:{image}", init=init)
    asker.wait(machine, "destroyed")
    assert machine.exits == [ended]
    assert said in fly.log(machine)
    event = exit_events(asker.get(machine))[0]
    assert (event["exit_code"], event["oom_killed"]) == (ended.code, ended.oom)


def test_the_runner_is_in_the_image(fly: Simulator, asker: Asker) -> None:
    """It ends at once, as nobody said who its parent is."""
    machine = asker.created("runner-1", init={"cmd": ["python", "-m", "dragonfly_executor.runner"]})
    asker.wait(machine, "destroyed")
    assert "DRAGONFLY_PARENT is not set" in fly.log(machine)


@pytest.mark.parametrize(
    ("init", "said"),
    [
        ({}, "entry of-image"),
        ({"cmd": ["mine"]}, "entry mine"),
        ({"entrypoint": ["echo", "other"]}, "other of-image"),
        ({"entrypoint": ["echo", "other"], "cmd": ["mine"]}, "other mine"),
        ({"exec": ["echo", "all"], "entrypoint": ["echo", "other"], "cmd": ["mine"]}, "all"),
    ],
)
def test_what_runs(fly: Simulator, asker: Asker, init: dict[str, Any], said: str) -> None:
    """Section 1.3: `exec` overrides everything, `entrypoint` and `cmd` the image's."""
    fly.images["echo"] = dataclasses.replace(fly.images[fly.image], entrypoint=("echo", "entry"), cmd=("of-image",))
    machine = asker.created("runner-1", image="echo", init=init)
    asker.wait(machine, "destroyed")
    assert fly.log(machine) == said + "\n"


@pytest.mark.parametrize("where", ["refused", "launch_failed", "stuck"])
def test_an_image_may_be_missing(fly: Simulator, asker: Asker, where: Any) -> None:
    """Section 7: where that shows is not known, nor with which status it is refused."""
    fly.switches.missing_image, fly.switches.missing_image_status = where, 404
    response = asker.create("runner-1", image="registry.fly.io/media:none")
    if where == "refused":
        assert response.status_code == 404
        assert "MANIFEST_UNKNOWN" in response.text
        return
    machine = fly.machine()
    if where == "launch_failed":
        fly.wait_for(machine, "destroyed")
        assert states_of(machine) == ["created", "launch_failed", "destroyed"]
    else:
        fly.timing.second = 0.01
        assert asker.wait(machine, "started", 1).status_code == 408


def test_a_machine_may_be_stuck_and_start_late(fly: Simulator, asker: Asker) -> None:
    """Section 2: 2 h 20 min in `created` have been seen."""
    machine = asker.created("runner-1", ASLEEP, image="registry.fly.io/media:stuck")
    assert asker.get(machine)["state"] == "created"
    assert fly.history.would_be_billed() == [machine]
    fly.finish_pull(machine)
    fly.wait_for(machine, "started")
    assert asker.get(machine)["state"] == "started"


def test_one_that_was_destroyed_while_created_never_starts(fly: Simulator, asker: Asker) -> None:
    machine = asker.created("runner-1", ASLEEP, image="registry.fly.io/media:stuck")
    assert asker.destroy(machine, force=False).status_code == 200
    fly.finish_pull(machine)
    fly.wait_for(machine, "destroyed")
    assert states_of(machine) == ["created", "destroying", "destroyed"]
    assert fly.history.billed() == {}


def test_the_launch_may_fail(fly: Simulator, asker: Asker) -> None:
    machine = asker.created("runner-1", ASLEEP, image="registry.fly.io/media:launch-failed")
    fly.wait_for(machine, "destroyed")
    assert states_of(machine) == ["created", "launch_failed", "destroyed"]


@pytest.mark.parametrize("shown", [True, False])
def test_starting_may_be_shown(fly: Simulator, asker: Asker, shown: bool) -> None:
    fly.switches.starting_is_shown = shown
    machine = asker.created("runner-1", "pass")
    fly.wait_for(machine, "destroyed")
    assert ("starting" in states_of(machine)) == shown


def test_memory_may_run_out_in_the_middle(fly: Simulator, asker: Asker) -> None:
    machine = asker.created("runner-1", ASLEEP)
    fly.wait_for(machine, "started")
    fly.run_out_of_memory(machine)
    fly.wait_for(machine, "destroyed")
    assert machine.exits == [Exit(137, oom=True)]


READY = "import signal; {before}; open({path!r}, 'w').write('ready\\n'); {then}"


@pytest.mark.parametrize(
    ("sent", "body", "config"),
    [
        ("SIGINT", {}, {}),
        ("SIGTERM", {"signal": "SIGTERM"}, {}),
        ("SIGUSR1", {}, {"stop_config": {"signal": "SIGUSR1"}}),
    ],
)
def test_a_stop_asks_first(
    fly: Simulator, asker: Asker, mailbox: Mailbox, sent: str, body: dict[str, str], config: dict[str, Any]
) -> None:
    """Section 3.4."""
    # A signal that comes just before `pause` would be slept through: it is kept until it is waited for.
    before, then = f"signal.pthread_sigmask(0, [signal.{sent}])", f"signal.sigwait([signal.{sent}])"
    code = READY.format(before=before, then=then, path=mailbox.path)
    machine = asker.created("runner-1", code, **config)
    assert mailbox.read() == "ready"
    assert asker.ask("POST", f"/{machine.id}/stop", json=body).json() == {"ok": True}
    fly.wait_for(machine, "destroyed")
    assert machine.exits == [Exit(0, requested_stop=True)]
    assert states_of(machine)[2:] == ["started", "stopping", "stopped", "destroying", "destroyed"]


@pytest.mark.parametrize("timeout", ["100ms", 100_000_000])
def test_a_stop_does_not_wait_for_ever(fly: Simulator, asker: Asker, mailbox: Mailbox, timeout: Any) -> None:
    """The grace is a duration, or a number of nanoseconds."""
    before = "signal.signal(signal.SIGINT, signal.SIG_IGN)"
    code = READY.format(before=before, then="signal.pause()", path=mailbox.path)
    machine = asker.created("runner-1", code, stop_config={"timeout": timeout})
    assert mailbox.read() == "ready"
    asker.ask("POST", f"/{machine.id}/stop")
    fly.wait_for(machine, "destroyed", SOON)
    assert machine.exits == [Exit(137, signal.SIGKILL, requested_stop=True)]


@pytest.mark.parametrize("name", ["SIGTERM", 15])
def test_a_signal_is_sent(fly: Simulator, asker: Asker, mailbox: Mailbox, name: Any) -> None:
    """The OpenAPI document has the name, fly-go sends the number."""
    machine = asker.created("runner-1", READY.format(before="0", then="signal.pause()", path=mailbox.path))
    assert mailbox.read() == "ready"
    assert asker.ask("POST", f"/{machine.id}/signal", json={"signal": name}).status_code == 200
    fly.wait_for(machine, "destroyed")
    assert machine.exits == [Exit(143, signal.SIGTERM)]


def test_without_auto_destroy_it_can_be_started_again(fly: Simulator, asker: Asker) -> None:
    machine = asker.created("runner-1", "pass", auto_destroy=False)
    assert asker.wait(machine, "stopped").status_code == 200
    started = asker.ask("POST", f"/{machine.id}/start")
    assert started.json() == {"previous_state": "stopped", "migrated": False, "new_host": ""}
    fly.until(lambda _: len(machine.exits) == 2)
    assert asker.destroy(machine, force=False).status_code == 200


def test_a_start_comes_too_early(fly: Simulator, asker: Asker) -> None:
    stuck = asker.created("runner-1", image="registry.fly.io/media:stuck")
    early = asker.ask("POST", f"/{stuck.id}/start")
    assert (early.status_code, early.json()["error"]) == (
        412, "failed_precondition: unable to start machine from current state: 'created'",
    )  # fmt: skip
    running = asker.created("runner-2", ASLEEP)
    fly.wait_for(running, "started")
    again = asker.ask("POST", f"/{running.id}/start")
    assert (again.status_code, again.json()["error"]) == (
        412, "failed_precondition: machine still active, refusing to start",
    )  # fmt: skip


def test_whoever_gives_no_restart_policy_gets_restarts(fly: Simulator, asker: Asker) -> None:
    """Section 1.3: no policy is on-failure, ten times."""
    machine = asker.created("runner-1", "raise SystemExit(1)", restart={})
    fly.wait_for(machine, "destroyed")
    assert [ended.restarting for ended in machine.exits] == [True] * 10 + [False]


def test_the_policy_may_restart_always(fly: Simulator, asker: Asker) -> None:
    machine = asker.created("runner-1", "pass", restart={"policy": "always"})
    fly.until(lambda _: len(machine.exits) > 1)
    asker.destroy(machine)
    fly.wait_for(machine, "destroyed")
    assert not machine.exits[-1].restarting


def test_what_is_asked_of_a_lost_host_is_done_when_it_is_back(fly: Simulator, asker: Asker) -> None:
    """Section 2: the machine runs on meanwhile, and its config is not known."""
    machine = asker.created("runner-1", ASLEEP, metadata={"pool": "a"})
    fly.wait_for(machine, "started")
    fly.lose_host(machine)
    body = asker.get(machine)
    assert (body["host_status"], "config" in body, body["incomplete_config"]) == (
        "unreachable", False, {"image": fly.image},
    )  # fmt: skip
    with watching(fly.pid(machine) or 0) as (process,):
        assert asker.destroy(machine).status_code == 200
        assert asker.get(machine)["state"] == "destroying"
        assert not process.ended(0.0)
        fly.find_host_again(machine)
        fly.wait_for(machine, "destroyed")
        assert process.ended(SOON)


def test_a_machine_on_a_lost_host_starts_although_it_was_destroyed(
    fly: Simulator, asker: Asker, mailbox: Mailbox
) -> None:
    """Section 2: a runner that was given up phones home."""
    code = READY.format(before="0", then="signal.pause()", path=mailbox.path)
    machine = asker.created("runner-1", code, image="registry.fly.io/media:stuck")
    fly.lose_host(machine)
    asker.destroy(machine)
    fly.finish_pull(machine)
    assert mailbox.read() == "ready"
    assert asker.get(machine)["state"] == "destroying"
    fly.find_host_again(machine)
    fly.wait_for(machine, "destroyed")
    assert states_of(machine) == ["created", "destroying", "destroyed"]


def test_a_process_is_known_by_its_environment_in_the_middle_of_its_exec_too() -> None:
    """A twentieth of those that have just been started show none."""
    for _ in range(200):
        with subprocess.Popen(["sleep", "60"], env={"MARK": "1", "PATH": SYSTEM_PATH}) as process:
            found = environment_of(process.pid)
            process.kill()
        assert b"MARK=1" in found


def test_nobody_hears_of_an_end_on_a_lost_host(fly: Simulator, asker: Asker) -> None:
    machine = asker.created("runner-1", ASLEEP)
    fly.wait_for(machine, "started")
    fly.lose_host(machine)
    with watching(fly.pid(machine) or 0) as (process,):
        asker.ask("POST", f"/{machine.id}/signal", json={"signal": "SIGKILL"})
        assert process.ended(SOON)
    assert asker.get(machine)["state"] == "started"
    fly.find_host_again(machine)
    fly.wait_for(machine, "destroyed")


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("omits", [False, True])
@pytest.mark.parametrize("text", [False, True])
def test_the_form_of_exit_events(fly: Simulator, asker: Asker, nested: bool, omits: bool, text: bool) -> None:
    """Section 2: the documentation's sample, fly-go and the live API differ."""
    fly.switches.exit_event_nested, fly.switches.exit_event_omits_zero = nested, omits
    fly.switches.exited_at_is_text = text
    machine = asker.created("runner-1", "pass")
    fly.wait_for(machine, "destroyed")
    request = next(event["request"] for event in asker.get(machine)["events"] if event["type"] == "exit")
    event = request["MonitorEvent"]["exit_event"] if nested else request["exit_event"]
    zeros = set() if omits else {"exit_code", "guest_exit_code", "oom_killed", "requested_stop", "restarting"}
    assert set(event) == zeros | {"guest_signal", "signal", "exited_at"}
    assert isinstance(event["exited_at"], str if text else int)
