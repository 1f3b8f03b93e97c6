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
    """Return a pool's statistics, with what its nodes in a queue say.

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
    """Return how a node stands that waits in a queue; "" if it does not wait. The node's class may be third-party code.

    Not for the engine thread.
    """
    try:
        return escape_controls(str(node.progress())[:MAX_PROGRESS]) if node.is_queued else ""
    except Exception:
        return ""
