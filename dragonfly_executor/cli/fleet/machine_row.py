"""A machine of a pool as a table row for people, or as a record for programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from dragonfly_executor.backends.fly.machines import ENDED
from dragonfly_executor.backends.fly.prices import PRICES, Prices
from dragonfly_executor.backends.fly.sweep import FoundMachine
from dragonfly_executor.backends.label import OwnerLabel
from dragonfly_executor.cli.terminal import duration

HEAD = ("MACHINE", "NAME", "STATE", "REGION", "SIZE", "AGE", "COST", "POOL", "OWNER")


class MachineRow(NamedTuple):
    """The known facts of a machine.

    Attributes:
        app, name, pool: "" if unknown.
        id: None if only a started boot is known. Then there may be no machine.
        state, region, guest: as Fly reports them. For a started boot, as requested.
        age: seconds since its creation, or since the boot began; None if unknown.
        owner: "alive", "gone" or "unknown".
        why: the reason for `owner`, in words.
        cost: its estimated cost so far in US dollars, if it was started all the time.
        expires: when it expires, in seconds since the epoch; None if unknown. After that it has no owner.
        listed, in_journal: whether Fly lists it, and whether the journal has it.
    """

    app: str
    name: str
    id: str | None
    state: str
    region: str
    guest: Mapping[str, Any]
    age: float | None
    owner: str
    why: str
    pool: str
    cost: float | None
    expires: int | None
    listed: bool
    in_journal: bool

    @classmethod
    def of(cls, found: FoundMachine, app: str, now: float, now_here: float, prices: Prices = PRICES) -> MachineRow:
        """Make a `MachineRow` from a machine.

        Args:
            found: the machine.
            app: its app.
            now: the time by Fly's clock, in seconds since the epoch.
            now_here: the time by this machine's clock, in seconds since the epoch.
            prices: the price list.
        """
        machine, entry = found.machine, found.entry
        label = OwnerLabel.decode(machine.metadata) if machine is not None else None
        label = label or (entry.label if entry is not None else None)
        region = (machine.region if machine is not None else "") or (entry.region if entry is not None else "")
        guest = (machine.guest if machine is not None else {}) or (entry.guest if entry is not None else {})
        age = None
        if machine is not None and machine.created is not None:
            age = max(0.0, now - machine.created)
        elif entry is not None:
            age = max(0.0, now_here - entry.began)
        price = prices.per_second(guest, [region] if region else []) if guest else None
        machine_id, state = None, "asked for"
        if machine is not None:
            machine_id, state = machine.id, machine.state or "unknown"
        elif entry is not None and entry.machine_id is not None:
            machine_id, state = entry.machine_id, "not known"
        return cls(
            app=app,
            name=found.name,
            id=machine_id,
            state=state,
            region=region,
            guest=dict(guest),
            age=age,
            owner=found.liveness.value,
            why=found.why,
            pool="" if label is None else label.pool,
            cost=None if age is None or price is None or machine is None else age * price,
            expires=None if label is None else label.expires,
            listed=machine is not None,
            in_journal=entry is not None,
        )

    @property
    def may_run(self) -> bool:
        """Return True if the machine may be running, and so may cost something now."""
        return self.id is not None and self.state not in ENDED

    def record(self) -> dict[str, Any]:
        """Return the facts as a JSON-compatible record."""
        return {**self._asdict(), "may_run": self.may_run}

    def row(self) -> tuple[str, ...]:
        """Return the cells of a table row, in the order of `HEAD`."""
        size = f"{self.guest.get('cpu_kind', '?')}-{self.guest.get('cpus', '?')}x" if self.guest else "?"
        cost = "?" if self.cost is None else f"${self.cost:.4f}" if self.cost < 1 else f"${self.cost:.2f}"
        age, owner = "?" if self.age is None else duration(self.age), f"{self.owner}: {self.why}"
        where = self.region or "?"
        return (self.id or "-", self.name or "?", self.state, where, size, age, cost, self.pool or "?", owner)
