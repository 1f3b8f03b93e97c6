"""`Fleet`: the machines of pools, in one Fly app or several."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.fly.client import MachinesAPI
from dragonfly_executor.backends.fly.errors import FlyAPIError
from dragonfly_executor.backends.fly.journal import FlyEntry, FlyJournal
from dragonfly_executor.backends.fly.settings import ARGUMENTS, APIAccess, SettingNames
from dragonfly_executor.backends.fly.sweep import FoundMachine, Sweeper
from dragonfly_executor.backends.found_node import SweepResult
from dragonfly_executor.backends.journal import default_folder
from dragonfly_executor.backends.owner import Liveness, is_app_name

LOOK_TIMEOUT = 30.0
"""Seconds for listing the machines of an app."""
DESTROY_TIMEOUT = 20.0
"""Seconds for destroying each machine."""


class Fleet:
    """The machines of one app, or of all apps in the journal.

    Args:
        app: the app; None for FLY_APP_NAME. If that is not set, all apps in the journal that this API has.
        journal: the journal's folder; None for the default folder of backends, which may not exist.
        names: the names of these settings in errors.

    Attributes:
        refused: apps whose machines Fly did not list although it listed those of others, each with Fly's message.
        without: the reason why there is no journal; "" if there is one.

    Raises:
        ValueError: a setting is missing. The text says where to get it.
        OSError: the given journal cannot be read.
    """

    def __init__(self, app: str | None, journal: str | None, names: SettingNames = ARGUMENTS) -> None:
        for setting, value in (("app", app), ("journal", journal)):
            if value == "":
                # From an unset shell variable, as in --app "$APP". The user did not mean all apps.
                raise ValueError(f"{names.name(setting, is_given=True)} is empty: is a variable not set?")
        self._setting_names = names
        self.refused: dict[str, str] = {}
        self.without = ""
        self.journal = self._open(journal)
        self.sweepers: dict[str, Sweeper] = {
            access.app: Sweeper(MachinesAPI(access), self.journal) for access in self._accesses(app)
        }

    def _open(self, folder: str | None) -> FlyJournal | None:
        try:
            return FlyJournal(default_folder(os.environ, "fly") if folder is None else folder)
        except (OSError, RuntimeError) as error:
            if folder is not None:
                raise OSError(f"cannot read the journal: {error}. {self._setting_names.give('journal')}") from error
            self.without = f"there is no journal here ({error}): only machines that Fly lists are known"
            return None

    def _accesses(self, app: str | None) -> list[APIAccess]:
        wanted = app or os.environ.get("FLY_APP_NAME")
        if wanted:
            return [self._access(app)]
        known = {(entry.app, entry.host) for entry in self._entries()}
        accesses = [self._access(name) for name in sorted({name for name, _ in known if is_app_name(name)})]
        # If there are no apps, this raises an error that names the missing setting.
        return [access for access in accesses if (access.app, access.host) in known] or [self._access(None)]

    def _access(self, app: str | None) -> APIAccess:
        return APIAccess.find(os.environ, app=app, names=self._setting_names)

    def _entries(self) -> list[FlyEntry]:
        return [] if self.journal is None else self.journal.entries()

    def now(self, app: str) -> float:
        """Return seconds since the epoch by Fly's clock, or by this machine's until Fly has answered for this app."""
        sweeper = self.sweepers.get(app)
        return time.time() if sweeper is None else sweeper.now()

    def look(self) -> list[tuple[str, FoundMachine]]:
        """Return all machines, each with its app. For a `refused` app, return its journal entries.

        Raises:
            FlyAPIError: Fly listed the machines of no app.
        """
        found: list[tuple[str, FoundMachine]] = []
        for app, sweeper in self.sweepers.items():
            try:
                found += [(app, one) for one in sweeper.look(Deadline(LOOK_TIMEOUT))]
            except FlyAPIError as error:
                if len(self.refused) == len(self.sweepers) - 1:
                    raise
                # A token may be valid for one app only.
                self.refused[app] = str(error)
        return found + [(app, one) for app, one in self.written_down() if app in self.refused]

    def written_down(self) -> list[tuple[str, FoundMachine]]:
        """Return the machines in the journal, without a request to Fly."""
        why = "Fly could not be asked"
        entries = [entry for entry in self._entries() if entry.label is None or entry.app in self.sweepers]
        return [(entry.app, FoundMachine(None, entry, Liveness.UNKNOWN, why)) for entry in entries]

    def find(self, words: Iterable[str]) -> tuple[list[tuple[str, FoundMachine]], list[str]]:
        """Return the machines with these ids or names, and the words that match no machine."""
        known = [(app, found) for app, found in self.look() if found.machine is not None]
        chosen: dict[tuple[str, str], FoundMachine] = {}
        unknown = []
        for word in words:
            named = [(app, found) for app, found in known if found.machine and word in (found.machine.id, found.name)]
            asked_for = {app: self.sweepers[app] for app in self.sweepers if app not in self.refused and not named}
            for app, sweeper in asked_for.items():
                # A machine that Fly does not list may still exist.
                asked = sweeper.find(word, Deadline(LOOK_TIMEOUT)) if word.isalnum() else None
                named += [] if asked is None else [(app, asked)]
            chosen |= {(app, found.name): found for app, found in named}
            unknown += [] if named else [word]
        return [(app, found) for (app, _), found in chosen.items()], unknown

    def destroy(self, chosen: list[tuple[str, FoundMachine]]) -> SweepResult[FoundMachine]:
        """Destroy these machines. Return those that are gone and those that may still exist."""
        done: SweepResult[FoundMachine] = SweepResult([], [])
        for app, found in chosen:
            swept = self.sweepers[app].destroy([found], Deadline(DESTROY_TIMEOUT))
            done.destroyed.extend(swept.destroyed)
            done.left.extend(swept.left)
        return done
