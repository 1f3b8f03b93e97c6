"""Writes a backend's boots into the journal, and handles a journal that cannot be written."""

from __future__ import annotations

import logging
from collections.abc import Callable

from dragonfly_executor import errors
from dragonfly_executor.backends.fly.journal import Journal, JournalEntry

logger = logging.getLogger("dragonfly_executor")


class JournalWriter:
    """A backend's access to the journal. Any thread.

    Args:
        journal: the journal; None if it is turned off. Then all methods do nothing.
        ask_for_sweep: called when a machine is left to a later sweep.
    """

    def __init__(self, journal: Journal | None, ask_for_sweep: Callable[[], object]) -> None:
        self._journal = journal
        self._ask_for_sweep = ask_for_sweep

    def begin(self, entry: JournalEntry) -> None:
        """Write a boot before Fly is asked for its machine.

        Raises:
            BootError: the journal cannot be written, so the machine must not be asked for.
        """
        try:
            self._write(entry)
        except OSError as error:
            text = (
                f"the boot could not be written into the journal, so no machine was requested: {error} (see journal=)"
            )
            raise errors.BootError(text, "create") from error

    def complete(self, entry: JournalEntry, machine: object) -> None:
        """Write the machine's id."""
        try:
            self._write(entry)
        except OSError as error:
            # The entry on the disk has the name, by which a sweep finds the machine.
            logger.warning("the ID of %s could not be written into the journal: %s", machine, error)

    def forget(self, entry: JournalEntry) -> None:
        """Remove the entry of a machine that is gone."""
        if self._journal is None:
            return
        try:
            self._journal.remove(entry.name)
        except OSError as error:
            # A later sweep looks the machine up, and finds nothing.
            logger.warning("machine %s is gone, but its journal entry could not be removed: %s", entry.name, error)

    def abandon(self, entry: JournalEntry) -> str:
        """Leave a machine to a later sweep, such as the next boot's. Return as text how it gets destroyed."""
        if self._journal is None:
            why = "There is no journal, so no sweep destroys it while this process lives"
            return f"{why}: `dragonfly destroy {entry.name}`"
        try:
            self._write(entry._replace(abandoned=True))
        except OSError as error:
            return f"The journal could not be written ({error}): `dragonfly destroy {entry.name}`"
        self._ask_for_sweep()
        return "A later sweep destroys it"

    def _write(self, entry: JournalEntry) -> None:
        if self._journal is not None:
            self._journal.write(entry)
