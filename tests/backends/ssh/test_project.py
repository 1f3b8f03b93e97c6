"""A user's own program on a host that has nothing of it: what it needs travels, and what it lacks is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dragonfly_executor import DragonflyExecutor
from dragonfly_executor.sync import Sync
from tests.backends.ssh.conftest import Make, MakeBackend
from tests.processes.sync.test_requirements import make_wheel
from tests.support import projects
from tests.support.helpers import PATIENCE, error_of
from tests.support.sshd.host import Host

SCRIPT = """
import sys
import helper
from dragonfly_executor import DragonflyExecutor, SSHBackend

setting = None

def load(value):
    global setting
    setting = value

def use(number):
    with open("table.txt") as table:
        return helper.double(number), setting, table.read(), __file__

if __name__ == "__main__":
    spec, known_hosts, key = sys.argv[1:]
    backend = SSHBackend(
        [spec], known_hosts=known_hosts, key_filename=key, config=None, use_agent=False, sync=["table.txt"]
    )
    with DragonflyExecutor(2, backend=backend, initializer=load, initargs=("set",)) as executor:
        for doubled, seen, table, file in executor.map(use, range(3)):
            assert (seen, table) == ("set", "a table"), (seen, table)
            assert file != __file__, file
            print(doubled)
"""


def test_a_script_runs_there_with_its_modules_and_its_files(host: Host, key: Path, tmp_path: Path) -> None:
    """Nothing is named but the host, and one file of data."""
    project = tmp_path / "project"
    files: dict[str, str | bytes] = {
        "job.py": SCRIPT,
        "helper.py": "def double(n): return 2 * n\n",
        "table.txt": "a table",
    }
    projects.write(project, files)
    known = tmp_path / "known_hosts"
    known.write_text(host.known_as)
    command = [sys.executable, "job.py", host.spec, str(known), str(key)]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.stdout.split(), done.returncode) == (["0", "2", "4"], 0), done.stderr
    assert not [path for path in host.home.rglob("*") if path.name.startswith("dragonfly-session-")]


def test_changed_code_is_there_before_the_next_call(host: Host, make_backend: MakeBackend, tmp_path: Path) -> None:
    """Dragonfly's code_sync: no restart, and slots that have never seen the old code."""
    project = tmp_path / "project"
    projects.write(project, {"rules/__init__.py": "", "rules/price.py": "def price(): return 'old'\n"})
    backend = make_backend(host, sync=Sync("auto", check_every=0))
    with projects.imported(project, "rules.price") as (module,), DragonflyExecutor(backend=backend) as executor:
        assert executor.submit(module.price).result(PATIENCE) == "old"
        projects.write(project, {"rules/price.py": "def price(): return 'new and longer'\n"})
        assert executor.submit(module.price).result(PATIENCE) == "new and longer"


def test_a_module_that_is_missing_is_told_with_the_ways_to_get_it_there(
    host: Host, make_backend: MakeBackend, make: Make
) -> None:
    executor = make(make_backend(host))
    error = error_of(executor.submit(eval("lambda: __import__('module_of_nowhere')")))
    assert isinstance(error, ModuleNotFoundError)
    (note,) = error.__notes__
    assert all(word in note for word in ("'module_of_nowhere'", host.spec, "sync=", "requirements="))


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_requirements_are_installed_there(host: Host, make_backend: MakeBackend, make: Make, tmp_path: Path) -> None:
    """From a folder of wheels, so that no network is needed."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    make_wheel(wheels, "example_package", {"example_package.py": "value = 7\n"})
    lines = ["--no-index", f"--find-links {wheels}", "example_package"]
    executor = make(make_backend(host, requirements=lines), boot_timeout=150.0)
    assert executor.submit(eval("lambda: __import__('example_package').value")).result(150.0) == 7
