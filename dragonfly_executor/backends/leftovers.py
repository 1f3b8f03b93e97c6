"""Finds the nodes of pools on a platform: those that the platform lists, and those that only the journal knows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NamedTuple

from dragonfly_executor.backends.found_node import FoundNode, SweepResult
from dragonfly_executor.backends.journal import Journal, JournalEntry
from dragonfly_executor.backends.label import OwnerLabel
from dragonfly_executor.backends.orphans import ABANDONED, NO_LABEL, OwnerVerdict, earlier_clock, judge
from dragonfly_executor.backends.owner import Liveness, Owner
from dragonfly_executor.errors import DragonflyError

VISIBLE_AFTER = 60.0
"""Seconds after which a node that the platform does not know counts as gone. A newer one may not be visible yet."""


class ListedNode(NamedTuple):
    """A node as the platform describes it.

    Attributes:
        name: its unique name.
        node_id: the platform's id.
        state: the platform's word for its state.
        label: its label; None if it has none, or a damaged one.
        created: when it was created, in seconds since the epoch by the platform's clock; None if it is not known.
        place: the platform's word for where it is.
        price: estimated US dollars per second; None if it is not known.
    """

    name: str
    node_id: str
    state: str
    label: OwnerLabel | None
    created: float | None = None
    place: str = ""
    price: float | None = None


class Leftovers:
    """The nodes of pools on one platform.

    Args:
        journal: the journal, or None.
        place: the platform, as the journal's entries name it.
    """

    def __init__(self, journal: Journal | None, place: str) -> None:
        self._journal = journal
        self._place = place

    def find(
        self,
        listed: Iterable[ListedNode],
        look_up: Callable[[str], ListedNode | None],
        platform_time: float | None = None,
    ) -> list[FoundNode]:
        """Return all nodes of pools, of any owner. Forget journal entries whose nodes are certainly gone.

        Args:
            listed: the nodes that the platform lists. Those without a label are skipped, unless the journal has them.
            look_up: returns the node with this id, even if the platform does not list it; None if there is none. A
                DragonflyError means that the platform does not answer.
            platform_time: the time by the platform's clock; None for this machine's.
        """
        here, me = time.time(), Owner.me()
        now = here if platform_time is None else earlier_clock(platform_time, here)
        by_name = {node.name: node for node in listed}
        found = []
        for entry in self._entries():
            node, trouble = by_name.pop(entry.name, None), ""
            if node is None and entry.node_id is not None:
                # A list may lag behind, so it proves nothing.
                node, trouble = _ask(look_up, entry.node_id)
            if trouble:
                found.append(_entry_only(entry, OwnerVerdict(Liveness.UNKNOWN, trouble), here))
                continue
            if node is not None:
                verdict = _verdict(node, entry, me, now)
                found.append(_found(node, verdict, now, in_journal=True))
                continue
            verdict = _verdict_of_entry(entry, me, here)
            if _is_over(entry, verdict, min(now, here)):
                self.forget(entry.name)
            else:
                found.append(_entry_only(entry, verdict, here))
        rest = [node for node in by_name.values() if node.label is not None]
        return [*found, *(_found(node, _verdict(node, None, me, now), now, in_journal=False) for node in rest)]

    def destroy(self, nodes: Iterable[FoundNode], destroy: Callable[[str], str]) -> SweepResult[FoundNode]:
        """Destroy these nodes, even if their owners are alive. Nodes that only the journal knows are skipped.

        Args:
            nodes: the nodes.
            destroy: destroys the node with this id. Returns "" once the node is gone, otherwise the reason why it may
                still exist. A DragonflyError counts as such a reason.
        """
        swept: SweepResult[FoundNode] = SweepResult([], [])
        for node in nodes:
            if node.node_id is None or not node.exists:
                continue
            try:
                why = destroy(node.node_id)
            except DragonflyError as error:
                why = str(error)
            if why:
                swept.left.append((node, why))
                continue
            swept.destroyed.append(node)
            if node.in_journal:
                self.forget(node.name)
        return swept

    def forget(self, name: str) -> None:
        """Remove a journal entry. One that stays costs one more lookup in the next sweep, and no node."""
        if self._journal is not None:
            with suppress(OSError):
                self._journal.remove(name)

    def _entries(self) -> list[JournalEntry]:
        """Return the journal entries of this place. Include damaged ones, as they may be of this place."""
        entries = [] if self._journal is None else self._journal.entries()
        return [entry for entry in entries if entry.label is None or entry.place == self._place]


def _ask(look_up: Callable[[str], ListedNode | None], node_id: str) -> tuple[ListedNode | None, str]:
    try:
        return look_up(node_id), ""
    except DragonflyError as error:
        return None, f"its state could not be read: {error}"


def _is_over(entry: JournalEntry, verdict: OwnerVerdict, now: float) -> bool:
    """Return True if the node of an entry, which the platform does not know, is certainly gone."""
    if verdict.liveness is Liveness.ALIVE:
        # A live owner removes its own entries, and may know more.
        return False
    if entry.node_id is None:
        # Nothing else remembers the node, whose create request may still be under way.
        return entry.expires < now
    # The absolute difference, as a clock may have been set since.
    return abs(now - entry.began) > VISIBLE_AFTER


def _verdict(node: ListedNode, entry: JournalEntry | None, me: Owner, now: float) -> OwnerVerdict:
    if entry is not None and entry.label is not None and node.label is not None and entry.label.boot != node.label.boot:
        # A node has this name, but it is not the one in the journal.
        entry = None
    if entry is not None and entry.abandoned:
        return ABANDONED
    label = node.label or (entry.label if entry is not None else None)
    if label is None:
        return NO_LABEL
    is_here = entry is not None and entry.label is not None
    return judge(label, me, now, node.created, is_here=is_here)


def _verdict_of_entry(entry: JournalEntry, me: Owner, now: float) -> OwnerVerdict:
    if entry.abandoned:
        return ABANDONED
    return NO_LABEL if entry.label is None else judge(entry.label, me, now, None, is_here=True)


def _found(node: ListedNode, verdict: OwnerVerdict, now: float, *, in_journal: bool) -> FoundNode:
    label = node.label
    return FoundNode(
        name=node.name,
        node_id=node.node_id,
        state=node.state,
        liveness=verdict.liveness,
        why=verdict.why,
        pool="" if label is None else label.pool,
        owner=None if label is None else label.owner,
        age=None if node.created is None else max(0.0, now - node.created),
        price=node.price,
        place=node.place,
        in_journal=in_journal,
    )


def _entry_only(entry: JournalEntry, verdict: OwnerVerdict, now: float) -> FoundNode:
    label = entry.label
    return FoundNode(
        name=entry.name,
        node_id=entry.node_id,
        state="asked for" if entry.node_id is None else "not known",
        liveness=verdict.liveness,
        why=verdict.why,
        pool="" if label is None else label.pool,
        owner=None if label is None else label.owner,
        age=max(0.0, now - entry.began),
        exists=False,
        in_journal=True,
    )
