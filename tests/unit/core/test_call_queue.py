"""A queue of calls: whatever is taken, settled and comes back, it stays in order, and a look at it changes nothing."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from dragonfly_executor.core.call_queue import CallQueue
from dragonfly_executor.core.calls import QUEUED, SENT, SETTLED, Call, CallLimits, QueueTotal
from tests.support.validate import check_order

LIMITS = [CallLimits(), CallLimits(), CallLimits(), CallLimits(priority=1), CallLimits(priority=-1)]


class Play:
    """A queue, and what is done with it. Calls are named by their ids, so that two queues can be told the same."""

    def __init__(self) -> None:
        self.calls: dict[int, Call] = {}
        self.queue = CallQueue(self.calls, QueueTotal())
        self.newest = 0

    def add(self, limits: CallLimits) -> None:
        self.newest += 1
        call = self.calls[self.newest] = Call(self.newest, b"", None, limits)
        call.queue = self.queue
        if limits.priority:
            self.queue.add_by_priority(call)
        else:
            self.queue.add((call,))

    def take(self, call: Call | None) -> int | None:
        """Note that a call has left the queue, and return its id."""
        if call is None:
            return None
        assert call.state is QUEUED
        call.state = SENT
        return call.id

    def settle(self, call_id: int) -> None:
        call = self.calls.pop(call_id)
        if call.state is QUEUED:
            self.queue.queued -= 1
            self.queue.total.queued -= 1
            self.queue.settled += 1
        call.state = SETTLED

    def waiting(self) -> list[list[int]]:
        """Return the calls that wait, as they come up, in each part of the queue."""
        queue = self.queue
        early, late = ([entry[2] for entry in sorted(heap)] for heap in (queue._early, queue._late))
        return [[call.id for call in part if call.state is QUEUED] for part in (early, queue._fresh, late)]


def course(dice: random.Random, length: int) -> Iterator[tuple[str, int]]:
    """Yield what is done with a queue, and a number that chooses the call."""
    names = dice.choices(["add", "first", "fitting", "home", "back", "settle", "sweep"], k=3)
    for name in dice.choices(["add", "back", *names], k=length):
        yield name, dice.randrange(1 << 30)


def do(play: Play, name: str, number: int) -> int | None:
    queue, sent = play.queue, [call for call in play.calls.values() if call.state is SENT]
    match name:
        case "add":
            for _ in range(1 + number % 40 * (number % 5 == 0)):
                play.add(LIMITS[number % len(LIMITS)])
        case "first" if queue.queued:
            return play.take(queue.take(1)[0])
        case "fitting":
            return play.take(queue.take_fitting(lambda call: (call.id * number) % 11 == 0))
        case "home" if queue.queued:
            homes = {0: number % 2}
            return play.take(queue.take_for(1, homes, {0, 1}, number % 50))
        case "back" if sent:
            for call in sorted(sent, key=lambda call: call.id * number % 101)[: 1 + number % 60]:
                queue.put_back(call)
        case "settle" if play.calls:
            # Rather an old one: its entry may be in front.
            play.settle(list(play.calls)[number % min(8, len(play.calls))])
        case "sweep":
            queue.sweep()
        case _:
            pass
    return None


@pytest.mark.parametrize("seed", range(20))
def test_the_queue_stays_in_order_and_a_look_at_it_changes_nothing(seed: int) -> None:
    dice = random.Random(seed)
    play, twin = Play(), Play()
    for name, number in course(dice, 200):
        taken = do(play, name, number)
        play.queue.first()
        play.queue.waits_since()
        assert len(list(play.queue.next_few())) <= play.queue.queued
        assert do(twin, name, number) == taken
        for each in (play, twin):
            check_order(each.queue)
        parts = play.waiting()
        order = [(-play.calls[i].limits.priority, i) for part in parts for i in part]
        assert order == sorted(order)
        assert len(order) == play.queue.queued
        # The parts decide among which calls `take_fitting` and `take_for` choose.
        assert parts == twin.waiting()


def test_where_a_call_comes_back_does_not_depend_on_a_look_at_the_queue() -> None:
    play, twin = Play(), Play()
    for each in (play, twin):
        for _ in range(3):
            each.add(LIMITS[0])
        assert each.take(each.queue.take_fitting(lambda call: call.id == 2)) == 2
        each.settle(1)
        if each is play:
            each.queue.first()
        each.queue.put_back(each.calls[2])
    assert play.waiting() == twin.waiting() == [[2], [3], []]
