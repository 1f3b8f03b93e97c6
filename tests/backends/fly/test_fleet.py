"""The commands where not all is as it should be: several apps and a token for one, no disk, names that are none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dragonfly_executor.cli.main import main
from tests.backends.fly.conftest import MakeBackend
from tests.backends.fly.test_leaks import entry_of, gone, label, machine_of
from tests.backends.fly.test_owners import unshared
from tests.support.fly_simulator.simulator import Simulator
from tests.support.helpers import PATIENCE

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize("other", ["another", "zebra"])
def test_a_token_that_is_good_for_one_app_does_for_that_one(
    on_fly: Simulator, make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch, capsys: Capture, other: str
) -> None:
    """Deploy tokens are. The journal names apps before and after it, one of another API, and one that is none."""
    backend = make_backend()
    monkeypatch.delenv("FLY_APP_NAME")
    machine = machine_of(on_fly, label(owner=gone()).encode(), "runner-a")
    entry_of(backend, name="runner-a", machine_id=machine.id)
    entry_of(backend, name="runner-other", app=other, machine_id="7811")
    entry_of(backend, name="runner-elsewhere", app="elsewhere", host="https://api.machines.dev")
    entry_of(backend, name="runner-none", app="n/one")
    assert main(["list", "--json"]) == 1
    printed = capsys.readouterr()
    shown = {found["name"]: (found["id"], found["owner"]) for found in json.loads(printed.out)["machines"]}
    assert shown == {"runner-a": (machine.id, "gone"), "runner-other": ("7811", "unknown")}
    assert printed.err.startswith(f"dragonfly: {other} was left out: listing the machines of {other}: HTTP 403")
    assert main(["destroy", "--yes", "nothing"]) == 1
    assert main(["sweep", "--yes"]) == 1
    assert machine.state == "destroyed"


@pytest.mark.parametrize(
    "words",
    [
        ["list", "--app", ""],
        ["sweep", "--yes", "--app", ""],
        ["destroy", "--all", "--yes", "--app", ""],
        ["list", "--journal", ""],
        ["list", "--journal", "/dev/null"],
        ["list", "--app", "../x"],
    ],
)
def test_a_name_that_is_none_is_wrong_usage(on_fly: Simulator, capsys: Capture, words: list[str]) -> None:
    """Above all an empty one, as of a variable that is not set: it must not mean the app that there happens to be."""
    machine = machine_of(on_fly, label(owner=gone()).encode())
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err
    assert machine.state == "started"


ON_A_LOCKED_DISK = """
import subprocess, sys
subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", sys.argv[1]], check=True)
from dragonfly_executor.cli.main import main
sys.exit(main(sys.argv[2:]))
"""


def on_a_locked_disk(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = ["env", f"XDG_STATE_HOME={folder}", *unshared("--mount"), sys.executable, "-c", ON_A_LOCKED_DISK]
    return subprocess.run([*command, str(folder), *words], capture_output=True, text=True, timeout=PATIENCE)


def test_where_no_journal_can_be_kept_machines_are_known_by_what_is_written_on_them(
    on_fly: Simulator, tmp_path: Path
) -> None:
    """Such as a container with nothing to write to, whose pools go without one."""
    machine = machine_of(on_fly, label(owner=gone()).encode())
    done = on_a_locked_disk(tmp_path, "sweep", "--yes")
    assert (done.returncode, done.stdout) == (0, f"destroyed {machine.name}\n"), done.stderr
    assert done.stderr.startswith("dragonfly: there is no journal here ([Errno 30]")
    assert done.stderr.count("\n") == 1


def test_a_doctor_without_a_disk_says_so_and_boots_nothing(on_fly: Simulator, tmp_path: Path) -> None:
    done = on_a_locked_disk(tmp_path, "doctor", "--backend", "fly", "--boot")
    assert done.returncode == 1
    assert done.stderr == ""
    assert "journal        FAILED  cannot be kept" in done.stdout
    assert "journal=False to go without" in done.stdout
    assert on_fly.world.booted == []


def test_who_has_no_home_is_no_traceback(on_fly: Simulator, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """A user that the system does not know, as containers have them."""
    monkeypatch.delenv("XDG_STATE_HOME")

    def expanduser(_path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", expanduser)
    assert main(["list"]) == 0
    assert "there is no journal here (Could not determine home" in capsys.readouterr().err
