"""What a pool measures of its boots and its calls."""

from __future__ import annotations

import pytest

from dragonfly_executor.core import key_costs
from dragonfly_executor.core.boot_times import BootTimes
from dragonfly_executor.core.call_costs import CallCosts
from dragonfly_executor.core.call_queue import CallQueue
from dragonfly_executor.core.calls import Call, CallLimits, QueueTotal
from dragonfly_executor.core.key_costs import KeyCosts

# -- boots -------------------------------------------------------------------------------------------------------------


def boots_of(*seconds: float) -> BootTimes:
    times = BootTimes()
    for number, each in enumerate(seconds):
        times.began(number, 100.0)
        times.ended(number, 100.0 + each)
    return times


def test_the_mean_is_of_the_boots_that_succeeded() -> None:
    assert boots_of().seconds is None
    assert boots_of(10.0, 20.0).seconds == 15.0
    times = boots_of(10.0)
    times.began(7, 0.0)
    times.ended(7)
    assert times.seconds == 10.0, "a boot that failed says nothing"
    times.ended(8, 500.0)
    assert times.seconds == 10.0, "nor does one of which the start is unknown"


def test_old_boots_count_less_and_less() -> None:
    seconds = boots_of(*[10.0] * 100, *[20.0] * 8).seconds
    assert seconds is not None
    assert 16.0 < seconds < 20.0
    assert (boots_of(0.0).seconds or 0.0) > 0.0, "other times are multiples of it"


def test_the_time_of_pending_boots_grows() -> None:
    times = BootTimes()
    times.began(1, 100.0)
    times.began(2, 104.0)
    times.began(2, 109.0)
    assert times.spent(110.0) == 16.0, "a boot begins once"
    times.ended(1, 110.0)
    assert times.spent(110.0) == 6.0
    times.ended(2)
    times.ended(2)
    assert times.spent(110.0) == 0.0


# -- calls -------------------------------------------------------------------------------------------------------------


QUEUE = CallQueue({}, QueueTotal())


def call(number: int) -> Call:
    made = Call(number, b"", None, CallLimits())
    made.queue = QUEUE
    return made


def test_the_means_are_of_the_calls_that_ended() -> None:
    costs = CallCosts()
    assert (costs.mean.value, costs.capped.value) == (None, None)
    first, second, third = call(1), call(2), call(3)
    costs.sent([first, second, third], 0.0)
    costs.ended(first, 2.0)
    assert (costs.mean.value, costs.capped.value) == (2.0, None), "there is no cap yet"
    costs.cap = 3.0
    costs.ended(second, 10.0)
    assert (costs.mean.value, costs.capped.value) == (6.0, 3.0)
    costs.left(third)
    assert costs.mean.value == 6.0, "a call that was lost did not take its time"
    assert costs.oldest_sent is None


def test_a_call_becomes_long_once_and_counts_in_the_capped_mean_then() -> None:
    costs, first, second = CallCosts(), call(1), call(2)
    costs.ended(call(9), 2.5)
    costs.sent([first], 0.0)
    costs.sent([second], 2.0)
    assert costs.oldest_sent == 0.0
    assert costs.long_after is None, "there is no cap yet"
    costs.cap = 3.0
    assert costs.long_after == 5.0, "twice the mean"
    costs.review(4.0, 5.0)
    assert not costs.long
    costs.review(5.0, 5.0)
    costs.review(6.0, 5.0)
    assert costs.long == {first}
    assert costs.capped.value == 3.0
    assert costs.oldest_sent == 2.0
    costs.ended(first, 60.0)
    costs.ended(second, 1.0)
    assert not costs.long
    assert costs.capped.value == 2.0, "the long call counted before it ended"
    assert costs.mean.value == 63.5 / 3


def test_a_long_call_that_is_lost_is_forgotten() -> None:
    costs, lost = CallCosts(), call(1)
    costs.cap = 3.0
    costs.sent([lost], 0.0)
    costs.review(9.0, 5.0)
    assert costs.long
    costs.left(lost)
    assert not costs.long


def test_the_mean_follows_calls_that_change() -> None:
    costs = CallCosts()
    for number in range(1000):
        costs.ended(call(number), 1.0)
    for number in range(1000):
        costs.ended(call(number), 5.0)
    assert costs.mean.value is not None
    assert 4.5 < costs.mean.value < 5.0


# -- calls with keys ---------------------------------------------------------------------------------------------------


class Keyed:
    """The measurements of calls with keys, with a cap of 3 s."""

    def __init__(self) -> None:
        self.queue = CallQueue({}, QueueTotal(), measures_keys=True)
        self.costs = CallCosts()
        self.costs.cap = 3.0

    @property
    def keys(self) -> KeyCosts:
        assert self.queue.key_costs is not None
        return self.queue.key_costs

    def waits(self, key: int, count: int = 1) -> list[Call]:
        calls = [Call(0, b"", None, CallLimits(key=key)) for _ in range(count)]
        for each in calls:
            each.queue = self.queue
            self.queue.note_key(key)
        return calls

    def runs(self, key: int, count: int = 1) -> list[Call]:
        calls = self.waits(key, count)
        self.costs.sent(calls, 0.0)
        return calls

    def took(self, key: int, seconds: float) -> None:
        for each in self.runs(key):
            self.costs.ended(each, seconds)


def test_calls_that_wait_are_expected_to_take_what_those_of_their_key_took() -> None:
    pool = Keyed()
    pool.took(1, 0.2)
    pool.took(2, 20.0)
    pool.waits(1, 10)
    pool.waits(2, 2)
    work = pool.keys.waiting
    assert work.calls == 12
    assert work.capped == pytest.approx(10 * 0.2 + 2 * 3.0)
    assert work.seconds == pytest.approx(10 * 0.2 + 2 * 20.0)


def test_a_mean_that_changes_changes_the_work_of_the_calls_that_wait() -> None:
    pool = Keyed()
    pool.took(1, 1.0)
    waiting = pool.waits(1, 10)
    pool.took(1, 2.0)
    assert (pool.keys.waiting.capped, pool.keys.waiting.seconds) == pytest.approx((15.0, 15.0))
    pool.costs.sent(waiting[:4], 0.0)
    assert (pool.keys.waiting.calls, pool.keys.running.calls) == (6, 4)
    pool.keys.unqueued(1)
    pool.costs.left(waiting[0])
    pool.costs.ended(waiting[1], 1.5)
    assert (pool.keys.waiting.calls, pool.keys.running.calls) == (5, 2)
    assert pool.keys.running.seconds == pytest.approx(3.0)


def test_many_calls_of_a_key_that_is_new_count_for_less() -> None:
    pool = Keyed()
    calls = pool.waits(1, 100)
    pool.waits(2, 1)
    assert (pool.keys.new_calls, pool.keys.new_weight) == pytest.approx((101, 21.0))
    pool.costs.sent(calls[:1], 0.0)
    pool.costs.ended(calls[0], 1.0)
    assert (pool.keys.new_calls, pool.keys.new_weight) == pytest.approx((1, 1.0))
    assert pool.keys.waiting.calls == 99


def test_a_running_call_tells_of_its_key_once_it_is_long() -> None:
    pool = Keyed()
    calls = pool.waits(1, 5)
    pool.costs.sent(calls[:1], 0.0)
    pool.costs.review(3.0, 3.0)
    assert pool.costs.long == {calls[0]}
    assert (pool.keys.waiting.capped, pool.keys.waiting.seconds) == (4 * 3.0, 4 * 3.0)
    assert pool.keys.running.calls == 0
    pool.costs.ended(calls[0], 60.0)
    assert (pool.keys.waiting.capped, pool.keys.waiting.seconds) == (4 * 3.0, 4 * 60.0)


def test_a_call_of_a_key_whose_calls_are_long_is_long_at_once() -> None:
    pool = Keyed()
    for _ in range(100):
        pool.took(1, 0.1)
    pool.took(2, 31.0)
    pool.took(3, 29.0)
    short, long, slow = pool.runs(1)[0], pool.runs(2)[0], pool.runs(3)[0]
    assert pool.costs.long == {long}
    assert list(pool.costs.running) == [short, slow]


def test_a_call_of_a_slow_key_is_long_after_twice_the_mean_of_its_key() -> None:
    pool = Keyed()
    for _ in range(100):
        pool.took(1, 0.1)
    pool.took(2, 20.0)
    pool.took(3, 10.0)
    (first, second), third = pool.runs(2, 2), pool.runs(3)[0]
    assert pool.costs.next_long() == 3.0
    pool.costs.review(3.0, 3.0)
    assert (pool.costs.usual, pool.keys.running.calls) == (3, 3)
    assert pool.costs.next_long() == 20.0
    pool.costs.ended(third, 10.0)
    assert pool.costs.next_long() == 40.0
    pool.costs.left(first)
    pool.costs.review(39.0, 3.0)
    assert not pool.costs.long
    pool.costs.review(40.0, 3.0)
    assert pool.costs.long == {second}
    assert (pool.costs.usual, pool.keys.running.calls, pool.costs.next_long()) == (0, 0, None)


def test_keys_without_a_call_are_forgotten_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_costs, "MAX_KEYS", 2)
    pool = Keyed()
    waiting = pool.waits(9)
    for key in (1, 2, 3):
        pool.took(key, 1.0)
    assert [pool.keys.seconds_of(key) for key in (1, 2, 3)] == [0.0, 1.0, 1.0]
    pool.took(2, 1.0)
    pool.took(4, 1.0)
    assert [pool.keys.seconds_of(key) for key in (2, 3, 4)] == [1.0, 0.0, 1.0]
    pool.costs.sent(waiting, 0.0)
    pool.costs.ended(waiting[0], 5.0)
    assert pool.keys.seconds_of(9) == 5.0, "a key with a call is not forgotten"
