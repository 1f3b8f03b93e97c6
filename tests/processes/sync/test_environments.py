"""Environments with requirements do not pile up on a host: those that nobody has used for long go, and no others."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor.runner import requirements, session_directory
from dragonfly_executor.runner.requirements import KEPT_FOR, VirtualEnvironment, clean_up
from dragonfly_executor.sync import Sync
from tests.backends.ssh.calls import free
from tests.processes.sync.conftest import MakeElsewhere
from tests.processes.sync.elsewhere import INTERPRETER, ElsewhereBackend
from tests.processes.sync.test_talk import Talk
from tests.support.helpers import PATIENCE, kill_and_wait

ROOT = Path(__file__).parents[3]


def build(cache: Path, *lines: str, days: float = 0.0) -> Path:
    """An environment as it lies there when it is complete, used so many days ago; its folder."""
    (cache / "environments").mkdir(0o700, parents=True, exist_ok=True)
    environment = VirtualEnvironment(str(cache), list(lines))
    site = Path(environment.site_packages)
    site.mkdir(parents=True)
    (site / "module.py").write_text(f"lines = {lines!r}\n")
    folder = site.parents[2]
    (folder / ".complete").write_text("")
    assert environment.take()
    environment.leave()
    age(folder, days)
    return folder


def age(folder: Path, days: float) -> None:
    """As if it had been used so many days ago."""
    used = Path(f"{folder}.used")
    when = used.stat().st_mtime - days * 24 * 3600
    os.utime(used, (when, when))


def left(cache: Path) -> list[str]:
    """What lies where environments do."""
    return sorted(path.name for path in (cache / "environments").iterdir())


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_what_nobody_has_used_for_a_month_goes_and_what_somebody_has_stays(cache: Path) -> None:
    old, recent = build(cache, "old", days=30.1), build(cache, "recent", days=29.9)
    for suffix in (".lock", ".log"):
        Path(f"{old}{suffix}").write_text("")
    assert KEPT_FOR == 30 * 24 * 3600
    assert requirements.has_leftovers(str(cache))
    assert clean_up(str(cache)) == 0
    assert left(cache) == [recent.name, f"{recent.name}.used"]
    assert not requirements.has_leftovers(str(cache))


def test_what_was_never_complete_goes_as_well(cache: Path) -> None:
    """A build that failed leaves its log, for the error, and half an environment."""
    folder = build(cache, "broken", days=31)
    (folder / ".complete").unlink()
    clean_up(str(cache))
    assert left(cache) == []


def test_what_was_only_half_removed_goes(cache: Path) -> None:
    """The host was switched off meanwhile."""
    build(cache, "kept")
    (cache / "environments" / ".gone-x" / "lib").mkdir(parents=True)
    assert requirements.has_leftovers(str(cache))
    clean_up(str(cache))
    assert not list((cache / "environments").glob(".gone-*"))
    assert len(left(cache)) == 2


def test_where_there_are_none_there_is_nothing_to_do(cache: Path) -> None:
    assert not requirements.has_leftovers(str(cache))
    assert clean_up(str(cache)) == 0
    assert not cache.exists()


def test_nothing_goes_while_it_is_used_however_long_ago_that_began(cache: Path) -> None:
    folder = build(cache, "used")
    environment = VirtualEnvironment(str(cache), ["used"])
    assert environment.take()
    age(folder, 400)
    clean_up(str(cache))
    assert folder.is_dir()
    # It was used until now.
    environment.leave()
    clean_up(str(cache))
    assert folder.is_dir()
    age(folder, 400)
    clean_up(str(cache))
    assert left(cache) == []
    assert not VirtualEnvironment(str(cache), ["used"]).take()


def test_one_that_is_removed_at_the_very_moment_is_not_held(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that says who needs it has gone between two steps: to hold that one would keep nobody from anything."""
    folder = build(cache, "x")
    real = fcntl.flock

    def flock(fd: int, how: int) -> None:
        monkeypatch.undo()
        age(folder, 31)
        clean_up(str(cache))
        # Somebody else makes it anew meanwhile.
        build(cache, "x")
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    environment = VirtualEnvironment(str(cache), ["x"])
    assert environment.take()
    age(folder, 31)
    clean_up(str(cache))
    assert folder.is_dir()
    environment.leave()


def test_one_that_is_being_built_stays(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long that takes."""
    (cache / "environments").mkdir(0o700, parents=True)
    environment = VirtualEnvironment(str(cache), ["x"])
    folder = Path(environment.site_packages).parents[2]

    def install(_: VirtualEnvironment) -> int:
        folder.mkdir()
        age(folder, 31)
        clean_up(str(cache))
        return 0 if folder.is_dir() else 1

    monkeypatch.setattr(VirtualEnvironment, "_install", install)
    # As an agent has it done: it writes to its own stdout and stderr, and lets go of everything when it ends.
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = environment.build()
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


def test_using_one_removes_others(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of the agent's that does nothing else, so that no call waits for it."""
    monkeypatch.setenv("DRAGONFLY_CACHE", str(cache))
    old, mine = build(cache, "old", days=31), build(cache, "mine", days=31)
    talk = Talk(tmp_path, Sync(None, requirements=["mine"]))
    talk.sync()
    assert talk.heard == ["synced"]
    assert mine.is_dir()
    assert not old.exists()
    # What it holds is nothing for slots.
    (held,) = [fd for fd in talk.far.descriptors() if Path(f"/proc/self/fd/{fd}").readlink() == Path(f"{mine}.used")]
    talk.far.remove()
    assert not Path(f"/proc/self/fd/{held}").exists()
    for fd in talk.far.descriptors():
        os.close(fd)


def see() -> tuple[tuple[str], int, list[str]]:
    """What the environment's module says, the agent, and the files that are open in the slot."""
    import os

    import module  # type: ignore[import-not-found]

    descriptors = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]  # noqa: PTH208
    return module.lines, os.getppid(), descriptors


def test_a_runner_keeps_its_environment_and_its_slots_do_not(
    make: MakeElsewhere, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever other runners of the host clean up; and when its agent is killed, nobody keeps it any more."""
    cache = home / ".cache/dragonfly_executor"
    cache.mkdir(0o700, parents=True)
    with monkeypatch.context() as patched:
        # What an environment depends on is the runner's interpreter.
        patched.setattr(sys, "executable", INTERPRETER)
        folder = build(cache, "x")
    executor = make(backend=ElsewhereBackend(home, Sync(None, requirements=["x"])))
    sees: Any = free(see)
    lines, agent, descriptors = executor.submit(sees).result(PATIENCE)
    assert lines == ("x",)
    assert f"{folder}.used" not in descriptors
    age(folder, 400)
    clean_up(str(cache))
    assert folder.is_dir()
    kill_and_wait(agent)
    age(folder, 400)
    clean_up(str(cache))
    assert left(cache) == []
    assert len(session_directory.sweep()) == 1


RACER = """
import sys, os
from pathlib import Path
from dragonfly_executor.runner import requirements
from dragonfly_executor.runner.requirements import VirtualEnvironment, clean_up

cache, role = sys.argv[1:]
requirements.KEPT_FOR = -1  # the moment that nobody uses it

def install(environment):
    site = Path(environment.site_packages)
    site.mkdir(parents=True)
    (site / "module.py").write_text("")
    (site.parents[2] / ".complete").write_text("")
    return 0

VirtualEnvironment._install = install
for number in range(1000):
    if role == "clean":
        clean_up(cache)
        continue
    environment = VirtualEnvironment(cache, ["x"])
    while not environment.take():
        # As an agent has it done, in a process of its own, whose end lets go of it.
        pid = os.fork()
        if pid == 0:
            os._exit(environment.build())
        assert os.waitpid(pid, 0)[1] == 0
    module = Path(environment.site_packages) / "module.py"
    for _ in range(5):
        assert module.exists(), number
    environment.leave()
"""


def test_two_runners_that_build_and_use_one_while_a_third_cleans_up(cache: Path) -> None:
    """Whoever has taken it has it, whatever comes in between which two steps of whom."""
    command = [sys.executable, "-c", RACER, str(cache)]
    racers = [subprocess.Popen([*command, role], cwd=ROOT, stderr=subprocess.PIPE) for role in ("use", "use", "clean")]
    said = [racer.communicate(timeout=PATIENCE)[1].decode() for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0, 0], said


@pytest.mark.parametrize("times", [1, 3])
def test_a_session_that_another_boot_takes_for_one_left_behind_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """Two runners boot at once on a host: until it is locked a session looks as if nobody had it."""
    mkdir, swept = os.mkdir, list[str]()

    def make_and_lose(path: str, mode: int) -> None:
        mkdir(path, mode)
        if len(swept) < times:
            swept.extend(session_directory.sweep(str(tmp_path)))

    monkeypatch.setattr(os, "mkdir", make_and_lose)
    made = session_directory.SessionDirectory(str(tmp_path))
    assert [*tmp_path.iterdir()] == [Path(made.path)]
    assert session_directory.sweep(str(tmp_path)) == []
    assert len(swept) == times
    os.close(made.fd)
    assert session_directory.sweep(str(tmp_path)) == [made.path]
