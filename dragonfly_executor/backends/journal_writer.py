"""Writes a backend's boots into the journal, and handles a journal that cannot be written."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Generic

from dragonfly_executor import errors
from dragonfly_executor.backends.journal import Entry, JournalFolder

logger = logging.getLogger("dragonfly_executor")


class JournalWriter(Generic[Entry]):
    """A backend's access to the journal. Any thread.

    Args:
        journal: the journal; None if it is turned off. Then all methods do nothing.
        ask_for_sweep: called when a node is left to a later sweep.
        noun: the platform's word for a node, such as "machine".
        command: the command that destroys a node, without its name.
    """

    def __init__(
        self,
        journal: JournalFolder[Entry] | None,
        ask_for_sweep: Callable[[], object],
        *,
        noun: str,
        command: str,
    ) -> None:
        self._journal = journal
        self._ask_for_sweep = ask_for_sweep
        self._noun = noun
        self._command = command

    def begin(self, entry: Entry, *others: Entry) -> None:
        """Write a boot before the platform is asked for its node.

        Args:
            entry: the boot.
            others: boots whose nodes come with the same request. Their entries outlive this process, and perhaps not a
                power cut: then the platform lists these nodes with the label of the first.

        Raises:
            BootError: the journal cannot be written, so the nodes must not be asked for.
        """
        try:
            self._write(*others, reaches_disk=False)
            self._write(entry)
        except OSError as error:
            self._take_back((entry, *others))
            text = (
                f"the boot could not be written into the journal, so no {self._noun} was requested: {error} "
                "(see journal=)"
            )
            raise errors.BootError(text, "create") from error

    def _take_back(self, entries: Sequence[Entry]) -> None:
        """Remove the entries that were written of boots that do not begin."""
        for entry in entries:
            if self._journal is not None:
                with suppress(OSError):
                    self._journal.remove(self._journal.name_of(entry))

    def complete(self, entry: Entry, node: object, *others: Entry) -> None:
        """Write the node's id. `others`: the entries of nodes that came with it."""
        try:
            # The entries have the names. Waiting for the disk, for each of many nodes, is not worth it.
            self._write(entry, *others, reaches_disk=not others)
        except OSError as error:
            # The entry on the disk has the name, by which a sweep finds the node.
            logger.warning("the ID of %s could not be written into the journal: %s", node, error)

    def forget(self, entry: Entry) -> None:
        """Remove the entry of a node that is gone."""
        if self._journal is None:
            return
        name = self._journal.name_of(entry)
        try:
            self._journal.remove(name)
        except OSError as error:
            # A later sweep looks the node up, and finds nothing.
            text = "%s %s is gone, but its journal entry could not be removed: %s"
            logger.warning(text, self._noun, name, error)

    def abandon(self, entry: Entry, name: str) -> str:
        """Leave a node to a later sweep, such as the next boot's. Return as text how it gets destroyed."""
        if self._journal is None:
            why = "There is no journal, so no sweep destroys it while this process lives"
            return f"{why}: `{self._command} {name}`"
        try:
            self._write(self._journal.abandoned(entry))
        except OSError as error:
            return f"The journal could not be written ({error}): `{self._command} {name}`"
        self._ask_for_sweep()
        return "A later sweep destroys it"

    def _write(self, *entries: Entry, reaches_disk: bool = True) -> None:
        if self._journal is not None:
            self._journal.write(*entries, reaches_disk=reaches_disk)
