"""Assigns queued calls to runners that have room."""

from __future__ import annotations

from dragonfly_executor.core.actions import Send
from dragonfly_executor.core.call_queue import CallQueue
from dragonfly_executor.core.calls import Call
from dragonfly_executor.core.runner import Runner, RunnerState
from dragonfly_executor.core.runner_group import RunnerGroup
from dragonfly_executor.core.state import PoolState


def assign(pool: PoolState) -> None:
    """Assign queued calls to free slots over all runners, and only then to prefetch credit."""
    calls, runners = pool.call_table, pool.runner_table
    workers = pool.limits.max_workers
    if workers is not None and runners.slots > workers:
        assign_capped(pool, workers - runners.in_flight)
        return
    sends: dict[int, Send] = {}
    for kind, queue in calls.queues.items():
        ahead = False
        if queue.queued and queue.has_keys:
            while queue.queued and send_by_key(pool, queue, runners.groups[kind], sends):
                pass
            continue
        while queue.queued:
            picked = runners.groups[kind].pick(ahead)
            if picked is not None:
                send(pool, queue, *picked, sends)
            elif ahead:
                break
            else:
                ahead = True


def assign_capped(pool: PoolState, room: int) -> None:
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
            sent = send_by_key(pool, queue, runners.groups[kind], sends)
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
        room -= send(pool, queue, runner, min(count, room if len(waiting) == 1 else 1), sends)
        if not queue.queued:
            del waiting[kind]


def send(pool: PoolState, queue: CallQueue, runner: Runner, count: int, sends: dict[int, Send]) -> int:
    """Send the next calls of a queue to a runner, at most `count`, and return their number.

    Args:
        pool, queue, runner, count: the pool, the queue, the runner and the number.
        sends: by runner, the orders of this step. A runner gets its calls in one order.
    """
    calls = queue.take(count)
    send_calls(pool, runner, calls, sends)
    return len(calls)


def send_by_key(pool: PoolState, queue: CallQueue, group: RunnerGroup, sends: dict[int, Send]) -> int:
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
    if runner is not None and runner.kind == group.kind and runner.has_room_soon:
        calls = queue.take(1)
    else:
        picked = group.pick(False) or group.pick(True)
        if picked is None:
            return 0
        runner = picked[0]
        calls = [queue.take_preferred(lambda each: is_at_home(pool, each, runner), group.slots)]
    if key := calls[0].limits.key:
        homes.put(key, runner.id)
    queue.has_keys = queue.queued > 0
    send_calls(pool, runner, calls, sends)
    return 1


def is_at_home(pool: PoolState, call: Call, runner: Runner) -> bool:
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
