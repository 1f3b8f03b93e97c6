"""What looks after machines goes on where something is wrong: with one of them, with the journal, with its disk."""

from __future__ import annotations

import json
import math
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import errors
from dragonfly_executor.backends.owner import Liveness, Owner
from dragonfly_executor.cli.main import main
from tests.backends.fly.boots import ASLEEP_CONFIG, boot, nothing_is_left
from tests.backends.fly.conftest import MakeBackend
from tests.backends.fly.test_leaks import elsewhere, entry_of, gone, label, look, machine_of
from tests.backends.fly.test_owners import unshared
from tests.support.fly_simulator import errors as answers
from tests.support.fly_simulator.simulator import Simulator
from tests.support.helpers import PATIENCE

# -- a machine that cannot be asked after ------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", [{"reply": answers.platform(500)}, {"reply": answers.forbidden("media")}])
def test_a_machine_that_cannot_be_asked_after_hides_no_other(
    on_fly: Simulator, make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch, trouble: dict[str, Any]
) -> None:
    """Its host is in trouble, perhaps for days: that must not be the end of all sweeps."""
    monkeypatch.setattr("dragonfly_executor.backends.fly.sweep.LOOKUP_TIMEOUT", 0.3)
    machine = machine_of(on_fly, label(owner=gone()).encode())
    backend = make_backend()
    entry_of(backend, name="dragonfly-a", machine_id="7811")
    on_fly.faults.on("get", times=math.inf, where=lambda call: call.machine == "7811", **trouble)
    found = {one.name: (one.liveness, one.why) for one in look(backend)}
    liveness, why = found["dragonfly-a"]
    assert liveness is Liveness.UNKNOWN
    assert why.startswith("its state could not be read: ")
    assert [one.name for one in backend.sweep().destroyed] == [machine.name]
    assert backend.journal is not None
    assert [entry.name for entry in backend.journal.entries()] == ["dragonfly-a"]


def test_a_parent_that_cannot_be_asked_after_hides_no_machine(
    on_fly: Simulator, make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dragonfly_executor.backends.fly.sweep.LOOKUP_TIMEOUT", 0.3)
    left = machine_of(on_fly, label(owner=gone()).encode(), "runner-left")
    theirs = machine_of(on_fly, label(owner=elsewhere()._replace(host="fly:7811")).encode(), "runner-theirs")
    on_fly.faults.on("get", times=math.inf, where=lambda call: call.machine == "7811", reply=answers.platform(500))
    assert [one.name for one in make_backend().sweep().destroyed] == [left.name]
    assert theirs.state == "started"


@pytest.mark.parametrize(
    ("age", "owner", "abandoned", "kept"),
    [
        (0, Owner.me, False, True),
        (3600, Owner.me, False, True),
        (0, gone, False, True),
        (3600, gone, False, False),
        (-3600, gone, False, False),
        (0, Owner.me, True, False),
    ],
    ids=["alive", "long-alive", "just-dead", "dead", "before-the-clock-was-set", "let-go"],
)
def test_what_fly_does_not_know_yet_is_not_forgotten(
    on_fly: Simulator, make_backend: MakeBackend, age: float, owner: Callable[[], Owner], abandoned: bool, kept: bool
) -> None:
    """Reference 5.4: a get may be answered with 404 where the machine was made just now."""
    backend = make_backend()
    began, whose = time.time() - age, label(owner=owner())
    entry = entry_of(backend, machine_id="7811", began=began, label=whose, abandoned=abandoned)
    assert backend.sweep() == ([], [])
    assert backend.journal is not None
    assert backend.journal.entries() == ([entry] if kept else [])


def test_what_is_gone_is_forgotten_by_its_owner_alone(on_fly: Simulator, make_backend: MakeBackend) -> None:
    """One that lives may know better; it is no machine any more, all the same."""
    machine = machine_of(on_fly, label().encode())
    on_fly.destroy(machine)
    on_fly.wait_for(machine, "destroyed")
    backend = make_backend()
    entry = entry_of(backend, machine_id=machine.id, label=label())
    assert look(backend) == []
    assert backend.journal is not None
    assert backend.journal.entries() == [entry]


# -- the disk ----------------------------------------------------------------------------------------------------------

ON_A_DISK = """
import logging, subprocess, sys
from pathlib import Path
from dragonfly_executor import FlyBackend, errors
from tests.backends.fly.boots import ASLEEP_CONFIG, boot

disk, what = Path(sys.argv[1]), sys.argv[2]
logging.basicConfig(format="%(message)s", level=logging.WARNING)
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], check=True)

def fill():
    with open(disk / "filling", "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError as error:
            assert error.errno == 28

def lock():
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)

def when_created(step):
    create = backend.api.create
    def then(*arguments):
        step()
        return create(*arguments)
    backend.api.create = then

backend = FlyBackend(machine_config=ASLEEP_CONFIG, journal=disk / "journal", sweep=False)
if what in ("full", "locked"):
    {"full": fill, "locked": lock}[what]()
elif what in ("fills", "locks"):
    when_created({"fills": fill, "locks": lock}[what])
try:
    node = boot(backend)
except errors.BootError as error:
    print(f"{error.phase}: {error}")
else:
    print([entry.machine_id == node.machine_id for entry in backend.journal.entries()])
    if what == "locks-later":
        lock()
    node.stop()
print(len(backend.journal.entries()))
"""


@pytest.mark.parametrize(
    ("what", "machines", "said", "logged"),
    [
        (
            "full",
            0,
            ["create: the boot could not be written into the journal, so no machine was requested: [Errno 28]", "0"],
            "",
        ),
        (
            "locked",
            0,
            ["create: the boot could not be written into the journal, so no machine was requested: [Errno 30]", "0"],
            "",
        ),
        # By its name it is found as well.
        ("fills", 1, ["[False]", "0"], "could not be written into the journal: [Errno 28]"),
        ("locks-later", 1, ["[True]", "1"], "is gone, but its journal entry could not be removed: [Errno 30]"),
    ],
)
def test_no_machine_is_made_that_the_disk_does_not_have(
    on_fly: Simulator, tmp_path: Path, what: str, machines: int, said: list[str], logged: str
) -> None:
    """A real disk that is full, or must not be written to, from the beginning or from some moment on."""
    command = [*unshared("--mount"), sys.executable, "-c", ON_A_DISK, str(tmp_path), what]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert len(lines) == len(said)
    assert all(line.startswith(start) for line, start in zip(lines, said, strict=True)), lines
    assert logged in done.stderr
    assert "Traceback" not in done.stderr
    assert len(on_fly.world.booted) == machines
    assert on_fly.history.left == []


def test_a_boot_that_fly_refuses_is_that_also_where_the_disk_is_locked(on_fly: Simulator, tmp_path: Path) -> None:
    """What went wrong first is what is said."""
    on_fly.faults.on("create", reply=answers.forbidden("media"))
    command = [*unshared("--mount"), sys.executable, "-c", ON_A_DISK, str(tmp_path), "locks"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout.startswith("create: creating a machine: HTTP 403"), done.stdout + done.stderr
    assert "but its journal entry could not be removed: [Errno 30]" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_is_cleared_away_is_made_again(
    on_fly: Simulator, make_backend: MakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """Where a machine was known to it meanwhile, what is written on that is known still."""
    backend = make_backend(machine_config=ASLEEP_CONFIG)
    assert backend.journal is not None
    first = boot(backend)
    shutil.rmtree(backend.journal.folder)
    first.stop()
    second = boot(backend)
    assert [entry.machine_id for entry in backend.journal.entries()] == [second.machine_id]
    assert stat.S_IMODE(backend.journal.folder.stat().st_mode) == 0o700
    second.stop()
    assert caplog.text == ""
    nothing_is_left(on_fly, backend)


def test_a_folder_that_has_become_a_file_is_a_clear_error(on_fly: Simulator, make_backend: MakeBackend) -> None:
    backend = make_backend(machine_config=ASLEEP_CONFIG)
    assert backend.journal is not None
    backend.journal.folder.rmdir()
    backend.journal.folder.touch()
    with pytest.raises(errors.BootError, match="could not be written into the journal, so no machine was requested"):
        boot(backend)
    assert on_fly.world.booted == []
    with pytest.raises(OSError, match="cannot keep a journal"):
        make_backend()


# -- a machine that its pool could not see to be destroyed -------------------------------------------------------------


@pytest.mark.parametrize("keeps_a_journal", [True, False])
def test_what_could_not_be_destroyed_the_next_boot_sees_to(
    on_fly: Simulator,
    make_backend: MakeBackend,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    keeps_a_journal: bool,
) -> None:
    """A parent that lives for months does not wait for another one's sweep; where none comes, the log says so."""
    timeout = "STOP_TIMEOUT" if keeps_a_journal else "UNRECORDED_TIMEOUT"
    monkeypatch.setattr(f"dragonfly_executor.backends.fly.node.{timeout}", 0.4)
    backend = make_backend(machine_config=ASLEEP_CONFIG, sweep=True, journal=None if keeps_a_journal else False)
    first = boot(backend)
    on_fly.faults.on("destroy", times=math.inf, reply=answers.platform(500))
    first.stop()
    (left,) = on_fly.history.left
    on_fly.faults.clear()
    second = boot(backend)
    second.stop()
    if keeps_a_journal:
        assert "A later sweep destroys it" in caplog.text
        nothing_is_left(on_fly, backend)
    else:
        assert f"no sweep destroys it while this process lives: `dragonfly destroy {left.name}`" in caplog.text
        assert main(["destroy", "--yes", left.name]) == 0


# -- what is in the journal --------------------------------------------------------------------------------------------

GARBAGE: dict[str, Any] = {
    "no-number": {"began": "nan"},
    "never": {"expires": math.nan},
    "always": {"began": -math.inf},
    "too-large": {"began": 10**400},
    "label-too-large": {"label": ["b", "p", ["h", "b", "s", 1, 1], 10**400, 0]},
    "empty-id": {"machine_id": ""},
    "id-is-a-path": {"machine_id": "../../other/machines/7811"},
    "app-is-none": {"app": None},
    "later-version": {"label": {"version": 2}},
    "later-label": {"label": ["b", "p", ["h", "b", "s", 1, 1], 1, 0, "more"]},
    "strange-size": {"guest": {"cpu_kind": [], "cpus": "two", "gpu_kind": {}}},
    "strange-owner": {"label": ["b", "p", ["h", "b", "s", -1, 1], 1, 0]},
}


@pytest.mark.parametrize("case", GARBAGE)
def test_garbage_hides_no_machine_and_is_no_traceback(
    on_fly: Simulator, make_backend: MakeBackend, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    machine = machine_of(on_fly, label(owner=gone()).encode())
    backend = make_backend()
    assert backend.journal is not None
    path = backend.journal.folder / f"{entry_of(backend, name='dragonfly-a').name}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **GARBAGE[case]}))
    (backend.journal.folder / "dragonfly-b.json").write_bytes(bytes(100_000))
    assert main(["list"]) == 0
    assert machine.id in capsys.readouterr().out
    assert [one.name for one in backend.sweep().destroyed] == [machine.name]
    assert all(call.machine in ("", machine.id) for call in on_fly.history.calls)


def test_ten_thousand_entries_hide_no_machine(on_fly: Simulator, make_backend: MakeBackend) -> None:
    """Of a program that was killed in a loop."""
    machine = machine_of(on_fly, label(owner=gone()).encode())
    backend = make_backend()
    first = entry_of(backend, name="dragonfly-0")
    assert backend.journal is not None
    written = backend.journal.folder / f"{first.name}.json"
    for number in range(1, 10_000):
        os.link(written, backend.journal.folder / f"dragonfly-{number}.json")
    assert [one.name for one in backend.sweep().destroyed] == [machine.name]
