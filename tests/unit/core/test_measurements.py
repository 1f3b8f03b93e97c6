"""What a pool measures of its boots and its calls."""

from __future__ import annotations

from dragonfly_executor.core.boot_times import BootTimes
from dragonfly_executor.core.call_costs import CallCosts
from dragonfly_executor.core.calls import Call, CallLimits

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


def call(number: int) -> Call:
    return Call(number, b"", None, CallLimits())


def test_the_means_are_of_the_calls_that_ended() -> None:
    costs = CallCosts()
    assert (costs.mean.value, costs.capped.value) == (None, None)
    costs.sent([call(1), call(2), call(3)], 0.0)
    costs.ended(call(1), 2.0)
    assert (costs.mean.value, costs.capped.value) == (2.0, None), "there is no cap yet"
    costs.cap = 3.0
    costs.ended(call(2), 10.0)
    assert (costs.mean.value, costs.capped.value) == (6.0, 3.0)
    costs.left(call(3))
    assert costs.mean.value == 6.0, "a call that was lost did not take its time"
    assert costs.oldest_running is None


def test_a_call_becomes_long_once_and_counts_in_the_capped_mean_then() -> None:
    costs = CallCosts()
    costs.cap = 3.0
    costs.sent([call(1)], 0.0)
    costs.sent([call(2)], 2.0)
    assert costs.oldest_running == 0.0
    costs.review(4.0, 5.0)
    assert not costs.long
    costs.review(5.0, 5.0)
    costs.review(6.0, 5.0)
    assert costs.long == {1}
    assert costs.capped.value == 3.0
    assert costs.oldest_running == 2.0
    costs.ended(call(1), 60.0)
    costs.ended(call(2), 1.0)
    assert not costs.long
    assert costs.capped.value == 2.0, "the long call counted before it ended"
    assert costs.mean.value == 30.5


def test_a_long_call_that_is_lost_is_forgotten() -> None:
    costs = CallCosts()
    costs.sent([call(1)], 0.0)
    costs.review(9.0, 5.0)
    costs.left(call(1))
    assert not costs.long


def test_the_mean_follows_calls_that_change() -> None:
    costs = CallCosts()
    for number in range(1000):
        costs.ended(call(number), 1.0)
    for number in range(1000):
        costs.ended(call(number), 5.0)
    assert costs.mean.value is not None
    assert 4.5 < costs.mean.value < 5.0
