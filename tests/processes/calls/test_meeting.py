"""Calls that wait for each other meet, if the pool has slots for both, whatever batch they travelled in."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from dragonfly_executor import DragonflyExecutor, Pool
from tests.processes.conftest import Make
from tests.support import payloads
from tests.support.helpers import PATIENCE, SOON, Gate, Mailbox, values

Places = Callable[[], tuple[str, str]]


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """Makes two places where two calls can wait for each other."""
    numbers = count()

    def make() -> tuple[str, str]:
        number = next(numbers)
        pair = str(tmp_path / f"{number}-here"), str(tmp_path / f"{number}-there")
        for place in pair:
            os.mkfifo(place)
        return pair

    return make


def train(ex: DragonflyExecutor, calls: int = 3000) -> None:
    """Make all that guesses what calls cost guess next to nothing."""
    values(ex.submit(payloads.nothing) for _ in range(calls))


def test_two_calls_that_wait_for_each_other_meet_on_two_slots(make: Make, places: Places) -> None:
    """Submitted one right after the other, before anything is known of what calls cost."""
    ex = make(2)
    here, there = places()
    assert values([ex.submit(payloads.meet, here, there, 1), ex.submit(payloads.meet, there, here, 2)]) == [1, 2]


def test_they_meet_right_after_thousands_of_no_ops(make: Make, places: Places) -> None:
    """When hundreds of calls travel together and are queued in the slots."""
    ex = make(2)
    for _ in range(10):
        train(ex, 1000)
        here, there = places()
        assert values([ex.submit(payloads.meet, here, there, 1), ex.submit(payloads.meet, there, here, 2)]) == [1, 2]


@pytest.mark.parametrize("between", [0, 1, 2, 3, 7, 40, 150])
def test_they_meet_whatever_stands_between_them(between: int, make: Make, places: Places) -> None:
    """No-ops before, between and behind, so that the two sit anywhere in a batch, in one slot's queue or in two."""
    ex = make(2)
    train(ex)
    here, there = places()
    futures = [ex.submit(payloads.echo, n) for n in range(between)]
    futures.append(ex.submit(payloads.meet, here, there, "a"))
    futures += [ex.submit(payloads.echo, n) for n in range(between)]
    futures.append(ex.submit(payloads.meet, there, here, "b"))
    futures += [ex.submit(payloads.echo, n) for n in range(between)]
    plain = list(range(between))
    assert values(futures) == [*plain, "a", *plain, "b", *plain]


def test_they_meet_while_a_third_call_holds_the_gil(make: Make, places: Places, mailbox: Mailbox) -> None:
    """Three slots: what has been queued behind the third one must not need its consent to leave."""
    ex = make(3)
    train(ex)
    here, there = places()
    futures = [ex.submit(payloads.hold_the_gil, mailbox.path)]
    futures += [ex.submit(payloads.echo, n) for n in range(20)]
    futures += [ex.submit(payloads.meet, here, there, 1), ex.submit(payloads.meet, there, here, 2)]
    mailbox.read()
    assert values(futures[1:]) == [*range(20), 1, 2]
    assert not futures[0].done()


def test_many_pairs_meet_on_just_as_many_slots(make: Make, places: Places) -> None:
    """Four slots, two pairs at a time, the pairs mixed up."""
    ex = make(4)
    train(ex)
    for _ in range(5):
        (a, b), (c, d) = places(), places()
        calls = [(a, b), (c, d), (b, a), (d, c)]
        assert values(ex.submit(payloads.meet, *pair, n) for n, pair in enumerate(calls)) == [0, 1, 2, 3]


def test_a_call_that_waits_for_the_one_submitted_before_it_was_started_meets_it(make: Make, places: Places) -> None:
    """The other order: the slot that is free takes what stands behind a call that waits."""
    ex = make(2)
    train(ex)
    here, there = places()
    first = ex.submit(payloads.meet, here, there, 1)
    behind = [ex.submit(payloads.echo, n) for n in range(200)]
    assert values(behind) == list(range(200))
    assert not first.done()
    assert ex.submit(payloads.meet, there, here, 2).result(PATIENCE) == 2
    assert first.result(SOON) == 1


def test_cheap_calls_do_not_wait_behind_a_long_one(make: Make, mailbox: Mailbox, gate: Gate) -> None:
    """One slot is held; every other call goes through the other one."""
    ex = make(2)
    train(ex)
    futures = [ex.submit(payloads.echo, n) for n in range(30)]
    held = ex.submit(payloads.hold, mailbox.path, gate.path, "held")
    futures += [ex.submit(payloads.echo, n) for n in range(30, 400)]
    assert values(futures) == list(range(400))
    assert not held.done()
    gate.open()
    assert held.result(SOON) == "held"


def test_they_meet_on_runners_of_one_slot_each(places: Places) -> None:
    """Calls that were sent ahead to one runner come back and go to the next one, which boots for them."""
    with Pool("apart", min=0, max=2, max_concurrency=1, timeout=None) as pool:
        values(pool.submit(payloads.nothing) for _ in range(2000))
        for _ in range(3):
            here, there = places()
            futures = [pool.submit(payloads.meet, here, there, 1), pool.submit(payloads.meet, there, here, 2)]
            assert values(futures) == [1, 2]


def test_the_first_two_calls_of_a_pool_meet_on_two_runners(places: Places) -> None:
    """Both go to the runner that is up first, whose agent has one slot: one of them must come back."""
    for _ in range(3):
        with Pool("cold", min=0, max=2, max_concurrency=1, timeout=None) as pool:
            here, there = places()
            futures = [pool.submit(payloads.meet, here, there, 1), pool.submit(payloads.meet, there, here, 2)]
            assert values(futures) == [1, 2]


def test_calls_queued_in_the_only_slot_meet_on_a_runner_that_comes_later(places: Places) -> None:
    """No slot at hand can take what is stuck in this one: it goes back all the way."""
    with Pool("later", min=0, max=1, max_concurrency=1, timeout=None) as pool:
        values(pool.submit(payloads.nothing) for _ in range(3000))
        here, there = places()
        futures = [pool.submit(payloads.meet, here, there, 1), pool.submit(payloads.meet, there, here, 2)]
        futures += [pool.submit(payloads.echo, n) for n in range(20)]
        pool.resize(max=2)
        assert values(futures) == [1, 2, *range(20)]


def test_they_meet_as_large_payloads(make: Make, places: Places) -> None:
    """A large argument is on its way to one slot while the other call waits for its own."""
    ex = make(2)
    train(ex)
    here, there = places()
    value = os.urandom(3 << 20)
    futures = [ex.submit(payloads.meet, here, there, value), ex.submit(payloads.meet, there, here, value)]
    assert values(futures) == [value, value]


def test_they_meet_in_slots_that_take_one_call_each(make: Make, places: Places) -> None:
    """Every call needs a new slot, and the two need two at the same time."""
    ex = make(2, max_tasks_per_child=1)
    for _ in range(5):
        here, there = places()
        assert values([ex.submit(payloads.meet, here, there, 1), ex.submit(payloads.meet, there, here, 2)]) == [1, 2]


def test_they_meet_in_a_map(make: Make, places: Places) -> None:
    """As in a lazy window, which must hold both."""
    ex = make(2)
    here, there = places()
    assert list(ex.map(payloads.meet, iter([here, there]), iter([there, here]), [1, 2])) == [1, 2]
