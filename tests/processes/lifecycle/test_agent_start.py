"""How an agent starts: from where it imports, and what of the parent's interpreter and signals it has."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import BootError, DragonflyExecutor, LocalBackend
from tests.support.helpers import PATIENCE

# Modules that the interpreter, an agent and a slot import before the user's path is set.
IMPORTED = (
    "_collections_abc", "collections", "ctypes", "encodings", "enum", "errno", "functools", "heapq", "importlib", "io",
    "json", "multiprocessing", "os", "pickle", "pkgutil", "re", "runpy", "select", "selectors", "signal", "site",
    "socket", "stat", "string", "struct", "subprocess", "traceback", "types", "warnings",
)  # fmt: skip

PROGRAM = """
import sys
from dragonfly_executor import DragonflyExecutor

if __name__ == "__main__":
    with DragonflyExecutor(1) as executor:
        print(executor.submit(pow, 2, 5).result())
"""
PATHS = """
import os, sys
from dragonfly_executor import DragonflyExecutor

def path():
    return list(sys.path)

if __name__ == "__main__":
    sys.path.append("/nowhere")
    with DragonflyExecutor(1) as executor:
        there = executor.submit(path).result()
    here = [entry or os.getcwd() for entry in sys.path]
    print("same" if there == here else (there, here))
"""
SHADOWED = """
import json
from dragonfly_executor import DragonflyExecutor

def look():
    import fnmatch, json
    return json.WHOSE, hasattr(fnmatch, "fnmatch")

if __name__ == "__main__":
    with DragonflyExecutor(1, output="tag") as executor:
        print(executor.submit(look).result(), type(executor.submit(look, 1).exception()).__name__)
    print(look(), json.WHOSE)
"""
OPTIONS = """
import sys, warnings
from dragonfly_executor import DragonflyExecutor

def options():
    # Values alone: the type of sys.flags cannot be pickled, and it has the development mode.
    ours = {name: value for name, value in sys._xoptions.items() if name != "dev"}
    return tuple(sys.flags), sys.warnoptions, ours, [rule[2].__name__ for rule in warnings.filters]

if __name__ == "__main__":
    with DragonflyExecutor(1) as executor:
        there = executor.submit(options).result()
    print("same" if there == options() else (there, options()))
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., str]:
    """Runs a program that lies in a folder of its own, in another working directory; what it printed."""
    folder = tmp_path / "program"
    folder.mkdir()
    here = tmp_path / "here"
    here.mkdir()

    def run(text: str, *options: str, **variables: str) -> str:
        (folder / "program.py").write_text(text)
        command = [sys.executable, *options, str(folder / "program.py")]
        variables = {**os.environ, **variables}
        ran = subprocess.run(
            command, cwd=here, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            timeout=PATIENCE,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    return run


def booby_trap(folder: Path, names: tuple[str, ...] = IMPORTED) -> Path:
    """Put modules with these names there, each of which adds a line to a file; the file."""
    note = folder / "imported"
    for name in names:
        (folder / f"{name}.py").write_text(f"open({str(note)!r}, 'a').write('{name} ')\nraise SystemExit('{name}')\n")
    return note


@pytest.mark.parametrize("options", [(), ("-P",), ("-I",), ("-S",), ("-X", "frozen_modules=off")], ids=" ".join)
def test_nothing_is_imported_from_the_working_directory(
    options: tuple[str, ...], run: Callable[..., str], tmp_path: Path
) -> None:
    note = booby_trap(tmp_path / "here")
    # With -I and -S the program finds the package only where it is told to look.
    head = f"import sys; sys.path[:] = {sys.path!r}\n"
    assert run(head + PROGRAM, *options) == "32\n"
    assert not note.exists()


def test_nothing_is_imported_from_the_folder_of_our_own_package(run: Callable[..., str], tmp_path: Path) -> None:
    """The folder that holds the package, a project's root say, does not come before the standard library."""
    root = tmp_path / "root"
    root.mkdir()
    package = Path(sys.modules["dragonfly_executor"].__file__ or "").parent
    (root / "dragonfly_executor").symlink_to(package)
    note = booby_trap(root)
    head = f"import sys, json, socket, subprocess, pickle, selectors; sys.path[:] = [*{sys.path!r}, {str(root)!r}]\n"
    head += f"import importlib; sys.path.insert(0, {str(root)!r}); import dragonfly_executor; del sys.path[0]\n"
    assert run(head + PROGRAM) == "32\n"
    assert not note.exists()


def test_a_slot_imports_from_where_the_parent_does_and_from_nowhere_else(run: Callable[..., str]) -> None:
    assert run(PATHS) == "same\n"
    assert run(PATHS, "-P") == "same\n"


def test_a_program_may_have_modules_with_the_names_of_the_standard_library(
    run: Callable[..., str], tmp_path: Path
) -> None:
    for name in ("json", "ctypes"):
        (tmp_path / "program" / f"{name}.py").write_text("WHOSE = 'the program'\n")
    assert run(SHADOWED) == "('the program', True) TypeError\n('the program', True) the program\n"


@pytest.mark.parametrize(
    "options",
    [
        ("-W", "error"),
        ("-W", "error", "-W", "ignore::UserWarning"),
        ("-bb",),
        ("-b", "-W", "default"),
        ("-P",),
        ("-E", "-s"),
        ("-OO",),
        ("-B", "-q"),
        ("-X", "dev"),
        ("-X", "dev", "-W", "error"),
        ("-X", "utf8=0"),
        ("-X", "faulthandler", "-X", "tracemalloc=3"),
        ("-X", "int_max_str_digits=5000", "-X", "of_ours=1"),
    ],
    ids=" ".join,
)
def test_options_of_the_interpreter_reach_the_runner(options: tuple[str, ...], run: Callable[..., str]) -> None:
    assert run(OPTIONS, *options) == "same\n"


def test_compiled_modules_go_where_the_parent_puts_them(run: Callable[..., str], tmp_path: Path) -> None:
    assert run(OPTIONS, "-X", f"pycache_prefix={tmp_path / 'compiled'}") == "same\n"


def test_options_that_variables_have_set_are_not_set_twice(run: Callable[..., str]) -> None:
    assert run(OPTIONS, PYTHONWARNINGS="error::UserWarning", PYTHONDEVMODE="1", PYTHONUTF8="1") == "same\n"


def signals_of_this_process() -> tuple[list[int], list[int]]:
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    ignored = [n for n in range(1, signal.NSIG) if signal.getsignal(n) is signal.SIG_IGN]
    return [int(number) for number in blocked], ignored


def terminate_oneself() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("nothing", [None, ""])
def test_an_embedded_interpreter_is_told_to_name_one(nothing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", nothing)
    with DragonflyExecutor(1) as executor:
        error = executor.submit(pow, 2, 5).exception(PATIENCE)
    monkeypatch.undo()
    assert isinstance(error, BootError)
    assert error.final
    assert "LocalBackend(python=...)" in str(error)
    with DragonflyExecutor(1, backend=LocalBackend(python=sys.executable)) as executor:
        assert executor.submit(pow, 2, 5).result(PATIENCE) == 32


def test_whatever_stands_for_main_an_agent_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    for stand_in in (None, object(), 3):
        monkeypatch.setitem(sys.modules, "__main__", stand_in)  # type: ignore[arg-type]
        with DragonflyExecutor(1) as executor:
            assert executor.submit(pow, 2, 5).result(PATIENCE) == 32
            assert executor.submit(lambda: 6).result(PATIENCE) == 6


def test_signals_that_the_parent_blocks_or_ignores_have_their_default_action_in_a_slot() -> None:
    numbers = [signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD, signal.SIGHUP, signal.SIGALRM]
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers if number != signal.SIGCHLD}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        with DragonflyExecutor(1) as executor:
            blocked, ignored = executor.submit(signals_of_this_process).result(PATIENCE)
            error = executor.submit(terminate_oneself).exception(PATIENCE)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, action in before.items():
            signal.signal(number, action)
    assert (blocked, ignored) == ([], [signal.SIGPIPE, signal.SIGXFSZ])
    assert "SIGTERM" in str(error)
