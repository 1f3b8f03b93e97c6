"""Real runners of several backends in one pool: calls, crashes, files, and how programs end."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import BootError, BootRequest, DragonflyExecutor, LocalBackend, Node, Parent
from dragonfly_executor.sync import Sync
from tests.engine.conftest import MakeExecutor
from tests.processes.lifecycle.conftest import Start
from tests.processes.lifecycle.test_exit import outcome
from tests.processes.lifecycle.test_interrupt import CTRL_C, Terminal, end_of, terminal, watch_calls
from tests.processes.sync.elsewhere import ElsewhereBackend
from tests.processes.sync.test_programs import DEFINITIONS, ELSEWHERE, environment_of
from tests.support.dialback import DialingBackend
from tests.support.helpers import PATIENCE, Events, Gate, Mailbox, all_ended, values, watching
from tests.support.payloads import hold
from tests.support.projects import imported, write

__all__ = ["terminal"]

MODULE = "def double(number): return 2 * number\n"


class Second(LocalBackend):
    """A backend that boots for calls that wait for half a second."""

    name = "second"
    expected_boot_time = 0.5


class Held(Second):
    """A backend whose boots end only when they are given up."""

    def boot(self, request: BootRequest) -> Node:
        assert request.given_up is not None
        request.given_up.wait()
        raise BootError("given up")


def where(*_: object) -> str:
    """Return the name of the backend that booted this runner."""
    parent = Parent.get()
    assert parent is not None
    return parent.backend


def hold_and_say_backend(mailbox: str, gate: str) -> str:
    hold(mailbox, gate)
    return where()


def on_both(executor: DragonflyExecutor, mailbox: Mailbox, gate: Gate, count: int) -> list[int]:
    """Hold as many calls as both backends have slots. Returns the process ids of the slots."""
    futures = [executor.submit(hold_and_say_backend, mailbox.path, gate.path) for _ in range(count)]
    slots = mailbox.numbers(count)
    gate.open(count)
    assert len(set(values(futures))) == 2
    return slots


def test_a_burst_runs_on_both_backends(make: MakeExecutor, mailbox: Mailbox, gate: Gate) -> None:
    executor = make(None, backend=[LocalBackend(slots=2), Second(slots=3, max=2)])
    assert executor._max_workers == 8
    slots = on_both(executor, mailbox, gate, 8)
    assert len(set(slots)) == 8
    first, second = executor.pool.stats().tiers
    assert (first.name, first.runners_up, first.slots_free) == ("local", 1, 2)
    assert (second.name, second.runners_up, second.slots_free) == ("second", 2, 6)


def test_a_few_calls_never_leave_the_first_backend(make: MakeExecutor) -> None:
    executor = make(None, backend=[LocalBackend(slots=2), Second()])
    for _ in range(20):
        assert values(executor.submit(where) for _ in range(2)) == ["local", "local"]
    assert executor.pool.stats().boots_attempted == 1


def test_a_first_backend_that_cannot_boot_is_passed_over(make: MakeExecutor, caplog: pytest.LogCaptureFixture) -> None:
    executor = make(None, backend=[LocalBackend(python="/no/such/python"), Second(slots=2)])
    with caplog.at_level(logging.WARNING, "dragonfly_executor"):
        assert values(executor.submit(where) for _ in range(4)) == ["second"] * 4
        executor.shutdown()
    (warning,) = [record.getMessage() for record in caplog.records if "could not boot" in record.getMessage()]
    assert "the local backend" in warning
    assert "/no/such/python" in warning


@pytest.mark.parametrize("tier", [0, 1])
def test_a_killed_runner_of_either_backend_is_replaced(
    make: MakeExecutor, mailbox: Mailbox, gate: Gate, tier: int
) -> None:
    executor = make(None, backend=[LocalBackend(slots=1), Second(slots=1)], retries=1)
    held = [executor.submit(hold_and_say_backend, mailbox.path, gate.path) for _ in range(2)]
    slots = mailbox.numbers(2)
    agents = {runner.id: runner.pid for runner in executor.pool._engine._runner_links._up.values()}
    (killed,) = [agents[runner.id] for runner in executor.pool.stats().runners if runner.tier == tier]
    assert killed is not None
    with watching(killed) as watches:
        os.kill(killed, signal.SIGKILL)
        assert all_ended(watches)
    # The call of the killed runner begins again, on a new slot.
    assert mailbox.numbers(1)[0] not in slots
    gate.open(3)
    assert len(values(held)) == 2


def test_a_boot_of_a_later_backend_is_aborted_at_shutdown(make: MakeExecutor, mailbox: Mailbox, gate: Gate) -> None:
    """The call for which it boots counts as begun, and runs on the first backend."""
    events = Events()
    executor = make(None, backend=[LocalBackend(slots=1), Held(slots=1)], on_event=events)
    # Calls that require CPUs are never sent ahead, where they would count as begun.
    calls = executor.options(requires={"cpus": 1})
    futures = [calls.submit(hold, mailbox.path, gate.path, number) for number in range(3)]
    mailbox.numbers(1)
    while events.wait("boot")["backend"] != "second":
        continue
    executor.shutdown(wait=False, cancel_futures=True)
    # The pool has not heard of it yet. If the first call ended before, the second would begin, and the third be spared.
    wait(futures[2:], PATIENCE)
    gate.open(2)
    executor.shutdown()
    assert [future.cancelled() for future in futures] == [False, False, True]
    assert values(futures[:2]) == [0, 1]
    assert "gives up the boot of runner 2 (second)" in events.wait("boot given up")["text"]


def test_killing_the_workers_ends_both_backends(make: MakeExecutor, mailbox: Mailbox, gate: Gate) -> None:
    executor = make(None, backend=[LocalBackend(slots=1), Second(slots=1)])
    for _ in range(2):
        executor.submit(hold, mailbox.path, gate.path)
    with watching(*mailbox.numbers(2)) as watches:
        executor.kill_workers()
        assert all_ended(watches)


def test_runners_of_one_backend_dial_back_beside_those_of_another(
    make: MakeExecutor, mailbox: Mailbox, gate: Gate
) -> None:
    dialing = DialingBackend()
    dialing.expected_boot_time = 0.5
    executor = make(None, backend=[LocalBackend(slots=2), dialing])
    on_both(executor, mailbox, gate, 4)
    assert len(dialing.nodes) == 1


# -- files -------------------------------------------------------------------------------------------------------------


CLOSURE = """
import os

def make(double):
    def call(number, mailbox, gate):
        from dragonfly_executor import Parent
        fd = os.open(mailbox, os.O_WRONLY)
        os.write(fd, f"{os.getpid()}\\n".encode())
        os.close(fd)
        fd = os.open(gate, os.O_RDONLY)
        os.read(fd, 1)
        os.close(fd)
        return Parent.get().backend, double(number)
    return call
"""


@pytest.mark.parametrize("is_first", [True, False])
def test_functions_and_closures_run_where_files_are_and_where_they_are_sent(
    make: MakeExecutor, home: Path, project: Path, mailbox: Mailbox, gate: Gate, is_first: bool
) -> None:
    """A module's function runs by reference on this machine, and elsewhere because its file is sent there."""
    elsewhere = ElsewhereBackend(home, Sync(check_every=0))
    here = LocalBackend(slots=1)
    elsewhere.slots, elsewhere.expected_boot_time, here.expected_boot_time = 1, 0.5, 0.5
    write(project, {"mine.py": MODULE})
    at_a_prompt: dict[str, Any] = {"__name__": "at_a_prompt"}
    exec(CLOSURE, at_a_prompt)
    with imported(project, "mine") as (mine,):
        executor = make(None, backend=[elsewhere, here] if is_first else [here, elsewhere])
        call: Callable[..., tuple[str, int]] = at_a_prompt["make"](mine.double)
        held = [executor.submit(call, 21, mailbox.path, gate.path) for _ in range(2)]
        mailbox.numbers(2)
        gate.open(2)
        assert sorted(values(held)) == [("elsewhere", 42), ("local", 42)]
        assert values(executor.submit(mine.double, number) for number in range(9)) == list(range(0, 18, 2))


SCRIPT = f"""{DEFINITIONS}
from dragonfly_executor import DragonflyExecutor, LocalBackend, Parent

def use(point, mailbox, gate):
    os.write(os.open(mailbox, os.O_WRONLY), b"x")
    os.read(os.open(gate, os.O_RDONLY), 1)
    return Parent.get().backend, type(point) is Point, point.x, setting

if __name__ == "__main__":
    from test_backend import ElsewhereBackend
    mailbox, gate = sys.argv[1:]
    said, opened = os.open(mailbox, os.O_RDWR), os.open(gate, os.O_RDWR)
    elsewhere, here = ElsewhereBackend(Path(os.environ["TEST_HOST_HOME"])), LocalBackend(slots=1)
    elsewhere.slots, elsewhere.expected_boot_time = 1, 0.5
    with DragonflyExecutor(backend=[here, elsewhere], initializer=load, initargs=("set",)) as executor:
        futures = [executor.submit(use, Point(1), mailbox, gate) for _ in range(2)]
        for _ in futures:
            os.read(said, 1)
        os.write(opened, b"..")
        print(sorted(future.result() for future in futures))
"""


def test_a_script_with_functions_of_its_own_runs_on_both(tmp_path: Path, mailbox: Mailbox, gate: Gate) -> None:
    """What is in `__main__` is found on this machine by its file, and elsewhere in the copy that was sent."""
    folder = tmp_path / "script"
    for name in ("script", "script/library", "temporary", "home"):
        (tmp_path / name).mkdir()
    (folder / "library" / "test_backend.py").write_text(ELSEWHERE)
    (folder / "script.py").write_text(SCRIPT)
    ran = subprocess.run(
        [sys.executable, "-W", "error", "script.py", mailbox.path, gate.path],
        cwd=folder,
        env=environment_of(folder),
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    both = [("elsewhere", True, 1, "set"), ("local", True, 1, "set")]
    assert (ran.stdout, ran.stderr) == (f"{both}\n", "")


# -- how programs end --------------------------------------------------------------------------------------------------


def test_a_forked_child_keeps_no_descriptor_of_any_backend(start: Start) -> None:
    assert outcome(start("descriptors_of_tiers_after_a_fork")) == (0, "[]\n0 [0, 1]\n", "")


def test_ctrl_c_ends_the_runners_of_both_backends(start: Start, mailbox: Mailbox, terminal: Terminal) -> None:
    process = start("interrupted_tiers", mailbox.path, stdin=terminal.end)
    watches = watch_calls(mailbox, 2)
    terminal.type(CTRL_C)
    assert end_of(process) == ("interrupted done done\n", "", 0)
    assert all_ended(watches)
    for watch in watches:
        watch.close()


def test_a_program_that_just_ends_still_boots_a_later_backend(start: Start, tmp_path: Path) -> None:
    """At interpreter exit no thread can be started, so those of each backend are there before."""
    log = tmp_path / "log"
    assert outcome(start("tiers_at_exit", log)) == (0, "", "")
    assert sorted(log.read_text().split()) == ["local", "second"]


def test_runners_of_both_backends_end_with_a_parent_that_is_killed(start: Start, mailbox: Mailbox) -> None:
    process = start("two_tiers", mailbox.path)
    watches = watch_calls(mailbox, 2)
    process.kill()
    assert all_ended(watches)
    for watch in watches:
        watch.close()


def test_a_pool_with_one_backend_loads_nothing_for_several(start: Start) -> None:
    assert outcome(start("loaded_for_one_backend")) == (0, "1024\n[]\n", "")
