"""Environments for packages, with installers that only note how they were called."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor.runner import requirements
from dragonfly_executor.runner.requirements import (
    FAILED,
    KEPT_FOR,
    LAST_LINES,
    VirtualEnvironment,
    clean_up,
    has_leftovers,
)

LINES = ["--index-url https://user:secret@example.com", "example-package==1.0"]


class OsWithout:
    """The module `os` with some functions replaced, for one module: pytest itself redirects descriptors."""

    def __init__(self, **replaced: Any) -> None:
        self.__dict__ |= replaced

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


class Installer:
    """In place of the programs: notes their commands, and what stands in the file of requirements meanwhile."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.commands: list[list[str]] = []
        self.files: list[tuple[str, int]] = []
        self.redirected: list[int] = []
        self.fails_at = -1
        self.on_run: Callable[[], None] = lambda: None
        monkeypatch.setattr(requirements, "_succeeds", self.run)
        monkeypatch.setattr(requirements, "os", OsWithout(dup2=lambda old, new: self.redirected.append(new)))
        monkeypatch.setattr(shutil, "which", lambda program: None)

    def run(self, command: list[str]) -> bool:
        self.commands.append(command)
        if "-r" in command:
            path = Path(command[-1])
            self.files.append((path.read_text(), path.stat().st_mode & 0o777))
        if "venv" in command:
            Path(command[-1]).mkdir()
        self.on_run()
        return len(self.commands) - 1 != self.fails_at


@pytest.fixture
def installer(monkeypatch: pytest.MonkeyPatch) -> Installer:
    return Installer(monkeypatch)


@pytest.fixture(autouse=True)
def _no_lock_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close the locks that `build` holds until its process ends."""
    share, held = requirements._share, []

    def share_and_note(path: str) -> int:
        held.append(share(path))
        return held[-1]

    monkeypatch.setattr(requirements, "_share", share_and_note)
    yield
    for fd in held:
        try:
            os.close(fd)
        except OSError:
            continue


def built(cache: Path, lines: list[str] = LINES) -> VirtualEnvironment:
    """An environment without packages."""
    environment = VirtualEnvironment(str(cache), lines)
    assert environment.build() == 0
    for fd in held_by(environment):
        os.close(fd)
    return environment


def held_by(environment: VirtualEnvironment) -> list[int]:
    """The descriptors of this process on the file that keeps an environment."""
    used = Path(environment._used).stat()
    found = []
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            status = os.fstat(int(name))
        except OSError:
            continue
        if (status.st_dev, status.st_ino) == (used.st_dev, used.st_ino):
            found.append(int(name))
    return found


@contextmanager
def used_by_another(environment: VirtualEnvironment) -> Iterator[None]:
    """As long as another process uses the environment."""
    with Path(environment._used).open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


def unused_since(environment: VirtualEnvironment, seconds: float) -> None:
    os.utime(environment._within)
    when = Path(environment._within).stat().st_mtime - seconds
    os.utime(environment._used, (when, when))


def names(cache: Path) -> list[str]:
    return sorted(os.listdir(cache / "environments"))  # noqa: PTH208


# -- building ----------------------------------------------------------------------------------------------------------


def test_an_environment_is_made_by_venv_and_pip(tmp_path: Path, installer: Installer) -> None:
    environment = VirtualEnvironment(str(tmp_path), LINES)
    assert not environment.is_ready()
    assert not environment.take()
    assert environment.build() == 0
    make, install = installer.commands
    folder = environment._folder
    assert make == [sys.executable, "-I", "-m", "venv", folder]
    assert install[0] == os.path.join(folder, "bin", "python")  # noqa: PTH118
    assert install[1:4] == ["-I", "-m", "pip"]
    assert {"--no-input", "install"} <= set(install)
    assert environment.is_ready()
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    assert environment.site_packages == f"{folder}/lib/{version}/site-packages"
    assert installer.redirected == [1, 2]
    assert Path(environment._within).stat().st_mode & 0o777 == 0o700


def test_uv_makes_it_if_there_is_one(tmp_path: Path, installer: Installer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: f"/bin/{program}")
    environment = built(tmp_path)
    make, install = installer.commands
    assert make == ["/bin/uv", "venv", "--python", sys.executable, environment._folder]
    assert install[:5] == ["/bin/uv", "pip", "install", "--python", f"{environment._folder}/bin/python"]


def test_a_secret_stands_in_a_file_that_is_gone_afterwards(tmp_path: Path, installer: Installer) -> None:
    environment = built(tmp_path)
    assert installer.files == [("\n".join([*LINES, ""]), 0o600)]
    assert "user:secret" not in str(installer.commands)
    assert not Path(f"{environment._folder}.txt").exists()
    assert Path(environment._complete).read_text().splitlines() == LINES


@pytest.mark.parametrize("step", [0, 1])
def test_a_step_that_fails_leaves_an_environment_that_is_not_used(
    step: int, tmp_path: Path, installer: Installer
) -> None:
    installer.fails_at = step
    environment = VirtualEnvironment(str(tmp_path), LINES)
    assert environment.build() == FAILED
    assert len(installer.commands) == step + 1
    assert not environment.is_ready()
    assert not Path(f"{environment._folder}.txt").exists()
    installer.fails_at = -1
    leftover = Path(environment._folder, "leftover")
    leftover.parent.mkdir(exist_ok=True)
    leftover.touch()
    assert environment.build() == 0
    assert not leftover.exists()


def test_an_environment_that_is_there_is_not_made_again(tmp_path: Path, installer: Installer) -> None:
    built(tmp_path)
    assert built(tmp_path).is_ready()
    assert len(installer.commands) == 2
    assert built(tmp_path, [*LINES, "more"])._folder != built(tmp_path)._folder
    assert len(installer.commands) == 4


def test_one_process_at_a_time_makes_it(tmp_path: Path, installer: Installer) -> None:
    environment = VirtualEnvironment(str(tmp_path), LINES)
    found: list[bool] = []

    def another_tries() -> None:
        with Path(f"{environment._folder}.lock").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                found.append(True)

    installer.on_run = another_tries
    assert environment.build() == 0
    assert found == [True, True]


def test_a_cache_that_is_not_this_users_alone_holds_none(
    tmp_path: Path, installer: Installer, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "environments").symlink_to(tmp_path / "elsewhere")
    assert VirtualEnvironment(str(tmp_path), LINES).build() == FAILED
    assert f"{tmp_path}/environments" in capsys.readouterr().err
    assert installer.commands == []


def test_the_installers_last_lines_are_shown(tmp_path: Path, installer: Installer) -> None:
    environment = VirtualEnvironment(str(tmp_path), LINES)
    assert environment.last_output() == ""
    built(tmp_path)
    lines = [f"line {number}" for number in range(5000)]
    Path(environment._log).write_text("\n".join(lines) + "\n\n")
    assert environment.last_output().splitlines() == lines[-LAST_LINES:]
    Path(environment._log).write_bytes(b"\xff broken")
    assert environment.last_output() == "\ufffd broken"


def test_a_program_that_cannot_be_started_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[bytes] = []

    def refuse(*args: Any) -> int:
        raise FileNotFoundError(2, "no such file")

    monkeypatch.setattr(os, "posix_spawn", refuse)
    monkeypatch.setattr(os, "write", lambda fd, data: said.append(data))
    assert not requirements._succeeds(["/no/uv", "venv"])
    monkeypatch.undo()
    assert said == [b"cannot run /no/uv: [Errno 2] no such file\n"]


@pytest.mark.parametrize(("status", "succeeds"), [(0, True), (256, False), (9, False)])
def test_a_program_succeeds_by_its_status(status: int, succeeds: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "posix_spawn", lambda *args: 501)
    monkeypatch.setattr(os, "waitpid", lambda pid, options: (pid, status))
    assert requirements._succeeds(["/bin/uv"]) is succeeds


# -- using -------------------------------------------------------------------------------------------------------------


def test_an_environment_in_use_is_locked_until_it_is_left(tmp_path: Path, installer: Installer) -> None:
    environment = built(tmp_path)
    assert environment.fileno() == -1
    assert environment.take()
    assert environment.take(), "a second time is fine"
    assert held_by(environment) == [environment.fileno()]
    assert not os.get_inheritable(environment.fileno())
    unused_since(environment, KEPT_FOR + 60)
    assert clean_up(str(tmp_path)) == 0
    assert environment.is_ready()
    environment.leave()
    assert environment.fileno() == -1
    assert held_by(environment) == []
    assert not has_leftovers(str(tmp_path)), "leaving is a use"
    environment.leave()


def test_an_environment_that_is_removed_before_it_is_locked_is_not_taken(
    tmp_path: Path, installer: Installer, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = built(tmp_path)
    looks = iter([True, False])
    monkeypatch.setattr(environment, "is_ready", lambda: next(looks))
    assert not environment.take()
    assert environment.fileno() == -1
    assert held_by(environment) == []


def test_a_file_that_is_removed_before_it_is_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.used"
    locked: list[int] = []

    def lock(fd: int, how: int) -> None:
        if not locked:
            path.unlink()
        locked.append(how)

    monkeypatch.setattr(fcntl, "flock", lock)
    fd = requirements._share(str(path))
    assert locked == [fcntl.LOCK_SH] * 2
    assert os.fstat(fd).st_nlink == 1


def test_a_lock_that_cannot_be_had_harms_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert requirements._share(str(tmp_path / "no" / "x.used")) == -1

    def refuse(fd: int, how: int) -> None:
        raise OSError(37, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    fd = requirements._share(str(tmp_path / "x.used"))
    assert fd >= 0


# -- cleaning up -------------------------------------------------------------------------------------------------------


def test_what_was_not_used_for_a_month_goes(tmp_path: Path, installer: Installer) -> None:
    old, young = built(tmp_path, ["old"]), built(tmp_path, ["young"])
    Path(old._folder).mkdir(exist_ok=True)
    unused_since(old, KEPT_FOR + 60)
    unused_since(young, KEPT_FOR - 60)
    assert has_leftovers(str(tmp_path))
    assert clean_up(str(tmp_path)) == 0
    assert not old.is_ready()
    assert young.is_ready()
    left = names(tmp_path)
    assert left == [name for name in left if name.startswith(os.path.basename(young._folder))]  # noqa: PTH119
    assert not has_leftovers(str(tmp_path))


def test_what_another_process_uses_stays(tmp_path: Path, installer: Installer) -> None:
    environment = built(tmp_path)
    unused_since(environment, KEPT_FOR + 60)
    with used_by_another(environment):
        clean_up(str(tmp_path))
        assert environment.is_ready()
    clean_up(str(tmp_path))
    assert not environment.is_ready()


def test_what_is_used_again_just_before_it_is_locked_stays(
    tmp_path: Path, installer: Installer, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = built(tmp_path)
    unused_since(environment, KEPT_FOR + 60)

    def lock(fd: int, how: int) -> None:
        os.utime(environment._used)

    monkeypatch.setattr(fcntl, "flock", lock)
    clean_up(str(tmp_path))
    assert environment.is_ready()


def test_without_locks_nothing_is_removed(
    tmp_path: Path, installer: Installer, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = built(tmp_path)
    unused_since(environment, KEPT_FOR + 60)

    def refuse(fd: int, how: int) -> None:
        raise OSError(37, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert clean_up(str(tmp_path)) == 0
    assert environment.is_ready()


def test_a_removal_that_was_interrupted_is_finished(tmp_path: Path) -> None:
    half = tmp_path / "environments" / f"{requirements._GONE}x-1"
    (half / "lib").mkdir(parents=True)
    assert has_leftovers(str(tmp_path))
    clean_up(str(tmp_path))
    assert names(tmp_path) == []


def test_a_folder_that_is_not_there_has_no_litter(tmp_path: Path) -> None:
    assert not has_leftovers(str(tmp_path))
    assert clean_up(str(tmp_path)) == 0


@pytest.mark.parametrize("what", ["version", "executable"])
def test_another_interpreter_has_environments_of_its_own(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = requirements._key(LINES)
    assert before == requirements._key(LINES)
    assert before != requirements._key(LINES[:1])
    monkeypatch.setattr(sys, what, "another")
    assert requirements._key(LINES) != before
