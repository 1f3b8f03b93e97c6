"""Slots and runners come and go while calls do: replaced after some calls, stopped when idle, set up by user code."""

from __future__ import annotations

import gc
import os
import resource
import signal
import threading
from collections import Counter
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from dragonfly_executor import Pool
from dragonfly_executor.errors import CallTimeoutError, InitializerError, RemoteTraceback, RunnerLostError
from dragonfly_executor.runner import process_tree
from tests.processes.conftest import Make
from tests.support import payloads
from tests.support.helpers import PATIENCE, SOON, Gate, Mailbox, all_ended, error_of, values, watching


def test_garbage_is_collected_in_a_slot_and_what_its_agent_has_loaded_is_left_alone(make: Make) -> None:
    ex = make(1)
    assert ex.submit(gc.isenabled).result(PATIENCE)
    assert ex.submit(gc.get_freeze_count).result(PATIENCE) > 1000


# -- max_tasks_per_child -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("each", [1, 2])
def test_slots_that_take_few_calls_work_a_backlog_off(each: int, make: Make) -> None:
    """Checklist 61. All finish, no slot runs more than it may, and the runner stays the same."""
    ex = make(2, max_tasks_per_child=each)
    futures = [ex.submit(payloads.pid) for _ in range(200)]
    runs = Counter(values(futures))
    assert max(runs.values()) <= each
    assert ex.pool.stats().boots_attempted == 1


@pytest.mark.soak
@pytest.mark.parametrize("each", [1, 2])
def test_slots_that_take_few_calls_work_a_long_backlog_off(each: int, make: Make) -> None:
    """Checklist 61. Two thousand calls."""
    ex = make(2, max_tasks_per_child=each)
    runs = Counter(values([ex.submit(payloads.pid) for _ in range(2000)], 600))
    assert runs.total() == 2000
    assert max(runs.values()) <= each


def test_slots_that_take_few_calls_take_them_whole(make: Make) -> None:
    """Checklist 61. A result larger than a pipe is there before its slot goes."""
    ex = make(2, max_tasks_per_child=1)
    size = 3 << 20
    assert [len(value) for value in values(ex.submit(payloads.big_result, size) for _ in range(12))] == [size] * 12


def test_slots_that_take_few_calls_may_crash_and_be_cancelled(make: Make, mailbox: Mailbox) -> None:
    """Checklist 61, 5, 40. What ends a slot early is no reason to forget that it is to be replaced."""
    ex = make(2, max_tasks_per_child=2)
    for _ in range(10):
        crash = ex.submit(payloads.leave, 1)
        held = ex.submit(payloads.hold_for_good, mailbox.path)
        plain = [ex.submit(payloads.echo, n) for n in range(3)]
        mailbox.read()
        assert held.cancel()
        assert isinstance(error_of(crash, SOON), RunnerLostError)
        assert values(plain) == [0, 1, 2]


def test_a_shutdown_in_the_middle_of_replacements_ends(make: Make) -> None:
    """Checklist 61, 28."""
    for n in range(5):
        ex = make(2, max_tasks_per_child=1)
        futures = [ex.submit(payloads.echo, n) for n in range(10 * n)]
        ex.shutdown()
        assert [future.result(0) for future in futures] == list(range(10 * n))


# -- idle runners ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [50, pytest.param(300, marks=pytest.mark.soak)])
def test_a_call_that_comes_as_its_runner_is_stopped_runs_on_another(times: int, make: Make) -> None:
    """Checklist 60. Calls around the moment when an idle runner is told to go."""
    ex = make(1, idle_shutdown_after=0.001)
    pause = threading.Event()
    for n in range(times):
        assert ex.submit(payloads.echo, n).result(SOON) == n
        # From at once to well past the end of the idle time.
        pause.wait((n % 25) * 0.0001)
    stats = ex.pool.stats()
    assert stats.calls_failed == 0
    assert stats.boots_attempted > 1


def test_calls_race_idle_runners_of_a_larger_pool() -> None:
    """Checklist 60. Some runners idle out while others get calls."""
    with Pool("idle", min=0, max=3, max_concurrency=1, timeout=None, idle_shutdown_after=0.002) as pool:
        pause = threading.Event()
        for n in range(20):
            assert values(pool.submit(payloads.echo, m) for m in range(n % 5)) == list(range(n % 5))
            pause.wait((n % 7) * 0.0007)
        assert pool.stats().calls_failed == 0


def test_an_idle_runner_goes_with_everything_that_its_calls_left(make: Make) -> None:
    """Checklist 60, 38."""
    ex = make(1, idle_shutdown_after=0.05)
    slot = ex.submit(payloads.pid).result(SOON)
    agent = ex.submit(payloads.agent_pid).result(SOON)
    sleepers = [ex.submit(payloads.start_sleeper, how).result(SOON) for how in ("plain", "daemon")]
    with watching(slot, agent, *sleepers) as watches:
        assert all_ended(watches)
    assert ex.submit(payloads.echo, 1).result(SOON) == 1


# -- initializers ------------------------------------------------------------------------------------------------------


def test_an_initializer_that_raises_fails_every_waiting_call_with_its_traceback(make: Make) -> None:
    """Checklist 62. And every later submit."""
    ex = make(2, initializer=payloads.init_fails)
    futures = [ex.submit(payloads.echo, n) for n in range(10)]
    for future in futures:
        error = error_of(future, SOON)
        assert isinstance(error, InitializerError)
        assert isinstance(error, BrokenProcessPool)
        assert "no model to load" in str(error)
        assert isinstance(error.__cause__, RuntimeError)
        assert isinstance(error.__cause__.__cause__, RemoteTraceback)
        assert "init_fails" in str(error.__cause__.__cause__)
    with pytest.raises(BrokenProcessPool):
        ex.submit(payloads.echo, 1)
    ex.shutdown()


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), payloads.Base("base"), payloads.LockError()])
def test_an_initializer_may_raise_anything(error: BaseException, make: Make) -> None:
    """Checklist 62, 15."""
    name = "Lock" if isinstance(error, payloads.LockError) else None
    fn, args = (payloads.raise_one, (name,)) if name else (payloads.fail, (error,))
    future = make(1, initializer=fn, initargs=args).submit(payloads.echo, 1)
    assert isinstance(error_of(future, SOON), InitializerError)


@pytest.mark.parametrize(
    ("fn", "args"), [(payloads.segfault, ()), (payloads.leave, (0,)), (payloads.die_by, (signal.SIGKILL,))]
)
def test_an_initializer_that_crashes_its_slot_breaks_the_pool_after_some_tries(
    fn: object, args: tuple[object, ...], make: Make
) -> None:
    """Checklist 62. A bounded number of slots is spent, and nobody waits for ever."""
    ex = make(2, initializer=fn, initargs=args)
    futures = [ex.submit(payloads.echo, n) for n in range(5)]
    for future in futures:
        error = error_of(future, SOON)
        assert isinstance(error, InitializerError)
        assert "before they were ready" in str(error)


@pytest.mark.parametrize("fn", [payloads.init_holds, payloads.init_holds_the_gil])
def test_an_initializer_that_hangs_breaks_the_pool_in_time(
    fn: object, make: Make, mailbox: Mailbox, gate: Gate
) -> None:
    """Checklist 62. Its process is gone then."""
    ex = make(1, initializer=fn, initargs=(mailbox.path, gate.path), boot_timeout=1.0)
    future = ex.submit(payloads.echo, 1)
    with watching(int(mailbox.read())) as watches:
        error = error_of(future, SOON)
        assert isinstance(error, InitializerError)
        assert "within 1 s" in str(error)
        assert all_ended(watches)


def test_an_initializer_that_cannot_be_pickled_is_refused_at_once(make: Make) -> None:
    """Checklist 62, 12."""
    with pytest.raises(Exception, match="pickle"):
        make(1, initializer=payloads.remember_ready, initargs=(threading.Lock(),)).submit(payloads.echo, 1).result(SOON)


def test_what_an_initializer_sets_is_there_for_every_call_in_every_slot(make: Make) -> None:
    """Checklist 62. Also in the slots that replace others, once each."""
    ex = make(2, initializer=payloads.remember_ready, initargs=(7,))
    for _ in range(5):
        assert values(ex.submit(payloads.is_ready) for _ in range(10)) == [[7]] * 10
        assert isinstance(error_of(ex.submit(payloads.leave, 1), SOON), RunnerLostError)


def test_one_slot_that_dies_while_it_is_set_up_does_not_break_the_pool(
    make: Make, mailbox: Mailbox, gate: Gate
) -> None:
    """Checklist 62, 5. Its call did not start, and runs in the next one."""
    ex = make(1, initializer=payloads.init_holds, initargs=(mailbox.path, gate.path))
    future = ex.submit(payloads.echo, "ran")
    for _ in range(2):
        os.kill(int(mailbox.read()), signal.SIGKILL)
    mailbox.read()
    gate.open()
    assert future.result(SOON) == "ran"


def test_slots_that_die_before_they_are_ready_fail_calls_and_not_the_pool(make: Make) -> None:
    """Checklist 5, 62. Without an initializer the user has said nothing that a broken pool would follow from."""
    ex = make(2, serializer=payloads.DeadlySerializer())
    for _ in range(2):
        futures = [ex.submit(payloads.echo, n) for n in range(3)]
        for future in futures:
            error = error_of(future, SOON)
            assert isinstance(error, RunnerLostError)
            assert error.signal == signal.SIGKILL
            assert not error.may_have_started


def test_a_call_can_be_cancelled_and_time_out_while_its_slot_is_set_up(
    make: Make, mailbox: Mailbox, gate: Gate
) -> None:
    """Checklist 40, 62. It is not the slot's fault, which goes on and runs the next one."""
    ex = make(1, initializer=payloads.init_holds, initargs=(mailbox.path, gate.path))
    cancelled = ex.submit(payloads.echo, 1)
    late = ex.options(timeout=0.3).submit(payloads.echo, 2)
    slot = int(mailbox.read())
    assert cancelled.cancel()
    assert isinstance(error_of(late, SOON), CallTimeoutError)
    while any(runner.in_flight for runner in ex.pool.stats().runners):
        pass  # Until the agent has said that it has neither. A slot that is let in before may run them, and die for it.
    last = ex.submit(payloads.pid)
    gate.open()
    assert last.result(PATIENCE) == slot


# -- what slots must not do to each other ------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux limits other processes")
def test_a_runner_without_room_for_another_slot_goes_on_with_those_it_has(
    make: Make, mailbox: Mailbox, gate: Gate, capfd: pytest.CaptureFixture[str]
) -> None:
    """And has more when there is room again."""
    ex = make(2)
    agent = ex.submit(os.getppid).result(PATIENCE)
    _, most = resource.prlimit(agent, resource.RLIMIT_NOFILE)
    resource.prlimit(agent, resource.RLIMIT_NOFILE, (len([*Path(f"/proc/{agent}/fd").iterdir()]) + 1, most))
    held = ex.submit(payloads.hold, mailbox.path, gate.path, 1)
    mailbox.numbers(1)
    others = [ex.submit(payloads.pid) for _ in range(20)]
    gate.open()
    assert held.result(PATIENCE) == 1
    assert len(set(values(others))) == 1
    resource.prlimit(agent, resource.RLIMIT_NOFILE, (most, most))
    both = [ex.submit(payloads.hold_for_good, mailbox.path) for _ in range(2)]
    assert len(set(mailbox.numbers(2))) == 2
    assert [future.cancel() for future in both] == [True, True]
    assert ex.pool.stats().boots_attempted == 1
    assert capfd.readouterr().err.count("no room for another slot, only for 1") == 1


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux limits other processes")
def test_what_a_runner_without_room_for_another_slot_cannot_begin_goes_to_one_that_has(
    make: Make, mailbox: Mailbox, gate: Gate
) -> None:
    """However long the call runs behind which it sits. The parent counts on slots that are not there."""
    ex = make(4, max=2, max_concurrency=2)
    endless = ex.submit(payloads.hold_for_good, mailbox.path)
    mailbox.numbers(1)
    (agent,) = process_tree.children(os.getpid())
    _, most = resource.prlimit(agent, resource.RLIMIT_NOFILE)
    resource.prlimit(agent, resource.RLIMIT_NOFILE, (len([*Path(f"/proc/{agent}/fd").iterdir()]) + 1, most))
    waiting = ex.submit(payloads.pid)
    elsewhere = [ex.submit(payloads.hold, mailbox.path, gate.path) for _ in range(2)]
    mailbox.numbers(2)
    gate.open(2)
    values(elsewhere)
    assert waiting.result(PATIENCE) not in process_tree.children(agent)
    assert endless.cancel()


def test_a_slot_that_has_closed_its_descriptors_and_lives_on_harms_no_slot_after_it(
    make: Make, mailbox: Mailbox
) -> None:
    """Checklist 63. The agent's side of it is closed, and that number is used again."""
    ex = make(4)
    deaf = ex.submit(payloads.close_descriptors_and_hold, mailbox.path)
    mailbox.read()
    held = [ex.submit(payloads.hold_for_good, mailbox.path) for _ in range(2)]
    mailbox.numbers(2)
    for _ in range(4):
        assert isinstance(error_of(ex.submit(payloads.leave, 1), SOON), RunnerLostError)
        assert values(ex.submit(payloads.echo, n) for n in range(20)) == list(range(20))
    assert not deaf.done()
    assert deaf.cancel()
    assert all(future.cancel() for future in held)
    assert values(ex.submit(payloads.echo, n) for n in range(20)) == list(range(20))


def test_killing_the_pool_takes_a_chain_of_forks_along(make: Make, mailbox: Mailbox) -> None:
    """Checklist 38, 64. Each generation starts the next and ends, while the agent goes."""
    ex = make(1)
    running = ex.submit(payloads.keep_forking, mailbox.path)
    mailbox.numbers(20)
    ex.kill_workers()
    ex.shutdown()
    # The census of this test finds whoever is left.
    assert isinstance(error_of(running, SOON), RunnerLostError)
