"""A frozen program: a runner is the program started again, through `freeze_support`, and never runs it."""

from __future__ import annotations

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
BUILD_PATIENCE = 280


def freeze(folder: Path, entrance: str) -> Path:
    """Build the program with PyInstaller; the executable."""
    script = folder / "program.py"
    script.write_text(PROGRAM.replace("# ENTRANCE", entrance))
    root = Path(dragonfly_executor.__file__).parent.parent
    command = [sys.executable, "-m", "PyInstaller", "--log-level", "ERROR", "--paths", str(root), str(script)]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=BUILD_PATIENCE)
    assert built.returncode == 0, built.stderr
    return folder / "dist" / "program" / "program"


def run(program: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program], cwd=program.parent, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.slow
@pytest.mark.timeout(BUILD_PATIENCE + 80)
def test_a_frozen_program_runs_once_and_its_calls_run_on_runners(tmp_path: Path) -> None:
    pytest.importorskip("PyInstaller", reason="PyInstaller is not installed")
    ran = run(freeze(tmp_path, "multiprocessing.freeze_support()"))
    assert (ran.stdout, ran.stderr, ran.returncode) == ("begun\n[0, 2, 4, 6] 2 2\n", "", 0)


@pytest.mark.slow
@pytest.mark.timeout(BUILD_PATIENCE + 80)
def test_a_frozen_program_without_the_entrance_gets_one_error_and_runs_once(tmp_path: Path) -> None:
    pytest.importorskip("PyInstaller", reason="PyInstaller is not installed")
    ran = run(freeze(tmp_path, "pass"))
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
