"""Scripts as users start them, on runners that see nothing of this machine's files."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ELSEWHERE = (Path(__file__).parent / "elsewhere.py").read_text()

DEFINITIONS = """
import os, sys
from pathlib import Path

setting = None

def load(value):
    global setting
    setting = value

class Point:
    def __init__(self, x):
        self.x = x
"""
"""What the runners need of a script: a global that the initializer sets, and a class."""
SCRIPT = f"""{DEFINITIONS}
import helper
from dragonfly_executor import DragonflyExecutor

def use(point):
    return type(point) is Point, point.x, setting, helper.double(21)

def where():
    return os.getcwd(), __name__, globals().get("__file__")

def run():
    from test_backend import ElsewhereBackend
    home = Path(os.environ["TEST_HOST_HOME"])
    with DragonflyExecutor(2, backend=ElsewhereBackend(home), initializer=load, initargs=("set",)) as executor:
        assert executor.submit(use, Point(1)).result() == (True, 1, "set", 42)
        assert list(executor.map(lambda number: (number, setting, helper.double(number)), range(3))) == [
            (number, "set", 2 * number) for number in range(3)
        ]
        cwd, name, file = executor.submit(where).result()
        assert not cwd.startswith(os.getcwd()), cwd
        travels = os.environ["TEST_TRAVELS"] == "yes"
        assert (name == "__mp_main__") == travels, name
        if travels:
            assert file and file.startswith(os.path.dirname(os.path.dirname(cwd))), (file, cwd)
        executor.submit(use, Point(2)).result()
    assert not [name for name in os.listdir(os.environ["TMPDIR"]) if name.startswith("dragonfly-session-")]
    print("all well")
"""
GUARD = '\nif __name__ == "__main__":\n    run()\n'
PLAIN = "\nrun()\n"
HELPER = "def double(number):\n    return 2 * number\n"


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    """The folder of the script, on the parent's side."""
    parent = tmp_path / "parent"
    (parent / "library").mkdir(parents=True)
    (parent / "library" / "test_backend.py").write_text(ELSEWHERE)
    for name in ("temporary", "home"):
        (tmp_path / name).mkdir()
    return parent


def environment_of(folder: Path) -> dict[str, str]:
    """The environment of a script in this folder. Beside it are folders that the script and its runners use."""
    base = folder.parent
    return {
        **os.environ,
        "PYTHONPATH": str(folder / "library"),
        "TEST_HOST_HOME": str(base / "host"),
        "TMPDIR": str(base / "temporary"),
        "HOME": str(base / "home"),
    }


def run(folder: Path, *command: str, travels: bool, **options: object) -> None:
    environment = {**environment_of(folder), "TEST_TRAVELS": "yes" if travels else "no"}
    ran = subprocess.run(
        [sys.executable, "-W", "error", *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=55,
        **options,  # type: ignore[call-overload]
    )
    assert (ran.stdout, ran.stderr) == ("all well\n", "")
    assert ran.returncode == 0


@pytest.mark.parametrize(("end", "travels"), [(GUARD, True), (PLAIN, False)], ids=["guarded", "plain"])
@pytest.mark.parametrize("way", ["file", "module", "package", "directory", "zip"])
def test_a_script_that_lies_in_a_file(way: str, end: str, travels: bool, parent: Path) -> None:
    """With a guard it is imported there, and its functions and classes are the same ones; without it they travel."""
    text = SCRIPT + end
    (parent / "helper.py").write_text(HELPER)
    if way == "file":
        (parent / "script.py").write_text(text)
        run(parent, "script.py", travels=travels)
    elif way in {"module", "package"}:
        (parent / "app").mkdir()
        (parent / "app" / "__init__.py").write_text("")
        (parent / "app" / ("tool.py" if way == "module" else "__main__.py")).write_text(text)
        run(parent, "-m", "app.tool" if way == "module" else "app", travels=travels)
    elif way == "directory":
        (parent / "program").mkdir()
        (parent / "program" / "__main__.py").write_text(text)
        (parent / "helper.py").rename(parent / "program" / "helper.py")
        run(parent, "program", travels=travels)
    else:
        with zipfile.ZipFile(parent / "program.zip", "w") as archive:
            archive.writestr("__main__.py", text)
            archive.writestr("helper.py", HELPER)
        run(parent, "program.zip", travels=travels)


def test_a_script_that_takes_long_to_import_there_is_off_the_clock(parent: Path) -> None:
    """A run_timeout counts from the moment at which a call's function begins."""
    slow = "import threading\nfrom dragonfly_executor import Parent\nif Parent.get(): threading.Event().wait(0.8)\n"
    (parent / "helper.py").write_text(HELPER)
    text = SCRIPT.replace("DragonflyExecutor(2, ", "DragonflyExecutor(2, run_timeout=0.6, ")
    (parent / "script.py").write_text(slow + text + GUARD)
    run(parent, "script.py", travels=True)


@pytest.mark.parametrize("end", [GUARD, PLAIN], ids=["guarded", "plain"])
@pytest.mark.parametrize("way", ["-c", "stdin"])
def test_a_script_that_lies_in_no_file(way: str, end: str, parent: Path) -> None:
    (parent / "helper.py").write_text(HELPER)
    if way == "-c":
        run(parent, "-c", SCRIPT + end, travels=False)
    else:
        run(parent, "-", travels=False, input=SCRIPT + end)


def test_a_guarded_script_that_does_not_travel_goes_by_value(parent: Path) -> None:
    """It is too large, so its functions come as those of a script without a guard do."""
    (parent / "helper.py").write_text(HELPER)
    text = SCRIPT.replace("ElsewhereBackend(home)", "ElsewhereBackend(home, Sync(max_file=20_000))")
    text = text.replace("    from test_backend", "    from dragonfly_executor.sync import Sync\n    from test_backend")
    (parent / "script.py").write_text(f"{text}\n# {'x' * 20_000}\n{GUARD}")
    run(parent, "script.py", travels=False)
