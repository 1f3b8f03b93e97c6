"""``__main__`` in every form that it has: what a script's calls see of its globals."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.codec_process import ROOT

SCRIPT = (Path(__file__).parent / "main_script.py").read_text()
PLAIN = SCRIPT + "\n\nIMPORTED = False\nrun()\n"
GUARDED = SCRIPT + '\n\nIMPORTED = True\nif __name__ == "__main__":\n    in_guard = 1\n    run()\n'


def run(command: list[str], folder: Path, stdin: str | None = None, **environment: str) -> str:
    path = f"{ROOT}{os.pathsep}{folder}"
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **environment}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, input=stdin, env=environment, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def launch(way: str, text: str, folder: Path, **environment: str) -> str:
    """Run a script's text in one of the ways in which Python runs one."""
    if way == "file":
        (folder / "script.py").write_text(text)
        return run(["script.py"], folder, **environment)
    if way in ("module", "package"):
        (folder / "app").mkdir()
        (folder / "app" / "__init__.py").write_text("")
        (folder / "app" / ("__main__.py" if way == "package" else "tool.py")).write_text(text)
        return run(["-m", "app" if way == "package" else "app.tool"], folder, **environment)
    if way == "directory":
        (folder / "program").mkdir()
        (folder / "program" / "__main__.py").write_text(text)
        return run(["program"], folder, **environment)
    if way == "zip":
        with zipfile.ZipFile(folder / "program.zip", "w") as archive:
            archive.writestr("__main__.py", text)
        return run(["program.zip"], folder, **environment)
    if way == "-c":
        return run(["-c", text], folder, **environment)
    assert way == "stdin"
    return run(["-"], folder, stdin=text, **environment)


@pytest.mark.parametrize("way", ["file", "module", "package", "directory", "zip"])
def test_script_with_guard_is_imported(way: str, tmp_path: Path) -> None:
    assert launch(way, GUARDED, tmp_path) == "all well\n"


@pytest.mark.parametrize("way", ["file", "module", "package", "directory", "zip", "-c", "stdin"])
def test_script_without_guard_travels_by_value(way: str, tmp_path: Path) -> None:
    assert launch(way, PLAIN, tmp_path) == "all well\n"


@pytest.mark.parametrize("way", ["-c", "stdin"])
def test_guard_without_a_file_travels_by_value(way: str, tmp_path: Path) -> None:
    assert launch(way, GUARDED.replace("IMPORTED = True", "IMPORTED = False"), tmp_path) == "all well\n"


@pytest.mark.parametrize("text", [PLAIN, GUARDED], ids=["plain", "guarded"])
def test_dill(text: str, tmp_path: Path) -> None:
    pytest.importorskip("dill", reason="dill is an extra")
    text = text.replace("def case_unpicklable_global", "def no_case")  # dill does pickle locks
    assert launch("file", text, tmp_path, MAIN_SCRIPT_SERIALIZER="dill") == "all well\n"


CODEC_PROCESS = "from tests.support.codec_process import CodecProcess\n"


def test_prompt(tmp_path: Path) -> None:
    """A REPL: every statement by itself, functions defined anew, no file."""
    lines = """
from tests.support.codec_process import CodecProcess
far = CodecProcess()
factor = 2
def scale(x): return x * factor

print("first", far(scale, 10))
factor = 3
print("second", far(scale, 10))
def scale(x): return -x * factor

print("third", far(scale, 10))
class Thing: pass

print("fourth", type(far(Thing)) is Thing, far(lambda: factor))
far.__exit__()
"""
    shown = run(["-i", "-q"], tmp_path, stdin=lines)
    assert re.findall(r"(first|second|third|fourth) (.*)", shown) == [
        ("first", "20"), ("second", "30"), ("third", "-30"), ("fourth", "True 3"),
    ]  # fmt: skip


def test_a_program_that_has_taken_its_main_out_of_the_modules(tmp_path: Path) -> None:
    """All in it travels by value then, and comes back as what it is here."""
    text = (
        CODEC_PROCESS
        + """
import sys
FACTOR = 3
class Thing:
    def __init__(self, x): self.x = x
def use(thing): return Thing(thing.x * FACTOR)
del sys.modules["__main__"]
with CodecProcess() as far:
    made = far(use, Thing(2))
    assert type(made) is Thing and made.x == 6
    assert far(lambda: FACTOR) == 3
    FACTOR = 4
    assert far(lambda: FACTOR) == 4
    assert far(use, Thing(2)).x == 8
print("all well")
"""
    )
    assert launch("file", text, tmp_path) == "all well\n"


def test_names_bound_in_the_guard_travel(tmp_path: Path) -> None:
    text = (
        CODEC_PROCESS
        + """
OUTSIDE = [1]

def scaled(x):
    return x * FACTOR, late(x)

class Early:
    pass

def main():
    global SET_BY_MAIN
    SET_BY_MAIN = "by main"
    OUTSIDE.append("only here")
    with CodecProcess() as far:
        print(far(scaled, 2), far(read), far(Late).x, type(far(Late)) is Late, far(Late.base_is_early))
        print(far(lambda: scaled(1)), far(outside))

def read():
    return SET_BY_MAIN

def outside():
    return OUTSIDE

if OUTSIDE and "__main__" == __name__:
    FACTOR = 5
    def late(x):
        return x + FACTOR
    class Late(Early):
        x = FACTOR
        @classmethod
        def base_is_early(cls):
            return cls.__mro__[1] is Early
    main()
"""
    )
    assert launch("file", text, tmp_path) == "(10, 7) by main 5 True True\n(5, 6) [1]\n"


def test_what_the_slot_sets_survives_what_travels(tmp_path: Path) -> None:
    """A global of the guard block, set by the slot's own code: it stays until the parent's changes."""
    text = (
        CODEC_PROCESS
        + """
def set_it(value):
    global STATE
    STATE = value

def get_it():
    return STATE

if __name__ == "__main__":
    STATE = 0
    with CodecProcess() as far:
        far(set_it, "slot")
        print(far(get_it))
        STATE = 1
        print(far(get_it))
"""
    )
    assert launch("file", text, tmp_path) == "slot\n1\n"


def test_script_is_imported_once_and_only_when_needed(tmp_path: Path) -> None:
    text = (
        CODEC_PROCESS
        + """
import math, os
with open("imports", "a") as file:
    print(os.getpid(), file=file)

def count():
    return len(open("imports").readlines())

if __name__ == "__main__":
    with CodecProcess() as far:
        far(math.sqrt, 4)
        print(count())
        print(far(count), far(count), far(lambda: count()))
"""
    )
    assert launch("file", text, tmp_path) == "1\n2 2 2\n"


def test_import_of_the_script_that_fails_fails_the_call(tmp_path: Path) -> None:
    text = (
        CODEC_PROCESS
        + """
import math, os
if os.environ.get("IN_SLOT"):
    raise SystemExit("not here")

def work():
    return 1

if __name__ == "__main__":
    with CodecProcess() as far:
        far(os.putenv, "X", "1")
        far(exec, "import os; os.environ['IN_SLOT'] = '1'")
        for attempt in range(2):
            error = far.error(work)
            print(type(error).__name__, "SystemExit: not here" in str(error))
        far(exec, "import os; del os.environ['IN_SLOT']")
        print(far(work), far(math.sqrt, 4))
"""
    )
    assert launch("file", text, tmp_path) == "CallDeserializationError True\n" * 2 + "1 2.0\n"


def test_relative_imports_and_star_imports(tmp_path: Path) -> None:
    text = (
        CODEC_PROCESS
        + """
from .names import *
from . import names

def work():
    return public, names.public, LOCK is names.LOCK

if __name__ == "__main__":
    with CodecProcess() as far:
        print(far(work), far(lambda: public))
"""
    )
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__init__.py").write_text("")
    (tmp_path / "app" / "names.py").write_text("import threading\npublic = 1\nLOCK = threading.Lock()\n")
    (tmp_path / "app" / "tool.py").write_text(text)
    assert run(["-m", "app.tool"], tmp_path) == "(1, 1, True) 1\n"


def test_pickle_refuses_what_is_only_in_main(tmp_path: Path) -> None:
    text = (
        CODEC_PROCESS
        + """
from dragonfly_executor.errors import CallSerializationError
import math
def work():
    return 1

def attempt(far, function):
    try:
        return far(function)
    except CallSerializationError as error:
        return "by reference only" in str(error)

def main():
    with CodecProcess("pickle") as far:
        print(attempt(far, work), attempt(far, lambda: 1), far(math.sqrt, 4))

"""
    )
    assert launch("file", text + "main()", tmp_path) == "True True 2.0\n"
    assert launch("file", text + "if __name__ == '__main__': main()", tmp_path) == "1 True 2.0\n"


def test_arguments_of_the_process(tmp_path: Path) -> None:
    text = (
        CODEC_PROCESS
        + """
import sys, os
def look():
    return sys.argv, os.getcwd(), sys.path[0], __file__

if __name__ == "__main__":
    with CodecProcess() as far:
        there = far(look)
        print(there == look(), there[0][1:])
"""
    )
    (tmp_path / "script.py").write_text(text)
    assert run(["script.py", "one", "two"], tmp_path) == "True ['one', 'two']\n"


def test_global_that_changes_back(tmp_path: Path) -> None:
    """The value of before is new again to a slot that met another one between."""
    text = (
        CODEC_PROCESS
        + """
setting = "one"

def read():
    return setting

def read_too():
    return setting

with CodecProcess() as far:
    print(far(read), end=" ")
    setting = "two"
    print(far(read_too), end=" ")
    setting = "one"
    print(far(read), far(read_too))
"""
    )
    assert launch("file", text, tmp_path) == "one two one one\n"


def test_definitions_are_not_pickled_again_while_nothing_changes(tmp_path: Path) -> None:
    text = """
from dragonfly_executor.serialization import CallCodec
from dragonfly_executor.serialization.formats import SerializerFormat
import dataclasses, functools, math

@dataclasses.dataclass
class Point:
    x: int
    def up(self):
        return helper(self) + FACTOR
class Child(Point):
    def up(self):
        return super().up()
def helper(point):
    return math.floor(point.x)
def keep(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)
    return wrapper
@keep
def work(point):
    return Child(1).up()
FACTOR = 3
codec = CallCodec()
first = codec.encode_call(work, (Point(1),), {})
pickled, tracked = [], SerializerFormat.tracked
def count(self, value, *args, **kwargs):
    pickled.append(value)
    return tracked(self, value, *args, **kwargs)
SerializerFormat.tracked = count
second = codec.encode_call(work, (Point(1),), {})
print(b"".join(first) == b"".join(second), len(pickled))
Point.level = 5
codec.encode_call(work, (Point(1),), {})
print([list(value) for value in pickled[2:]])
"""
    assert launch("file", text, tmp_path) == "True 1\n[['Point']]\n"


def test_a_global_that_only_code_on_import_can_make(tmp_path: Path) -> None:
    """It is bound by a function that the import runs: as for multiprocessing, each process has its own."""
    text = (
        CODEC_PROCESS
        + """
import threading

def prepare():
    global lock, number
    lock, number = threading.Lock(), 5

prepare()

def work():
    with lock:
        return number

if __name__ == "__main__":
    with CodecProcess() as far:
        print(far(work), far(lambda: work() + number))
"""
    )
    assert launch("file", text, tmp_path) == "5 10\n"


def test_unpicklable_global_of_the_guard_is_named(tmp_path: Path) -> None:
    text = (
        CODEC_PROCESS
        + """
import threading

def work():
    with lock:
        return 1

if __name__ == "__main__":
    lock = threading.Lock()
    with CodecProcess() as far:
        try:
            far(work)
        except Exception as error:
            print(type(error).__name__, "'lock'" in str(error))
"""
    )
    assert launch("file", text, tmp_path) == "CallSerializationError True\n"


def test_array_of_main_is_assigned_once(tmp_path: Path) -> None:
    pytest.importorskip("numpy", reason="numpy is not needed, only served well")
    text = (
        CODEC_PROCESS
        + """
import numpy as np
table = np.arange(20000.0)

def add():
    table[0] += 1
    return table[0], table.sum() - table[0]

with CodecProcess() as far:
    print([tuple(map(int, far(add))) for _ in range(2)], int(table[0]))
"""
    )
    assert launch("file", text, tmp_path) == "[(1, 199990000), (2, 199990000)] 0\n"


@pytest.mark.parametrize(
    ("ending", "shown"),
    [
        ("if __name__ == '__main__': main()", "imported"),
        ("if '__main__' == __name__ and True: main()", "imported"),
        ("if __name__ != '__main__':\n    pass\nelse:\n    main()", "imported"),
        ("try:\n    if __name__ == '__main__':\n        main()\nfinally:\n    pass", "imported"),
        ("__name__ == '__main__' and main()", "imported"),
        ("if __name__ == '__main__':\n    if True:\n        main()", "imported"),
        ("name = '__main__'\nmain()", "by value"),
        ("if __name__ in ('no guard',): pass\nmain()", "by value"),
        ("def no_guard():\n    if __name__ == '__main__': pass\nmain()", "by value"),
    ],
)
def test_what_a_guard_is(ending: str, shown: str, tmp_path: Path) -> None:
    text = """
from dragonfly_executor.serialization import CallCodec
def work(): return 1
def main():
    print("by value" if len(b"".join(CallCodec().encode_call(work, (), {}))) > 100 else "imported")
"""
    assert launch("file", text + ending, tmp_path) == shown + "\n"


def test_guard_turned_around(tmp_path: Path) -> None:
    text = (
        CODEC_PROCESS
        + """
def work():
    return ROLE, FACTOR

def main():
    with CodecProcess() as far:
        print(far(work))

if __name__ != "__main__":
    ROLE = "imported"
else:
    ROLE, FACTOR = "ran", 3
    main()
"""
    )
    assert launch("file", text, tmp_path) == "('imported', 3)\n"


def test_serializer_of_the_users_and_an_imported_script(tmp_path: Path) -> None:
    text = (
        CODEC_PROCESS
        + """
import pickle

class Point:
    def __init__(self, x):
        self.x = x

def work(point):
    return Point(point.x + 1)

if __name__ == "__main__":
    with CodecProcess(pickle) as far:
        there = far(work, Point(1))
        print(type(there) is Point, there.x)
"""
    )
    assert launch("file", text, tmp_path) == "True 2\n"


def test_threads_and_globals(tmp_path: Path) -> None:
    text = (
        CODEC_PROCESS
        + """
import threading
offset = 0

def shifted(x):
    return x + offset

def work(number):
    return shifted(number)

def submit(number):
    for step in range(50):
        pieces = far.codec.encode_call(work if step % 2 else lambda x: work(x), (number,), {})
        with lock:
            failed, _, data = far.send(pieces)
            answers.append(not failed and far.codec.decode_result(data) - number)

lock, answers = threading.Lock(), []
far = CodecProcess()
threads = [threading.Thread(target=submit, args=(number,)) for number in range(4)]
for thread in threads:
    thread.start()
for value in range(1, 100):
    offset = value
for thread in threads:
    thread.join()
print(len(answers), all(type(answer) is int and 0 <= answer < 100 for answer in answers), far(work, 1))
far.__exit__()
"""
    )
    assert launch("file", text, tmp_path) == "200 True 100\n"
