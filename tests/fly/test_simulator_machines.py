"""What the simulator's machines do: states, processes, events, names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.fly.asking import ASLEEP, Asker
from tests.fly_simulator.simulator import Simulator
from tests.support import SOON, Mailbox, watching


@pytest.fixture
def asker(fly: Simulator) -> Iterator[Asker]:
    with closing(Asker(fly)) as asker:
        yield asker


def test_a_machine_is_created_starts_ends_and_destroys_itself(fly: Simulator, asker: Asker) -> None:
    machine = asker.created("runner-1", "import sys; sys.exit(3)")
    assert asker.wait(machine, "destroyed").json()["state"] == "destroyed"
    states = [state for _, state in machine.changes]
    assert states == ["created", "starting", "started", "stopped", "destroying", "destroyed"]
    body = asker.get(machine)
    assert body["state"] == "destroyed"
    assert [event["type"] for event in body["events"]] == ["destroy", "exit", "start", "launch"]
    assert body["events"][1]["request"]["exit_event"]["exit_code"] == 3
    assert fly.history.left == []


def test_its_process_has_the_environment_of_a_machine_and_nothing_else(
    fly: Simulator, asker: Asker, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_PARENT", "1")
    code = f"import json, os; open({mailbox.path!r}, 'w').write(json.dumps(dict(os.environ)) + '\\n')"
    machine = asker.created("runner-1", code, env={"DRAGONFLY_PARENT": "[::1]:1"})
    found = json.loads(mailbox.read())
    # What the shell and Python add themselves.
    for own in ("PWD", "SHLVL", "_", "LC_CTYPE", "OLDPWD"):
        found.pop(own, None)
    assert set(found) == {
        "HOME", "PATH", "TERM", "TMPDIR", "DRAGONFLY_PARENT", "FLY_APP_NAME", "FLY_MACHINE_ID", "FLY_ALLOC_ID",
        "FLY_MACHINE_VERSION", "FLY_REGION", "FLY_IMAGE_REF", "FLY_PRIVATE_IP", "FLY_VM_MEMORY_MB",
    }  # fmt: skip
    assert found["FLY_MACHINE_ID"] == found["FLY_ALLOC_ID"] == machine.id
    assert found["FLY_MACHINE_VERSION"] == machine.instance_id
    assert found["FLY_PRIVATE_IP"] == machine.private_ip != fly.parent.private_ip or fly.addresses.reason


def test_a_forced_destroy_ends_whatever_runs_in_it(fly: Simulator, asker: Asker, mailbox: Mailbox) -> None:
    code = (
        "import os, signal, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'], start_new_session=True)\n"
        f"open({mailbox.path!r}, 'w').write(f'{{child.pid}}\\n')\n" + ASLEEP
    )
    machine = asker.created("runner-1", code)
    with watching(int(mailbox.read()), fly.pid(machine) or 0) as processes:
        assert asker.destroy(machine, force=False).status_code == 412
        assert asker.destroy(machine).json() == {"ok": True}
        fly.wait_for(machine, "destroyed")
        assert all(process.ended(SOON) for process in processes)
    assert machine.exits[0].code == 137


def test_a_name_is_taken_until_its_machine_is_destroyed(fly: Simulator, asker: Asker) -> None:
    machine = asker.created("runner-1", ASLEEP)
    refused = asker.create("runner-1", ASLEEP)
    assert (refused.status_code, refused.json()) == (409, {
        "error": f"already_exists: unique machine name violation, machine ID {machine.id} already exists with"
        ' name "runner-1"'
    })  # fmt: skip
    asker.destroy(machine)
    fly.wait_for(machine, "destroyed")
    assert asker.create("runner-1", ASLEEP).status_code == 200
    assert fly.history.most_at_once() == 1
