"""What of this machine's files is taken to be the user's own."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import textwrap
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import errors
from dragonfly_executor.protocol.file_manifest import LINK
from dragonfly_executor.sync import FileSnapshot, Sync, scan, user_modules
from dragonfly_executor.sync.file_listing import listed
from tests.support import projects
from tests.support.projects import write
from tests.support.trees import digest


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a home beside it."""
    (tmp_path / "work").mkdir()
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def file_snapshot(files: Any = "auto", **options: Any) -> FileSnapshot:
    made = FileSnapshot(Sync(files, check_every=0, **options))
    made.scan()
    return made


def sent(file_snapshot: FileSnapshot) -> set[str]:
    """Files and links of the working directory that travel; not what this test run itself has imported."""
    manifest = file_snapshot.require().manifest
    return {path[4:] for path, entry in manifest.items() if path.startswith("cwd/") and entry.kind != "directory"}


def git(folder: Path, *command: str) -> None:
    options = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *options, *command], cwd=folder, check=True, capture_output=True)


# -- auto --------------------------------------------------------------------------------------------------------------


def test_a_package_travels_whole_and_a_module_alone(work: Path) -> None:
    write(
        work,
        {
            "pkg/__init__.py": "", "pkg/sub/__init__.py": "", "pkg/sub/deep.py": "", "pkg/data.json": "{}",
            "pkg/.hidden": "dot", "one.py": "", "other.py": "", "notes.txt": "", "pkg/__pycache__/x.pyc": "",
        },
    )  # fmt: skip
    with projects.imported(work, "pkg", "one"):
        found = file_snapshot()
    assert sent(found) == {
        "pkg/__init__.py", "pkg/sub/__init__.py", "pkg/sub/deep.py", "pkg/data.json", "pkg/.hidden", "one.py",
    }  # fmt: skip
    assert "cwd" in found.require().import_path


def test_of_a_namespace_package_what_was_imported_travels(work: Path) -> None:
    write(
        work,
        {"ns/used/__init__.py": "", "ns/used/x.py": "", "ns/alone.py": "", "ns/unused/__init__.py": "", "ns/big": ""},
    )
    with projects.imported(work, "ns.used", "ns.alone"):
        assert sent(file_snapshot()) == {"ns/used/__init__.py", "ns/used/x.py", "ns/alone.py"}


def test_folders_outside_of_the_working_directory_have_places_of_their_own(work: Path, tmp_path: Path) -> None:
    write(tmp_path / "library" / "src", {"lib/__init__.py": "", "single.py": "x = 1"})
    with projects.imported(tmp_path / "library" / "src", "lib", "single"):
        snapshot = file_snapshot().require()
    (root,) = {path.rpartition("/")[0] for path in snapshot.manifest if path.endswith("/single.py")}
    assert f"{root}/lib/__init__.py" in snapshot.manifest
    assert root in snapshot.import_path
    assert snapshot.import_path.index(root) == 0
    assert str(tmp_path) not in str(snapshot.manifest)


def test_a_package_in_a_folder_of_another_name(work: Path, tmp_path: Path) -> None:
    """As editable installs map them, with a finder of their own."""
    code = tmp_path / "repository" / "code"
    write(code, {"__init__.py": "name = 'mapped'", "part.py": ""})
    program = f"""
        import importlib.util, sys, json
        class Finder:
            @staticmethod
            def find_spec(name, path=None, target=None):
                if name == "mapped":
                    return importlib.util.spec_from_file_location(
                        name, {str(code / "__init__.py")!r}, submodule_search_locations=[{str(code)!r}])
        sys.meta_path.append(Finder)
        import mapped.part
        from dragonfly_executor.sync import FileSnapshot, Sync
        file_snapshot = FileSnapshot(Sync())
        file_snapshot.scan()
        snapshot = file_snapshot.require()
        print(json.dumps([sorted(snapshot.manifest), snapshot.import_path]))
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True, cwd=work
    )
    assert '"roots/1/mapped/__init__.py", "roots/1/mapped/part.py"], ["roots/1"]' in ran.stdout


def test_an_editable_install_travels(work: Path, tmp_path: Path) -> None:
    """By its .pth file: what pip makes of ``-e`` where a project has a ``src`` folder."""
    write(tmp_path / "project" / "src", {"editable_example/__init__.py": "", "editable_example/more.py": ""})
    site_packages = tmp_path / "site-packages"
    write(site_packages, {"installed_example.py": "", "__editable__.pth": f"{tmp_path}/project/src\n"})
    program = f"""
        import site; site.addsitedir({str(site_packages)!r})
        import editable_example, installed_example, json
        from dragonfly_executor.sync import FileSnapshot, Sync
        file_snapshot = FileSnapshot(Sync())
        file_snapshot.scan()
        print(json.dumps(sorted(file_snapshot.require().manifest)))
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True, cwd=work
    )
    assert "editable_example/more.py" in ran.stdout
    assert "installed_example" not in ran.stdout
    assert "dragonfly_executor" not in ran.stdout
    assert "json" not in ran.stdout


def test_what_lies_in_a_zip_file_travels_with_it(work: Path) -> None:
    with zipfile.ZipFile(work / "library.zip", "w") as archive:
        archive.writestr("zipped_example.py", "value = 1")
    with projects.imported(work / "library.zip", "zipped_example"):
        found = file_snapshot()
    assert sent(found) == {"library.zip"}
    assert "cwd/library.zip" in found.require().import_path


def test_looking_imports_nothing_and_wakes_no_lazy_module(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Lazy:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"asked for {name}")

    monkeypatch.setitem(sys.modules, "lazy_example", Lazy())
    monkeypatch.setitem(sys.modules, "nothing_example", None)
    before = set(sys.modules)
    file_snapshot()
    assert {name for name in set(sys.modules) - before if not name.startswith("dragonfly_executor")} == set()


@pytest.mark.parametrize("above", ["", "..", "../.."])
def test_never_the_home_directory(
    above: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    home = tmp_path / "a" / "homepackage"
    write(home, {"__init__.py": "", "secret": "x"})
    write(home / "..", {"__init__.py": ""})
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    with pytest.raises(ValueError, match="all of"):
        Sync([home / above])
    with pytest.raises(ValueError, match="all of"):
        Sync(["/"])
    with projects.imported(tmp_path / "a", "homepackage"), caplog.at_level(logging.WARNING, "dragonfly_executor"):
        found = file_snapshot()
        found.refresh()
    assert not any("secret" in path for path in found.require().manifest)
    assert len([record for record in caplog.records if "home directory" in record.message]) == 1


# -- what is named -----------------------------------------------------------------------------------------------------


def test_named_files_and_folders(work: Path, tmp_path: Path) -> None:
    write(work, {"src/module.py": "", "data/model.bin": "m", "plain.txt": "", "helper.py": ""})
    write(tmp_path / "shared", {"inner/x.py": "", "y": ""})
    found = file_snapshot(["src", "data/model.bin", "helper.py", "../shared", "missing"])
    assert sent(found) == {"src/module.py", "data/model.bin", "helper.py"}
    path = found.require().import_path
    assert {"cwd/src", "cwd"} <= set(path)
    assert any(f"{root}/inner/x.py" in found.require().manifest for root in path)
    (work / "missing").write_text("there now")
    found.scan()
    assert "missing" in sent(found)


def test_nothing(work: Path) -> None:
    write(work, {"one.py": ""})
    with projects.imported(work, "one"):
        found = file_snapshot(None)
    assert set(found.require().manifest) == {"cwd"}
    assert found.require().import_path == []
    assert not found.script_travels


@pytest.mark.parametrize("files", ["src", b"src", 7, [7], [None]])
def test_what_is_no_list_of_files(files: Any) -> None:
    with pytest.raises(TypeError, match="sync must"):
        Sync(files)


def test_a_backend_takes_a_plan_as_it_is_and_makes_one_of_all_else() -> None:
    plan = Sync(None)
    assert Sync.of(plan, None) is plan
    made = Sync.of(["data"], ["rich"])
    assert (made.auto, made.extra) == (True, Sync(["data"]).extra)
    assert len(made.requirements) == 1
    with pytest.raises(TypeError, match="give the requirements to the Sync object"):
        Sync.of(plan, ["rich"])


@pytest.mark.parametrize("options", [{"max_file": -1}, {"max_total": -1}, {"check_every": -1}])
def test_numbers_below_zero(options: Any) -> None:
    with pytest.raises(ValueError, match="at least 0"):
        Sync(**options)


# -- what is left out --------------------------------------------------------------------------------------------------


def test_what_git_ignores_stays_but_what_is_imported_travels(work: Path) -> None:
    write(
        work,
        {
            ".gitignore": "*.log\nbuild/\n_version.py\n", "pkg/__init__.py": "", "pkg/run.log": "", "pkg/.env": "",
            "pkg/build/x": "", "pkg/_version.py": "", "pkg/new.py": "", "pkg/gone.py": "", "pkg/ä b.txt": "",
        },
    )  # fmt: skip
    git(work, "init")
    git(work, "add", "pkg/__init__.py", "pkg/gone.py")
    git(work, "commit", "-m", "x")
    (work / "pkg" / "gone.py").unlink()
    expected = {"pkg/__init__.py", "pkg/.env", "pkg/new.py", "pkg/ä b.txt"}
    with projects.imported(work, "pkg"):
        assert sent(file_snapshot()) == expected
        with projects.imported(work, "pkg._version"):
            assert sent(file_snapshot()) == {*expected, "pkg/_version.py"}


def test_a_folder_that_git_ignores_as_a_whole(work: Path) -> None:
    write(work, {".gitignore": "generated/\n", "generated/__init__.py": "", "generated/x.py": ""})
    git(work, "init")
    with projects.imported(work, "generated"):
        assert sent(file_snapshot()) == {"generated/__init__.py", "generated/x.py"}


def test_a_repository_in_a_repository(work: Path) -> None:
    write(work, {"a": "", "inner/.gitignore": "x", "inner/x": "", "inner/y": ""})
    git(work, "init")
    git(work / "inner", "init")
    assert listed(str(work)) == ["a", "inner/.gitignore", "inner/y"]


def test_without_git(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        work,
        {
            "a.py": "", "a.pyc": "", ".dot": "", ".git/x": "", "__pycache__/x": "", "node_modules/x": "", ".venv/x": "",
            "environment/pyvenv.cfg": "", "environment/lib/x": "", "b/.tox/x": "", "b/c": "",
        },
    )  # fmt: skip
    monkeypatch.setenv("PATH", "/nowhere")
    assert listed(str(work)) == [".dot", "a.py", "b/c"]


def test_a_file_that_is_too_large_is_named_once(work: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(work, {"data/large": "x" * 101, "data/small": "x" * 100, "data/larger": "x" * 200})
    with caplog.at_level(logging.WARNING, "dragonfly_executor"):
        found = file_snapshot(["data"], max_file=100)
        found.refresh()
        (work / "data" / "other").write_text("")
        found.refresh()
    assert {"data/small", "data/other"} == sent(found)
    (record,) = caplog.records
    assert str(work / "data" / "large ") in record.message
    assert str(work / "data" / "larger ") in record.message


def test_a_project_that_is_too_large_does_not_travel(work: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(work, {"data/a": "x" * 60})
    found = file_snapshot(["data"], max_total=2**40)
    before = found.require()
    limited = Sync(["data"], max_total=10)
    with caplog.at_level(logging.WARNING, "dragonfly_executor"):
        refused = FileSnapshot(limited)
        refused.scan()
        refused.refresh()
    assert len([record for record in caplog.records if "max_total" in record.message]) == 1
    with pytest.raises(errors.BootError, match="data/a") as caught:
        refused.require()
    assert caught.value.phase == "sync"
    assert found.require() is before


def test_a_file_that_may_not_be_read(
    work: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write(work, {"data/a": "", "data/b": ""})
    real = open

    def refuse(path: Any, *args: Any, **kwargs: Any) -> Any:
        if str(path).endswith("data/a"):
            raise PermissionError(13, "Permission denied", path)
        return real(path, *args, **kwargs)

    monkeypatch.setattr("builtins.open", refuse)  # root may read everything, and tests may run as root
    with caplog.at_level(logging.WARNING, "dragonfly_executor"):
        assert sent(file_snapshot(["data"])) == {"data/b"}
    assert "Permission denied" in caplog.text


def test_what_is_no_file_does_not_travel(work: Path) -> None:
    write(work, {"data/a": ""})
    os.mkfifo(work / "data" / "pipe")
    assert sent(file_snapshot(["data"])) == {"data/a"}


def test_links(work: Path, tmp_path: Path) -> None:
    write(work, {"data/a": "content", "data/deep/b": ""})
    write(tmp_path, {"outside/file": "outer", "outside/more/x": ""})
    for name, target in {
        "relative": "a", "absolute": work / "data" / "a", "deep/up": "../a", "folder": "deep",
        "out": tmp_path / "outside" / "file", "far": tmp_path / "outside" / "more", "dangling": "nothing",
    }.items():  # fmt: skip
        (work / "data" / name).symlink_to(target)
    manifest = file_snapshot(["data"]).require().manifest
    targets = {path[9:]: entry.target for path, entry in manifest.items() if entry.kind == LINK}
    assert targets == {
        "relative": "a", "absolute": "a", "deep/up": "../a", "folder": "deep", "dangling": "nothing",
        "far": str(tmp_path / "outside" / "more"),
    }  # fmt: skip
    assert manifest["cwd/data/out"].digest == digest(b"outer")


# -- changes -----------------------------------------------------------------------------------------------------------


def test_every_kind_of_change_is_seen(work: Path) -> None:
    write(work, {"data/a": "one", "data/deep/b": "", "data/gone": ""})
    found = file_snapshot(["data"])
    steps: list[Callable[[], object]] = [
        lambda: (work / "data/a").write_text("two"),  # of the same size, in the same instant
        lambda: (work / "data/gone").unlink(),
        lambda: (work / "data/new").write_text(""),
        lambda: (work / "data/deep/new").write_text(""),
        lambda: (work / "data/a").chmod(0o755),
        lambda: (work / "data/deep/b").rename(work / "data/deep/c"),
        lambda: ((work / "data/a").unlink(), (work / "data/a").symlink_to("new")),
    ]
    for number, step in enumerate(steps):
        before = found.require()
        found.scan()
        assert found.require() is before, number
        step()
        found.scan()
        assert found.require() is not before, number
        assert found.require().manifest != before.manifest, number
    assert {"data/a", "data/new", "data/deep/new", "data/deep/c"} == sent(found)


def test_a_change_that_keeps_size_and_time_is_seen(work: Path) -> None:
    write(work, {"data/a": "one"})
    old = 1_000_000_000
    os.utime(work / "data" / "a", ns=(old, old))
    found = file_snapshot(["data"])
    before = found.require()
    (work / "data" / "a").write_text("two")
    os.utime(work / "data" / "a", ns=(old, old))
    found.scan()
    assert found.require() is not before


def test_a_change_behind_a_link_is_seen(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a link leads out of what travels the file itself is sent, and the link does not change with it."""
    write(work, {"data/a": ""})
    write(tmp_path, {"outside/file": "one"})
    (work / "data" / "out").symlink_to(tmp_path / "outside" / "file")
    monkeypatch.setattr("dragonfly_executor.sync.scan.YOUNG", -1)  # as if all had rested for long
    found = file_snapshot(["data"])
    before = found.require()
    found.scan()
    assert found.require() is before
    (tmp_path / "outside" / "file").write_text("other")
    found.scan()
    assert found.require().manifest["cwd/data/out"].digest == digest(b"other")


def test_a_change_that_a_coarse_clock_does_not_show_is_seen(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems stamp two changes within a tick with one time."""

    def coarse(path: str, *, follow: bool) -> tuple[int, ...] | None:
        try:
            found = os.stat(path, follow_symlinks=follow)  # noqa: PTH116
        except OSError:
            return None
        tick = 100_000_000
        return found.st_mtime_ns // tick * tick, found.st_ctime_ns // tick * tick, found.st_size

    monkeypatch.setattr("dragonfly_executor.sync.scan._status", coarse)
    write(work, {"data/a": "000"})
    found = file_snapshot(["data"])
    for number in range(1, 50):
        before = found.require()
        (work / "data" / "a").write_text(f"{number:03}")
        found.scan()
        assert found.require() is not before


def test_files_that_rest_are_not_read_again(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(work, {"data/a": "one", "data/b": "two"})
    monkeypatch.setattr("dragonfly_executor.sync.scan.YOUNG", -1)  # as if they had rested for long
    found = file_snapshot(["data"])

    def refuse(*args: Any) -> Any:
        raise AssertionError("read again")

    monkeypatch.setattr("dragonfly_executor.sync.scan.hashlib", None)
    monkeypatch.setattr("dragonfly_executor.sync.scan.listed", refuse)
    before = found.require()
    found.refresh()
    assert found.require() is before


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_of_calls_looks_once(work: Path) -> None:
    write(work, {"data/a": "one"})
    clock = Clock()
    found = FileSnapshot(Sync(["data"], check_every=0.2), clock)
    scans: list[object] = []
    scan = found._scanner.scan

    def slow_scan(*arguments: Any) -> Any:
        scans.append(arguments)
        clock.now += 0.05
        return scan(*arguments)

    found._scanner.scan = slow_scan  # type: ignore[method-assign]
    for _ in range(1000):
        found.scan()
    assert len(scans) == 1
    clock.now += 0.19
    found.scan()
    assert len(scans) == 1
    clock.now += 0.02
    found.scan()
    assert len(scans) == 2


def test_what_was_imported_since_is_sent_at_once(work: Path) -> None:
    write(work, {"late.py": ""})
    found = FileSnapshot(Sync(check_every=3600))
    found.scan()
    with projects.imported(work, "late"):
        found.scan()
        assert "late.py" in sent(found)


# -- requirements ------------------------------------------------------------------------------------------------------


def test_requirements_from_a_list_and_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("# tools\nhttpx>=0.27\n\n  attrs  \n")
    assert Sync(requirements=tmp_path / "requirements.txt").requirements == ["httpx>=0.27", "attrs"]
    assert Sync(requirements=["httpx>=0.27", "attrs"]).requirements == ["httpx>=0.27", "attrs"]
    assert "s3cret" not in repr(Sync(requirements=["--index-url https://me:s3cret@example.org/simple", "attrs"]))


@pytest.mark.parametrize("line", ["-r other.txt", "--requirement=other.txt", "-e .", "-c limits.txt"])
def test_requirements_that_only_this_machine_has(line: str) -> None:
    with pytest.raises(ValueError, match="file of this machine"):
        Sync(requirements=[line])


@pytest.fixture(autouse=True)
def _nothing_but_projects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this test run itself is made of is none of these projects."""
    monkeypatch.setattr(user_modules, "of_script", lambda layout: None)
    found = user_modules.imported

    def of_projects(layout: user_modules.RemoteLayout) -> dict[user_modules.SyncUnit, set[str]]:
        return {unit: files for unit, files in found(layout).items() if unit.local.startswith(str(tmp_path))}

    monkeypatch.setattr(user_modules, "imported", of_projects)


# -- the next pool -----------------------------------------------------------------------------------------------------


def test_the_next_pool_with_the_same_plan_reads_what_has_changed(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And from another working directory everything: there links may lead elsewhere."""
    write(work, {"data/a": "a", "data/b": "b", "data/c": "c"})
    for path in (work / "data").iterdir():
        os.utime(path, (1_000_000_000, 1_000_000_000))
    # Status changes cannot be stamped: so the clock is told to have moved on.
    monkeypatch.setattr(scan, "_file_clock", lambda: time.time_ns() + 10**10)
    read: list[str] = []
    reading = scan.Scanner._read

    def noting(self: scan.Scanner, local: str) -> Any:
        read.append(local)
        return reading(self, local)

    monkeypatch.setattr(scan.Scanner, "_read", noting)
    monkeypatch.setattr(user_modules, "imported", lambda layout: {})
    monkeypatch.setattr(user_modules, "of_script", lambda layout: None)
    plan = Sync([str(work / "data")], check_every=0)
    FileSnapshot(plan).scan()
    assert len(read) == 3
    (work / "data" / "b").write_text("bb")
    again = FileSnapshot(plan)
    again.scan()
    assert read[3:] == [str(work / "data" / "b")]
    assert again.require().manifest["cwd/data/b"].size == 2
    monkeypatch.chdir(work.parent)
    elsewhere = FileSnapshot(plan)
    elsewhere.scan()
    assert len(read) == 7
    assert {path.rpartition("/")[2] for path in elsewhere.require().manifest} >= {"a", "b", "c"}
