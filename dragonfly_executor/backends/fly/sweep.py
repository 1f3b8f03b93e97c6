"""Finds the machines that were left behind, and destroys them.

Two sources tell of them: what is written on the machines themselves, as far as Fly lists them, and this machine's
journal, whose machines are asked for by name and number. A machine is left behind when its pool has let go of it, when
the process whose pool it was is gone, or when its time is over and nobody can tell whether that process lives. Where
nobody can tell, and it has time left, it is left alone. What time it is Fly says: this machine's clock may be wrong.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

from dragonfly_executor.backends.fly.client import MachinesAPI
from dragonfly_executor.backends.fly.deadline import Patience
from dragonfly_executor.backends.fly.errors import FlyAPIError
from dragonfly_executor.backends.fly.journal import Entry, Journal
from dragonfly_executor.backends.fly.machines import GONE, Machine
from dragonfly_executor.backends.fly.owner import Label, Liveness, Owner

MAX_PARENTS = 20
"""Parents on Fly that are asked after in one sweep: each takes a request."""

ASKING = 3.0
"""Seconds for asking after one machine. One whose host is in trouble must not keep the others from being looked at."""
SHOWN = 60.0
"""Seconds after which a machine that Fly does not know is taken to be gone: a new one may not be known everywhere."""

APART_A_LITTLE = 300.0
"""Seconds by which a claim to a machine may have ended before it counts as that."""
APART = 30 * 24 * 3600.0
"""Seconds that this machine's clock may differ from Fly's, and be the one that is wrong. With more nobody can tell."""


class Found(NamedTuple):
    """A machine that is, or may be, a pool's.

    Attributes:
        machine: None where it is known from the journal alone.
        entry: the journal's, if it has one.
        liveness: of whoever has it.
        why: in words.
    """

    machine: Machine | None
    entry: Entry | None
    liveness: Liveness
    why: str

    @property
    def name(self) -> str:
        """The machine's."""
        return self.machine.name if self.machine is not None else self.entry.name if self.entry is not None else "?"


class Swept(NamedTuple):
    """What a sweep did.

    Attributes:
        destroyed: machines that are gone.
        left: machines that should be, with what kept them.
    """

    destroyed: list[Found]
    left: list[tuple[Found, str]]


class Sweeper:
    """Looks at one app's machines.

    Args:
        api: the app's.
        journal: None for none.
    """

    def __init__(self, api: MachinesAPI, journal: Journal | None) -> None:
        self._api = api
        self._journal = journal
        self._me = Owner.me()
        self._parents: dict[str, Liveness] = {}

    def now(self) -> float:
        """Seconds since the epoch, by Fly's clock as soon as it has answered anything."""
        return self._api.now()

    def look(self, patience: Patience) -> list[Found]:
        """All machines of pools of this app, whoever's.

        Raises:
            FlyAPIError: they could not be listed.
        """
        with self._api:
            listed = {machine.name: machine for machine in self._api.runners(patience)}
            now = self._now()
            # What is found is to be destroyed as well.
            asking = patience.part(patience.left() / 2)
            found = []
            for entry in self._entries():
                machine, trouble = listed.pop(entry.name, None), ""
                if machine is None and entry.machine_id is not None:
                    # What is not listed may be there all the same.
                    machine, trouble = self._ask(entry.machine_id, asking)
                    if trouble:
                        found.append(Found(None, entry, Liveness.UNKNOWN, trouble))
                        continue
                    if self._is_over(entry, machine):
                        self._forget(entry)
                        continue
                    if machine is not None and machine.state in GONE:
                        continue
                judged = self._judge(machine, entry, now, asking)
                # By the clock that it was written by, too: what is forgotten here nobody knows of any more.
                if machine is None and judged.liveness is not Liveness.ALIVE and entry.expires < min(now, time.time()):
                    self._forget(entry)
                    continue
                found.append(judged)
            ours = [machine for machine in listed.values() if Label.decode(machine.metadata) is not None]
            return [*found, *(self._judge(machine, None, now, asking) for machine in ours)]

    def sweep(self, patience: Patience, found: Iterable[Found] | None = None) -> Swept:
        """Destroy what was left behind.

        Args:
            patience: for all of it.
            found: by `look`; None looks now.

        Raises:
            FlyAPIError: the machines could not be listed.
        """
        with self._api:
            left_behind = self.look(patience) if found is None else found
            return self.destroy([one for one in left_behind if one.liveness is Liveness.GONE], patience)

    def find(self, machine_id: str, patience: Patience) -> Found | None:
        """A machine by its number, also where Fly does not list it; None if there is none, or if it is no pool's.

        Raises:
            FlyAPIError: it was not to be found out.
        """
        machine = self._api.get(machine_id, patience)
        if machine is None or machine.state in GONE or Label.decode(machine.metadata) is None:
            return None
        entry = next((entry for entry in self._entries() if entry.name == machine.name), None)
        return self._judge(machine, entry, self._now(), patience)

    def destroy(self, found: Iterable[Found], patience: Patience) -> Swept:
        """Destroy these machines, whoever has them. Those of which only the journal knows cannot be."""
        swept = Swept([], [])
        with self._api:
            for one in found:
                if one.machine is not None:
                    self._destroy(one, one.machine, patience, swept)
        return swept

    def _destroy(self, one: Found, machine: Machine, patience: Patience, swept: Swept) -> None:
        if patience.over:
            swept.left.append((one, "there was no time left"))
            return
        try:
            gone = self._api.destroy(machine.id, patience)
        except FlyAPIError as error:
            swept.left.append((one, str(error)))
            return
        if not gone:
            swept.left.append((one, "it was told to go, and has not yet"))
            return
        swept.destroyed.append(one)
        if one.entry is not None:
            self._forget(one.entry)

    def _now(self) -> float:
        """Fly's time. Where one of the clocks is far off, the one by which nothing is over that is not."""
        now, here = self._api.now(), time.time()
        return now if abs(now - here) < APART else min(now, here)

    def _entries(self) -> list[Entry]:
        """Of this app; one that is damaged may be."""
        entries = [] if self._journal is None else self._journal.entries()
        here = (self._api.access.app, self._api.access.host)
        return [entry for entry in entries if entry.label is None or (entry.app, entry.host) == here]

    def _forget(self, entry: Entry) -> None:
        if self._journal is not None:
            # One that stays costs another question next time, and no machine.
            with suppress(OSError):
                self._journal.remove(entry.name)

    def _ask(self, machine_id: str, patience: Patience) -> tuple[Machine | None, str]:
        """A machine, or why nobody can say."""
        try:
            return self._api.get(machine_id, patience.part(ASKING)), ""
        except FlyAPIError as error:
            return None, f"it could not be asked after: {error}"

    def _is_over(self, entry: Entry, machine: Machine | None) -> bool:
        """Whether a machine that is not listed has gone, and has not to be remembered any more."""
        if machine is not None and machine.state not in GONE:
            return False
        if entry.abandoned:
            return True
        if entry.label is not None and entry.label.owner.liveness(self._me) is Liveness.ALIVE:
            # It forgets by itself, and may know better.
            return False
        # Either way: a clock may have been set meanwhile.
        return machine is not None or abs(time.time() - entry.began) > SHOWN

    # -- whose is it --------------------------------------------------------------------------------------------------

    def _judge(self, machine: Machine | None, entry: Entry | None, now: float, patience: Patience) -> Found:
        label = Label.decode(machine.metadata) if machine is not None else None
        if entry is not None:
            if entry.label is not None and label is not None and label.boot != entry.label.boot:
                # Somebody has a machine of this name that is not the one in the journal.
                entry = None
            elif entry.abandoned:
                return Found(machine, entry, Liveness.GONE, "its pool has let go of it")
        written = label or (entry.label if entry is not None else None)
        if written is None:
            return Found(machine, entry, Liveness.UNKNOWN, "nothing says whose it is")
        liveness = written.owner.liveness(self._me, is_here=entry is not None and entry.label is not None)
        expires = written.expires if machine is None else written.expires_on(machine.created)
        if liveness is Liveness.UNKNOWN and expires < now:
            return Found(machine, entry, Liveness.GONE, "its time is over")
        held = None if machine is None else written.held_until(machine.created)
        if liveness is Liveness.UNKNOWN and held is not None and held + APART_A_LITTLE < now:
            return Found(machine, entry, Liveness.GONE, "its owner has not renewed its claim to it")
        if liveness is Liveness.UNKNOWN and written.owner.fly_machine is not None:
            is_new = machine is None or machine.created is None or now - machine.created < SHOWN
            liveness = self._parent_on_fly(written.owner.fly_machine, written.app, patience, is_new=is_new)
        process = f"process {written.owner.pid} on {written.owner.host}"
        elsewhere = f"{process} of app {written.app}" if written.app else process
        why = {
            Liveness.ALIVE: f"{process} has it",
            Liveness.GONE: f"{elsewhere} is gone",
            Liveness.UNKNOWN: f"{elsewhere} cannot be asked after from here",
        }[liveness]
        return Found(machine, entry, liveness, why)

    def _parent_on_fly(self, machine_id: str, app: str, patience: Patience, *, is_new: bool) -> Liveness:
        """Whether a parent's own machine still runs.

        Args:
            machine_id: the parent's machine.
            app: that machine's; "" where nothing says so: then one that is not known may be another app's.
            patience: for asking.
            is_new: whether the runner was made just now: then the parent's machine may not be known everywhere.
        """
        known = self._parents.get(machine_id)
        if known is None:
            if len(self._parents) >= MAX_PARENTS:
                return Liveness.UNKNOWN
            known = self._parents[machine_id] = self._ask_for_parent(machine_id, app, patience, is_new=is_new)
        return known

    def _ask_for_parent(self, machine_id: str, app: str, patience: Patience, *, is_new: bool) -> Liveness:
        api = self._api if app in ("", self._api.access.app) else self._api.of(app)
        try:
            machine = api.get(machine_id, patience.part(ASKING))
            if machine is not None:
                ended = machine.id == machine_id and machine.state in {*GONE, "stopped", "failed"}
                return Liveness.GONE if ended else Liveness.UNKNOWN
            # That Fly does not know it proves something only where Fly knows others of its app.
            others = set() if not app or is_new else api.ids(patience.part(ASKING))
        except FlyAPIError:
            return Liveness.UNKNOWN
        return Liveness.GONE if others and machine_id not in others else Liveness.UNKNOWN
