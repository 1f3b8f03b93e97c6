"""Assigns queued calls to runners that have room."""

from __future__ import annotations

from functools import partial
from heapq import heapify, heappop, heappush

from dragonfly_executor.core.actions import Send
from dragonfly_executor.core.call_queue import CallQueue
from dragonfly_executor.core.calls import DEFAULT_KIND, Call
from dragonfly_executor.core.overflow import calls_begun_soon
from dragonfly_executor.core.placement import CallPlacement
from dragonfly_executor.core.runner import Runner
from dragonfly_executor.core.runner_endings import fits
from dragonfly_executor.core.state import PoolState


def assign(pool: PoolState, now: float) -> None:
    """Assign queued calls to free slots over all runners, and only then to prefetch credit."""
    calls, runners = pool.call_table, pool.runner_table
    workers = pool.limits.max_workers
    is_capped = workers is not None and runners.slots > workers
    if is_capped or len(calls.queues) > 1:
        # At most `room` calls, because more slots are up than `max_workers` lets run calls at once.
        room = workers - runners.in_flight + runners.lent if is_capped and workers is not None else calls.total.queued
        assign_in_turn(pool, room, now)
    else:
        assign_in_order(pool, now)
    for kind in list(runners.placements.passed_over):
        runners.placements.list_passed_over(kind)


def assign_in_order(pool: PoolState, now: float) -> None:
    """Assign queued calls of the only kind."""
    calls, runners = pool.call_table, pool.runner_table
    sends: dict[int, Send] = {}
    queue, placement, ahead = calls.queues[DEFAULT_KIND], runners.placements.by_kind[DEFAULT_KIND], False
    while queue.queued:
        if queue.has_keys:
            if not send_by_key(pool, queue, placement, sends, now):
                break
            continue
        picked = pick(pool, queue, placement, now, ahead=ahead)
        if picked is not None:
            send(pool, queue, placement, *picked, sends, now)
        elif ahead:
            break
        else:
            ahead = True


def assign_in_turn(pool: PoolState, room: int, now: float) -> None:
    """Assign at most `room` queued calls of all kinds, in the order of their priority and arrival.

    Calls of a kind whose turn comes later may be sent before: other runners have room for them. But if the first call
    that finds no room requires a large share of a runner, then one runner is held for it. Otherwise smaller calls
    take each slot that becomes free there.
    """
    calls, runners = pool.call_table, pool.runner_table
    sends: dict[int, Send] = {}
    waiting = [(queue.turn(), kind) for kind, queue in calls.queues.items() if queue.queued]
    heapify(waiting)
    held = runners.placements.held
    if held is not None and (not waiting or held.retiring or held.held_for != waiting[0][1]):
        runners.placements.release()
    is_first = True
    while waiting and room > 0:
        _, kind = heappop(waiting)
        queue, placement = calls.queues[kind], runners.placements.by_kind[kind]
        # If another kind waits, it may have the next call.
        sent = send_next(pool, queue, placement, 1 if waiting else room, sends, now)
        room -= sent
        if sent:
            runners.placements.release(kind)
            if queue.queued:
                heappush(waiting, (queue.turn(), kind))
        elif is_first:
            is_first = False
            if placement.shares and runners.placements.held is None:
                runners.placements.hold(kind)


def pick(
    pool: PoolState, queue: CallQueue, placement: CallPlacement, now: float, *, ahead: bool
) -> tuple[Runner, int] | None:
    """Return the next runner with room, and how many of the calls of a queue to send there; None if there is none.

    A runner of a later tier gets no calls that earlier tiers begin soon.

    Args:
        pool, queue, placement: the pool, the queue and the placement of its kind.
        now: monotonic seconds.
        ahead: see `CallPlacement.pick`.
    """
    placements = pool.runner_table.placements
    # Other calls come up as calls are sent to other runners.
    if placements.passed_over and placement.kind in placements.passed_over:
        passed_over = placements.passed_over[placement.kind]
        if any(passed_over.may_take(call, now) for call in queue.next_few()):
            placements.list_passed_over(placement.kind)
    picked = placement.pick(ahead)
    if picked is None or not picked[0].tier:
        return picked
    runner, count = picked
    left = queue.queued - calls_begun_soon(pool, queue, pool.runner_table.groups[placement.kind][runner.tier], now)
    if left > 0:
        return runner, min(count, left)
    placements.list(runner)
    return None


def pick_any(pool: PoolState, queue: CallQueue, placement: CallPlacement, now: float) -> tuple[Runner, int] | None:
    """Return a runner as `pick` does: one with a free slot, otherwise one with prefetch credit."""
    return pick(pool, queue, placement, now, ahead=False) or pick(pool, queue, placement, now, ahead=True)


def send_next(
    pool: PoolState, queue: CallQueue, placement: CallPlacement, at_most: int, sends: dict[int, Send], now: float
) -> int:
    """Send at most `at_most` of the next calls of a queue to one runner.

    Args:
        pool, queue, placement, at_most: the pool, the queue, the placement of its kind, and the number.
        sends: by runner, the orders of this step.

    Returns:
        The number of calls that were sent: 0 if no runner has room.
    """
    if queue.has_keys:
        return send_by_key(pool, queue, placement, sends, now)
    while (picked := pick_any(pool, queue, placement, now)) is not None:
        sent = send(pool, queue, placement, picked[0], min(picked[1], at_most), sends, now)
        if sent:
            return sent
    return 0


def send(
    pool: PoolState,
    queue: CallQueue,
    placement: CallPlacement,
    runner: Runner,
    count: int,
    sends: dict[int, Send],
    now: float,
) -> int:
    """Send the next calls of a queue to a runner, at most `count`, and return their number.

    A runner with a known end gets only calls that have the time there. If there is none, it is passed over until such a
    call comes up.

    Args:
        pool, queue, placement, runner, count: the pool, the queue, its placement, the runner and the number.
        sends: by runner, the orders of this step. A runner gets its calls in one order.
        now: monotonic seconds.
    """
    if runner.ends_at is None:
        calls = queue.take(count)
    else:
        fitting = queue.take_fitting(partial(fits, runner, now=now))
        if fitting is None:
            pool.runner_table.placements.pass_over(runner, placement)
            return 0
        calls = [fitting]
    send_calls(pool, runner, calls, sends)
    return len(calls)


def send_by_key(pool: PoolState, queue: CallQueue, placement: CallPlacement, sends: dict[int, Send], now: float) -> int:
    """Send one call of a queue in which calls have keys, to where a call with its key was sent last if there is room.

    If there is none, a runner that has room takes a call whose key is at home there, before calls that came earlier and
    are at home elsewhere. Each of those lets at most one call pass for each slot of the members: by then, one of the
    slots at its home is likely to have been free.

    Args:
        pool, queue, placement, sends: as for `send_next`.

    Returns:
        The number of calls that were sent: 0 if no runner has room.
    """
    homes, call = pool.homes, queue.first()
    runner = placement.members.get(homes.get(call.limits.key)) if call is not None else None
    has_time = call is not None and runner is not None and fits(runner, call, now)
    if has_time and runner is not None and placement.has_room_soon(runner):
        calls = queue.take(1)
    else:
        found = pick_by_key(pool, queue, placement, now)
        if found is None:
            return 0
        runner, calls = found
    if key := calls[0].limits.key:
        homes.put(key, runner.id)
    queue.has_keys = queue.queued > 0
    send_calls(pool, runner, calls, sends)
    return 1


def pick_by_key(
    pool: PoolState, queue: CallQueue, placement: CallPlacement, now: float
) -> tuple[Runner, list[Call]] | None:
    """Return a runner that has room, with a call for it, which has left the queue; None if there is none."""
    while queue.queued and (picked := pick_any(pool, queue, placement, now)) is not None:
        runner = picked[0]
        if runner.ends_at is None:
            homes, slots = pool.homes.homes, pool.runner_table.slots
            return runner, [queue.take_for(runner.id, homes, placement.members, slots)]
        # Calls that have the time there come before calls whose key is at home there.
        fitting = queue.take_fitting(partial(fits, runner, now=now))
        if fitting is not None:
            return runner, [fitting]
        pool.runner_table.placements.pass_over(runner, placement)
    return None


def send_calls(pool: PoolState, runner: Runner, calls: list[Call], sends: dict[int, Send]) -> None:
    """Send calls, which have left their queue, to a runner."""
    pool.call_table.waiting -= len(calls)
    pool.runner_table.place(runner, calls)
    order = sends.get(runner.id)
    if order is None:
        sends[runner.id] = order = Send(runner.id, calls)
        pool.actions.append(order)
    else:
        order.calls += calls
