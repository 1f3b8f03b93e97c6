"""A runner is lost with calls that it has not begun: they go on elsewhere, and none runs twice."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import DragonflyExecutor, LocalBackend, Pool
from dragonfly_executor.errors import RunnerLostError
from dragonfly_executor.runner.process_tree import children
from dragonfly_executor.transport import call_start_table
from dragonfly_executor.transport.call_start_cells import CELL_BITS, CELLS, MARKS, is_marked, map_cells, mark
from tests.processes.conftest import Make
from tests.support import payloads
from tests.support.helpers import PATIENCE, Gate, Mailbox, all_ended, error_of, values, watching


def runs_of(log: Path) -> Counter[int]:
    """How often each call ran, by its number."""
    lines = log.read_text().splitlines() if log.exists() else []
    return Counter(int(line.split()[0]) for line in lines)


def check(futures: list[Future[Any]], log: Path, slots: int = 0) -> None:
    """Each call ran once, or is lost. Those that are lost ran, but for one a slot that was hit as it began its call."""
    ends = [future.exception(PATIENCE) for future in futures]
    lost = {n for n, end in enumerate(ends) if end is not None}
    for n in lost:
        assert isinstance(ends[n], RunnerLostError)
        assert ends[n].may_have_started
    runs = runs_of(log)
    assert set(runs.values()) == {1}
    assert set(range(len(futures))) - lost <= runs.keys()
    assert len(lost - runs.keys()) <= slots


def warm_up(pool: Pool | DragonflyExecutor) -> list[int]:
    """Have every slot ready, and calls known to be cheap; process ids of the agents."""
    values(pool.submit(payloads.log_run, os.devnull, 0) for _ in range(300))
    return children(os.getpid())


def kill_agent(agent: int) -> None:
    os.kill(agent, signal.SIGKILL)


def kill_all(agent: int) -> None:
    for pid in [*children(agent), agent]:
        os.kill(pid, signal.SIGKILL)


def kill_slots_after_agent(agent: int) -> None:
    for pid in [agent, *children(agent)]:
        os.kill(pid, signal.SIGKILL)


KILLS: list[Callable[[int], None]] = [kill_agent, kill_all, kill_slots_after_agent]


@pytest.mark.parametrize("kill", KILLS)
@pytest.mark.parametrize("round_number", range(3))
def test_a_killed_agent_takes_no_call_with_it_that_had_not_begun(
    kill: Callable[[int], None], round_number: int, log: Path
) -> None:
    """A few calls run at that moment; hundreds wait in slots, in the agent, and on the way."""
    with Pool("begun", min=0, max=2, max_concurrency=2, timeout=None) as pool:
        agents = warm_up(pool)
        futures = [pool.submit(payloads.log_run, str(log), n) for n in range(2000)]
        futures[300 * round_number].result(PATIENCE)
        kill(agents[0])
        check(futures, log, slots=2)


def test_only_the_call_that_ran_is_lost_with_its_runner(log: Path, mailbox: Mailbox, gate: Gate) -> None:
    """One call holds the only slot, others wait behind it: in the agent, where it has found them to be stuck."""
    with Pool("only", min=0, max=1, max_concurrency=1, timeout=None) as pool:
        (agent,) = warm_up(pool)
        held = pool.submit(payloads.hold, mailbox.path, gate.path)
        others = [pool.submit(payloads.log_run, str(log), n) for n in range(50)]
        mailbox.read()
        kill_agent(agent)
        error = error_of(held)
        assert isinstance(error, RunnerLostError)
        assert error.may_have_started
        check(others, log)


def test_calls_that_wait_behind_the_one_that_ran_when_the_agent_froze_are_not_lost(
    log: Path, mailbox: Mailbox, gate: Gate
) -> None:
    """The agent is stopped with calls in its slot's queue; its link is given up for its silence."""
    with Pool("frozen", min=0, max=1, max_concurrency=1, timeout=None, heartbeat=0.1, dead_after=0.5) as pool:
        (agent,) = warm_up(pool)
        held = pool.submit(payloads.hold, mailbox.path, gate.path)
        mailbox.read()
        os.kill(agent, signal.SIGSTOP)
        others = [pool.submit(payloads.log_run, str(log), n) for n in range(100)]
        error = error_of(held)
        assert isinstance(error, RunnerLostError)
        assert "no data for" in str(error)
        check(others, log)


def test_a_result_that_is_lost_with_the_agent_is_that_of_a_call_that_ran(
    log: Path, mailbox: Mailbox, gate: Gate
) -> None:
    """It had begun and even ended: it is not sent again."""
    with Pool("results", min=0, max=1, max_concurrency=1, timeout=None) as pool:
        (agent,) = warm_up(pool)
        future = pool.submit(payloads.hold_and_say_when_done, mailbox.path, gate.path)
        mailbox.read()
        (slot,) = children(agent)
        with watching(slot, agent) as watches:
            os.kill(agent, signal.SIGSTOP)
            gate.open()
            assert mailbox.read() == "done"
            kill_agent(agent)
            assert all_ended(watches)
        error = error_of(future)
        assert isinstance(error, RunnerLostError)
        assert error.may_have_started
        assert pool.submit(payloads.echo, 1).result(PATIENCE) == 1


@pytest.mark.parametrize("size", [50_000, 3_000_000])
def test_calls_with_large_arguments_are_known_to_have_begun_or_not(
    size: int, log: Path, mailbox: Mailbox, gate: Gate
) -> None:
    with Pool("large", min=0, max=2, max_concurrency=1, timeout=None) as pool:
        agents = warm_up(pool)
        filler = os.urandom(size)
        futures = [pool.submit(payloads.log_filled, str(log), n, filler) for n in range(40)]
        futures[3].result(PATIENCE)
        kill_agent(agents[0])
        check(futures, log, slots=1)
        assert pool.submit(payloads.echo, 1).result(PATIENCE) == 1


def test_calls_of_a_lost_runner_that_are_cancelled_meanwhile_end_as_that(
    make: Make, log: Path, mailbox: Mailbox, gate: Gate
) -> None:
    """Its node takes its time to be given back, and until then nobody knows what had begun."""
    released = threading.Event()

    class Slow(LocalBackend):
        def boot(self, request: Any) -> Any:
            node = super().boot(request)
            stop = node.stop

            def slow_stop() -> None:
                assert released.wait(PATIENCE)
                stop()

            node.stop = slow_stop  # type: ignore[method-assign]
            return node

    with ExitStack() as ending:
        ex = make(1, backend=Slow())
        ending.callback(released.set)
        (agent,) = warm_up(ex)
        held = ex.submit(payloads.hold, mailbox.path, gate.path)
        cancelled = ex.submit(payloads.log_run, str(log), 0)
        timed_out = ex.options(timeout=0.1).submit(payloads.log_run, str(log), 1)
        kept = ex.submit(payloads.log_run, str(log), 2)
        mailbox.read()
        with watching(agent) as watches:
            kill_agent(agent)
            assert all_ended(watches)
        assert isinstance(error_of(timed_out), TimeoutError)
        assert cancelled.cancel()
        assert not held.done()
        released.set()
        assert isinstance(error_of(held), RunnerLostError)
        kept.result(PATIENCE)
        assert runs_of(log) == Counter([2])


def test_a_killed_pool_does_not_wait_to_know_what_had_begun(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    ex = make(1)
    agent = ex.submit(payloads.agent_pid).result(PATIENCE)
    futures = [ex.submit(payloads.hold, mailbox.path, gate.path) for _ in range(5)]
    mailbox.read()
    kill_agent(agent)
    ex.kill_workers()
    assert wait(futures, PATIENCE).not_done == set()
    ex.shutdown()


# -- without shared memory ---------------------------------------------------------------------------------------------


def test_a_file_does_where_there_is_no_memfd(monkeypatch: pytest.MonkeyPatch, log: Path, mailbox: Mailbox) -> None:
    """macOS, and sandboxes."""

    def forbidden(_name: str) -> int:
        raise PermissionError("no memfd here")

    monkeypatch.setattr(os, "memfd_create", forbidden)
    with Pool("file", min=0, max=1, max_concurrency=1, timeout=None) as pool:
        (agent,) = warm_up(pool)
        held = pool.submit(payloads.hold_for_good, mailbox.path)
        others = [pool.submit(payloads.log_run, str(log), n) for n in range(20)]
        mailbox.read()
        kill_agent(agent)
        assert isinstance(error_of(held), RunnerLostError)
        check(others, log)


def test_without_any_shared_memory_runners_work_and_that_is_told(
    monkeypatch: pytest.MonkeyPatch, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    def none_left() -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(call_start_table, "_memory_file", none_left)
    ex = make(1)
    agent = ex.submit(payloads.agent_pid).result(PATIENCE)
    assert "No space left on device" in caplog.text
    kill_agent(agent)
    assert ex.options(retries=3).submit(payloads.echo, 1).result(PATIENCE) == 1


# -- the table ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def table() -> Any:
    table = call_start_table.CallStartTable()
    yield table
    table.settle(0.0)


def agents_side(table: call_start_table.CallStartTable) -> Any:
    return map_cells(os.dup(table.inherited[0]))


def test_a_table_tells_calls_that_were_marked_from_the_others(table: call_start_table.CallStartTable) -> None:
    cells = agents_side(table)
    numbers = {n: table.assign((n, 1)) for n in range(1, 6)}
    mark(cells, numbers[2])
    mark(cells, numbers[4])
    assert [n for n, number in numbers.items() if is_marked(cells, number)] == [2, 4]
    table.release((4, 1))
    table.handed_over()
    table.settle(PATIENCE)
    assert table.begun() == {(2, 1)}


def test_a_cell_is_used_again_and_what_the_last_call_left_there_means_nothing(
    table: call_start_table.CallStartTable,
) -> None:
    cells = agents_side(table)
    for n in range(1, 3 * MARKS):
        number = table.assign((n, 1))
        assert number >> CELL_BITS == 1
        assert not is_marked(cells, number)
        if n % 3:
            mark(cells, number)
            table.release_results([(n, 1, 0.0, None, False)])
        else:
            table.release((n, 1))
    table.handed_over()


def test_a_late_word_about_an_attempt_frees_no_cell_of_the_next_one(table: call_start_table.CallStartTable) -> None:
    cells = agents_side(table)
    table.release_results([(1, 1, 0.0, None, False)])
    first = table.assign((1, 1))
    table.release((1, 1))
    second = table.assign((1, 2))
    table.release((1, 1))
    third = table.assign((2, 1))
    assert len({first, second, third}) == 3
    mark(cells, second)
    table.handed_over()
    table.settle(PATIENCE)
    assert table.begun() == {(1, 2)}


def test_calls_for_which_there_is_no_cell_may_have_begun(table: call_start_table.CallStartTable) -> None:
    for n in range(1, CELLS + 10):
        table.assign((n, 1))
    table.handed_over()
    table.settle(PATIENCE)
    assert table.begun() == {(n, 1) for n in range(CELLS, CELLS + 10)}


def test_as_long_as_a_process_may_mark_calls_nobody_can_tell(table: call_start_table.CallStartTable) -> None:
    table.assign((1, 1))
    held_open = os.dup(table.inherited[1])
    table.handed_over()
    table.settle(0.01)
    assert table.begun() is None
    os.close(held_open)


def test_a_table_without_calls_waits_for_nobody(table: call_start_table.CallStartTable) -> None:
    held_open = os.dup(table.inherited[1])
    table.handed_over()
    table.settle(PATIENCE * 1000)
    assert table.begun() == set()
    os.close(held_open)
