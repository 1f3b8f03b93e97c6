"""Modules that are imported only when a function runs: they travel with ``sync="auto"`` as all others do."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from dragonfly_executor.serialization.code_names import code_imports
from dragonfly_executor.sync import FileSnapshot, Sync
from dragonfly_executor.sync.lazy_imports import imported_by
from tests.processes.sync.test_programs import parent, run  # noqa: F401  # a fixture
from tests.processes.sync.test_scan import file_snapshot, sent, work  # noqa: F401  # a fixture
from tests.support import projects
from tests.support.projects import write

SOURCE = '''
"""import in_docstring"""
import a, b.c as d  # import in_comment
from e import (
    f,  # import g
    h as i,
)
text = "import in_string"; import j
if text: import k
from . import l
from .m import n, \\
    o
from ..p import q
def r():
    """
    import in_another
    """
    import s; from t import *
    import_module("u.v"); __import__('w')
    importlib.import_module(".x", __package__)
    x = \'\'\'import y\'\'\'
    try: import z
    except ImportError: from aa.bb import cc as dd
important = imported = 1
fromage = 2
'''
NAMES = {
    "a", "b.c", "e", "e.f", "e.h", "j", "k", "pkg.sub", "pkg.sub.l", "pkg.sub.m", "pkg.sub.m.n", "pkg.sub.m.o",
    "pkg.p", "pkg.p.q", "s", "t", "u.v", "w", "pkg.sub.x", "z", "aa.bb", "aa.bb.cc",
}  # fmt: skip


def test_every_form_of_an_import_is_found_in_a_source() -> None:
    found = imported_by(SOURCE, "pkg.sub")
    assert found - {"t.*"} == NAMES


def test_dots_that_lead_out_of_the_package_name_nothing() -> None:
    assert imported_by("from .. import a\nfrom . import b", "pkg") == {"pkg", "pkg.b"}
    assert imported_by("from . import b", "") == frozenset()


def test_what_no_compiler_would_take_is_read_all_the_same() -> None:
    assert imported_by("def (:\n import a\n\x00 '''", "") == {"a"}


def code_of(body: str) -> CodeType:
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    namespace: dict[str, Any] = {}
    exec(f"def function():\n{lines}", namespace)
    code: CodeType = namespace["function"].__code__
    return code


def test_imports_are_found_in_a_function_and_in_what_is_nested_in_it() -> None:
    code = code_of(
        "import a.b as c\nfrom d import e, f\nfrom . import g\nfrom ..h import i\n"
        "def inner():\n    import j\n    return lambda: __import__('k.l')\n"
        "class Inner:\n    def method(self):\n        from m import n\n"
        "import importlib; importlib.import_module('o')"
    )
    named = {"a.b", "d", "d.e", "d.f", ".", ".g", "..h", "..h.i", "j", "k.l", "m", "m.n", "importlib", "o"}
    assert {name for name in code_imports(code) if name != "function"} >= named
    assert "importlib" not in code_imports(code_of("import a"))


def test_an_import_behind_many_constants_is_found() -> None:
    """Its arguments take more than a byte each."""
    lines = "\n".join(f"x = {number}.5" for number in range(300))
    names = "\n".join(f"y.attribute_{number}" for number in range(300))
    assert code_imports(code_of(f"{lines}\n{names}\nfrom far import away")) == {"far", "far.away"}


# -- what travels ------------------------------------------------------------------------------------------------------


def test_a_module_that_a_function_imports_travels(work: Path) -> None:  # noqa: F811
    write(work, {"main.py": "def f():\n    import late\n", "late.py": "", "other.py": ""})
    with projects.imported(work, "main"):
        assert sent(file_snapshot()) == {"main.py", "late.py"}
        assert "late" not in sys.modules


def test_imports_are_followed_through_modules_that_nothing_has_imported(work: Path) -> None:  # noqa: F811
    """From one module to the next, into packages, out of them again, and in a circle."""
    write(
        work,
        {
            "main.py": "def f():\n    import one\n",
            "one.py": "def f():\n    from pkg.inner import x\n",
            "pkg/__init__.py": "", "pkg/inner.py": "", "pkg/unmentioned.py": "import two", "pkg/data.txt": "x",
            "two.py": "import main, one", "other.py": "",
        },
    )  # fmt: skip
    with projects.imported(work, "main"):
        assert sent(file_snapshot()) == {
            "main.py", "one.py", "pkg/__init__.py", "pkg/inner.py", "pkg/unmentioned.py", "pkg/data.txt", "two.py",
        }  # fmt: skip


def test_members_of_a_namespace_package_travel(work: Path) -> None:  # noqa: F811
    write(
        work,
        {
            "ns/used.py": "def f():\n    from . import beside\n    from .deep.er import x\n    import ns.far\n",
            "ns/beside.py": "", "ns/deep/er.py": "", "ns/far/__init__.py": "", "ns/unused.py": "",
        },
    )  # fmt: skip
    with projects.imported(work, "ns.used"):
        assert sent(file_snapshot()) == {"ns/used.py", "ns/beside.py", "ns/deep/er.py", "ns/far/__init__.py"}


def test_a_module_in_another_folder_of_the_path_travels(work: Path, tmp_path: Path) -> None:  # noqa: F811
    write(work, {"main.py": "def f():\n    import late\n"})
    write(tmp_path / "library", {"late.py": ""})
    with projects.imported(tmp_path / "library"), projects.imported(work, "main"):
        found = file_snapshot().require()
    roots = [path for path in found.manifest if path.startswith("roots/") and path.endswith("/late.py")]
    assert len(roots) == 1
    assert roots[0].rpartition("/")[0] in found.import_path


def test_what_git_ignores_travels_where_code_imports_it(work: Path) -> None:  # noqa: F811
    write(
        work,
        {
            "pkg/__init__.py": "def f():\n    from pkg import _version\n", "pkg/_version.py": "", "pkg/_other.py": "",
            ".gitignore": "_version.py\n_other.py\n",
        },
    )  # fmt: skip
    subprocess.run(["git", "init", "-q"], cwd=work, check=True)
    with projects.imported(work, "pkg"):
        assert sent(file_snapshot()) == {"pkg/__init__.py", "pkg/_version.py"}


def test_a_zip_files_code_is_followed(work: Path) -> None:  # noqa: F811
    with zipfile.ZipFile(work / "bundle.zip", "w") as archive:
        archive.writestr("zipped/__init__.py", "def f():\n    import late\n    from . import inner\n")
        archive.writestr("zipped/inner.py", "")
    write(work, {"late.py": ""})
    with projects.imported(work), projects.imported(work / "bundle.zip", "zipped"):
        assert {"bundle.zip", "late.py"} <= sent(file_snapshot())


def test_what_is_installed_does_not_travel_for_an_import(work: Path) -> None:  # noqa: F811
    write(work, {"main.py": "def f():\n    import pytest, json, distutils, no_such_module\n"})
    with projects.imported(work, "main"):
        assert sent(file_snapshot()) == {"main.py"}


def test_without_auto_nothing_is_followed(work: Path) -> None:  # noqa: F811
    write(work, {"late.py": ""})
    with projects.imported(work):
        nothing = FileSnapshot(Sync(None, check_every=0))
        nothing.code_travels([(code_of("import late"), "")])
        nothing.scan()
    assert sent(nothing) == set()


def test_a_file_that_the_user_names_is_followed(work: Path) -> None:  # noqa: F811
    write(work, {"plugins/one.py": "import late", "late.py": ""})
    with projects.imported(work):
        assert sent(file_snapshot(["plugins"])) == {"plugins/one.py", "late.py"}


# -- what changes ------------------------------------------------------------------------------------------------------


def test_an_import_that_is_written_later_is_followed(work: Path) -> None:  # noqa: F811
    write(work, {"main.py": "", "late.py": ""})
    with projects.imported(work, "main"):
        found = file_snapshot()
        assert sent(found) == {"main.py"}
        (work / "main.py").write_text("def f():\n    import late\n")
        found.scan()
        assert sent(found) == {"main.py", "late.py"}


def test_a_module_that_is_written_after_the_import_of_it_travels(work: Path) -> None:  # noqa: F811
    write(work, {"main.py": "def f():\n    import late\n"})
    with projects.imported(work, "main"):
        found = file_snapshot()
        assert sent(found) == {"main.py"}
        (work / "late.py").write_text("")
        sys.path_importer_cache.pop(str(work), None)
        found.scan()
        assert sent(found) == {"main.py", "late.py"}


def test_code_that_travels_by_itself_brings_what_it_imports(work: Path) -> None:  # noqa: F811
    write(work, {"late.py": "def f():\n    import later\n", "later.py": "", "pkg/__init__.py": "", "pkg/x.py": ""})
    with projects.imported(work):
        found = FileSnapshot(Sync(check_every=1000))
        found.scan()
        assert sent(found) == set()
        found.code_travels([(code_of("from late import f"), ""), (code_of("from . import x"), "pkg")])
        found.scan()
        assert sent(found) == {"late.py", "later.py", "pkg/__init__.py", "pkg/x.py"}


# -- programs ----------------------------------------------------------------------------------------------------------

SCRIPT = """
import os
from pathlib import Path
from dragonfly_executor import DragonflyExecutor

class Tool:
    def use(self):
        from helper import double
        return double(4)

def direct():
    import helper
    return helper.double(21)

def run():
    from test_backend import ElsewhereBackend
    import sys
    home = Path(os.environ["TEST_HOST_HOME"])
    with DragonflyExecutor(1, backend=ElsewhereBackend(home)) as executor:
        assert executor.submit(direct).result() == 42
        assert executor.submit(Tool().use).result() == 8
        assert executor.submit(lambda: __import__("other").name()).result() == "other"
        assert "helper" not in sys.modules and "other" not in sys.modules
    print("all well")
"""
GUARD = '\nif __name__ == "__main__":\n    run()\n'


@pytest.mark.parametrize("way", ["guarded", "plain", "-c"])
def test_a_program_whose_functions_import_its_modules(way: str, parent: Path) -> None:  # noqa: F811
    """By reference in a script that is imported there; by value else; and in no file at all."""
    (parent / "helper.py").write_text("def double(number):\n    import inner\n    return inner.times(number, 2)\n")
    (parent / "inner.py").write_text("def times(a, b): return a * b")
    (parent / "other.py").write_text("def name(): return __name__")
    if way == "-c":
        run(parent, "-c", f"{SCRIPT}\nrun()", travels=False)
        return
    (parent / "script.py").write_text(SCRIPT + (GUARD if way == "guarded" else "\nrun()\n"))
    run(parent, "script.py", travels=False)
