"""A slot that ends in order runs what the user's code has registered for its exit; one that is killed does not."""

from __future__ import annotations

import atexit
import os
import signal
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import LocalBackend
from dragonfly_executor.errors import CallTimeoutError, InitializerError
from tests.processes.conftest import Make
from tests.support import payloads
from tests.support.helpers import PATIENCE, SOON, ProcessHandle, all_ended, error_of, watching


def register(log: str) -> str:
    """Register with everything that runs at the exit of a worker; a temporary folder that is removed then."""
    from multiprocessing import util

    atexit.register(payloads.log, log, "atexit")
    util.Finalize(None, payloads.log, args=(log, "finalizer"), exitpriority=1)
    thread = threading.Thread(target=lambda: (threading.Event().wait(0.1), payloads.log(log, "thread")))
    thread.start()
    register.folder = tempfile.TemporaryDirectory(dir=Path(log).parent)  # type: ignore[attr-defined]
    return str(register.folder.name)  # type: ignore[attr-defined]


def register_and_nap(log: str) -> None:
    register(log)
    payloads.nap(60)


def register_and_fail(log: str) -> None:
    register(log)
    raise LookupError("no model")


def register_one_that_hangs(log: str) -> int:
    atexit.register(signal.pause)
    atexit.register(payloads.log, log, "atexit")
    return os.getpid()


def register_failing(log: str) -> None:
    atexit.register(payloads.log, log, "atexit")
    atexit.register(payloads.fail, SystemExit(3))
    atexit.register(payloads.fail, LookupError("no exit"))


def logged(log: Path) -> set[str]:
    return {line.split()[0] for line in log.read_text().splitlines()} if log.exists() else set()


ENDS: dict[str, dict[str, Any]] = {
    "shutdown": {},
    "idle": {"idle_shutdown_after": 0.05},
    "max_tasks_per_child": {"max_tasks_per_child": 2},
}


@pytest.mark.parametrize("how", ENDS)
def test_a_slot_that_ends_in_order_runs_what_is_registered_for_its_exit(how: str, make: Make, log: Path) -> None:
    ex = make(1, **ENDS[how])
    with watching(ex.submit(payloads.pid).result(PATIENCE)) as watches:
        folder = ex.submit(register, str(log)).result(PATIENCE)
        if how == "shutdown":
            ex.shutdown()
        assert all_ended(watches)
    assert logged(log) == {"thread", "atexit", "finalizer"}
    assert not os.path.exists(folder)  # noqa: PTH110


def test_the_slot_of_an_initializer_that_failed_ends_in_order_as_well(make: Make, log: Path) -> None:
    ex = make(1, initializer=register_and_fail, initargs=(str(log),))
    assert isinstance(error_of(ex.submit(payloads.pid)), InitializerError)
    ex.shutdown()
    assert logged(log) == {"thread", "atexit", "finalizer"}


def test_a_slot_that_is_killed_runs_nothing(make: Make, log: Path) -> None:
    """It was stopped since nobody waits for it any more."""
    ex = make(1)
    assert isinstance(error_of(ex.options(timeout=1.5).submit(register_and_nap, str(log))), CallTimeoutError)
    ex.shutdown()
    assert logged(log) <= {"thread"}


@pytest.mark.parametrize("how", ["shutdown", "max_tasks_per_child"])
def test_an_exit_handler_that_hangs_is_cut_short(how: str, make: Make, log: Path) -> None:
    """Its slot is killed after 2 s, and nothing else waits for longer."""
    ex = make(1, **({} if how == "shutdown" else {"max_tasks_per_child": 1}))
    slot = ex.submit(register_one_that_hangs, str(log)).result(PATIENCE)
    assert how == "shutdown" or ex.submit(payloads.echo, 1).result(PATIENCE) == 1
    ex.shutdown()
    with pytest.raises(ProcessLookupError):
        ProcessHandle(slot)
    assert logged(log) == {"atexit"}


def test_exit_handlers_that_fail_harm_none_of_the_others(
    make: Make, log: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ex = make(1)
    ex.submit(register_failing, str(log)).result(PATIENCE)
    ex.shutdown()
    assert logged(log) == {"atexit"}
    assert "no exit" in capfd.readouterr().err


def test_what_is_registered_in_the_agent_does_not_run_in_its_slots(make: Make, log: Path, tmp_path: Path) -> None:
    """A slot is forked from it, and would run that once more, in another process."""
    site = tmp_path / "site"
    site.mkdir()
    code = f"import atexit\natexit.register(lambda: open({str(log)!r}, 'a').write('agent\\n'))\n"
    (site / "sitecustomize.py").write_text(code)
    ex = make(1, backend=LocalBackend(env={"PYTHONPATH": str(site)}), max_tasks_per_child=1)
    assert [ex.submit(payloads.echo, n).result(SOON) for n in range(3)] == [0, 1, 2]
    ex.shutdown()
    assert logged(log) == set()
