"""The machines of pools, of one app or several."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from dragonfly_executor.backends.fly.client import MachinesAPI
from dragonfly_executor.backends.fly.deadline import Patience
from dragonfly_executor.backends.fly.errors import FlyAPIError
from dragonfly_executor.backends.fly.journal import Entry, Journal, default_folder
from dragonfly_executor.backends.fly.owner import Liveness
from dragonfly_executor.backends.fly.settings import ARGUMENTS, Access, Spelling, is_app_name
from dragonfly_executor.backends.fly.sweep import Found, Sweeper, Swept

LOOK_PATIENCE = 30.0
"""Seconds to find out which machines there are."""
DESTROY_PATIENCE = 20.0
"""Seconds for each machine that is to be destroyed."""


class Fleet:
    """The machines of one app, or of all that the journal names.

    Args:
        app: None for FLY_APP_NAME, or else all in the journal that are known to this API.
        journal: its folder; None for where backends have it, which may be nowhere.
        spelling: how whoever reads the errors gives these.

    Attributes:
        refused: apps that Fly did not tell of while it told of others, with what it said.
        without: why there is no journal; "" where there is one.

    Raises:
        ValueError: something is missing; it says where to get it.
        OSError: the journal that is named cannot be read.
    """

    def __init__(self, app: str | None, journal: str | None, spelling: Spelling = ARGUMENTS) -> None:
        for setting, value in (("app", app), ("journal", journal)):
            if value == "":
                # Of a variable that is not set: whoever gave it did not mean all the others.
                raise ValueError(f"{spelling.name(setting, is_given=True)} is empty: is a variable not set?")
        self._spelling = spelling
        self.refused: dict[str, str] = {}
        self.without = ""
        self.journal = self._open(journal)
        self.sweepers: dict[str, Sweeper] = {
            access.app: Sweeper(MachinesAPI(access), self.journal) for access in self._accesses(app)
        }

    def _open(self, folder: str | None) -> Journal | None:
        try:
            return Journal(default_folder(os.environ) if folder is None else folder)
        except (OSError, RuntimeError) as error:
            if folder is not None:
                raise OSError(f"cannot read the journal: {error}. {self._spelling.give('journal')}") from error
            self.without = f"no journal can be kept here ({error}): only what Fly lists is known"
            return None

    def _accesses(self, app: str | None) -> list[Access]:
        wanted = app or os.environ.get("FLY_APP_NAME")
        if wanted:
            return [self._access(app)]
        known = {(entry.app, entry.host) for entry in self._entries()}
        accesses = [self._access(name) for name in sorted({name for name, _ in known if is_app_name(name)})]
        # Without any it says what is missing.
        return [access for access in accesses if (access.app, access.host) in known] or [self._access(None)]

    def _access(self, app: str | None) -> Access:
        return Access.find(os.environ, app=app, spelling=self._spelling)

    def _entries(self) -> list[Entry]:
        return [] if self.journal is None else self.journal.entries()

    def now(self, app: str) -> float:
        """Seconds since the epoch: by Fly's clock as soon as it has said anything about this app."""
        sweeper = self.sweepers.get(app)
        return time.time() if sweeper is None else sweeper.now()

    def look(self) -> list[tuple[str, Found]]:
        """All of them, each with its app. Of an app that is `refused` what the journal has.

        Raises:
            FlyAPIError: Fly told of none of the apps.
        """
        found: list[tuple[str, Found]] = []
        for app, sweeper in self.sweepers.items():
            try:
                found += [(app, one) for one in sweeper.look(Patience(LOOK_PATIENCE))]
            except FlyAPIError as error:
                if len(self.refused) == len(self.sweepers) - 1:
                    raise
                # A token may be good for one app alone.
                self.refused[app] = str(error)
        return found + [(app, one) for app, one in self.written_down() if app in self.refused]

    def written_down(self) -> list[tuple[str, Found]]:
        """What the journal has, for who cannot ask Fly."""
        why = "Fly could not be asked"
        entries = [entry for entry in self._entries() if entry.label is None or entry.app in self.sweepers]
        return [(entry.app, Found(None, entry, Liveness.UNKNOWN, why)) for entry in entries]

    def find(self, words: Iterable[str]) -> tuple[list[tuple[str, Found]], list[str]]:
        """Those with these IDs or names, and the words that are none of them."""
        known = [(app, found) for app, found in self.look() if found.machine is not None]
        chosen: dict[tuple[str, str], Found] = {}
        unknown = []
        for word in words:
            named = [(app, found) for app, found in known if found.machine and word in (found.machine.id, found.name)]
            asked_for = {app: self.sweepers[app] for app in self.sweepers if app not in self.refused and not named}
            for app, sweeper in asked_for.items():
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
