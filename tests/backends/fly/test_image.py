"""Machines of the parent's own image: calls there import what the parent imports, wherever the machine starts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fly_simulator.simulator import Simulator

SCRIPT = """
import os, sys
import sibling
from dragonfly_executor import DragonflyExecutor, FlyBackend

def late():
    import package.other
    return package.other.NAME

def run():
    with DragonflyExecutor(backend=FlyBackend(sweep=False, region=None), max=1, max_concurrency=1) as executor:
        assert executor.submit(sibling.double, 21).result() == 42
        assert executor.submit(late).result() == "package.other"
        assert executor.submit(eval, "__import__('json').loads('[1]')").result() == [1]
        there = executor.submit(sibling.look).result()
        parents = [os.path.abspath(entry) for entry in sys.path]
        assert [entry for entry in there["path"] if entry not in parents] == [], there
        assert there["path"] == [entry for entry in parents if os.path.exists(entry)], (there, parents)
        assert there["cwd"] == os.getcwd(), there
        assert there["machine"] != os.environ.get("FLY_MACHINE_ID"), there
        sys.path.append(os.path.abspath("elsewhere"))
        import added
        assert executor.submit(added.name).result() == "added"
    print("all well")

if __name__ == "__main__":
    run()
"""
SIBLING = """
import os, sys
def double(number): return 2 * number
def look(): return {"path": sys.path, "cwd": os.getcwd(), "machine": os.environ.get("FLY_MACHINE_ID")}
"""
HARMFUL_NAMES = ("heapq.py", "json.py", "socket.py", "runpy.py")
HARMFUL = 'raise ImportError("a module of the working directory took the place of the standard library\'s")\n'


@pytest.fixture
def app(fly: Simulator, tmp_path: Path) -> Iterator[Path]:
    """What the image has in /app; its machines start elsewhere, where modules of other people lie."""
    for folder in ("app/src/package", "app/elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
    source = tmp_path / "app" / "src"
    (source / "main.py").write_text(SCRIPT)
    (source / "sibling.py").write_text(SIBLING)
    (tmp_path / "app" / "elsewhere" / "added.py").write_text("def name(): return __name__")
    (source / "package" / "__init__.py").write_text("")
    (source / "package" / "other.py").write_text("NAME = __name__")
    workdir = Path(fly.images[fly.image].workdir)
    assert str(workdir) not in {str(Path.cwd()), str(tmp_path / "app")}
    for name in HARMFUL_NAMES:
        (workdir / name).write_text(HARMFUL)
    yield tmp_path / "app"
    for name in HARMFUL_NAMES:
        (workdir / name).unlink(missing_ok=True)


def run(fly: Simulator, app: Path, *command: str, **more: str) -> None:
    env = {**os.environ, **fly.environment, "XDG_STATE_HOME": str(app / "state"), **more}
    ran = subprocess.run(
        [sys.executable, "-W", "error", *command], cwd=app, env=env, capture_output=True, text=True, timeout=55
    )
    assert (ran.stdout, ran.stderr) == ("all well\n", "")


COMMANDS: list[Any] = [
    pytest.param(["src/main.py"], {}, id="script"),
    pytest.param(["-c", "import main; main.run()"], {"PYTHONPATH": "src:no-such-folder"}, id="PYTHONPATH"),
    pytest.param(["-c", "import sys; sys.path.insert(0, 'src'); import main; main.run()"], {}, id="app-dir"),
    pytest.param(["-m", "main"], {"PYTHONPATH": "src"}, id="module"),
]


@pytest.mark.parametrize(("command", "more"), COMMANDS)
def test_calls_import_what_the_parent_imports(
    fly: Simulator, app: Path, command: list[str], more: dict[str, str]
) -> None:
    run(fly, app, *command, **more)


def test_a_runner_without_p_does_not_import_from_its_directory_either(fly: Simulator, app: Path) -> None:
    """As a user's own backend may start it."""
    workdir = fly.images[fly.image].workdir
    command = [sys.executable, "-m", "dragonfly_executor.runner"]
    # Python itself looks for this one before our code runs.
    (Path(workdir) / "runpy.py").unlink()
    ran = subprocess.run(command, cwd=workdir, capture_output=True, text=True, timeout=30)
    assert "DRAGONFLY_PARENT is not set" in ran.stderr, ran.stderr
