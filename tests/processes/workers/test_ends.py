"""Placed workers that end: by death, by a limit, with their pool, and those that begin again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import CallTimeoutError, DragonflyExecutor, Future, RunnerLostError, WorkerLostError
from tests.engine.conftest import MakePool
from tests.processes.conftest import Make
from tests.processes.workers.objects import Counter, Refusing
from tests.support.helpers import PATIENCE, Gate, Mailbox, all_ended, becomes_true, error_of, values, watching
from tests.support.payloads import agent_pid, pid


def lost(future: Future[Any]) -> WorkerLostError:
    error = error_of(future)
    assert type(error) is WorkerLostError
    return error


def test_the_death_of_a_worker_is_told_to_calls_and_to_later_ones(make: Make, mailbox: Mailbox) -> None:
    executor = make()
    worker = executor.place(Counter)
    running = worker.hold_for_good(mailbox.path)
    waiting = [worker.add() for _ in range(3)]
    os.kill(int(mailbox.read()), signal.SIGKILL)
    error = lost(running)
    assert (error.signal, error.may_have_started) == (signal.SIGKILL, True)
    assert type(error.__cause__) is RunnerLostError
    assert isinstance(error, BrokenProcessPool)
    assert [lost(future).may_have_started for future in waiting] == [False] * 3
    with pytest.raises(WorkerLostError, match="SIGKILL"):
        worker.add()
    assert lost(worker.ended).signal == signal.SIGKILL
    assert executor.submit(pid).result(PATIENCE) > 0


def test_a_class_that_raises_fails_the_worker_with_its_exception(make: Make, tmp_path: Path) -> None:
    worker = make().place(Refusing, str(tmp_path / "log"), 9)
    error = lost(worker.ready)
    assert type(error.__cause__) is ValueError
    assert "not yet" in str(error)
    with pytest.raises(WorkerLostError, match="not yet"):
        worker.pid()


def test_a_worker_begins_again_and_calls_that_had_not_begun_run_there(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    worker = make().options(restart="on_failure", max_restarts=1).place(Counter, 5)
    running = worker.hold_for_good(mailbox.path)
    waiting = [worker.add() for _ in range(10)]
    os.kill(int(mailbox.read()), signal.SIGKILL)
    assert lost(running).may_have_started
    assert values(waiting) == list(range(6, 16))
    assert lost(worker.exit(3)).exit_code == 3
    with pytest.raises(WorkerLostError):
        worker.ended.result(PATIENCE)


def test_a_call_with_retries_runs_again_after_the_restart(make: Make, tmp_path: Path) -> None:
    worker = make().options(restart="always").place(Counter).options(retries=1)
    futures = [worker.exit_once(str(tmp_path / "log")), worker.add()]
    assert values(futures) == ["again", 1]


def test_an_exception_that_may_be_retried_is(make: Make, tmp_path: Path) -> None:
    counting = make().place(Failing).options(retries=3, retry_on=ValueError, retry_wait=lambda state: 0)
    assert counting.third_time().result(PATIENCE) == 3
    assert type(error_of(counting.options(retries=0).never())) is ValueError


class Failing:
    def __init__(self) -> None:
        self.times = 0

    def third_time(self) -> int:
        self.times += 1
        if self.times < 3:
            raise ValueError(self.times)
        return self.times

    def never(self) -> None:
        raise ValueError


def test_a_class_that_raises_at_first_is_tried_again(make: Make, tmp_path: Path) -> None:
    worker = make().options(restart="on_failure").place(Refusing, str(tmp_path / "log"), 2)
    assert worker.pid().result(PATIENCE) > 0
    assert len((tmp_path / "log").read_text()) == 3


def test_a_runner_that_is_lost_takes_its_worker_and_a_new_one_serves(make: Make) -> None:
    executor = make(1)
    worker = executor.options(restart="always").place(Counter)
    first = worker.pid().result(PATIENCE)
    with watching(first) as watches:
        os.kill(parent_of(first), signal.SIGKILL)
        assert all_ended(watches)
    assert worker.options(retries=1).pid().result(PATIENCE) != first


def parent_of(number: int) -> int:
    return int(Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_method_beyond_its_limit_is_stopped_and_only_it_fails(make: Make, mailbox: Mailbox) -> None:
    worker = make().options(restart="on_failure").place(Counter)
    running = worker.options(run_timeout=0.2).hold_for_good(mailbox.path)
    ahead = [worker.add() for _ in range(4)]
    with watching(int(mailbox.read())) as watches:
        error = error_of(running)
        assert type(error) is CallTimeoutError
        assert "Counter.hold_for_good" in str(error)
        assert values(ahead) == [1, 2, 3, 4]
        assert all_ended(watches)


def test_a_call_that_waits_beyond_its_limit_fails_alone(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    worker = make().place(Counter)
    running = worker.hold(mailbox.path, gate.path, "held")
    mailbox.read()
    limited = worker.options(timeout=0.1)
    late = [limited.add() for _ in range(3)]
    queued = worker.options(queue_timeout=0.1).add()
    assert {type(error_of(future)) for future in (*late, queued)} == {CallTimeoutError}
    gate.open()
    assert running.result(PATIENCE) == "held"
    assert worker.add().result(PATIENCE) == 1


def test_kill_ends_the_worker_and_what_it_has_started(make: Make, mailbox: Mailbox) -> None:
    worker = make().options(restart="always").place(Counter)
    child = worker.child().result(PATIENCE)
    running = worker.hold_for_good(mailbox.path)
    with watching(int(mailbox.read()), child) as watches:
        worker.kill()
        assert "it was killed" in str(lost(running))
        assert all_ended(watches)
    with pytest.raises(WorkerLostError):
        worker.add()


def test_a_block_that_raises_kills_its_worker(make: Make, mailbox: Mailbox) -> None:
    with pytest.raises(KeyError), make().place(Counter) as worker:
        running = worker.hold_for_good(mailbox.path)
        mailbox.read()
        raise KeyError
    assert lost(running)


def test_the_end_of_the_pool_ends_the_worker_after_its_calls(make: Make) -> None:
    executor = make()
    worker = executor.place(Counter)
    futures = [worker.add() for _ in range(100)]
    executor.shutdown()
    assert values(futures)[-1] == 100
    assert worker.ended.result(0) is None
    with pytest.raises(RuntimeError):
        worker.add()


def test_a_worker_that_never_began_ends_with_its_pool_unmade(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    executor = make(1)
    busy = executor.place(Counter)
    holding = busy.hold(mailbox.path, gate.path, "held")
    mailbox.read()
    unborn = executor.place(Counter)
    executor.shutdown(wait=False)
    assert unborn.ended.result(PATIENCE) is None
    gate.open()
    assert holding.result(PATIENCE) == "held"
    executor.shutdown()


def test_a_shutdown_that_cancels_lets_the_method_that_runs_finish(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    executor = make()
    worker = executor.place(Counter)
    running = worker.hold(mailbox.path, gate.path, "held")
    mailbox.read()
    ahead, *waiting = [worker.add() for _ in range(4)]
    executor.shutdown(wait=False, cancel_futures=True)
    for future in waiting:
        with pytest.raises(CancelledError):
            future.result(PATIENCE)
    gate.open()
    assert (running.result(PATIENCE), ahead.result(PATIENCE)) == ("held", 1)


def test_a_pool_that_is_killed_kills_its_workers(make_pool: MakePool, mailbox: Mailbox) -> None:
    pool = make_pool()
    worker = DragonflyExecutor(pool=pool).options(restart="always").place(Counter)
    running, waiting = worker.hold_for_good(mailbox.path), worker.add()
    with watching(int(mailbox.read())) as watches:
        pool.kill()
        assert "terminated" in str(lost(running))
        assert lost(waiting)
        assert all_ended(watches)


def test_a_worker_is_a_call_that_runs_so_its_runner_is_not_idle_and_survives_a_resize(make_pool: MakePool) -> None:
    pool = make_pool(max=2, max_concurrency=1, idle_shutdown_after=0.05)
    first, second = pool.place(Counter), pool.place(Counter)
    places = [first.pid().result(PATIENCE), second.pid().result(PATIENCE)]
    pool.resize(max=1)
    assert becomes_true(pool, lambda: pool.stats().max == 1)
    assert [first.pid().result(PATIENCE), second.pid().result(PATIENCE)] == places
    assert pool.stats().calls_running == 2
    second.stop(timeout=PATIENCE)
    assert becomes_true(pool, lambda: pool.stats().runners_up == 1)
    assert first.add().result(PATIENCE) == 1


PROGRAM = """
import os, sys
from dragonfly_executor import DragonflyExecutor
from tests.processes.workers.objects import Counter

if __name__ == "__main__":
    worker = DragonflyExecutor(1).place(Counter)
    print(worker.pid().result(), worker.child().result(), flush=True)
    futures = [worker.add() for _ in range(50)]
    if sys.argv[1] == "exit":
        futures[-1].add_done_callback(lambda future: print(future.result(), flush=True))
    else:
        sys.stdin.read()
"""


@pytest.mark.parametrize("way", ["exit", "kill", "interrupt"])
def test_a_program_that_ends_takes_its_workers_along(way: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, way],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        with watching(*map(int, program.stdout.readline().split()), may_be_gone=way == "exit") as watches:
            if way != "exit":
                program.send_signal(signal.SIGKILL if way == "kill" else signal.SIGINT)
            assert all_ended(watches)
        said = program.communicate(timeout=PATIENCE)
    if way == "exit":
        assert (program.returncode, said) == (0, ("50\n", ""))


def test_an_agent_is_the_parent_of_the_slot(make: Make) -> None:
    executor = make()
    worker = executor.place(Counter)
    assert parent_of(worker.pid().result(PATIENCE)) == executor.submit(agent_pid).result(PATIENCE)
