"""``dragonfly list``, ``sweep`` and ``destroy`` for any backend that has an entry point."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from dragonfly_executor.backends.base import Backend
from dragonfly_executor.backends.found_node import FoundNode
from dragonfly_executor.backends.owner import Liveness
from dragonfly_executor.cli import plugins, terminal

WITHOUT_LEFTOVERS = ("local", "ssh")
"""Backends of this package whose runners always end with their pool."""
HEAD = ("ID", "NAME", "STATE", "PLACE", "AGE", "COST", "POOL", "OWNER")


class Nodes:
    """The nodes of pools, as a backend lists them.

    Args:
        name: the backend's name.
        settings: arguments of the backend, as ``KEY=VALUE``.
        journal: the folder of the journal; None for the backend's default.

    Raises:
        ValueError: there is no such backend, it refuses its arguments, or its nodes cannot be listed.
    """

    def __init__(self, name: str, settings: Iterable[str], journal: str | None) -> None:
        if name in WITHOUT_LEFTOVERS:
            raise ValueError(f"runners of --backend {name} end with their pool: they leave nothing behind to list")
        given = plugins.read_settings(settings)
        point = plugins.find(name, ["fly"])
        self._name = name
        self._backend = plugins.make(point, given if journal is None else {**given, "journal": journal})
        if type(self._backend).list_nodes is Backend.list_nodes:
            raise ValueError(f"--backend {name} cannot list its nodes: it has no method list_nodes")

    def run(self, options: argparse.Namespace) -> int:
        """Run the command of the command line, and return the exit status.

        Raises:
            DragonflyError: the platform cannot list its nodes.
        """
        found = self._backend.list_nodes()
        match options.command:
            case "list":
                self._list(found, as_json=options.json)
                return 0
            case "sweep":
                return self._destroy([node for node in found if node.is_orphan], options)
            case _:
                return self._destroy_named(found, options)

    def _list(self, found: Sequence[FoundNode], *, as_json: bool) -> None:
        if as_json:
            self._print_json(nodes=[node.record() for node in found])
            return
        self._show(found)
        orphans = sum(node.is_orphan for node in found)
        if orphans:
            terminal.show(f"{orphans} of them left behind: `dragonfly sweep --backend {self._name}` destroys them.")

    def _destroy_named(self, found: Sequence[FoundNode], options: argparse.Namespace) -> int:
        there = [node for node in found if node.exists]
        chosen = [node for node in there if options.all or {node.name, node.node_id} & set(options.machines)]
        words = {word for node in chosen for word in (node.name, node.node_id)}
        unknown = [word for word in options.machines if word not in words]
        for word in unknown:
            terminal.show(f"dragonfly: {word}: no pool has booted such a node", file=sys.stderr)
        return max(self._destroy(chosen, options), bool(unknown))

    def _destroy(self, chosen: list[FoundNode], options: argparse.Namespace) -> int:
        if chosen and not options.yes:
            self._show(chosen, file=sys.stderr)
            alive = sum(node.liveness is Liveness.ALIVE for node in chosen)
            if not terminal.confirm_destruction(len(chosen), "nodes", alive):
                terminal.show("dragonfly: nothing was destroyed", file=sys.stderr)
                return 1
        swept = self._backend.destroy_nodes(chosen)
        if options.json:
            left = [{"name": node.name, "why": why} for node, why in swept.left]
            self._print_json(destroyed=[node.name for node in swept.destroyed], left=left)
            return 1 if left else 0
        if not chosen:
            terminal.show("There is nothing to destroy.")
        for node in swept.destroyed:
            terminal.show(f"destroyed {node.name}")
        for node, why in swept.left:
            terminal.show(f"NOT destroyed {node.name}: {why}")
        return 1 if swept.left else 0

    def _show(self, found: Sequence[FoundNode], file: Any = None) -> None:
        if not found:
            terminal.show("No nodes.", file=file)
            return
        rows = [_row(node) for node in found]
        terminal.show(*terminal.table(HEAD, rows, terminal.width_of(file or sys.stdout)), file=file)
        if any(node.cost is not None for node in found):
            text = f"Costs are estimates, by prices as of {self._backend.prices_as_of()}, as if started all the time."
            terminal.show(text, file=file)

    def _print_json(self, **said: Any) -> None:
        document = {"backend": self._name, "prices_as_of": self._backend.prices_as_of() or None, **said}
        terminal.show(json.dumps(document, indent=2))


def _row(node: FoundNode) -> tuple[str, ...]:
    cost = "?" if node.cost is None else f"${node.cost:.4f}" if node.cost < 1 else f"${node.cost:.2f}"
    age, owner = "?" if node.age is None else terminal.duration(node.age), f"{node.liveness.value}: {node.why}"
    return (node.node_id or "-", node.name, node.state, node.place or "?", age, cost, node.pool or "?", owner)
