"""Slots and agents that die: only what was hit fails, and nothing of it stays."""

from __future__ import annotations

import os
import signal
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from dragonfly_executor import LocalBackend, Pool
from dragonfly_executor.errors import CallDeserializationError, RunnerLostError
from dragonfly_executor.runner import process_tree
from tests.processes.conftest import Make
from tests.support import payloads
from tests.support.helpers import SOON, Gate, Mailbox, all_ended, error_of, kill_and_wait, values, watching

WAYS = {
    "SIGKILL": (payloads.die_by, (signal.SIGKILL,), None, signal.SIGKILL),
    "SIGTERM": (payloads.die_by, (signal.SIGTERM,), None, signal.SIGTERM),
    "SIGSEGV": (payloads.segfault, (), None, signal.SIGSEGV),
    "abort": (os.abort, (), None, signal.SIGABRT),
    "exit 0": (payloads.leave, (0,), 0, None),
    "exit 1": (payloads.leave, (1,), 1, None),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_dying_slot_fails_its_own_call_and_no_other(
    way: str, make: Make, mailbox: Mailbox, gate: Gate, log: Path
) -> None:
    """Checklist 5. One neighbour runs, many wait, and each of them runs once."""
    fn, args, code, number = WAYS[way]
    ex = make(2)
    neighbour = ex.submit(payloads.hold, mailbox.path, gate.path, "neighbour")
    mailbox.read()
    victim = ex.submit(fn, *args)
    waiting = [ex.submit(payloads.log_run, str(log), n) for n in range(50)]

    error = error_of(victim, SOON)

    assert isinstance(error, RunnerLostError)
    assert isinstance(error, BrokenProcessPool)
    assert (error.exit_code, error.signal, error.may_have_started) == (code, number, True)
    values(waiting)
    gate.open()
    assert neighbour.result(SOON) == "neighbour"
    assert sorted(int(line.split()[0]) for line in log.read_text().splitlines()) == list(range(50))
    assert ex.submit(payloads.echo, "later").result(SOON) == "later"


def test_a_slot_killed_from_outside_says_which_signal_and_which_process(make: Make, mailbox: Mailbox) -> None:
    """Checklist 5. The error names what the user can look for in the kernel's log."""
    ex = make(1)
    victim = ex.submit(payloads.hold_for_good, mailbox.path)
    slot = int(mailbox.read())
    os.kill(slot, signal.SIGKILL)
    error = error_of(victim, SOON)
    assert isinstance(error, RunnerLostError)
    assert error.signal == signal.SIGKILL
    assert error.runner_id == 1
    assert str(slot) in str(error)
    assert "SIGKILL" in str(error)


def test_a_slot_that_dies_without_a_call_is_replaced_when_calls_come(make: Make) -> None:
    """Checklist 5. Nobody is to blame for the death of an idle slot, and nobody pays for it."""
    ex = make(1)
    for _ in range(10):
        slot = ex.submit(payloads.pid).result(SOON)
        with watching(slot) as watches:
            os.kill(slot, signal.SIGKILL)
            # Its agent need not know yet, and may hand it the next call. (While it is still dying, it may even take
            # that one, and then nobody can tell that it was not started.)
            assert all_ended(watches)
        assert ex.submit(payloads.pid).result(SOON) != slot


def test_every_slot_of_a_runner_may_die_at_once(make: Make, mailbox: Mailbox) -> None:
    """Checklist 5. As when the kernel picks them one after the other."""
    ex = make(4)
    victims = [ex.submit(payloads.hold_for_good, mailbox.path) for _ in range(4)]
    for slot in mailbox.numbers(4):
        os.kill(slot, signal.SIGKILL)
    assert [type(error_of(victim, SOON)) for victim in victims] == [RunnerLostError] * 4
    assert values(ex.submit(payloads.echo, n) for n in range(8)) == list(range(8))


def test_many_crashes_in_a_row_do_not_wear_the_pool_out(make: Make) -> None:
    """Checklist 5. Every second call kills its slot; the others are not touched."""
    ex = make(2)
    futures = [ex.submit(payloads.leave, 1) if n % 2 else ex.submit(payloads.echo, n) for n in range(60)]
    ends = [future.exception(SOON * 4) or future.result() for future in futures]
    assert [end for end in ends if not isinstance(end, RunnerLostError)] == list(range(0, 60, 2))
    assert sum(isinstance(end, RunnerLostError) for end in ends) == 30


def test_memory_that_runs_out_in_a_call_is_that_calls_error(make: Make) -> None:
    """Checklist 5. MemoryError is an error like others: the slot lives, and has its memory back."""
    ex = make(1)
    slot = ex.submit(payloads.pid).result(SOON)
    assert isinstance(error_of(ex.submit(payloads.fill_memory, 64 << 20)), MemoryError)
    assert ex.submit(payloads.pid).result(SOON) == slot
    # In small pieces: what lies between them may leave no room for a large one.
    assert ex.submit(payloads.memory_left, 48 << 20).result(SOON) == 48 << 20
    assert ex.submit(payloads.pid).result(SOON) == slot


def test_memory_that_runs_out_over_a_result_is_that_calls_error(make: Make) -> None:
    """Checklist 5, 14. The value exists, its pickle does not fit."""
    ex = make(1)
    error = error_of(ex.submit(payloads.swelling_result, 64 << 20, 16 << 20))
    assert "MemoryError" in repr(error) + str(error)
    assert ex.submit(payloads.echo, 1).result(SOON) == 1


def test_memory_that_runs_out_over_an_argument_is_that_calls_error(make: Make) -> None:
    """Checklist 5, 13. The slot cannot hold what it is sent, and lives."""
    ex = make(1)
    ex.submit(payloads.limit_memory, 16 << 20).result(SOON)
    slot = ex.submit(payloads.pid).result(SOON)
    error = error_of(ex.submit(len, bytes(64 << 20)))
    assert isinstance(error, CallDeserializationError)
    assert "MemoryError" in str(error)
    assert ex.submit(payloads.pid).result(SOON) == slot


def test_a_call_that_cannot_be_opened_in_a_slot_without_descriptors_says_so(make: Make) -> None:
    """Nothing can be imported there, and the class of the error needs multiprocessing."""
    ex = make(1)
    ex.submit(payloads.leave_no_descriptor).result(SOON)
    slot = ex.submit(payloads.pid).result(SOON)
    assert type(error_of(ex.submit(payloads.echo, payloads.Harm("open on slot", "raise")))) is CallDeserializationError
    assert ex.submit(payloads.pid).result(SOON) == slot


def test_what_a_call_raises_in_a_slot_without_descriptors_says_where(make: Make) -> None:
    """The module that formats a traceback may not be loaded by then."""
    ex = make(1)
    ex.submit(payloads.leave_no_descriptor).result(SOON)
    error = error_of(ex.submit(payloads.fail, LookupError("no")))
    assert type(error) is LookupError
    assert "in fail" in str(error.__cause__)


def test_an_argument_that_kills_each_slot_before_its_call_begins_is_given_up(
    make: Make, mailbox: Mailbox, gate: Gate
) -> None:
    """Checklist 5, 24. As when the kernel's choice is always the slot that takes it; it never starts, so no retry is
    spent that could run out.
    """
    ex = make(2, initializer=payloads.die_of_large_arguments)
    neighbour = ex.submit(payloads.hold, mailbox.path, gate.path, "unharmed")
    mailbox.read()
    # More than is ever under way to a slot at once: so it cannot have had all of it.
    error = error_of(ex.options(retries=1).submit(len, bytes(16 << 20)), SOON)
    assert isinstance(error, RunnerLostError)
    assert error.signal == signal.SIGKILL
    assert not error.may_have_started
    assert ex.submit(payloads.echo, 1).result(SOON) == 1
    gate.open()
    assert neighbour.result(SOON) == "unharmed"


def test_the_agents_death_fails_every_call_on_it_and_the_pool_boots_anew(make: Make, mailbox: Mailbox) -> None:
    """Checklist 5. All slots go with it."""
    ex = make(3)
    agent = ex.submit(payloads.agent_pid).result(SOON)
    futures = [ex.submit(payloads.hold_for_good, mailbox.path) for _ in range(3)]
    slots = mailbox.numbers(3)
    with watching(agent, *slots) as watches:
        os.kill(agent, signal.SIGKILL)
        errors = [error_of(future, SOON) for future in futures]
        assert [type(error) for error in errors] == [RunnerLostError] * 3
        assert all(error.may_have_started for error in errors)
        assert all_ended(watches)
    assert ex.submit(payloads.agent_pid).result(SOON) != agent


def test_a_call_may_kill_its_own_agent(make: Make) -> None:
    """Checklist 5, 21. Queued calls go on with the next runner, and this one is not tried again."""
    ex = make(1)
    hit = ex.submit(payloads.kill_agent)
    after = ex.submit(payloads.echo, "after")
    assert isinstance(error_of(hit, SOON), RunnerLostError)
    # It may have been on the agent already, waiting for the slot; if it was not, it must run.
    end = after.exception(SOON)
    assert end is None or isinstance(end, RunnerLostError)
    assert ex.submit(payloads.echo, 1).result(SOON) == 1


def test_the_death_of_an_idle_agent_costs_no_call(make: Make) -> None:
    """Checklist 5."""
    ex = make(1)
    for _ in range(3):
        agent = ex.submit(payloads.agent_pid).result(SOON)
        kill_and_wait(agent)
        # The kernel closed the link before it reported the end: the engine hears of that before of this call.
        assert ex.submit(payloads.agent_pid).result(SOON) != agent


def test_one_runner_of_several_dies_and_the_others_keep_their_calls(mailbox: Mailbox, gate: Gate) -> None:
    """Checklist 5. Runners are apart from each other."""
    with Pool("apart", min=0, max=3, max_concurrency=1, timeout=None) as pool:
        futures = [pool.submit(payloads.hold, mailbox.path, gate.path, n) for n in range(3)]
        slots = mailbox.numbers(3)
        with watching(slots[0]) as watches:
            os.kill(_parent_of(slots[0]), signal.SIGKILL)
            assert all_ended(watches)
        gate.open(2)
        ends = [future.exception(SOON) for future in futures]
        assert sorted(type(end).__name__ for end in ends) == ["NoneType", "NoneType", "RunnerLostError"]


def _parent_of(pid: int) -> int:
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
        return int(stat.read().rpartition(")")[2].split()[1])


SLEEPERS = ["plain", "session", "daemon", "exec", "exec session", "exec empty", "exec empty session"]


@pytest.mark.parametrize("how", SLEEPERS)
def test_a_grandchild_neither_hides_its_slots_death_nor_outlives_it(how: str, make: Make, mailbox: Mailbox) -> None:
    """Checklist 38. A forked one holds every descriptor of the slot open."""
    ex = make(2)
    future = ex.submit(payloads.hold_with_sleeper, mailbox.path, how)
    slot, sleeper = map(int, mailbox.read().split())
    with watching(slot, sleeper) as watches:
        os.kill(slot, signal.SIGKILL)
        assert isinstance(error_of(future, SOON), RunnerLostError)
        assert all_ended(watches)
    assert ex.submit(payloads.echo, 1).result(SOON) == 1


# A program without the inherited environment and outside the slot's session cannot be told from a stranger, once the
# agent that would have adopted it has been killed.
@pytest.mark.parametrize("how", [how for how in SLEEPERS if how != "exec empty session"])
def test_a_grandchild_neither_hides_its_agents_death_nor_outlives_it(how: str, make: Make, mailbox: Mailbox) -> None:
    """Checklist 38, 5."""
    ex = make(2)
    agent = ex.submit(payloads.agent_pid).result(SOON)
    future = ex.submit(payloads.hold_with_sleeper, mailbox.path, how)
    slot, sleeper = map(int, mailbox.read().split())
    with watching(agent, slot, sleeper) as watches:
        os.kill(agent, signal.SIGKILL)
        assert isinstance(error_of(future, SOON), RunnerLostError)
        assert all_ended(watches)
    assert ex.submit(payloads.agent_pid).result(SOON) != agent


class BuggyBackend(LocalBackend):
    """Its agents fail when they are told to stop a call."""

    def _command(self, inherited: list[int]) -> list[str]:
        *command, code = super()._command(inherited)
        bug = (
            "from dragonfly_executor.runner.dispatch import Dispatcher\n"
            "def injected_bug(*ignored):\n"
            "    raise LookupError('injected')\n"
            "Dispatcher.kill = injected_bug\n"
        )
        start = code.index("from dragonfly_executor")
        return [*command, code[:start] + bug + code[start:]]


def test_a_bug_in_the_agent_is_told_and_leaves_nothing_behind(
    make: Make, mailbox: Mailbox, capfd: pytest.CaptureFixture[str]
) -> None:
    """Checklist 5, 38, 66. The sleeper is one that nobody but the agent could find."""
    ex = make(2, backend=BuggyBackend())
    agent = ex.submit(payloads.agent_pid).result(SOON)
    cancelled, other = (ex.submit(payloads.hold_with_sleeper, mailbox.path, "exec empty session") for _ in range(2))
    numbers = [int(number) for _ in range(2) for number in mailbox.read().split()]
    with watching(agent, *numbers) as watches:
        cancelled.cancel()
        assert isinstance(error_of(other, SOON), RunnerLostError)
        assert all_ended(watches)
    told = capfd.readouterr().err
    assert told.startswith("Traceback (most recent call last):\n")
    assert "in injected_bug" in told
    assert told.endswith("LookupError: injected\n")
    assert told.count("Traceback") == 1
    assert ex.submit(payloads.agent_pid).result(SOON) != agent


def test_what_a_call_left_running_goes_with_the_slot_at_the_latest(make: Make) -> None:
    """Checklist 38. The call is over, its children are not: shutdown leaves none."""
    ex = make(1)
    sleepers = [ex.submit(payloads.start_sleeper, how).result(SOON) for how in SLEEPERS]
    with watching(*sleepers) as watches:
        ex.shutdown()
        assert all_ended(watches)


def test_a_process_that_goes_on_forking_does_not_escape(make: Make, mailbox: Mailbox) -> None:
    """Checklist 38, 64. Each generation starts the next one, in a session of its own, and ends."""
    ex = make(1)
    future = ex.submit(payloads.keep_forking, mailbox.path)
    mailbox.numbers(20)
    assert future.cancel()
    ex.shutdown()
    # The census of this test finds whoever is left.
    assert future.cancelled()


def test_sys_exit_and_keyboard_interrupt_are_results_like_others(make: Make) -> None:
    """Checklist 15. They end the call, and not the slot."""
    ex = make(1)
    slot = ex.submit(payloads.pid).result(SOON)
    for raised in (SystemExit(3), KeyboardInterrupt(), GeneratorExit(), payloads.Base("base")):
        error = error_of(ex.submit(payloads.fail, raised), SOON)
        assert type(error) is type(raised)
        assert error.args == raised.args
    assert ex.submit(payloads.pid).result(SOON) == slot


def test_an_agent_that_is_told_to_end_finishes_its_calls_and_gets_no_more(
    make: Make, mailbox: Mailbox, gate: Gate, log: Path
) -> None:
    """A service manager, or a cloud that wants its machine, sends SIGTERM: nothing is lost or runs twice."""
    ex = make(2, max=2, max_concurrency=1)
    running = ex.submit(payloads.hold, mailbox.path, gate.path, "finished")
    mailbox.read()
    agent = process_tree.children(os.getpid())[0]
    with watching(agent) as (watch,):
        os.kill(agent, signal.SIGTERM)
        later = [ex.submit(payloads.log_run, str(log), n) for n in range(50)]
        values(later)
        assert not running.done()
        gate.open()
        assert running.result(SOON) == "finished"
        assert watch.ended(SOON)
    assert sorted(int(line.split()[0]) for line in log.read_text().splitlines()) == list(range(50))


def test_an_idle_agent_that_is_told_to_end_loses_no_call_that_was_just_sent(make: Make, log: Path) -> None:
    """Whichever of the two, the call or the signal, comes first."""
    ex = make(1)
    for n in range(20):
        agent = ex.submit(payloads.agent_pid).result(SOON)
        os.kill(agent, signal.SIGTERM)
        values([ex.submit(payloads.log_run, str(log), n)])
    assert [int(line.split()[0]) for line in log.read_text().splitlines()] == list(range(20))
