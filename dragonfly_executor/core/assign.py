"""Assigns queued calls to runners that have room."""

from __future__ import annotations

from functools import partial

from dragonfly_executor.core.actions import Send
from dragonfly_executor.core.call_queue import CallQueue
from dragonfly_executor.core.calls import Call
from dragonfly_executor.core.runner import Runner, RunnerState
from dragonfly_executor.core.runner_endings import fits
from dragonfly_executor.core.runner_group import RunnerGroup
from dragonfly_executor.core.state import PoolState


def assign(pool: PoolState, now: float) -> None:
    """Assign queued calls to free slots over all runners, and only then to prefetch credit."""
    calls, runners = pool.call_table, pool.runner_table
    workers = pool.limits.max_workers
    if workers is not None and runners.slots > workers:
        assign_capped(pool, workers - runners.in_flight, now)
        return
    sends: dict[int, Send] = {}
    for kind, queue in calls.queues.items():
        ahead, group = False, runners.groups[kind]
        if queue.queued and queue.has_keys:
            while queue.queued and send_by_key(pool, queue, group, sends, now):
                pass
        while queue.queued and not queue.has_keys:
            picked = group.pick(ahead)
            if picked is not None:
                send(pool, queue, *picked, sends, now)
            elif ahead:
                break
            else:
                ahead = True
        if group.passed_over:
            group.list_passed_over()


def assign_capped(pool: PoolState, room: int, now: float) -> None:
    """Assign at most `room` queued calls, because more slots are up than `max_workers` lets run calls at once.

    The kinds whose slots are free take them in the order of arrival of their calls.
    """
    calls, runners = pool.call_table, pool.runner_table
    sends: dict[int, Send] = {}
    waiting = {kind: queue for kind, queue in calls.queues.items() if queue.queued}
    while room > 0 and waiting:
        kind = next(iter(waiting)) if len(waiting) == 1 else min(waiting, key=lambda kind: waiting[kind].turn())
        queue = waiting[kind]
        if queue.has_keys:
            sent = send_by_key(pool, queue, runners.groups[kind], sends, now)
            room -= sent
            if not sent or not queue.queued:
                del waiting[kind]
            continue
        picked = runners.groups[kind].pick(False) or runners.groups[kind].pick(True)
        if picked is None:
            del waiting[kind]
            continue
        runner, count = picked
        # If another kind waits, it may have the next call.
        room -= send(pool, queue, runner, min(count, room if len(waiting) == 1 else 1), sends, now)
        if not queue.queued:
            del waiting[kind]
    for group in runners.groups.values():
        if group.passed_over:
            group.list_passed_over()


def send(pool: PoolState, queue: CallQueue, runner: Runner, count: int, sends: dict[int, Send], now: float) -> int:
    """Send the next calls of a queue to a runner, at most `count`, and return their number.

    A runner with a known end gets only calls that have the time there. If there is none, it is passed over.

    Args:
        pool, queue, runner, count: the pool, the queue, the runner and the number.
        sends: by runner, the orders of this step. A runner gets its calls in one order.
        now: monotonic seconds.
    """
    if runner.ends_at is None:
        calls = queue.take(count)
    else:
        fitting = queue.take_fitting(partial(fits, runner, now=now))
        if fitting is None:
            pool.runner_table.groups[runner.kind].pass_over(runner)
            return 0
        calls = [fitting]
    send_calls(pool, runner, calls, sends)
    return len(calls)


def send_by_key(pool: PoolState, queue: CallQueue, group: RunnerGroup, sends: dict[int, Send], now: float) -> int:
    """Send one call of a queue in which calls have keys, to where a call with its key was sent last if there is room.

    If there is none, a runner that has room takes a call whose key is at home there, before calls that came earlier and
    are at home elsewhere. Each of those lets at most one call pass for each slot of the kind: by then, one of the slots
    at its home is likely to have been free.

    Args:
        pool, queue, group, sends: as for `send`; the runners of the kind.

    Returns:
        The number of calls that were sent: 0 if no runner has room.
    """
    homes, call = pool.homes, queue.first()
    runner = pool.runner_table.runners.get(homes.get(call.limits.key)) if call is not None else None
    is_home = runner is not None and runner.kind == group.kind and runner.has_room_soon
    if call is not None and runner is not None and is_home and fits(runner, call, now):
        calls = queue.take(1)
    else:
        found = pick_by_key(pool, queue, group, now)
        if found is None:
            return 0
        runner, calls = found
    if key := calls[0].limits.key:
        homes.put(key, runner.id)
    queue.has_keys = queue.queued > 0
    send_calls(pool, runner, calls, sends)
    return 1


def pick_by_key(pool: PoolState, queue: CallQueue, group: RunnerGroup, now: float) -> tuple[Runner, list[Call]] | None:
    """Return a runner that has room, with a call for it, which has left the queue; None if there is none."""
    while (picked := group.pick(False) or group.pick(True)) is not None:
        runner = picked[0]
        if runner.ends_at is None:
            return runner, [queue.take_preferred(partial(is_at_home, pool, runner), group.slots)]
        # Calls that have the time there come before calls whose key is at home there.
        fitting = queue.take_fitting(partial(fits, runner, now=now))
        if fitting is not None:
            return runner, [fitting]
        group.pass_over(runner)
    return None


def is_at_home(pool: PoolState, runner: Runner, call: Call) -> bool:
    """Return whether the runner is the home of the call's key, or the call has no home."""
    home = pool.homes.get(call.limits.key)
    if home == runner.id:
        return True
    other = pool.runner_table.runners.get(home)
    return other is None or other.state is not RunnerState.UP or other.retiring


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
