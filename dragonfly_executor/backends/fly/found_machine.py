"""Machines on Fly in the records that all backends share."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.fly.errors import FlyAPIError
from dragonfly_executor.backends.fly.prices import Prices
from dragonfly_executor.backends.fly.sweep import FoundMachine, Sweeper
from dragonfly_executor.backends.found_node import FoundNode, SweepResult
from dragonfly_executor.backends.label import OwnerLabel


def found_nodes(sweeper: Sweeper, deadline: Deadline, prices: Prices) -> Sequence[FoundNode]:
    """Return the machines of pools.

    Raises:
        FlyAPIError: the machines could not be listed.
    """
    return [_found_node(one, sweeper.now(), prices) for one in sweeper.look(deadline)]


def destroy_nodes(
    sweeper: Sweeper, nodes: Iterable[FoundNode], deadline: Deadline, prices: Prices
) -> SweepResult[FoundNode]:
    """Destroy these machines, even if their owners are alive."""
    swept: SweepResult[FoundNode] = SweepResult([], [])
    for node in nodes:
        if not node.exists or node.node_id is None:
            continue
        try:
            found = sweeper.find(node.node_id, deadline)
        except FlyAPIError as error:
            swept.left.append((node, str(error)))
            continue
        if found is None:
            # The machine is gone in the meantime.
            swept.destroyed.append(node)
            continue
        done = found_nodes_of(sweeper.destroy([found], deadline), sweeper.now(), prices)
        swept.destroyed.extend(done.destroyed)
        swept.left.extend(done.left)
    return swept


def found_nodes_of(swept: SweepResult[FoundMachine], now: float, prices: Prices) -> SweepResult[FoundNode]:
    """Return the result of a sweep in the records that all backends share."""
    destroyed = [_found_node(one, now, prices) for one in swept.destroyed]
    return SweepResult(destroyed, [(_found_node(one, now, prices), why) for one, why in swept.left])


def _found_node(one: FoundMachine, now: float, prices: Prices) -> FoundNode:
    machine, entry = one.machine, one.entry
    label = OwnerLabel.decode(machine.metadata) if machine is not None else None
    label = label or (entry.label if entry is not None else None)
    region = (machine.region if machine is not None else "") or (entry.region if entry is not None else "")
    guest = (machine.guest if machine is not None else {}) or (entry.guest if entry is not None else {})
    created = machine.created if machine is not None else None
    age = max(0.0, now - created) if created is not None else None
    machine_id, state = None, "asked for"
    if machine is not None:
        machine_id, state = machine.id, machine.state or "unknown"
    elif entry is not None and entry.machine_id is not None:
        machine_id, state = entry.machine_id, "not known"
    if age is None and entry is not None:
        age = max(0.0, time.time() - entry.began)
    return FoundNode(
        name=one.name,
        node_id=machine_id,
        state=state,
        liveness=one.liveness,
        why=one.why,
        pool="" if label is None else label.pool,
        owner=None if label is None else label.owner,
        age=age,
        price=prices.per_second(guest, [region] if region else []) if guest else None,
        place=region,
        exists=machine is not None,
        in_journal=entry is not None,
    )
