"""The entries that `FlyBackend` writes into its journal."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from dragonfly_executor.backends.journal import (
    KEPT,
    JournalFolder,
    check_journal,
    decode_label,
    decode_text,
    decode_time,
    encode_label,
    explain_no_journal,
)
from dragonfly_executor.backends.label import OwnerLabel

MACHINE_ID = re.compile(r"[A-Za-z0-9_-]{1,63}")


class FlyEntry(NamedTuple):
    """A boot.

    Attributes:
        name: the machine's unique name.
        app, host: the app and the API that got the create request.
        label: the label on the machine; None if the file is damaged.
        began: when the boot began, in seconds since the epoch.
        expires: when the machine expires, in seconds since the epoch. After that no process owns it.
        machine_id: None if it is not known. Then there may be no machine.
        region, guest: region and size, as requested, or as created once that is known.
        abandoned: True if the owner has stopped the machine but could not confirm that it is gone.
    """

    name: str
    app: str
    host: str
    label: OwnerLabel | None
    began: float
    expires: float
    machine_id: str | None = None
    region: str = ""
    guest: Mapping[str, Any] = {}
    abandoned: bool = False


class FlyJournal(JournalFolder[FlyEntry]):
    """The journal of machines on Fly."""

    def name_of(self, entry: FlyEntry) -> str:
        """See `JournalFolder.name_of`."""
        return entry.name

    def abandoned(self, entry: FlyEntry) -> FlyEntry:
        """See `JournalFolder.abandoned`."""
        return entry._replace(abandoned=True)

    def _encode(self, entry: FlyEntry) -> Mapping[str, object]:
        return {**entry._asdict(), "label": encode_label(entry.label)}

    def _decode(self, name: str, said: Any) -> FlyEntry:
        label, began, until = decode_label(said["label"]), decode_time(said["began"]), decode_time(said["expires"])
        app, host, region = (decode_text(said[key]) for key in ("app", "host", "region"))
        machine_id, guest = said["machine_id"], said["guest"]
        # The id becomes part of a request URL, so it must be well-formed.
        if machine_id is not None and not (isinstance(machine_id, str) and MACHINE_ID.fullmatch(machine_id)):
            raise ValueError("the machine's ID is not valid")
        if not isinstance(guest, dict):
            raise TypeError("the guest is not a mapping")
        return FlyEntry(name, app, host, label, began, until, machine_id, region, guest, said["abandoned"] is True)

    def _damaged(self, name: str, since: float) -> FlyEntry:
        return FlyEntry(name, "", "", None, since, since + KEPT)


def open_fly_journal(given: str | os.PathLike[str] | bool | None) -> FlyJournal | None:
    """Open a backend's journal.

    Args:
        given: a folder; True or None for the default folder; False for no journal.

    Raises:
        OSError: the journal cannot be opened. The text says what to do.
    """
    try:
        folder = check_journal(given, "fly")
        return None if folder is None else FlyJournal(folder)
    except (OSError, RuntimeError) as error:
        raise explain_no_journal(error) from error
