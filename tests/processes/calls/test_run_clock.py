"""The clock of a run_timeout starts at the function: neither imports nor the start of a slot count.

Each test runs a program of its own, whose script or modules take long to import in slots, or cannot be imported there.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from dragonfly_executor import DragonflyExecutor
from tests.support.helpers import PATIENCE, Stall, TamperingBackend

ROOT = Path(__file__).parents[3]
HEAD = """
import os, sys, threading, time
from dragonfly_executor import DragonflyExecutor, Parent, Pool

def pause(seconds):
    threading.Event().wait(seconds)

def in_slot():
    return Parent.get() is not None

def note(text):
    with open("imports", "a") as file:
        file.write(text + "\\n")
"""
MAIN = """
def f(value="ran"):
    return value

def nap():
    pause(60)

def tell(future):
    error = future.exception(60)
    print(future.result() if error is None else f"{type(error).__name__}: {error}", flush=True)

if __name__ == "__main__":
"""


def run(folder: Path, at_import: str, main: str) -> list[str]:
    """Run a script that does `at_import` when it is imported; the lines that it prints."""
    lines = "".join(f"    {line}\n" for line in main.strip().splitlines())
    (folder / "script.py").write_text(f"{HEAD}\n{at_import}\n{MAIN}{lines}")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE * 2
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_script_that_imports_for_longer_than_a_call_may_run_harms_no_call(tmp_path: Path) -> None:
    """Neither in the first slot, nor in the one after a slot that was killed, nor in those that replace others."""
    lines = run(
        tmp_path,
        "if in_slot(): pause(0.8)",
        """
with DragonflyExecutor(1) as ex:
    view = ex.options(run_timeout=0.5)
    for call in (f, nap, f):
        tell(view.submit(call))
with DragonflyExecutor(1, max_tasks_per_child=1) as ex:
    for future in [ex.options(run_timeout=0.5).submit(f, n) for n in range(2)]:
        tell(future)
""",
    )
    assert lines[0] == lines[2] == "ran"
    assert lines[1].startswith("CallTimeoutError: the call did not end within its run_timeout of 0.5 s")
    assert lines[3:] == ["0", "1"]


def test_a_slot_that_was_forked_before_a_call_needed_the_script_imports_it_off_the_clock(tmp_path: Path) -> None:
    lines = run(
        tmp_path,
        "if in_slot(): note('imported'); pause(0.8)",
        """
with DragonflyExecutor(1) as ex:
    view = ex.options(run_timeout=0.5)
    print(view.submit(abs, -1).result(60), os.path.exists("imports"))
    tell(view.submit(f))
""",
    )
    assert lines == ["1 False", "ran"]


@pytest.mark.parametrize("guard", ["with", pytest.param("without", marks=pytest.mark.slow)])
def test_modules_that_a_call_brings_in_when_it_is_opened_are_off_the_clock(guard: str, tmp_path: Path) -> None:
    """Of a function by reference, and of one that travels by value with a module in its globals."""
    (tmp_path / "heavy.py").write_text(f"{HEAD}\nif in_slot(): pause(0.8)\n{MAIN.partition('def tell')[0]}")
    script = f"{HEAD}\nimport heavy\ndef by_value():\n    return heavy.f()\nex = DragonflyExecutor(1)\n"
    script += "for call in (heavy.f, heavy.nap, by_value):\n"
    script += "    future = ex.options(run_timeout=0.5).submit(call)\n"
    script += "    print(future.exception(60) or future.result(), flush=True)\n"
    if guard == "with":
        body = script.partition("ex = ")
        script = (
            body[0]
            + 'if __name__ == "__main__":\n'
            + "".join(f"    {line}\n" for line in ("ex = " + body[2]).splitlines())
        )
    (tmp_path / "script.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    first, second, third = done.stdout.splitlines()
    assert (first, third) == ("ran", "ran"), done.stderr
    assert "run_timeout of 0.5 s" in second


@pytest.mark.slow
def test_a_large_call_that_is_long_on_its_way_is_off_the_clock() -> None:
    stall = Stall()
    with DragonflyExecutor(1, backend=TamperingBackend(to_runner=lambda: stall)) as ex:
        assert ex.submit(abs, -1).result(PATIENCE) == 1
        stall.after(1 << 20)
        future = ex.options(run_timeout=0.3).submit(np.sum, np.ones(1 << 20))
        assert stall.stalled.wait(PATIENCE)
        assert not threading.Event().wait(0.8)
        stall.go_on.set()
        assert future.result(PATIENCE) == 1 << 20


@pytest.mark.slow
def test_a_call_that_is_never_open_ends_after_boot_timeout_if_it_has_a_limit_to_running(tmp_path: Path) -> None:
    """The limit is the longer of the two. The slot is replaced."""
    (tmp_path / "heavy.py").write_text(f"{HEAD}\nif in_slot(): pause(60)\n{MAIN.partition('def tell')[0]}")
    lines = run(
        tmp_path,
        "import heavy",
        """
with DragonflyExecutor(1, boot_timeout=1) as ex:
    tell(ex.options(run_timeout=0.2).submit(heavy.f))
    tell(ex.options(timeout=0.4).submit(heavy.f))
    print(ex.submit(abs, -1).result(60))
""",
    )
    assert "before its function began: opening it (imports, unpickling) took 1" in lines[0]
    assert lines[0].startswith("CallTimeoutError")
    assert "timeout of 0.4 s" in lines[1]
    assert lines[2] == "1"


FAILS_TO_IMPORT = {
    "raises": ("raise LookupError('not here')", "CallDeserializationError", "LookupError: not here"),
    "exits": ("sys.exit('no')", "CallDeserializationError", "SystemExit: no"),
    "takes longer than boot_timeout": ("pause(60)", "CallDeserializationError", "raise boot_timeout="),
    "kills its slot": ("os._exit(3)", "RunnerLostError", "exited with status 3"),
}


@pytest.mark.parametrize("how", FAILS_TO_IMPORT)
def test_a_script_that_cannot_be_imported_fails_the_calls_that_need_it_and_no_others(how: str, tmp_path: Path) -> None:
    at_import, kind, text = FAILS_TO_IMPORT[how]
    lines = run(
        tmp_path,
        f"if in_slot(): {at_import}",
        """
with DragonflyExecutor(1, boot_timeout=1.5) as ex:
    for _ in range(2):
        needs, other = ex.submit(f), ex.submit(abs, -1)
        tell(needs)
        print(other.result(60))
""",
    )
    assert [line for line in lines if line == "1"] == ["1", "1"]
    failed = [line for line in lines if line != "1"]
    assert all(line.startswith(kind) and text in line for line in failed)
    assert len(failed) == 2


def test_an_import_that_fails_once_is_tried_again_for_the_next_call(tmp_path: Path) -> None:
    """The error of the import in the set-up is that of the first call that needs it: it is not run twice for it."""
    lines = run(
        tmp_path,
        "if in_slot():\n    note('tried')\n    if not os.path.exists('there'): raise FileNotFoundError('there')",
        """
with DragonflyExecutor(1) as ex:
    tell(ex.submit(f))
    print(open("imports").read().split())
    open("there", "w").close()
    tell(ex.submit(f))
""",
    )
    assert lines[0].startswith("CallDeserializationError")
    assert "FileNotFoundError: there" in lines[0]
    assert lines[1:] == ["['tried']", "ran"]


@pytest.mark.slow
def test_an_initializer_of_a_script_that_is_too_slow_breaks_the_pool_and_says_why(tmp_path: Path) -> None:
    lines = run(
        tmp_path,
        "if in_slot(): pause(60)",
        """
with DragonflyExecutor(1, boot_timeout=1, initializer=f) as ex:
    tell(ex.submit(abs, -1))
""",
    )
    assert lines[0].startswith("InitializerError")
    assert "boot_timeout" in lines[0]


@pytest.mark.slow
def test_what_a_script_prints_when_it_is_imported_is_no_calls_output(tmp_path: Path) -> None:
    lines = run(
        tmp_path,
        "if in_slot(): print('importing')",
        """
with DragonflyExecutor(1, output="capture") as ex:
    future = ex.submit(f)
    print(future.result(60), repr(future.output()))
""",
    )
    assert lines[-1].startswith("ran")
    assert "importing" not in lines[-1]


@pytest.mark.slow
def test_an_import_is_not_taken_for_what_calls_cost(tmp_path: Path) -> None:
    """Neither the script's, nor that of a module which a call brings in: calls behind it would count as stuck late."""
    (tmp_path / "heavy.py").write_text(f"{HEAD}\nif in_slot(): pause(0.6)\n{MAIN.partition('def tell')[0]}")
    lines = run(
        tmp_path,
        "import heavy\nif in_slot(): pause(0.6)",
        """
from dragonfly_executor.core.runners import RunnerTable
ran, seen = RunnerTable.ran, []
def spy(self, runner, seconds, count):
    seen.append(seconds)
    ran(self, runner, seconds, count)
RunnerTable.ran = spy
with DragonflyExecutor(1) as ex:
    for call in (f, heavy.f, f):
        tell(ex.submit(call))
    ex.submit(pause, 0.6).result(60)
print(*(seconds >= 0.6 for seconds in seen))
""",
    )
    assert lines == ["ran", "ran", "ran", "False False False True"]
