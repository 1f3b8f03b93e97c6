"""The node of a pool's first runner, which was started before the pool had an engine that could ask for it."""

from __future__ import annotations

import os
from contextlib import suppress

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from dragonfly_executor.backends.base import Node
    from dragonfly_executor.protocol.parent import Parent

FIRST_RUNNER = 1
"""The number that the core gives to a pool's first runner."""
KEPT = 5.0
"""Seconds after which a node that no boot has asked for is stopped. The boot follows within milliseconds, unless the
first call is refused, or takes long to pickle."""


class LaunchedNode:
    """A node that was launched ahead of its boot. Only the first boot that takes it gets it, and owns it from then on.

    Args:
        parent: the description of this process that the runner has.
        node: the node.
    """

    def __init__(self, parent: Parent, node: Node) -> None:
        self._parent = parent
        self._nodes = [node]

    def take_for(self, parent: Parent) -> Node | None:
        """Return the node for a boot whose runner is to have this description; None if it does not fit, or is gone."""
        return self.take() if parent == self._parent else None

    def take(self) -> Node | None:
        """Return the node; None if it was taken before."""
        try:
            return self._nodes.pop()
        except IndexError:
            return None

    def stop(self) -> None:
        """Stop the node, unless it was taken before. Blocks until that is done."""
        node = self.take()
        if node is not None:
            node.stop()

    def descriptors(self) -> Collection[int]:
        """Return the descriptors that a forked child must close."""
        for node in list(self._nodes):
            fileno = getattr(node.stream, "fileno", None)
            return [*node.descriptors(), *(() if fileno is None else (fileno(),))]
        return ()

    def abandon(self) -> None:
        """Close the descriptors in a forked child. They belong to the process that forked."""
        for fd in self.descriptors():
            with suppress(OSError):  # the parent was closing it when it forked
                os.close(fd)
