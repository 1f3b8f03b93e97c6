"""The machines of pools, of one app or several."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from dragonfly_executor.backends.fly.client import MachinesAPI
from dragonfly_executor.backends.fly.journal import Journal, default_folder
from dragonfly_executor.backends.fly.owner import Liveness
from dragonfly_executor.backends.fly.patience import Patience
from dragonfly_executor.backends.fly.settings import ARGUMENTS, Access, Spelling
from dragonfly_executor.backends.fly.sweep import Found, Sweeper, Swept

LOOK_PATIENCE = 30.0
"""Seconds to find out which machines there are."""
DESTROY_PATIENCE = 20.0
"""Seconds for each machine that is to be destroyed."""


class Fleet:
    """The machines of one app, or of all that the journal names.

    Args:
        app: None for FLY_APP_NAME, or else all in the journal.
        journal: its folder; None for where backends have it.
        spelling: how whoever reads the errors gives these.

    Raises:
        ValueError: something is missing; it says where to get it.
        OSError: the journal cannot be read.
    """

    def __init__(self, app: str | None, journal: str | None, spelling: Spelling = ARGUMENTS) -> None:
        try:
            self.journal: Journal = Journal(journal or default_folder(os.environ))
            entries = self.journal.entries()
        except (OSError, RuntimeError) as error:
            raise OSError(f"cannot read the journal: {error}. {spelling.give('journal')}") from error
        is_named = app or os.environ.get("FLY_APP_NAME")
        apps = [app] if is_named else sorted({entry.app for entry in entries if entry.app})
        # Without any it says what is missing.
        accesses = [Access.find(os.environ, app=each, spelling=spelling) for each in apps or [None]]
        self.sweepers: dict[str, Sweeper] = {
            access.app: Sweeper(MachinesAPI(access), self.journal) for access in accesses
        }

    def now(self, app: str) -> float:
        """Seconds since the epoch: by Fly's clock as soon as it has said anything about this app."""
        sweeper = self.sweepers.get(app)
        return time.time() if sweeper is None else sweeper.now()

    def look(self) -> list[tuple[str, Found]]:
        """All of them, each with its app."""
        return [
            (app, found) for app, sweeper in self.sweepers.items() for found in sweeper.look(Patience(LOOK_PATIENCE))
        ]

    def written_down(self) -> list[tuple[str, Found]]:
        """What the journal has, for who cannot ask Fly."""
        why = "Fly could not be asked"
        entries = [entry for entry in self.journal.entries() if entry.label is None or entry.app in self.sweepers]
        return [(entry.app, Found(None, entry, Liveness.UNKNOWN, why)) for entry in entries]

    def find(self, words: Iterable[str]) -> tuple[list[tuple[str, Found]], list[str]]:
        """Those with these IDs or names, and the words that are none of them."""
        known = [(app, found) for app, found in self.look() if found.machine is not None]
        chosen: dict[tuple[str, str], Found] = {}
        unknown = []
        for word in words:
            named = [(app, found) for app, found in known if found.machine and word in (found.machine.id, found.name)]
            for app, sweeper in self.sweepers.items() if not named else ():
                # What Fly does not list may be there all the same.
                asked = sweeper.find(word, Patience(LOOK_PATIENCE)) if word.isalnum() else None
                named += [] if asked is None else [(app, asked)]
            chosen |= {(app, found.name): found for app, found in named}
            unknown += [] if named else [word]
        return [(app, found) for (app, _), found in chosen.items()], unknown

    def destroy(self, chosen: list[tuple[str, Found]]) -> Swept:
        """Destroy these."""
        done = Swept([], [])
        for app, found in chosen:
            swept = self.sweepers[app].destroy([found], Patience(DESTROY_PATIENCE))
            done.destroyed.extend(swept.destroyed)
            done.left.extend(swept.left)
        return done
