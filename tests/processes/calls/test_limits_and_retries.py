"""Budgets stop the work; retries run it again, as often as was said and not once more."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor import DragonflyExecutor, Pool
from dragonfly_executor.errors import CallTimeoutError, PoisonCallError, RunnerLostError
from tests.processes.calls.test_cancel import STUBBORN
from tests.processes.conftest import Make
from tests.support import payloads
from tests.support.helpers import PATIENCE, SOON, Gate, Mailbox, all_ended, error_of, values, watching

# -- budgets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", ["timeout", "run_timeout"])
@pytest.mark.parametrize("how", STUBBORN)
def test_a_budget_ends_a_running_call_whatever_it_does(
    how: str, budget: str, make: Make, mailbox: Mailbox, gate: Gate
) -> None:
    """Checklist 39, 40. Its process is gone, its slot runs others, its neighbour noticed nothing."""
    ex = make(2)
    neighbour = ex.submit(payloads.hold, mailbox.path, gate.path, "unharmed")
    mailbox.read()
    running = ex.options(**{budget: 0.5}).submit(STUBBORN[how], mailbox.path)
    with watching(int(mailbox.read())) as watches:
        error = error_of(running, SOON)
        assert isinstance(error, CallTimeoutError)
        assert isinstance(error, TimeoutError)
        assert f"{budget} of 0.5 s" in str(error)
        assert all_ended(watches)
    assert values(ex.submit(payloads.echo, n) for n in range(20)) == list(range(20))
    gate.open()
    assert neighbour.result(SOON) == "unharmed"
    assert ex.pool.stats().boots_attempted == 1


def warm(executor: DragonflyExecutor) -> DragonflyExecutor:
    """An executor whose runner is up: the boot is part of a call's wait, and takes long on a busy machine."""
    executor.submit(payloads.echo, 0).result(PATIENCE)
    return executor


@pytest.mark.parametrize("how", ["plain", "daemon", "exec empty session"])
def test_a_budget_ends_everything_that_the_call_started(how: str, make: Make, mailbox: Mailbox) -> None:
    """Checklist 40."""
    ex = warm(make(1))
    running = ex.options(timeout=0.5).submit(payloads.hold_with_sleeper, mailbox.path, how)
    with watching(*map(int, mailbox.read().split())) as watches:
        assert isinstance(error_of(running, SOON), CallTimeoutError)
        assert all_ended(watches)


def test_a_call_that_holds_the_gil_for_longer_than_silence_is_forgiven_is_not_lost(make: Make) -> None:
    """Checklist 39. The agent speaks for its slots."""
    ex = make(1, heartbeat=0.1, dead_after=0.4, lease=0.4)
    assert ex.submit(payloads.hold_the_gil_for, 1.5).result(PATIENCE) == "done"
    assert ex.pool.stats().boots_attempted == 1


def test_the_whole_budget_counts_waiting_too(make: Make, mailbox: Mailbox, gate: Gate, log: Path) -> None:
    """Checklist 40. A call whose budget ends in the queue never runs."""
    ex = make(1)
    running = ex.submit(payloads.hold, mailbox.path, gate.path)
    mailbox.read()
    waiting = [ex.options(timeout=0.2).submit(payloads.log_run, str(log), n) for n in range(5)]
    for future in waiting:
        error = error_of(future, SOON)
        assert isinstance(error, CallTimeoutError)
        assert "timeout of 0.2 s" in str(error)
    gate.open()
    running.result(SOON)
    assert ex.submit(payloads.echo, 1).result(SOON) == 1
    assert not log.exists()


def test_the_queues_budget_ends_only_those_that_wait(make: Make, mailbox: Mailbox, gate: Gate, log: Path) -> None:
    """Checklist 40. What has begun in time may take its time."""
    view = warm(make(1)).options(queue_timeout=0.5)
    running = view.submit(payloads.log_and_hold, str(log), "running", mailbox.path, gate.path)
    mailbox.read()
    waiting = [view.submit(payloads.log_run, str(log), n) for n in range(5)]
    for future in waiting:
        error = error_of(future, SOON)
        assert isinstance(error, CallTimeoutError)
        assert "queue_timeout of 0.5 s" in str(error)
    assert not running.done()
    gate.open()
    running.result(SOON)
    assert [line.split()[0] for line in log.read_text().splitlines()] == ["running"]


def test_the_budget_for_running_counts_neither_waiting_nor_the_slots_start(
    make: Make, mailbox: Mailbox, gate: Gate
) -> None:
    """Checklist 40. The initializer of a slot is not the call."""
    ex = make(1, initializer=payloads.init_holds, initargs=(mailbox.path, gate.path))
    futures = [ex.options(run_timeout=0.3).submit(payloads.echo, n) for n in range(3)]
    mailbox.read()
    # Longer than the budget, with the slot not ready.
    assert not threading.Event().wait(0.8)
    gate.open()
    assert values(futures) == [0, 1, 2]


def test_a_budget_for_running_is_each_calls_own(make: Make) -> None:
    """Checklist 40. A hundred of them in a row, each well within, take longer than one may."""
    view = make(1).options(run_timeout=0.5)
    assert values(view.submit(payloads.nap, 0.01, n) for n in range(100)) == list(range(100))


def test_a_call_that_is_stopped_at_its_limit_does_not_take_those_behind_it(make: Make, log: Path) -> None:
    """Checklist 40, 21. Cheap calls are queued in slots, also behind one that turns out to run for ever."""
    ex = make(1)
    values(ex.submit(payloads.nothing) for _ in range(1000))
    for round_ in range(5):
        before = [ex.submit(payloads.log_run, str(log), (round_, n)) for n in range(20)]
        stuck = ex.options(run_timeout=0.1).submit(payloads.nap, 60)
        behind = [ex.submit(payloads.log_run, str(log), (round_, n)) for n in range(20, 60)]
        assert isinstance(error_of(stuck, SOON), CallTimeoutError)
        values([*before, *behind])
    runs = Counter(line.rpartition(" ")[0] for line in log.read_text().splitlines())
    assert len(runs) == 300
    assert set(runs.values()) == {1}


def test_limits_race_completion(make: Make) -> None:
    """Checklist 35, 40. About half of the calls make it; each has one end, and no other call pays for it."""
    ex = make(2)
    ends: Counter[str] = Counter()
    futures = [ex.options(run_timeout=0.02).submit(payloads.nap, 0.01 + 0.0002 * n, n) for n in range(100)]
    others = [ex.submit(payloads.echo, n) for n in range(100)]
    for n, future in enumerate(futures):
        error = future.exception(PATIENCE)
        assert error is None or isinstance(error, CallTimeoutError)
        assert error is not None or future.result() == n
        ends[type(error).__name__] += 1
    assert ends["CallTimeoutError"]
    assert values(others) == list(range(100))


# -- retries -----------------------------------------------------------------------------------------------------------


def attempts(log: Path) -> Counter[str]:
    """How often each call began to run."""
    if not log.exists():
        return Counter()
    return Counter(line.split()[0] for line in log.read_text().splitlines())


def _no_wait(_state: Any) -> float:
    return 0.0


@pytest.mark.parametrize("how", ["die", "kill"])
def test_without_retries_a_lost_call_is_not_run_again(how: str, make: Make, log: Path) -> None:
    """Checklist 21."""
    ex = make(2)
    error = error_of(ex.submit(payloads.fail_until, str(log), "once", 2, how), SOON)
    assert isinstance(error, RunnerLostError)
    assert not isinstance(error, PoisonCallError)
    assert attempts(log) == {"once": 1}


def test_a_lost_call_is_run_again_until_it_succeeds(make: Make, log: Path) -> None:
    """Checklist 22. As many attempts as it takes, and not one more."""
    view = make(2).options(retries=5, retry_wait=_no_wait)
    assert view.submit(payloads.fail_until, str(log), "third", 3, "die").result(PATIENCE) == 3
    assert attempts(log) == {"third": 3}


def test_a_call_that_kills_each_slot_is_given_up_as_poison_and_others_are_untouched(
    make: Make, mailbox: Mailbox, gate: Gate, log: Path
) -> None:
    """Checklist 22, 24. Its neighbours run once each."""
    ex = make(2)
    neighbour = ex.submit(payloads.log_and_hold, str(log), "neighbour", mailbox.path, gate.path)
    mailbox.read()
    poison = ex.options(retries=3, retry_wait=_no_wait).submit(payloads.log_and_leave, str(log), "poison", 7)
    others = [ex.submit(payloads.log_run, str(log), f"other-{n}") for n in range(40)]
    error = error_of(poison, PATIENCE)
    assert isinstance(error, PoisonCallError)
    assert isinstance(error, RunnerLostError)
    assert error.exit_code == 7
    assert "4 attempts" in str(error)
    assert isinstance(error.__cause__, RunnerLostError)
    values(others)
    gate.open()
    neighbour.result(SOON)
    assert attempts(log) == {"poison": 4, "neighbour": 1, **{f"other-{n}": 1 for n in range(40)}}
    assert ex.pool.stats().boots_attempted == 1


def test_a_call_that_kills_each_runner_spends_no_more_of_them_than_its_attempts() -> None:
    """Checklist 24. Machines cost money."""
    with Pool("costly", min=0, max=1, max_concurrency=2, timeout=None, retries=2, retry_wait=_no_wait) as pool:
        assert isinstance(error_of(pool.submit(payloads.kill_agent), PATIENCE), PoisonCallError)
        assert pool.stats().boots_attempted == 3
        assert pool.submit(payloads.echo, 1).result(PATIENCE) == 1


def test_errors_of_the_call_itself_are_retried_only_if_they_are_named(make: Make, log: Path) -> None:
    """Checklist 22."""
    ex = make(2)
    named = ex.options(retries=5, retry_on=(KeyError, ZeroDivisionError), retry_wait=_no_wait)
    assert named.submit(payloads.fail_until, str(log), "named", 3, "KeyError").result(PATIENCE) == 3
    assert isinstance(error_of(named.submit(payloads.fail_until, str(log), "other", 3, "ValueError")), ValueError)
    unnamed = ex.options(retries=5, retry_wait=_no_wait)
    assert isinstance(error_of(unnamed.submit(payloads.fail_until, str(log), "unnamed", 3, "KeyError")), KeyError)
    assert attempts(log) == {"named": 3, "other": 1, "unnamed": 1}


def test_a_named_error_on_every_attempt_is_what_comes_back(make: Make, log: Path) -> None:
    """Checklist 22. The last one's own, and no stand-in."""
    view = make(1).options(retries=2, retry_on=(KeyError,), retry_wait=_no_wait)
    assert isinstance(error_of(view.submit(payloads.fail_until, str(log), "never", 99, "KeyError")), KeyError)
    assert attempts(log) == {"never": 3}


def test_subclasses_of_a_named_error_are_meant(make: Make, log: Path) -> None:
    """Checklist 22."""
    view = make(1).options(retries=2, retry_on=LookupError, retry_wait=_no_wait)
    assert view.submit(payloads.fail_until, str(log), "sub", 2, "KeyError").result(PATIENCE) == 2


def test_pauses_between_attempts_do_not_hold_others_up(make: Make, log: Path) -> None:
    """Checklist 22. What waits for its next attempt occupies no slot."""
    ex = make(1)
    asked: list[int] = []

    def wait(state: Any) -> float:
        asked.append(state.attempt_number)
        return 0.5

    late = ex.options(retries=1, retry_wait=wait).submit(payloads.fail_until, str(log), "late", 2, "die")
    assert values(ex.submit(payloads.echo, n) for n in range(50)) == list(range(50))
    assert not late.done()
    assert late.result(PATIENCE) == 2
    assert asked == [1]


def test_a_timeout_counts_all_attempts_together(make: Make, log: Path) -> None:
    """Checklist 22, 40."""
    executor = warm(make(1))
    view = executor.options(retries=1000, timeout=0.7, retry_wait=_no_wait)
    assert isinstance(error_of(view.submit(payloads.fail_until, str(log), "endless", 10**6, "die")), CallTimeoutError)
    # The last attempt was sent before the timeout, and may begin until the agent kills its slot.
    assert executor.submit(payloads.echo, 1).result(SOON) == 1
    began = attempts(log)["endless"]
    assert 1 <= began <= 1001
    assert executor.submit(payloads.echo, 1).result(SOON) == 1
    assert attempts(log)["endless"] == began


def test_a_call_stopped_at_its_limit_is_not_tried_again(make: Make, log: Path) -> None:
    """Checklist 22, 40. Nothing was lost: it was stopped on purpose."""
    view = make(1).options(retries=5, run_timeout=0.2, retry_wait=_no_wait)
    assert isinstance(error_of(view.submit(payloads.log_and_nap, str(log), "slow", 60)), CallTimeoutError)
    assert attempts(log) == {"slow": 1}


def test_a_call_stopped_at_its_limit_is_tried_again_if_that_is_named(make: Make, log: Path) -> None:
    ex = make(1)
    for kind in (CallTimeoutError, TimeoutError, (KeyError, Exception)):
        view = ex.options(retries=2, run_timeout=0.2, retry_on=kind, retry_wait=_no_wait)
        name = getattr(kind, "__name__", "both")
        assert view.submit(payloads.fail_until, str(log), name, 3, "hang").result(PATIENCE) == 3
    error = error_of(view.submit(payloads.fail_until, str(log), "never", 99, "hang"))
    assert isinstance(error, CallTimeoutError)
    assert "run_timeout of 0.2 s" in str(error)
    late = view.options(timeout=0.3, retries=99).submit(payloads.fail_until, str(log), "late", 99, "hang")
    assert "timeout of 0.3 s" in str(error_of(late))
    other = ex.options(retries=2, run_timeout=0.2, retry_on=KeyError, retry_wait=_no_wait)
    assert isinstance(error_of(other.submit(payloads.fail_until, str(log), "other", 99, "hang")), CallTimeoutError)
    assert {**attempts(log), "late": 0} == dict.fromkeys(["CallTimeoutError", "TimeoutError", "both", "never"], 3) | {
        "late": 0,
        "other": 1,
    }


def test_a_cancelled_call_is_not_tried_again(make: Make, mailbox: Mailbox, gate: Gate, log: Path) -> None:
    """Checklist 22, 35."""
    ex = make(1)
    view = ex.options(retries=5, retry_wait=_no_wait)
    running = view.submit(payloads.log_and_hold, str(log), "cancelled", mailbox.path, gate.path)
    mailbox.read()
    assert running.cancel()
    assert ex.submit(payloads.echo, 1).result(SOON) == 1
    ex.shutdown()
    assert attempts(log) == {"cancelled": 1}


def test_under_crashes_every_call_runs_at_most_as_often_as_it_may(make: Make, log: Path) -> None:
    """Checklist 21, 22. Slots are killed from within, calls come in batches, some may be tried again."""
    ex = make(2)
    again = ex.options(retries=2, retry_wait=_no_wait)
    futures = {}
    for n in range(300):
        if n % 15 == 0:
            futures[f"deadly-{n}"] = ex.submit(payloads.log_and_leave, str(log), f"deadly-{n}")
        elif n % 16 == 0:
            futures[f"again-{n}"] = again.submit(payloads.fail_until, str(log), f"again-{n}", 2, "kill")
        else:
            futures[f"plain-{n}"] = ex.submit(payloads.log_run, str(log), f"plain-{n}")
    ends = {name: future.exception(PATIENCE) for name, future in futures.items()}
    runs = attempts(log)
    for name, end in ends.items():
        kind = name.partition("-")[0]
        assert isinstance(end, RunnerLostError) if kind == "deadly" else end is None, (name, end)
        assert runs[name] == (2 if kind == "again" else 1), name
