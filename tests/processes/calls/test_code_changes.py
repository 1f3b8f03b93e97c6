"""Code that changes while a pool is up: calls run what the user's files are now, and what a runner can find."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dragonfly_executor import DragonflyExecutor
from tests.processes.conftest import Make
from tests.support.helpers import PATIENCE, Gate, Mailbox

Write = Callable[[str, str], None]
MODULE = """
import os
VERSION = {}
STATE = []
def version(*_): return VERSION
def pid(*_): return os.getpid()
def remember(value):
    STATE.append(value)
    return list(STATE)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder of modules that is on ``sys.path``. Nothing of it is left afterwards."""
    folder = tmp_path / "modules"
    folder.mkdir()
    before, path = set(sys.modules), list(sys.path)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    yield folder
    sys.path[:] = path
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file is None or str(tmp_path) in file:
            del sys.modules[name]


@pytest.fixture
def write(folder: Path) -> Write:
    """Writes a module. A change shows in its status, however fast it comes after the last one."""
    times = [0]

    def write(name: str, text: str) -> None:
        # In one step: a slot may be importing it.
        path = folder / "being-written"
        path.write_text(text)
        times[0] += 1
        os.utime(path, ns=(times[0] * 10**9, times[0] * 10**9))
        path.rename(folder / name)

    return write


def load(name: str) -> Any:
    importlib.invalidate_caches()
    return importlib.import_module(name)


def result(executor: DragonflyExecutor, fn: Any, *args: Any) -> Any:
    return executor.submit(fn, *args).result(PATIENCE)


# -- files that change -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reloaded", [True, False], ids=["reloaded", "edited"])
def test_a_call_runs_what_the_file_is_now(make: Make, folder: Path, write: Write, reloaded: bool) -> None:
    write("changing.py", MODULE.format(1))
    module = load("changing")
    executor = make(1)
    for version in (1, 2, 3):
        write("changing.py", MODULE.format(version))
        if reloaded:
            importlib.reload(module)
        assert result(executor, module.version) == version


def test_a_slot_goes_on_while_nothing_changes(make: Make, folder: Path, write: Write) -> None:
    write("changing.py", MODULE.format(1))
    module = load("changing")
    executor = make(1)
    first = result(executor, module.pid)
    assert result(executor, module.remember, 1) == [1]
    write("other.py", "")
    load("other")
    assert result(executor, module.remember, 2) == [1, 2]
    assert result(executor, module.pid) == first
    write("changing.py", MODULE.format(2))
    # If checks are slow here, one of the next calls within 0.2 s sees the change, not always the first.
    deadline = time.monotonic() + PATIENCE
    while result(executor, module.pid) == first:
        assert time.monotonic() < deadline
    assert result(executor, module.remember, 3) == [3]


@pytest.mark.parametrize("imported", ["on top", "in the call"])
def test_a_change_of_what_a_module_imports_counts(make: Make, folder: Path, write: Write, imported: str) -> None:
    """Also of what only slots have imported."""
    on_top, within = ("from inner import VERSION", "") if imported == "on top" else ("", "from inner import VERSION;")
    write("outer.py", f"{on_top}\ndef version():\n    {within} return VERSION\n")
    write("inner.py", "VERSION = 1")
    module = load("outer")
    executor = make(1)
    assert result(executor, module.version) == 1
    write("inner.py", "VERSION = 2")
    assert result(executor, module.version) == 2
    assert ("inner" in sys.modules) is (imported == "on top")


def test_each_of_many_slots_runs_what_the_files_are_now(make: Make, folder: Path, write: Write) -> None:
    write("changing.py", MODULE.format(1))
    module = load("changing")
    executor = make(3)
    assert set(executor.map(module.version, range(30), timeout=PATIENCE)) == {1}
    write("changing.py", MODULE.format(2))
    # All slots are without a call by now, so each looks before its next one.
    assert set(executor.map(module.version, range(300), timeout=PATIENCE)) == {2}


def test_a_call_that_runs_is_not_disturbed(make: Make, folder: Path, write: Write, tmp_path: Path) -> None:
    """Those that were queued behind it in the same slot run the new code."""
    write(
        "changing.py",
        MODULE.format(1) + "def hold(mailbox, gate):\n"
        "    with open(mailbox, 'w') as file: file.write('here\\n')\n"
        "    with open(gate, 'rb') as file: file.read(1)\n"
        "    return VERSION\n",
    )
    module = load("changing")
    executor = make(1)
    with closing(Mailbox(tmp_path / "mailbox")) as mailbox, closing(Gate(tmp_path / "gate")) as gate:
        held = executor.submit(module.hold, mailbox.path, gate.path)
        mailbox.read()
        behind = [executor.submit(module.version) for _ in range(3)]
        write("changing.py", MODULE.format(2))
        gate.open()
        assert held.result(PATIENCE) == 1
        assert [future.result(PATIENCE) for future in behind] == [2, 2, 2]


def test_no_call_is_lost_or_runs_twice_while_files_change(make: Make, folder: Path, write: Write, log: Path) -> None:
    write("changing.py", "def add(path, number):\n    with open(path, 'a') as file: file.write(f'{number}\\n')\n")
    module = load("changing")
    text = (folder / "changing.py").read_text()
    executor = make(2)
    futures = []
    for number in range(400):
        futures.append(executor.submit(module.add, str(log), number))
        if number % 50 == 49:
            write("changing.py", text)
            futures[-20].result(PATIENCE)
    for future in futures:
        future.result(PATIENCE)
    assert sorted(map(int, log.read_text().split())) == list(range(400))


def test_the_initializer_runs_again_with_the_new_code(make: Make, folder: Path, write: Write) -> None:
    write("changing.py", MODULE.format(1) + "def prepare(): STATE.append(VERSION)\n")
    module = load("changing")
    executor = make(1, initializer=module.prepare)
    assert result(executor, module.remember, "x") == [1, "x"]
    write("changing.py", (folder / "changing.py").read_text().replace("VERSION = 1", "VERSION = 2"))
    assert result(executor, module.remember, "y") == [2, "y"]


def test_a_large_call_is_given_back_whole(make: Make, folder: Path, write: Write) -> None:
    write("changing.py", "VERSION = 1\ndef size(data): return VERSION, len(data)")
    module = load("changing")
    executor = make(1)
    data = bytes(3_000_000)
    assert result(executor, module.size, data) == (1, len(data))
    write("changing.py", "VERSION = 2\ndef size(data): return VERSION, len(data)")
    assert result(executor, module.size, data) == (2, len(data))


def test_a_call_with_a_limit_is_given_back_as_well(make: Make, folder: Path, write: Write) -> None:
    write("changing.py", MODULE.format(1))
    module = load("changing")
    executor = make(1, timeout=PATIENCE, run_timeout=PATIENCE)
    assert result(executor, module.version) == 1
    write("changing.py", MODULE.format(2))
    assert result(executor, module.version) == 2


def test_a_file_that_is_gone_makes_a_new_slot_which_says_so(make: Make, folder: Path, write: Write) -> None:
    write("changing.py", MODULE.format(1))
    module = load("changing")
    executor = make(1)
    first = result(executor, os.getpid)
    assert result(executor, module.version) == 1
    (folder / "changing.py").unlink()
    assert result(executor, os.getpid) != first


SCRIPT = """
import os, sys
from dragonfly_executor import DragonflyExecutor

VERSION = 1

def version(): return VERSION
def pid(): return os.getpid()

if __name__ == "__main__":
    with DragonflyExecutor(1) as executor:
        assert executor.submit(version).result() == 1
        with open(__file__) as file: text = file.read()
        with open(__file__, "w") as file: file.write(text.replace("VERSION = 1", "VERSION = 22", 1))
        assert executor.submit(version).result() == 22
        assert executor.submit(pid).result() == executor.submit(pid).result()
    print("all well")
"""


def run(folder: Path, *command: str) -> None:
    ran = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, timeout=50)
    assert (ran.stdout, ran.stderr) == ("all well\n", "")


def test_a_script_that_is_edited_is_imported_anew(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    run(tmp_path, "script.py")


# -- a path that changes -----------------------------------------------------------------------------------------------


def test_a_path_that_changes_is_followed_by_slots_that_are_there(make: Make, folder: Path, tmp_path: Path) -> None:
    executor = make(1)
    first = result(executor, os.getpid)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "added.py").write_text("def name(): return __name__\nclass Thing: pass\n")
    sys.path.append(str(tmp_path / "more"))
    added = load("added")
    assert result(executor, added.name) == "added"
    assert type(result(executor, added.Thing)) is added.Thing
    assert result(executor, eval, "__import__('sys').path") == [str(Path(entry).absolute()) for entry in sys.path]
    sys.path.remove(str(tmp_path / "more"))
    assert str(tmp_path / "more") not in result(executor, eval, "__import__('sys').path")
    assert result(executor, os.getpid) == first


@pytest.mark.parametrize("name", ["same", "same.part"])
def test_a_module_that_the_new_path_replaces_is_imported_anew(
    make: Make, folder: Path, tmp_path: Path, name: str
) -> None:
    """The program puts another folder first, and imports the module anew. In the slot the first one is loaded."""
    for place in ("first", "other"):
        file = (tmp_path / place / name.replace(".", "/")).with_suffix(".py")
        file.parent.mkdir(parents=True)
        file.write_text(f"def where(): return {place!r}\nclass Thing: pass\n")
        if name != "same":
            (file.parent / "__init__.py").write_text("")
    executor = make(1)
    for place in ("first", "other", "first"):
        sys.path.insert(0, str(tmp_path / place))
        for old in ("same", "same.part"):
            sys.modules.pop(old, None)
        module = load(name)
        assert result(executor, module.where) == place
        assert result(executor, type, module.Thing()) is module.Thing
    assert len({result(executor, os.getpid) for _ in range(3)}) == 1


def test_what_a_call_adds_to_the_path_stays(make: Make, folder: Path) -> None:
    executor = make(1)
    sys.path.append("/nowhere")
    result(executor, eval, "__import__('sys').path.append('/added')")
    assert result(executor, eval, "__import__('sys').path[-2:]") == ["/nowhere", "/added"]


def test_a_slot_that_is_forked_later_has_the_new_path(make: Make, folder: Path, tmp_path: Path) -> None:
    executor = make(1, max_tasks_per_child=1)
    result(executor, os.getpid)
    sys.path.append(str(tmp_path))
    assert [result(executor, eval, "__import__('sys').path[-1]") for _ in range(3)] == [str(tmp_path)] * 3


# -- what a runner does not find ---------------------------------------------------------------------------------------


def test_a_module_whose_folder_has_left_the_path_travels_by_value(make: Make, folder: Path, write: Write) -> None:
    write("gone.py", "FACTOR = 3\nclass Thing:\n    x = 1\ndef use(thing): return type(thing), thing.x * FACTOR\n")
    gone = load("gone")
    sys.path.remove(str(folder))
    executor = make(1)
    assert result(executor, gone.use, gone.Thing()) == (gone.Thing, 3)
    # By reference as an argument alone, which no function of the module leads to.
    assert result(executor, type, gone.Thing()) is gone.Thing
    assert result(executor, callable, gone.use) is True


def test_another_module_of_the_same_name_is_not_taken_for_it(make: Make, folder: Path, tmp_path: Path) -> None:
    """A stray package that owns the name, on the path that runners have."""
    for place in ("stray", "own"):
        (tmp_path / place / "common").mkdir(parents=True)
        (tmp_path / place / "common" / "__init__.py").write_text("")
        (tmp_path / place / "common" / "tool.py").write_text(f"def where(): return {place!r}\nclass Thing: pass\n")
    sys.path.insert(0, str(tmp_path / "own"))
    tool = load("common.tool")
    sys.path[0] = str(tmp_path / "stray")
    executor = make(1)
    assert result(executor, tool.where) == "own"
    assert result(executor, type, tool.Thing()) is tool.Thing


def test_a_module_of_a_finder_of_the_programs_own_travels_by_value(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
        def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
            return importlib.machinery.ModuleSpec(name, self, origin="memory") if name == "in_memory" else None

        def exec_module(self, module: ModuleType) -> None:
            exec("def name(): return __name__\nclass Thing: pass", module.__dict__)

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder()])
    module: Any = importlib.import_module("in_memory")
    try:
        executor = make(1)
        assert result(executor, module.name) == "in_memory"
        assert result(executor, type, module.Thing()) is module.Thing
    finally:
        del sys.modules["in_memory"]


def test_a_module_that_was_made_by_hand_travels_by_value(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("by_hand")
    exec("def name(): return __name__\nclass Thing: pass", module.__dict__)
    monkeypatch.setitem(sys.modules, "by_hand", module)
    executor = make(1)
    assert result(executor, module.name) == "by_hand"
    assert result(executor, type, module.Thing()) is module.Thing


TEST = """
from dragonfly_executor import DragonflyExecutor
from threading import Thread

FACTOR = 2

class Thing:
    def __init__(self, x): self.x = x
    def grow(self): return Thing(self.x * FACTOR)

def f(n): return n + 1
def use(thing): return f(thing.grow().x)

def test_it():
    with DragonflyExecutor(1) as executor:
        assert executor.submit(f, 1).result() == 2
        assert executor.submit(use, Thing(3)).result() == 7
        grown = executor.submit(Thing(4).grow).result()
        assert type(grown) is Thing and grown.x == 8
        assert list(executor.map(f, range(20), chunksize=5)) == list(range(1, 21))
        assert executor.submit(len, [Thing(1)]).result() == 1
        assert executor.submit(lambda: FACTOR).result() == 2
"""


@pytest.mark.parametrize("files", [["test_a.py"], ["__init__.py", "test_a.py"]], ids=["bare", "package"])
def test_a_test_that_pytest_imports_in_its_own_way(tmp_path: Path, files: list[str]) -> None:
    """``--import-mode=importlib``, from another folder: nothing of it is on ``sys.path``."""
    suite = tmp_path / "suite" / "unit"
    suite.mkdir(parents=True)
    for file in files:
        (suite / file).write_text(TEST if file == "test_a.py" else "")
    command = [sys.executable, "-m", "pytest", "-q", "--import-mode=importlib", "-p", "no:cacheprovider"]
    ran = subprocess.run(
        [*command, "--rootdir", str(tmp_path), str(tmp_path / "suite")],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=55,
    )
    assert "1 passed" in ran.stdout, ran.stdout


def test_what_is_installed_or_on_the_path_goes_by_reference(make: Make, folder: Path, write: Write) -> None:
    """No by-value pickling where a runner finds the module: its state there is one state."""
    write("found.py", "COUNT = []\ndef count():\n    COUNT.append(1)\n    return len(COUNT)\n")
    found = load("found")
    executor = make(1)
    assert [result(executor, found.count) for _ in range(3)] == [1, 2, 3]
    assert result(executor, textwrap.dedent, " x") == "x"
    assert not found.COUNT


def test_threads_that_submit_while_modules_are_imported(make: Make, folder: Path, write: Write) -> None:
    for number in range(20):
        write(f"many_{number}.py", f"def name(): return {number}")
    importlib.invalidate_caches()  # here: it must not run in two threads at the same time
    executor = make(2)
    wrong: list[object] = []

    def submit(number: int) -> None:
        module: Any = importlib.import_module(f"many_{number}")
        if result(executor, module.name) != number:
            wrong.append(number)

    with ThreadPoolExecutor(20) as threads:
        list(threads.map(submit, range(20)))
    assert not wrong
