"""Whether a runner finds the very file that a module was made from."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import tests.support.importable
from dragonfly_executor.serialization.import_environment import ImportEnvironment
from dragonfly_executor.serialization.main_pickler import importable
from dragonfly_executor.serialization.module_origin import findable, is_own


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder on ``sys.path``."""
    before, path, finders = set(sys.modules), list(sys.path), list(sys.meta_path)
    sys.path.insert(0, str(tmp_path))
    yield tmp_path
    sys.path[:], sys.meta_path[:] = path, finders
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__spec__", None)):
            del sys.modules[name]


def load(name: str) -> ModuleType:
    importlib.invalidate_caches()
    return importlib.import_module(name)


@pytest.mark.parametrize("name", ["sys", "os", "os.path", "json.decoder", "xml.etree.ElementTree", "zipimport", "_io"])
def test_the_standard_library_is_found(name: str) -> None:
    importlib.import_module(name)
    assert findable(name)


@pytest.mark.parametrize("name", ["pytest", "_pytest.mark.structures", "cloudpickle.cloudpickle", "dragonfly_executor"])
def test_what_is_installed_is_found(name: str) -> None:
    importlib.import_module(name)
    assert findable(name)


def test_what_is_on_the_path_is_found() -> None:
    assert findable(tests.support.importable.__name__)
    assert findable("tests.support")


@pytest.mark.parametrize("name", ["", "no_such_module", "os.no_such", "__main__", "__mp_main__"])
def test_what_was_not_imported_or_is_the_script_is_not(name: str) -> None:
    assert not importable(name)
    assert not importable(None)


def test_it_is_the_file_that_counts(folder: Path) -> None:
    (folder / "mine.py").write_text("")
    load("mine")
    assert findable("mine")
    sys.path.remove(str(folder))
    assert not findable("mine")
    (folder / "other").mkdir()
    (folder / "other" / "mine.py").write_text("")
    sys.path.insert(0, str(folder / "other"))
    importlib.invalidate_caches()
    assert not findable("mine")
    sys.path.insert(0, str(folder))
    assert findable("mine")


def test_a_link_to_the_folder_leads_to_the_same_file(folder: Path) -> None:
    (folder / "real").mkdir()
    (folder / "real" / "linked.py").write_text("")
    (folder / "link").symlink_to(folder / "real")
    sys.path.insert(0, str(folder / "real"))
    load("linked")
    sys.path[0] = str(folder / "link")
    assert findable("linked")


def test_packages_namespaces_and_what_is_in_them(folder: Path) -> None:
    for name in ("regular/__init__.py", "regular/inner.py", "space/inner.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("")
    for name in ("regular.inner", "space.inner"):
        load(name)
        assert findable(name)
        assert findable(name.partition(".")[0])
    sys.path.remove(str(folder))
    # In a package that is not found nothing is, though the package's own path still leads there.
    for name in ("regular", "regular.inner", "space.inner"):
        assert not findable(name)


def test_a_module_that_another_one_puts_there_is_found_with_it(folder: Path) -> None:
    """As `os` does with ``os.path``, and extension modules with their parts."""
    (folder / "maker.py").write_text(
        "import sys\nfrom types import ModuleType\npart = sys.modules['maker.part'] = ModuleType('maker.part')\n"
    )
    load("maker")
    try:
        assert findable("maker.part")
        sys.path.remove(str(folder))
        assert not findable("maker.part")
    finally:
        del sys.modules["maker.part"]


def test_a_zip_file_on_the_path_is_looked_into(folder: Path) -> None:
    with zipfile.ZipFile(folder / "bundle.zip", "w") as archive:
        archive.writestr("zipped.py", "")
    sys.path.insert(0, str(folder / "bundle.zip"))
    load("zipped")
    assert findable("zipped")
    del sys.path[0]
    assert not findable("zipped")


def test_what_was_loaded_from_a_file_by_hand_is_not_found(folder: Path) -> None:
    (folder / "plugins").mkdir()
    (folder / "plugins" / "plugin.py").write_text("")
    spec = importlib.util.spec_from_file_location("plugin", folder / "plugins" / "plugin.py")
    assert spec is not None
    sys.modules["plugin"] = importlib.util.module_from_spec(spec)
    assert not findable("plugin")
    sys.path.append(str(folder / "plugins"))
    importlib.invalidate_caches()
    assert findable("plugin")


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds one module, in memory."""

    def __init__(self, name: str, error: type[Exception] | None = None) -> None:
        self.name = name
        self.error = error

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if self.error is not None:
            raise self.error
        return importlib.machinery.ModuleSpec(name, self, origin="memory") if name == self.name else None

    def exec_module(self, module: ModuleType) -> None:
        module.filled = True  # type: ignore[attr-defined]


def test_a_finder_of_the_programs_own_is_not_on_runners() -> None:
    finder = Finder("virtual_module")
    sys.meta_path.append(finder)
    try:
        load("virtual_module")
        assert not findable("virtual_module")
    finally:
        sys.meta_path.remove(finder)
        del sys.modules["virtual_module"]


@pytest.mark.parametrize("home", ["virtual", "installed_finder"])
def test_a_finder_that_comes_with_a_package_or_is_installed_is_there_too(
    home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An editable install's, say; or the one that a package sets up for its own modules when it is imported."""
    kind = type("Finder", (Finder,), {"__module__": home})
    monkeypatch.setitem(sys.modules, home, ModuleType(home))
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, kind("virtual")])
    module = ModuleType("virtual")
    module.__spec__ = importlib.machinery.ModuleSpec("virtual", None, origin="memory")
    monkeypatch.setitem(sys.modules, "virtual", module)
    assert findable("virtual")


def test_a_finder_that_fails_is_passed_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [Finder("x", ValueError), *sys.meta_path])
    (folder / "despite.py").write_text("")
    spec = importlib.util.spec_from_file_location("despite", folder / "despite.py")
    assert spec is not None
    monkeypatch.setitem(sys.modules, "despite", importlib.util.module_from_spec(spec))
    importlib.invalidate_caches()
    assert findable("despite")


def test_what_is_the_users_own() -> None:
    assert is_own(__file__)
    assert is_own("/srv/app/main.py")
    assert not is_own(os.__file__)
    assert not is_own(pytest.__file__)
    assert not is_own("/usr/lib/python3/dist-packages/apt/__init__.py")


# -- what the parent notices -------------------------------------------------------------------------------------------


def test_changes_are_noticed_once(folder: Path) -> None:
    surroundings = ImportEnvironment(path_travels=True)
    assert surroundings.refresh()
    assert not surroundings.refresh()
    (folder / "noticed.py").write_text("")
    load("noticed")
    assert surroundings.refresh()
    assert not surroundings.refresh()
    sys.path.append("/nowhere")
    assert surroundings.refresh()
    assert not surroundings.refresh()


def test_strays_are_told_by_what_stands_in_a_pickle(folder: Path) -> None:
    (folder / "stray_module.py").write_text("")
    load("stray_module")
    surroundings = ImportEnvironment(path_travels=False)
    surroundings.refresh()
    mark = b"\x8c\x0cstray_module"
    assert mark not in surroundings.marks
    sys.path.remove(str(folder))
    assert surroundings.refresh()
    assert mark in surroundings.marks
    sys.path.append(str(folder))
    assert surroundings.refresh()
    assert mark not in surroundings.marks


def test_the_path_is_told_once_it_has_changed_and_from_then_on(folder: Path) -> None:
    surroundings = ImportEnvironment(path_travels=True)
    surroundings.refresh()
    assert surroundings.path == b""  # no slot was set up yet
    surroundings.told([str(Path.cwd() / entry) for entry in sys.path])
    assert surroundings.refresh()
    assert surroundings.path == b""
    sys.path.append("/nowhere")
    surroundings.refresh()
    assert b"/nowhere" in surroundings.path
    sys.path.remove("/nowhere")
    surroundings.refresh()
    assert surroundings.path
    assert b"/nowhere" not in surroundings.path
    elsewhere = ImportEnvironment(path_travels=False)
    elsewhere.told(["/somewhere"])
    elsewhere.refresh()
    assert elsewhere.path == b""
