"""The end of slots that several calls share: tasks that do not end, kills, shutdowns, forks, and the parent's death."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import CallTimeoutError, RunnerLostError
from dragonfly_executor.engine.task_slots import task_slot
from dragonfly_executor.errors import ForkedExecutorError, InitializerError
from tests.processes.conftest import Make
from tests.support.helpers import PATIENCE, Gate, Mailbox, all_ended, error_of, values, watching
from tests.support.payloads import log, tell, wait_at


async def pass_gate(mailbox: str, gate: str, value: Any = None) -> Any:
    tell(mailbox, os.getpid(), os.getppid())
    await asyncio.to_thread(wait_at, gate)
    return value


async def log_and_pass_gate(path: str, name: str, mailbox: str, gate: str) -> str:
    log(path, name)
    await pass_gate(mailbox, gate)
    return name


async def swallow_cancels(mailbox: str) -> None:
    tell(mailbox, os.getpid())
    while True:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            tell(mailbox, "swallowed")


async def block_the_loop(mailbox: str) -> None:
    tell(mailbox, os.getpid())
    time.sleep(1000)  # noqa: ASYNC251  # that is the point


async def leave_a_task_that_exits() -> None:
    async def leave() -> None:
        raise SystemExit(5)

    task = asyncio.create_task(leave())
    await asyncio.sleep(PATIENCE)
    task.cancel()


async def double(number: int) -> int:
    return 2 * number


def fail_to_begin() -> None:
    raise ValueError("no")


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_slot, "TASK_GRACE", 0.3)


@pytest.mark.usefixtures("short_grace")
def test_a_cancelled_task_that_does_not_end_leaves_its_neighbours_alone(
    make: Make, mailbox: Mailbox, gate: Gate
) -> None:
    ex = make(1).options(slot_concurrency=2)
    stubborn = ex.submit(swallow_cancels, mailbox.path)
    other = ex.submit(pass_gate, mailbox.path, gate.path, "other")
    slot = int(mailbox.read().split()[0])
    mailbox.read()
    with watching(slot) as watches:
        assert stubborn.cancel()
        assert mailbox.read() == "swallowed"
        # The slot takes no more calls, and this one waits for another slot.
        late = ex.submit(double, 1)
        assert not all_ended(watches, 1.0)
        gate.open()
        assert other.result(PATIENCE) == "other"
        assert all_ended(watches)
    assert late.result(PATIENCE) == 2


@pytest.mark.usefixtures("short_grace")
@pytest.mark.parametrize("how", ["swallows, run_timeout", "blocks, run_timeout", "blocks, cancel"])
def test_a_task_that_nothing_stops_costs_the_slot(make: Make, mailbox: Mailbox, gate: Gate, how: str) -> None:
    ex = make(1).options(slot_concurrency=3)
    other = ex.submit(pass_gate, mailbox.path, gate.path)
    again = ex.options(retries=1, retry_wait=lambda state: 0.0).submit(pass_gate, mailbox.path, gate.path, "again")
    slot = int(mailbox.read().split()[0])
    mailbox.read()
    fn = swallow_cancels if "swallows" in how else block_the_loop
    stubborn = ex.options(run_timeout=0.3 if "run_timeout" in how else None).submit(fn, mailbox.path)
    mailbox.read()
    with watching(slot) as watches:
        if "cancel" in how:
            assert stubborn.cancel()
        else:
            assert isinstance(error_of(stubborn), CallTimeoutError)
        error = error_of(other)
        assert isinstance(error, RunnerLostError)
        assert "another call in it" in str(error)
        assert all_ended(watches)
    if "swallows" in how:
        assert mailbox.read() == "swallowed"
    assert int(mailbox.read().split()[0]) != slot
    gate.open()
    assert again.result(PATIENCE) == "again"


@pytest.mark.parametrize("killed", ["slot", "agent"])
def test_the_calls_of_a_slot_that_is_killed(
    make: Make, mailbox: Mailbox, gate: Gate, tmp_path: Path, killed: str
) -> None:
    """Each of them runs once, unless it asks for more."""
    path = str(tmp_path / "log")
    ex = make(1).options(slot_concurrency=2)
    once = ex.submit(log_and_pass_gate, path, "once", mailbox.path, gate.path)
    twice = ex.options(retries=1, retry_wait=lambda state: 0.0).submit(
        log_and_pass_gate, path, "twice", mailbox.path, gate.path
    )
    waits = ex.submit(log_and_pass_gate, path, "waits", mailbox.path, gate.path)
    slot, agent = map(int, mailbox.read().split())
    mailbox.read()
    os.kill(slot if killed == "slot" else agent, signal.SIGKILL)
    error = error_of(once)
    assert isinstance(error, RunnerLostError)
    gate.open(2)
    assert values([twice, waits]) == ["twice", "waits"]
    assert sorted(Path(path).read_text().split()) == ["once", "twice", "twice", "waits"]
    assert ex.pool.stats().calls_failed == 1


def test_an_exit_in_a_task_of_a_call_costs_the_slot_and_not_the_pool(make: Make) -> None:
    ex = make(1).options(slot_concurrency=2)
    error = error_of(ex.submit(leave_a_task_that_exits))
    assert isinstance(error, RunnerLostError)
    assert "its loop has ended: it raised SystemExit" in str(error)
    assert ex.submit(double, 1).result(PATIENCE) == 2


@pytest.mark.parametrize("how", ["wait", "cancel_futures", "kill"])
def test_a_shutdown_ends_the_calls_as_it_says(make: Make, mailbox: Mailbox, gate: Gate, how: str) -> None:
    whole = make(1)
    ex = whole.options(slot_concurrency=2)
    futures = [ex.submit(pass_gate, mailbox.path, gate.path, number) for number in range(2)]
    waiting = [ex.submit(pass_gate, mailbox.path, gate.path, number) for number in range(2, 4)]
    slot = int(mailbox.read().split()[0])
    mailbox.read()
    with watching(slot) as watches:
        if how == "kill":
            whole.kill_workers()
            assert {type(error_of(future)) for future in futures} == {RunnerLostError}
        else:
            whole.shutdown(wait=False, cancel_futures=how == "cancel_futures")
            with pytest.raises(RuntimeError, match="after shutdown"):
                ex.submit(double, 1)
        if how == "wait":
            gate.open(4)
            assert values(waiting) == [2, 3]
        for future in waiting if how != "wait" else ():
            with pytest.raises(CancelledError):
                future.result(PATIENCE)
        if how == "cancel_futures":
            gate.open(2)
        if how != "kill":
            assert values(futures) == [0, 1]
        whole.shutdown()
        assert all_ended(watches)


async def fail_once(path: str) -> str:
    log(path, "run")
    if len(Path(path).read_text()) == 4:  # noqa: ASYNC240
        raise ConnectionError
    return "second"


def test_a_shutdown_waits_for_a_call_that_waits_for_its_retry(make: Make, tmp_path: Path) -> None:
    ex = make(1, slot_concurrency=2)
    retrying = ex.options(retries=1, retry_on=ConnectionError, retry_wait=lambda state: 0.8)
    future = retrying.submit(fail_once, str(tmp_path / "log"))
    ex.shutdown()
    assert future.result(0) == "second"


def test_an_interrupted_block_cancels_its_calls(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    whole = make(1)
    with pytest.raises(KeyboardInterrupt), whole:
        ex = whole.options(slot_concurrency=2)
        futures = [ex.submit(pass_gate, mailbox.path, gate.path) for _ in range(4)]
        mailbox.read()
        mailbox.read()
        gate.open(2)  # a thread cannot be cancelled
        raise KeyboardInterrupt
    assert all(future.done() for future in futures)
    assert sum(future.cancelled() for future in futures) >= 2


def test_a_pool_whose_slots_cannot_begin_fails_the_calls(make: Make) -> None:
    ex = make(1, initializer=fail_to_begin).options(slot_concurrency=2)
    assert isinstance(error_of(ex.submit(double, 1)), InitializerError)
    with pytest.raises(InitializerError):
        ex.submit(double, 2)


def test_a_forked_child_refuses(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    ex = make(1).options(slot_concurrency=2)
    future = ex.submit(pass_gate, mailbox.path, gate.path, "here")
    mailbox.read()
    child = os.fork()
    if not child:
        try:
            for refused in (lambda: ex.submit(double, 1), future.result):
                with pytest.raises(ForkedExecutorError):
                    refused()
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    gate.open()
    assert future.result(PATIENCE) == "here"


PROGRAM = """
import asyncio, sys
from dragonfly_executor import DragonflyExecutor
from tests.processes.crashes.test_task_slot_ends import pass_gate, double

if __name__ == "__main__":
    mailbox, gate, how = sys.argv[1:]
    executor = DragonflyExecutor(1, slot_concurrency=2)
    calls = [executor.submit(pass_gate, mailbox, gate, number) for number in range(4)]
    if how == "exit":
        calls[3].add_done_callback(lambda future: print(future.result(), flush=True))
    else:
        with executor:
            calls[3].result()
"""


@pytest.mark.parametrize("how", ["killed", "interrupted", "exit"])
def test_the_end_of_the_program(mailbox: Mailbox, gate: Gate, tmp_path: Path, how: str) -> None:
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(PROGRAM))
    argv = [sys.executable, str(script), mailbox.path, gate.path, how]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        processes = {int(pid) for _ in range(2) for pid in mailbox.read().split()}
        assert len(processes) == 2
        with watching(*processes) as watches:
            if how == "killed":
                program.kill()
            elif how == "interrupted":
                program.send_signal(signal.SIGINT)
                gate.open(2)
            else:
                gate.open(4)
            out, err = program.communicate(timeout=PATIENCE)
            assert all_ended(watches)
    if how == "exit":
        assert (out, err, program.returncode) == (b"3\n", b"", 0)
    elif how == "interrupted":
        assert b"KeyboardInterrupt" in err
