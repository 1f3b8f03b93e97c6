"""Reports of nodes that wait in a queue of their platform."""

from __future__ import annotations

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING
from dragonfly_executor.util.terminal_text import escape_controls

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragonfly_executor.backends.base import Node
    from dragonfly_executor.core.machine import Machine
    from dragonfly_executor.core.stats import PoolStats

MAX_PROGRESS = 500
"""Maximum number of characters."""


def stats_of(
    ask: Callable[[Callable[[Machine], PoolStats]], PoolStats],
    clock: Callable[[], float],
    waiting_nodes: Callable[[], list[Node]],
) -> PoolStats:
    """Return a pool's statistics, with the progress of its nodes that wait in a queue.

    Args:
        ask: answers a question about the pool on the engine thread.
        clock: monotonic seconds.
        waiting_nodes: returns the nodes that wait in a queue, on the engine thread.
    """
    nodes: list[Node] = []

    def look(machine: Machine) -> PoolStats:
        """Return the statistics, and find the nodes. On the engine thread."""
        nodes.extend(waiting_nodes())
        return machine.stats(clock())

    stats = ask(look)
    # Ask the nodes here: the engine thread runs no code of a backend that might block.
    return stats.with_progress(map(progress_of, nodes)) if nodes else stats


def progress_of(node: Node) -> str:
    """Return the progress of a node in a queue; "" if the node is not in a queue.

    The node's class may be third-party code, so the engine thread must not call this.
    """
    try:
        return escape_controls(str(node.progress())[:MAX_PROGRESS]) if node.is_queued else ""
    except Exception:
        return ""
