"""Real runners that see nothing of this machine's files: what calls find there, and what is left afterwards."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import DragonflyExecutor, LocalBackend, errors
from dragonfly_executor.backends.base import BootRequest, Node
from dragonfly_executor.runner.session_directory import PREFIX
from dragonfly_executor.sync import Sync
from dragonfly_executor.sync.scan import Scanner
from tests.processes.sync.conftest import MakeElsewhere
from tests.processes.sync.elsewhere import ElsewhereBackend
from tests.support.helpers import PATIENCE, CutLink, Gate, Mailbox, Stall, _pump, error_of, unchanged, values, watching
from tests.support.projects import imported, write

MODULE = """
import os, sys

VERSION = 1

def version(*_): return VERSION
def where(): return {"cwd": os.getcwd(), "file": __file__, "path": sys.path, "argv": sys.argv, "pid": os.getpid()}
def parent(*_): return os.getppid()
def read(path): return open(path).read()
def exists(path): return os.path.exists(path)
def need(name): __import__(name)
def hold(mailbox, gate):
    with open(mailbox, "w") as file: file.write(f"{os.getpid()}\\n")
    with open(gate, "rb") as file: file.read(1)
    return VERSION
def optional():
    try:
        import no_such
    except ImportError:
        raise ValueError("because of something else")
def remove_everything():
    import shutil
    shutil.rmtree(os.getcwd())
STATE = []
def remember(value): STATE.append(value)
def remembered(): return STATE, os.getpid()
"""


@pytest.fixture
def module(project: Path) -> Iterator[Any]:
    """A module of the user's."""
    write(project, {"mine.py": MODULE})
    with imported(project, "mine") as (module,):
        yield module


def at_a_prompt(source: str) -> Any:
    """A function that belongs to no module, as at a prompt."""
    return eval(source, {})


def sessions() -> list[Path]:
    return sorted(Path(tempfile.gettempdir()).glob(f"{PREFIX}*"))


def sender_of(executor: DragonflyExecutor) -> Any:
    """What sends files to the pool's only runner."""
    (runner,) = executor.pool._engine._runner_links._up.values()
    return runner.file_updates._sender


def change_version(project: Path, version: int) -> None:
    (project / "mine.py").write_text(MODULE.replace("VERSION = 1", f"VERSION = {version}"))


# -- what calls find ---------------------------------------------------------------------------------------------------


def test_a_function_of_the_projects_runs_by_reference(make: MakeElsewhere, module: Any, project: Path) -> None:
    found = make().submit(module.where).result(PATIENCE)
    (session,) = sessions()
    assert found["cwd"] == str(session / "tree" / "cwd")
    assert found["file"] == str(session / "tree" / "cwd" / "mine.py")
    assert found["path"][0] == found["cwd"]
    assert found["argv"] == [Path(sys.argv[0]).name, *sys.argv[1:]]
    here = (str(project), str(Path(__file__).parents[3]))
    assert not [entry for entry in found["path"] if entry.startswith(here)]
    assert session.stat().st_mode & 0o777 == 0o700


def test_packages_and_named_files_are_where_the_program_has_them(make: MakeElsewhere, project: Path) -> None:
    write(project, {"app/__init__.py": "", "app/core.py": MODULE, "app/table.csv": "a,b", "data/model.bin": "weights"})
    with imported(project, "app.core") as (core,):
        executor = make(files=["data/model.bin"])
        assert executor.submit(core.read, "app/table.csv").result(PATIENCE) == "a,b"
        assert executor.submit(core.read, "data/model.bin").result(PATIENCE) == "weights"
        assert executor.submit(core.version).result(PATIENCE) == 1


def test_without_a_sync_closures_run_all_the_same(make: MakeElsewhere, module: Any) -> None:
    executor = make(files=None)
    assert executor.submit(at_a_prompt("lambda: __import__('os').listdir('.')")).result(PATIENCE) == []
    assert isinstance(error_of(executor.submit(module.version)), errors.CallDeserializationError)


def test_what_is_sent_says_nothing_of_this_machine(
    make: MakeElsewhere, module: Any, project: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checklist 57: not where things lie here, and not the key to what listens here."""
    monkeypatch.setenv("HOME", str(project / "canary-home"))
    monkeypatch.setenv("CANARY", "canary-in-the-environment")
    key = bytes(multiprocessing.current_process().authkey)
    passed: list[bytes] = []

    def record(data: bytes) -> bytes:
        passed.append(data)
        return data

    executor = make(backend=TappedBackend(home, to_runner=record))
    assert executor.submit(module.version).result(PATIENCE) == 1
    engine = executor.pool._engine
    (tier,) = engine.tiers
    assert tier.file_snapshot is not None
    setup = pickle.loads(engine.codec.setup_elsewhere(tier.file_snapshot.main))
    main = {"path": None, "name": None, "entry": None, "package": None}
    assert setup.pop("main") == main
    assert setup.pop("argv") == [Path(sys.argv[0]).name, *sys.argv[1:]]
    # The levels of loggers with names, and warnings filters, which hold in slots too (docs/calls-in-context.md).
    assert set(setup.pop("settings")) <= {"levels", "warnings"}
    assert setup == {"path": [], "cwd": None, "authkey": None, "serializer": "cloudpickle", "custom": None}
    said = b"".join(passed)
    assert b"mine.py" in said
    told = [
        os.fsencode(entry) for entry in [*sys.path, str(project), str(project.parent), sys.prefix] if len(entry) > 1
    ]
    for secret in (key, key.hex().encode(), b"canary", *told):
        assert secret not in said, secret


def test_an_initializers_global_is_seen_by_the_calls(make: MakeElsewhere, module: Any) -> None:
    executor = make(1, initializer=module.remember, initargs=("set",))
    assert executor.submit(module.remembered).result(PATIENCE)[0] == ["set"]


# -- what changes ------------------------------------------------------------------------------------------------------


def test_a_changed_module_is_seen_by_the_next_call(make: MakeElsewhere, module: Any, project: Path) -> None:
    """In a fresh slot, whose initializer has run, of the same runner."""
    executor = make(2, initializer=module.remember, initargs=("set",))
    agents, slots = set(), set()
    for version in range(1, 6):
        # All of one size, and faster than a file's time in seconds changes: bytecode must not be what is seen.
        change_version(project, version)
        assert set(values(executor.submit(module.version, number) for number in range(8))) == {version}
        agents.add(executor.submit(module.parent).result(PATIENCE))
        state, pid = executor.submit(module.remembered).result(PATIENCE)
        assert state == ["set"]
        slots.add(pid)
    assert len(agents) == 1
    assert len(slots) == 5
    assert executor.pool.stats().boots_attempted == 1


def test_data_that_changes_leaves_slots_as_they_are(make: MakeElsewhere, module: Any, project: Path) -> None:
    write(project, {"data/x": "one"})
    executor = make(1, files=["data"])
    assert executor.submit(module.read, "data/x").result(PATIENCE) == "one"
    pid = executor.submit(module.where).result(PATIENCE)["pid"]
    write(project, {"data/x": "two"})
    assert executor.submit(module.read, "data/x").result(PATIENCE) == "two"
    assert executor.submit(module.where).result(PATIENCE)["pid"] == pid


def test_deletions_follow(make: MakeElsewhere, module: Any, project: Path) -> None:
    write(project, {"data/x": "one", "data/deep/y.py": "y = 1"})
    executor = make(1, files=["data"])
    paths = ("data/x", "data/deep/y.py", "data/deep")
    assert values(executor.submit(module.exists, path) for path in paths) == [True] * 3
    assert executor.submit(exec, "import sys; sys.path.insert(0, 'data/deep'); import y").result(PATIENCE) is None
    for path in paths[:2]:
        (project / path).unlink()
    (project / "data/deep").rmdir()
    assert values(executor.submit(module.exists, path) for path in paths) == [False] * 3


def test_a_module_that_is_imported_later_is_there_in_time(make: MakeElsewhere, module: Any, project: Path) -> None:
    executor = make()
    assert executor.submit(module.version).result(PATIENCE) == 1
    write(project, {"later.py": MODULE.replace("VERSION = 1", "VERSION = 77")})
    with imported(project, "later") as (later,):
        assert executor.submit(later.version).result(PATIENCE) == 77


def test_a_call_that_runs_finishes_in_its_slot_and_the_next_has_a_fresh_one(
    make: MakeElsewhere, module: Any, project: Path, mailbox: Mailbox, gate: Gate
) -> None:
    executor = make(2)
    held = executor.submit(module.hold, mailbox.path, gate.path)
    old = int(mailbox.read())
    change_version(project, 2)
    with watching(old) as (slot,):
        assert values(executor.submit(module.version, number) for number in range(20)) == [2] * 20
        assert executor.submit(module.where).result(PATIENCE)["pid"] != old
        assert not held.done()
        gate.open()
        assert held.result(PATIENCE) == 1
        assert slot.ended()


def test_with_one_slot_the_call_waits_for_the_fresh_one(
    make: MakeElsewhere, module: Any, project: Path, mailbox: Mailbox, gate: Gate
) -> None:
    executor = make(1)
    held = executor.submit(module.hold, mailbox.path, gate.path)
    mailbox.read()
    change_version(project, 2)
    waiting = [executor.submit(module.version) for _ in range(3)]
    gate.open()
    assert held.result(PATIENCE) == 1
    assert values(waiting) == [2, 2, 2]
    assert executor.pool.stats().calls_failed == 0


def test_each_runner_is_told_before_its_next_call(make: MakeElsewhere, module: Any, project: Path) -> None:
    executor = make(1, max=2, min=2)
    barrier = "import os, time"
    assert executor.submit(exec, barrier).result(PATIENCE) is None
    for version in (2, 3):
        change_version(project, version)
        assert set(values(executor.submit(module.version, number) for number in range(10))) == {version}


def test_the_first_look_at_the_files_is_the_boots_own(
    make: MakeElsewhere, module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads everything: an event loop that submits a call must not wait for that."""
    threads: list[str] = []
    scan = Scanner.scan

    def noting(self: Scanner, *args: Any) -> Any:
        threads.append(threading.current_thread().name)
        return scan(self, *args)

    monkeypatch.setattr(Scanner, "scan", noting)
    executor = make()
    assert executor.submit(module.version).result(PATIENCE) == 1
    assert executor.submit(module.version).result(PATIENCE) == 1
    assert threads == [f"dragonfly-{executor.pool.name}-boots-1", threading.current_thread().name]


# -- what is sent, and what is left ------------------------------------------------------------------------------------


def test_a_second_boot_on_the_host_sends_only_what_is_new(make: MakeElsewhere, module: Any, project: Path) -> None:
    write(project, {"data/large": "x" * 1_000_000})
    first = make(files=["data"])
    assert first.submit(module.version).result(PATIENCE) == 1
    assert sender_of(first).sent > 1_000_000
    first.shutdown()
    again = make(files=["data"])
    assert again.submit(module.exists, "data/large").result(PATIENCE)
    assert sender_of(again).sent == 0
    again.shutdown()
    write(project, {"data/small": "12345"})
    third = make(files=["data"])
    assert third.submit(module.read, "data/small").result(PATIENCE) == "12345"
    assert sender_of(third).sent == 5


def test_nothing_is_left_after_a_shutdown_but_the_contents(make: MakeElsewhere, module: Any, home: Path) -> None:
    executor = make()
    assert executor.submit(module.version).result(PATIENCE) == 1
    assert len(sessions()) == 1
    executor.shutdown()
    assert sessions() == []
    cache = home / ".cache" / "dragonfly_executor" / "blobs"
    assert cache.stat().st_mode & 0o777 == 0o700
    assert [path.read_text() for path in cache.iterdir()] == [MODULE]


def test_what_a_killed_agent_leaves_the_next_boot_takes_away(make: MakeElsewhere, module: Any) -> None:
    """Checklist 3: and nothing of one that lives."""
    alive, doomed = make(), make()
    assert alive.submit(module.version).result(PATIENCE) == 1
    (kept,) = sessions()
    agent = doomed.submit(module.parent).result(PATIENCE)
    (left,) = set(sessions()) - {kept}
    with watching(agent) as (watch,):
        os.kill(agent, signal.SIGKILL)
        assert watch.ended()
    assert doomed.submit(module.version).result(PATIENCE) == 1
    assert kept in sessions()
    assert left not in sessions()
    assert len(sessions()) == 2
    assert alive.submit(module.version).result(PATIENCE) == 1


def test_two_pools_at_once_do_not_disturb_each_other(make: MakeElsewhere, module: Any, project: Path) -> None:
    pools = [make(), make()]
    assert [pool.submit(module.version).result(PATIENCE) for pool in pools] == [1, 1]
    change_version(project, 2)
    assert pools[0].submit(module.version).result(PATIENCE) == 2
    pools[0].shutdown()
    assert pools[1].submit(module.version).result(PATIENCE) == 2


# -- what goes wrong ---------------------------------------------------------------------------------------------------


class TappedBackend(ElsewhereBackend):
    """The same, with the test's hand on the bytes of its links."""

    def __init__(
        self,
        home: Path,
        *,
        to_runner: Callable[[bytes], bytes] = unchanged,
        to_parent: Callable[[bytes], bytes] = unchanged,
        sync: Sync | None = None,
    ) -> None:
        super().__init__(home, sync)
        self._taps = to_runner, to_parent

    def boot(self, request: BootRequest) -> Node:
        node = super().boot(request)
        real: Any = node.stream
        ours, theirs = socket.socketpair()
        for source, target, tap in ((theirs, real, self._taps[0]), (real, theirs, self._taps[1])):
            threading.Thread(target=_pump, args=(source, target, tap), name="tapped-link", daemon=True).start()
        node.stream = ours
        return node


def boot_error(executor: DragonflyExecutor, fn: Any) -> errors.BootError:
    error = error_of(executor.submit(fn))
    assert isinstance(error, errors.BootError), error
    return error


def test_a_full_disk_on_the_host_fails_the_boot(make: MakeElsewhere, module: Any, project: Path, home: Path) -> None:
    """Checklist 56: here as a limit on how large files may be, which looks the same to who writes."""
    write(project, {"data/large": "x" * 100_000})
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))"
    backend = ElsewhereBackend(home, Sync(["data"]), first=limit)
    error = boot_error(make(backend=backend, max_boot_failures=1), module.version)
    assert error.phase == "sync"
    assert "File too large" in str(error)
    assert "runner 1" in str(error)
    assert sessions() == []


def test_a_disk_that_fills_up_later_loses_the_runner_and_no_waiting_call(
    make: MakeElsewhere, module: Any, project: Path, home: Path
) -> None:
    write(project, {"data/x": ""})
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))"
    backend = ElsewhereBackend(home, Sync(["data"], check_every=0), first=limit)
    executor = make(backend=backend, max_boot_failures=1)
    assert executor.submit(module.version).result(PATIENCE) == 1
    write(project, {"data/large": "x" * 100_000})
    # It was not started on that runner, and is told of the boot that followed.
    assert boot_error(executor, module.version).phase == "sync"
    (project / "data" / "large").unlink()
    assert executor.submit(module.version).result(PATIENCE) == 1


def test_a_sync_that_takes_too_long_fails_the_boot(make: MakeElsewhere, module: Any, project: Path, home: Path) -> None:
    write(project, {"data/large": os.urandom(1_000_000)})
    stall = Stall()
    stall.after(200_000)
    backend = TappedBackend(home, to_runner=stall, sync=Sync(["data"]))
    executor = make(backend=backend, boot_timeout=4.0, max_boot_failures=1)
    future = executor.submit(module.version)
    assert stall.stalled.wait(PATIENCE)
    error = error_of(future)
    stall.go_on.set()
    assert isinstance(error, errors.BootTimeoutError)
    assert error.phase == "sync"
    assert "bytes of files" in str(error)


@pytest.mark.parametrize("size", [0, 1, 5000, 300_000, 900_000])
def test_a_link_that_ends_amid_a_sync_is_a_boot_that_failed(
    make: MakeElsewhere, module: Any, project: Path, home: Path, size: int
) -> None:
    """And the next boot, of the same project, goes well."""
    write(project, {"data/large": os.urandom(1_000_000)})
    left = [size]

    def cut_once(data: bytes) -> bytes:
        if left and (rest := left[0] - len(data)) < 0:
            last = left.pop()
            raise CutLink(data[:last])
        if left:
            left[0] = rest
        return data

    executor = make(backend=TappedBackend(home, to_runner=cut_once, sync=Sync(["data"])))
    assert executor.submit(module.exists, "data/large").result(PATIENCE)
    assert executor.pool.stats().boots_attempted == 2
    assert len(sessions()) == 1


def test_a_boot_that_fails_amid_a_sync_says_so(make: MakeElsewhere, module: Any, project: Path, home: Path) -> None:
    write(project, {"data/large": os.urandom(1_000_000)})

    def cut(data: bytes) -> bytes:
        raise CutLink(data[:100])

    backend = TappedBackend(home, to_runner=cut, sync=Sync(["data"]))
    assert boot_error(make(backend=backend, max_boot_failures=1), module.version).phase == "sync"


def test_a_directory_that_calls_have_removed_is_there_for_the_next_slot(make: MakeElsewhere, module: Any) -> None:
    executor = make(1, max_tasks_per_child=1)
    assert executor.submit(module.remove_everything).result(PATIENCE) is None
    assert executor.submit(os.listdir, ".").result(PATIENCE) == []


def test_a_project_that_is_too_large_boots_nothing(make: MakeElsewhere, module: Any, home: Path) -> None:
    backend = ElsewhereBackend(home, Sync(max_total=10))
    error = boot_error(make(backend=backend, max_boot_failures=1), module.version)
    assert error.phase == "sync"
    assert "max_total" in str(error)
    assert backend.nodes == []


def test_a_backend_that_does_not_say_what_travels(make: MakeElsewhere, module: Any, home: Path) -> None:
    backend = ElsewhereBackend(home)
    backend.sync = None
    error = boot_error(make(backend=backend, max_boot_failures=1), module.version)
    assert error.phase == "sync"
    assert "sync" in str(error)


def test_a_call_that_waits_for_a_sync_can_be_cancelled(
    make: MakeElsewhere, module: Any, project: Path, home: Path
) -> None:
    stall = Stall()
    executor = make(backend=TappedBackend(home, to_parent=stall))
    assert executor.submit(module.version).result(PATIENCE) == 1
    change_version(project, 2)
    # The runner's next answer does not come, so the sync cannot go on.
    stall.after(1)
    future = executor.submit(module.version)
    assert stall.stalled.wait(PATIENCE)
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result(PATIENCE)
    other = executor.submit(module.version)
    stall.go_on.set()
    assert other.result(PATIENCE) == 2


def test_a_runner_that_is_lost_amid_a_sync_takes_no_waiting_call_along(
    make: MakeElsewhere, module: Any, project: Path, home: Path
) -> None:
    """Checklist 22: with a retry it runs on the next runner, with the new code."""
    executor = make()
    agent = executor.submit(module.parent).result(PATIENCE)
    os.kill(agent, signal.SIGSTOP)
    change_version(project, 2)
    future = executor.options(retries=1).submit(module.version)
    os.kill(agent, signal.SIGKILL)
    assert future.result(PATIENCE) == 2


# -- modules that are missing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_reference", [True, False])
def test_a_module_that_is_missing_there_is_explained(make: MakeElsewhere, module: Any, by_reference: bool) -> None:
    executor = make(files=None)
    need = module.need if by_reference else at_a_prompt("lambda name: __import__(name)")
    error = error_of(executor.submit(need, "mine"))
    (note,) = error.__notes__
    for word in ("'mine'", os.uname().nodename, "runner 1", "sync=", "requirements=['mine']", "install it"):
        assert word in note
    assert note in str(error.__cause__)
    assert isinstance(error, errors.CallDeserializationError if by_reference else ModuleNotFoundError)


def test_a_module_that_is_missing_here_too_is_explained_as_well(make: MakeElsewhere, module: Any) -> None:
    error = error_of(make().submit(module.need, "no_such.module"))
    assert isinstance(error, ModuleNotFoundError)
    assert "requirements=['no_such']" in error.__notes__[0]


def test_on_this_machine_there_is_nothing_to_explain(module: Any) -> None:
    with DragonflyExecutor(1, backend=LocalBackend()) as executor:
        error = error_of(executor.submit(module.need, "no_such"))
    assert isinstance(error, ModuleNotFoundError)
    assert not hasattr(error, "__notes__")


def test_an_error_of_another_kind_is_left_alone(make: MakeElsewhere, module: Any) -> None:
    error = error_of(make().submit(module.optional))
    assert isinstance(error, ValueError)
    assert not hasattr(error, "__notes__")
