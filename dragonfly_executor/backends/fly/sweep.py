"""Finds and destroys orphaned machines.

There are two sources. Fly lists the machines, and each has an owner label. This machine's journal has names and ids,
which are looked up one by one. A machine is orphaned in three cases: its pool has abandoned it; its owner process is
gone; or its owner cannot be checked and its lease or its expiry date has passed. Until then, a machine whose owner
cannot be checked is kept. Times are by Fly's clock, as this machine's clock may be wrong.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.fly.client import MachinesAPI
from dragonfly_executor.backends.fly.errors import FlyAPIError
from dragonfly_executor.backends.fly.journal import FlyEntry, FlyJournal
from dragonfly_executor.backends.fly.machines import GONE, STILL_EXISTS, FlyMachine
from dragonfly_executor.backends.found_node import SweepResult
from dragonfly_executor.backends.label import OwnerLabel
from dragonfly_executor.backends.orphans import ABANDONED, NO_LABEL, describe, earlier_clock, judge
from dragonfly_executor.backends.owner import Liveness, Owner

MAX_PARENTS = 20
"""The maximum number of parents on Fly that one sweep checks, as each takes a request."""

LOOKUP_TIMEOUT = 3.0
"""Seconds for looking up one machine. A slow lookup must not prevent the lookups of other machines."""
SHOWN = 60.0
"""Seconds after which a machine that Fly does not know counts as gone. A newer one may not be visible everywhere."""


class FoundMachine(NamedTuple):
    """A machine that belongs to a pool, or may do so.

    Attributes:
        machine: None if only the journal knows it.
        entry: its journal entry; None if there is none.
        liveness: whether its owner is alive.
        why: the reason for `liveness`, in words.
    """

    machine: FlyMachine | None
    entry: FlyEntry | None
    liveness: Liveness
    why: str

    @property
    def name(self) -> str:
        """Return the machine's name."""
        return self.machine.name if self.machine is not None else self.entry.name if self.entry is not None else "?"


class Sweeper:
    """Examines the machines of one app.

    Args:
        api: the machines of the app.
        journal: the journal, or None.
    """

    def __init__(self, api: MachinesAPI, journal: FlyJournal | None) -> None:
        self._api = api
        self._journal = journal
        self._me = Owner.me()
        self._parents: dict[str, Liveness] = {}

    def now(self) -> float:
        """Return seconds since the epoch by Fly's clock, or by this machine's clock until Fly has answered once."""
        return self._api.now()

    def look(self, deadline: Deadline) -> list[FoundMachine]:
        """Return all machines of this app that pools have made, of any owner.

        Raises:
            FlyAPIError: the machines could not be listed.
        """
        with self._api:
            listed = {machine.name: machine for machine in self._api.runners(deadline)}
            now = self._now()
            # Keep half of the time for destroying the machines that are found.
            asking = deadline.part(deadline.left() / 2)
            found = []
            for entry in self._entries():
                machine, trouble = listed.pop(entry.name, None), ""
                if machine is None and entry.machine_id is not None:
                    # A machine that is not listed may still exist.
                    machine, trouble = self._ask(entry.machine_id, asking)
                    if trouble:
                        found.append(FoundMachine(None, entry, Liveness.UNKNOWN, trouble))
                        continue
                    if self._is_over(entry, machine):
                        self._forget(entry)
                        continue
                    if machine is not None and machine.state in GONE:
                        continue
                judged = self._judge(machine, entry, now, asking)
                # It must have expired by both clocks: once its entry is removed, nothing else remembers the machine.
                if machine is None and judged.liveness is not Liveness.ALIVE and entry.expires < min(now, time.time()):
                    self._forget(entry)
                    continue
                found.append(judged)
            ours = [machine for machine in listed.values() if OwnerLabel.decode(machine.metadata) is not None]
            return [*found, *(self._judge(machine, None, now, asking) for machine in ours)]

    def sweep(self, deadline: Deadline, found: Iterable[FoundMachine] | None = None) -> SweepResult[FoundMachine]:
        """Destroy orphaned machines.

        Args:
            deadline: the time for all requests.
            found: the result of `look`; None to call `look` now.

        Raises:
            FlyAPIError: the machines could not be listed.
        """
        with self._api:
            left_behind = self.look(deadline) if found is None else found
            return self.destroy([one for one in left_behind if one.liveness is Liveness.GONE], deadline)

    def find(self, machine_id: str, deadline: Deadline) -> FoundMachine | None:
        """Look a machine up by its id, even if Fly does not list it. None if it does not exist or is no pool's machine.

        Raises:
            FlyAPIError: Fly gave no usable response in time.
        """
        machine = self._api.get(machine_id, deadline)
        if machine is None or machine.state in GONE or OwnerLabel.decode(machine.metadata) is None:
            return None
        entry = next((entry for entry in self._entries() if entry.name == machine.name), None)
        return self._judge(machine, entry, self._now(), deadline)

    def destroy(self, found: Iterable[FoundMachine], deadline: Deadline) -> SweepResult[FoundMachine]:
        """Destroy these machines, even if their owners are alive. A machine that only the journal knows is skipped."""
        swept: SweepResult[FoundMachine] = SweepResult([], [])
        with self._api:
            for one in found:
                if one.machine is not None:
                    self._destroy(one, one.machine, deadline, swept)
        return swept

    def _destroy(
        self, one: FoundMachine, machine: FlyMachine, deadline: Deadline, swept: SweepResult[FoundMachine]
    ) -> None:
        if deadline.is_over:
            swept.left.append((one, "there was no time left"))
            return
        try:
            gone = self._api.destroy(machine.id, deadline)
        except FlyAPIError as error:
            swept.left.append((one, str(error)))
            return
        if not gone:
            swept.left.append((one, STILL_EXISTS))
            return
        swept.destroyed.append(one)
        if one.entry is not None:
            self._forget(one.entry)

    def _now(self) -> float:
        """Return Fly's time. If the clocks are far apart, return the earlier one, so that nothing expires too soon."""
        return earlier_clock(self._api.now(), time.time())

    def _entries(self) -> list[FlyEntry]:
        """Return the journal entries of this app. Include damaged ones, as they may be of this app."""
        entries = [] if self._journal is None else self._journal.entries()
        here = (self._api.access.app, self._api.access.host)
        return [entry for entry in entries if entry.label is None or (entry.app, entry.host) == here]

    def _forget(self, entry: FlyEntry) -> None:
        if self._journal is not None:
            # An entry that stays costs one more lookup in the next sweep, and no machine.
            with suppress(OSError):
                self._journal.remove(entry.name)

    def _ask(self, machine_id: str, deadline: Deadline) -> tuple[FlyMachine | None, str]:
        """Look a machine up. Return it, or the reason why the lookup failed."""
        try:
            return self._api.get(machine_id, deadline.part(LOOKUP_TIMEOUT)), ""
        except FlyAPIError as error:
            return None, f"its state could not be read: {error}"

    def _is_over(self, entry: FlyEntry, machine: FlyMachine | None) -> bool:
        """Return True if an unlisted machine is gone and its entry is no longer needed."""
        if machine is not None and machine.state not in GONE:
            return False
        if entry.abandoned:
            return True
        if entry.label is not None and entry.label.owner.liveness(self._me) is Liveness.ALIVE:
            # A live owner removes its own entries, and may know more.
            return False
        # The absolute difference, as a clock may have been set since.
        return machine is not None or abs(time.time() - entry.began) > SHOWN

    # -- the owner ----------------------------------------------------------------------------------------------------

    def _judge(
        self, machine: FlyMachine | None, entry: FlyEntry | None, now: float, deadline: Deadline
    ) -> FoundMachine:
        label = OwnerLabel.decode(machine.metadata) if machine is not None else None
        if entry is not None:
            if entry.label is not None and label is not None and label.boot != entry.label.boot:
                # A machine has this name, but it is not the one in the journal.
                entry = None
            elif entry.abandoned:
                return FoundMachine(machine, entry, *ABANDONED)
        written = label or (entry.label if entry is not None else None)
        if written is None:
            return FoundMachine(machine, entry, *NO_LABEL)
        created = None if machine is None else machine.created
        verdict = judge(written, self._me, now, created, is_here=entry is not None and entry.label is not None)
        parent = written.owner.fly_machine
        if verdict.liveness is not Liveness.UNKNOWN or parent is None:
            return FoundMachine(machine, entry, *verdict)
        is_new = created is None or now - created < SHOWN
        liveness = self._parent_on_fly(parent, written.app, deadline, is_new=is_new)
        return FoundMachine(machine, entry, liveness, describe(written, liveness))

    def _parent_on_fly(self, machine_id: str, app: str, deadline: Deadline, *, is_new: bool) -> Liveness:
        """Return whether the parent's own Fly machine still runs.

        Args:
            machine_id: the parent's machine.
            app: the app of that machine; "" if unknown: then a machine that is not found may be in another app.
            deadline: the time for the lookup.
            is_new: whether the runner was made just now: then the parent's machine may not be visible everywhere yet.
        """
        known = self._parents.get(machine_id)
        if known is None:
            if len(self._parents) >= MAX_PARENTS:
                return Liveness.UNKNOWN
            known = self._parents[machine_id] = self._ask_for_parent(machine_id, app, deadline, is_new=is_new)
        return known

    def _ask_for_parent(self, machine_id: str, app: str, deadline: Deadline, *, is_new: bool) -> Liveness:
        api = self._api if app in ("", self._api.access.app) else self._api.of(app)
        try:
            machine = api.get(machine_id, deadline.part(LOOKUP_TIMEOUT))
            if machine is not None:
                ended = machine.id == machine_id and machine.state in {*GONE, "stopped", "failed"}
                return Liveness.GONE if ended else Liveness.UNKNOWN
            # A missing machine proves something only if Fly lists other machines of its app.
            others = set() if not app or is_new else api.ids(deadline.part(LOOKUP_TIMEOUT))
        except FlyAPIError:
            return Liveness.UNKNOWN
        return Liveness.GONE if others and machine_id not in others else Liveness.UNKNOWN
