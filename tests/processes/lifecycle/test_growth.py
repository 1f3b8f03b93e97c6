"""How many runners there are: real ones, on this machine."""

from __future__ import annotations

import os
import signal
from collections import Counter
from functools import partial

import pytest

from dragonfly_executor import Pool
from tests.engine.conftest import MakeExecutor, MakePool
from tests.support.helpers import PATIENCE, Events, Gate, Mailbox, all_ended, ended_of, values, watching
from tests.support.payloads import (
    agent_pid,
    echo,
    hold_and_say_where,
    nested_stats,
    pid,
    say_where_and_agree,
    say_where_and_fail,
)


def places(mailbox: Mailbox, count: int) -> Counter[int]:
    """How many of the next `count` calls run at once on each agent; each on a slot of its own."""
    lines = [mailbox.read().split() for _ in range(count)]
    assert len({slot for slot, _ in lines}) == count
    return Counter(int(agent) for _, agent in lines)


def test_five_runners_of_two_slots_are_five_agents(make_pool: MakePool, mailbox: Mailbox, gate: Gate) -> None:
    """Design §6: up to max runners of max_concurrency slots, and no more."""
    pool = make_pool(max=5, max_concurrency=2)
    futures = [pool.submit(hold_and_say_where, mailbox.path, gate.path) for _ in range(12)]
    agents = places(mailbox, 10)
    assert sorted(agents.values()) == [2, 2, 2, 2, 2]
    assert all(os.getsid(agent) == agent for agent in agents), "an agent has a session of its own"
    stats = pool.stats()
    assert (stats.runners_up, stats.slots_busy, stats.slots_free) == (5, 10, 0)
    assert stats.limits_that_bind == ("max",)
    gate.open(12)
    values(futures)
    # The last two may have had the same slot, one after the other.
    assert {int(mailbox.read().split()[1]) for _ in range(2)} <= set(agents)


@pytest.mark.parametrize(("calls", "runners"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)])
def test_a_pool_grows_only_as_far_as_the_waiting_calls_need(
    make_pool: MakePool, mailbox: Mailbox, gate: Gate, calls: int, runners: int
) -> None:
    """Design §6: never more boots than the waiting calls need."""
    pool = make_pool(max=9, max_concurrency=2)
    futures = [pool.submit(hold_and_say_where, mailbox.path, gate.path) for _ in range(calls)]
    places(mailbox, calls)
    stats = pool.stats()
    assert (stats.runners_up, stats.runners_booting, stats.boots_attempted) == (runners, 0, runners)
    gate.open(calls)
    values(futures)


def test_cheap_calls_one_after_another_need_one_runner(make_pool: MakePool) -> None:
    """Design §6: what a free slot can take boots nobody."""
    pool = make_pool(max=5, max_concurrency=2)
    assert [pool.call(echo, number) for number in range(100)] == list(range(100))
    assert pool.stats().boots_attempted == 1


def test_max_workers_caps_the_calls_over_all_runners(make_pool: MakePool, mailbox: Mailbox, gate: Gate) -> None:
    """Design §4."""
    pool = make_pool(max=5, max_concurrency=2, max_workers=3)
    futures = [pool.submit(hold_and_say_where, mailbox.path, gate.path) for _ in range(6)]
    assert sum(places(mailbox, 3).values()) == 3
    stats = pool.stats()
    assert stats.calls_sent == 3
    assert stats.runners_up + stats.runners_booting == 2
    assert "max_workers" in stats.limits_that_bind
    gate.open(6)
    values(futures)


# -- min ---------------------------------------------------------------------------------------------------------------


def test_min_runners_are_booted_at_once_and_kept(make_pool: MakePool) -> None:
    """Design §6, invariant 6: nobody has to call for them, and being idle does not end them."""
    events = Events()
    pool = make_pool(min=2, max=3, idle_shutdown_after=0.001, on_event=events)
    for _ in range(2):
        events.wait("up")
    assert pool.stats().runners_up == 2


def test_a_min_runner_that_is_killed_is_replaced_without_a_call(make_pool: MakePool) -> None:
    """Design §6, invariant 6."""
    events = Events()
    pool = make_pool(min=2, max=3, on_event=events)
    for _ in range(2):
        events.wait("up")
    killed = pool.call(agent_pid)
    os.kill(killed, signal.SIGKILL)
    assert events.wait("up")["runner_id"] == 3
    stats = pool.stats()
    assert (stats.min, stats.runners_up) == (2, 2)
    assert pool.call(agent_pid) != killed


def test_min_is_0_inside_a_runner(make_pool: MakePool) -> None:
    """Design §4: a pool that an application makes when it starts must not boot itself on and on."""
    assert make_pool().call(nested_stats, 2) == (0, 0)


# -- the end of a runner -----------------------------------------------------------------------------------------------


def test_an_idle_runner_goes_and_the_next_call_boots_another(make_pool: MakePool) -> None:
    """Design §4: idle_shutdown_after."""
    pool = make_pool(idle_shutdown_after=0.05)
    agent = pool.call(agent_pid)
    with watching(agent) as watches:
        assert all_ended(watches)
    assert pool.call(agent_pid) != agent


def test_a_busy_runner_is_not_idle(make_pool: MakePool, mailbox: Mailbox, gate: Gate) -> None:
    """Design §4: idle_shutdown_after counts from the end of the last call."""
    pool = make_pool(idle_shutdown_after=0.01)
    future = pool.submit(hold_and_say_where, mailbox.path, gate.path)
    with watching(*places(mailbox, 1)) as watches:
        assert not all_ended(watches, 0.2)
        gate.open()
        values([future])
        assert all_ended(watches)


def test_the_idle_check_runs_on_the_runner_and_lets_it_go(make_pool: MakePool, mailbox: Mailbox) -> None:
    """Design §4: (seconds, check)."""
    pool = make_pool(idle_shutdown_after=(0.05, partial(say_where_and_agree, mailbox.path)))
    agent = pool.call(agent_pid)
    with watching(agent) as watches:
        assert set(places(mailbox, 1)) == {agent}
        assert all_ended(watches)


def test_a_runner_whose_idle_check_fails_stays_and_is_asked_again(
    make_pool: MakePool, mailbox: Mailbox, capfd: pytest.CaptureFixture[str]
) -> None:
    """Design §4: the check is the user's code."""
    pool = make_pool(idle_shutdown_after=(0.02, partial(say_where_and_fail, mailbox.path)))
    agent = pool.call(agent_pid)
    for _ in range(3):
        assert mailbox.read().split()[1] == str(agent)
    assert pool.call(agent_pid) == agent
    assert "LookupError: the check itself fails" in capfd.readouterr().err


def test_a_single_use_runner_goes_after_its_first_call(make_pool: MakePool) -> None:
    """Design §4: single_use."""
    pool = make_pool(max=2, single_use=True)
    agents = [pool.call(agent_pid) for _ in range(4)]
    assert len(set(agents)) == 4
    pool.shutdown()
    assert pool.stats().boots_attempted == 4


def test_a_single_use_runner_never_has_two_calls(make_pool: MakePool, mailbox: Mailbox, gate: Gate) -> None:
    """Design §4: single_use, whatever max_concurrency says."""
    pool = make_pool(max=2, single_use=True, max_concurrency=4)
    futures = [pool.submit(hold_and_say_where, mailbox.path, gate.path) for _ in range(4)]
    first = places(mailbox, 2)
    gate.open(4)
    second = places(mailbox, 2)
    values(futures)
    assert sorted((first + second).values()) == [1, 1, 1, 1]


def test_max_tasks_per_child_replaces_slots_and_keeps_the_runner(make: MakeExecutor) -> None:
    """Design §4: as ProcessPoolExecutor does with its workers."""
    executor = make(1, max_tasks_per_child=2)
    slots = [executor.submit(pid).result(PATIENCE) for _ in range(6)]
    assert slots == [slots[0]] * 2 + [slots[2]] * 2 + [slots[4]] * 2
    assert len(set(slots)) == 3
    assert executor.pool.stats().boots_attempted == 1


# -- resize ------------------------------------------------------------------------------------------------------------


def test_a_larger_max_lets_waiting_calls_have_more_runners(make_pool: MakePool, mailbox: Mailbox, gate: Gate) -> None:
    """Resize at run time, up."""
    pool = make_pool(max=1, max_concurrency=1)
    futures = [pool.submit(hold_and_say_where, mailbox.path, gate.path) for _ in range(3)]
    places(mailbox, 1)
    pool.resize(max=3)
    assert len(places(mailbox, 2)) == 2
    assert pool.stats().max == 3
    gate.open(3)
    values(futures)


def test_a_smaller_max_lets_calls_finish_before_runners_go(make_pool: MakePool, mailbox: Mailbox, gate: Gate) -> None:
    """Resize at run time, down."""
    events = Events()
    pool = make_pool(max=3, max_concurrency=1, on_event=events)
    futures = [pool.submit(hold_and_say_where, mailbox.path, gate.path) for _ in range(4)]
    with watching(*places(mailbox, 3)) as watches:
        pool.resize(max=1)
        assert not any(future.done() for future in futures)
        gate.open(4)
        values(futures)
        assert [events.wait("down")["text"].partition(": ")[2] for _ in range(2)] == ["resized", "resized"]
        assert ended_of(watches, 2) == 2
    assert pool.stats().runners_up == 1


def test_a_larger_min_boots_and_a_smaller_one_lets_go(make_pool: MakePool) -> None:
    """Resize of min."""
    events = Events()
    pool = make_pool(min=0, max=2, idle_shutdown_after=0.02, on_event=events)
    pool.resize(min=2)
    for _ in range(2):
        events.wait("up")
    pool.resize(min=0)
    for _ in range(2):
        assert events.wait("down")["text"].endswith("idle")


@pytest.mark.parametrize("bounds", [{"max": 0}, {"min": -1}, {"min": 3}, {"max": 1, "min": 2}])
def test_bounds_that_make_no_sense_are_refused(make_pool: MakePool, bounds: dict[str, int]) -> None:
    pool = make_pool(min=0, max=2)
    with pytest.raises(ValueError, match=r"m(ax|in) must be at"):
        pool.resize(**bounds)
    assert (pool.stats().min, pool.stats().max) == (0, 2)


def test_a_pool_that_was_shut_down_cannot_be_resized(make_pool: MakePool) -> None:
    pool: Pool = make_pool()
    pool.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.resize(max=2)
