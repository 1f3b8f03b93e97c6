"""A frozen program: a runner is the program started again, through `freeze_support`, and never runs it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import dragonfly_executor
from dragonfly_executor.backends import frozen
from dragonfly_executor.protocol.frames import Kind
from tests.support.helpers import PATIENCE, frames_from

PROGRAM = """
import multiprocessing
import os

import dragonfly_executor
from dragonfly_executor import DragonflyExecutor


def double(number):
    return 2 * number


class Mine:
    def __init__(self, value):
        self.value = value


def main():
    os.write(1, b"begun\\n")
    with DragonflyExecutor(2) as executor:
        doubled = list(executor.map(double, range(4)))
        value = executor.submit(lambda mine: Mine(mine.value + 1), Mine(1)).result().value
        pids = {executor.submit(os.getpid).result(), os.getpid()}
    os.write(1, f"{doubled} {value} {len(pids)}\\n".encode())


if __name__ == "__main__":
    # ENTRANCE
    main()
"""
SPEC = """
# PyInstaller gives these names.
found = Analysis(["entered.py", "barred.py"], pathex=[{root!r}], excludes={unused!r})
modules = PYZ(found.pure)
programs = []
for name, other in ("entered", "barred"), ("barred", "entered"):
    scripts = [script for script in found.scripts if script[0] != other]
    programs.append(EXE(modules, scripts, exclude_binaries=True, name=name))
COLLECT(*programs, found.binaries, found.datas, name="both")
"""
UNUSED = ["ray", "dask", "distributed", "numpy", "pandas", "paramiko", "cryptography", "httpx", "joblib", "matplotlib"]
"""Packages that the program does not use. PyInstaller takes long to look through those that are installed."""
BUILD_PATIENCE = 280


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two programs that PyInstaller makes in one build: `entered`, and `barred`, without the entrance."""
    pytest.importorskip("PyInstaller", reason="PyInstaller is not installed")
    folder = tmp_path_factory.mktemp("frozen")
    (folder / "entered.py").write_text(PROGRAM.replace("# ENTRANCE", "multiprocessing.freeze_support()"))
    (folder / "barred.py").write_text(PROGRAM.replace("# ENTRANCE", "pass"))
    root = Path(dragonfly_executor.__file__).parent.parent
    (folder / "both.spec").write_text(SPEC.format(root=str(root), unused=UNUSED))
    command = [sys.executable, "-m", "PyInstaller", "--log-level", "ERROR", "both.spec"]
    # PyInstaller leaves a temporary file.
    (folder / "temporary").mkdir()
    environment = {**os.environ, "TMPDIR": str(folder / "temporary")}
    built = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=BUILD_PATIENCE
    )
    assert built.returncode == 0, built.stderr
    return folder / "dist" / "both"


def run(program: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program], cwd=program.parent, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.exhaustive
@pytest.mark.timeout(BUILD_PATIENCE + 80)
def test_a_frozen_program_runs_once_and_its_calls_run_on_runners(programs: Path) -> None:
    ran = run(programs / "entered")
    assert (ran.stdout, ran.stderr, ran.returncode) == ("begun\n[0, 2, 4, 6] 2 2\n", "", 0)


@pytest.mark.exhaustive
@pytest.mark.timeout(BUILD_PATIENCE + 80)
def test_a_frozen_program_without_the_entrance_gets_one_error_and_runs_once(programs: Path) -> None:
    ran = run(programs / "barred")
    assert ran.returncode != 0
    assert ran.stdout == "begun\n"
    assert ran.stderr.count("Call multiprocessing.freeze_support() or dragonfly_executor.freeze_support() first") == 1
    assert "BootError" in ran.stderr


def test_the_entrance_of_ours_becomes_a_runner_too() -> None:
    """Where a freezer leaves `multiprocessing.freeze_support` without effect on this platform."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            arguments = ["--multiprocessing-fork", "tracker_fd=None", f"pipe_handle={theirs.fileno()}"]
            code = "import dragonfly_executor; dragonfly_executor.freeze_support(); print('the program ran')"
            command = [sys.executable, "-c", code, *arguments]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=[theirs.fileno()])
        ours.sendall(frozen.preamble())
        assert next(frames_from(ours)).kind == Kind.HELLO
    assert process.communicate(timeout=PATIENCE)[0] == b""


def main_script(text: str, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Run a script as this thread's main module, with `command` to ask for the command of an agent."""
    said: list[object] = []

    def command() -> None:
        try:
            said.append(frozen.frozen_command(7))
        except dragonfly_executor.BootError as error:
            said.append(error)

    module = type(sys)("__main__")
    module.__dict__["command"] = command
    monkeypatch.setitem(sys.modules, "__main__", module)
    exec(compile(text, "script", "exec"), vars(module))
    return said


@pytest.mark.parametrize(
    "script",
    [
        "import multiprocessing\nif __name__ == '__main__':\n  multiprocessing.freeze_support()\n  command()",
        "def main():\n  from multiprocessing import freeze_support as enter\n  enter()\n  command()\nmain()",
    ],
)
def test_a_script_that_calls_the_entrance_is_started_again(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main_script(script, monkeypatch) == [
        [sys.executable, "--multiprocessing-fork", "tracker_fd=None", "pipe_handle=7"]
    ]


def test_a_script_that_does_not_call_the_entrance_is_not_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    (error,) = main_script("command()", monkeypatch)
    assert isinstance(error, dragonfly_executor.BootError)
    assert error.final


def test_a_runner_in_which_the_program_runs_boots_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["program", "--multiprocessing-fork", "tracker_fd=None", "pipe_handle=9"])
    (error,) = main_script("def freeze_support(): pass\nfreeze_support()\ncommand()", monkeypatch)
    assert isinstance(error, dragonfly_executor.BootError)
    assert error.final
    assert "ran the program in it instead" in str(error)
