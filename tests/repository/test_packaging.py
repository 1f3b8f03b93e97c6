"""The wheel holds the whole package, installs into a clean environment and works there; the documents agree."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

import dragonfly_executor

ROOT = Path(__file__).parents[2]
SOURCES = (
    "dragonfly_executor",
    "setup.cfg",
    "pyproject.toml",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
)

PROGRAM = """
from dragonfly_executor import DragonflyExecutor, Pool, call
import dragonfly_executor

with DragonflyExecutor(max_workers=2) as executor:
    print(sum(executor.map(lambda number: number * number, range(10))))
with Pool("packaged", min=0, max=1):
    print(call("packaged", lambda: "called"))
print(dragonfly_executor.__file__)
"""

TESTS = """
import os
import sys
from thumbnails import shrink

def test_the_plugin_has_loaded_nothing():
    assert "dragonfly_executor.pytest_plugin" in sys.modules
    assert not any(name.startswith(("dragonfly_executor.api", "dragonfly_executor.testing")) for name in sys.modules)

def test_a_fixture(dragonfly_pool):
    assert dragonfly_pool.call(shrink, "cat") == "small cat"

def test_real_runners():
    from dragonfly_executor import DragonflyExecutor
    with DragonflyExecutor(1) as executor:
        assert executor.submit(shrink, "cat").result() == "small cat"
        assert executor.submit(lambda: os.getpid()).result() != os.getpid()
"""
TYPED_PROGRAM = """
from typing import assert_type
from dragonfly_executor import DragonflyExecutor, Future

assert_type(DragonflyExecutor(2).submit(len, "three"), Future[int])
"""


def run(*command: str | Path, cwd: Path) -> str:
    """A command in an environment that knows nothing of this checkout."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    ran = subprocess.run(
        command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, f"{command}\n{ran.stdout}{ran.stderr}"
    return ran.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, because building writes into its source."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__", ".*_cache"))
        else:
            shutil.copy(path, source / name)
    return source


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as pip builds it, in an environment of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, source, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_wheel_holds_every_module_and_nothing_else(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / "dragonfly_executor"
    expected = {str(path.relative_to(ROOT)) for path in package.rglob("*.py")}
    expected |= {"dragonfly_executor/py.typed"}
    expected |= {str(path.relative_to(ROOT)) for path in (package / "dashboard" / "page").iterdir()}
    metadata = {name for name in held if name.partition("/")[0].endswith(".dist-info")}
    assert held - metadata == expected
    assert {name.partition("/")[2] for name in metadata} >= {"METADATA", "licenses/LICENSE"}


@pytest.mark.exhaustive
@pytest.mark.timeout(300)
def test_the_wheel_installs_and_works_in_a_clean_environment(wheel: Path, tmp_path: Path) -> None:
    clean = tmp_path / "clean"
    venv.create(clean, with_pip=True)
    run(clean / "bin" / "python", "-m", "pip", "install", "-q", wheel, "pytest", cwd=tmp_path)
    printed = run(clean / "bin" / "python", "-W", "error", "-c", PROGRAM, cwd=tmp_path).split()
    assert printed[:2] == ["285", "called"]
    assert Path(printed[2]).is_relative_to(clean)
    # pytest loads the plugin by its entry point, and the package by a hook that rewrites its assertions.
    (tmp_path / "thumbnails.py").write_text("def shrink(picture):\n    return f'small {picture}'\n")
    (tmp_path / "test_thumbnails.py").write_text(TESTS)
    assert "3 passed" in run(clean / "bin" / "python", "-m", "pytest", "-W", "error", cwd=tmp_path)


@pytest.mark.exhaustive
@pytest.mark.timeout(300)
@pytest.mark.skipif(
    not (find_spec("mypy") and find_spec("basedpyright")), reason="mypy and basedpyright come with the extra dev"
)
@pytest.mark.parametrize("how", ["wheel", "editable"])
def test_type_checkers_see_the_types_of_an_installed_package(
    source: Path, wheel: Path, tmp_path: Path, how: str
) -> None:
    """They run no import hooks, so an editable install must be a path. The program is outside the tree."""
    python = tmp_path / "clean" / "bin" / "python"
    venv.create(tmp_path / "clean", with_pip=True)
    what = ("-e", source) if how == "editable" else (wheel,)
    run(python, "-m", "pip", "install", "-q", "--no-deps", *what, cwd=tmp_path)
    (tmp_path / "program.py").write_text(TYPED_PROGRAM)
    mypy = ("mypy", "--strict", "--cache-dir", tmp_path / "cache", "--python-executable", python)
    assert "no issues found" in run(sys.executable, "-m", *mypy, "program.py", cwd=tmp_path)
    (tmp_path / "pyrightconfig.json").write_text('{"include": ["program.py"], "typeCheckingMode": "strict"}')
    assert "0 errors" in run(sys.executable, "-m", "basedpyright", "--pythonpath", python, cwd=tmp_path)


def test_the_version_stands_in_three_places_and_is_one() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    version = setup["metadata"]["version"]
    assert dragonfly_executor.__version__ == version
    assert re.search(rf"^## \[{re.escape(version)}\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def readme_blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_ci_runs_the_test_command_of_the_readme_as_it_stands() -> None:
    (commands,) = (block for block in readme_blocks("sh") if "pytest" in block)
    (command,) = (line for line in commands.splitlines() if "pytest" in line)
    assert f"\n{command} || exit 1\n" in (ROOT / ".ci" / "run").read_text()


def test_the_programs_in_the_readme_run(tmp_path: Path) -> None:
    programs = readme_blocks("python")
    assert programs
    for number, program in enumerate(programs):
        script = tmp_path / f"program_{number}.py"
        script.write_text(program)
        run(sys.executable, "-W", "error", script, cwd=tmp_path)
