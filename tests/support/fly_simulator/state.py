"""The world that the API speaks of: apps, their machines, what happened to them. No thread, socket, process, timer."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support.fly_simulator import errors
from tests.support.fly_simulator.regions import place
from tests.support.fly_simulator.requested import DEFAULT_GUEST
from tests.support.fly_simulator.uncertain import Switches
from tests.support.fly_simulator.values import Event, Exit, Lease, exit_request, rfc3339

PERSISTENT = frozenset({"started", "stopped", "suspended", "failed", "destroyed"})
"""What "settled" means to a wait. `created` is persistent as well, but nothing settles there (I)."""
ENDED = frozenset({"destroyed", "replaced", "migrated"})
DESTROYABLE = frozenset({"created", "stopped", "suspended", "failed"})
"""Without force (P)."""

CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


@dataclass(slots=True)
class App:
    """An app, and what of it machines see.

    Attributes:
        secrets: injected into every machine of the app (reference 3.3).
        machine_limit: how many machines its plan allows.
    """

    name: str
    organization: str
    secrets: dict[str, str] = field(default_factory=dict)
    machine_limit: int | None = None


@dataclass(slots=True, eq=False)
class Machine:
    """One machine. `config` is as the request had it.

    Attributes:
        by_request: it was made by a request to this simulator, not by the test.
        changes: each state with the moment at which it began.
        exits: how its processes ended.
        host_is_lost: nothing reaches its host; what runs there goes on.
    """

    id: str
    app: str
    name: str
    region: str
    config: dict[str, Any]
    private_ip: str
    instance_id: str
    created_at: float
    updated_at: float = 0.0
    state: str = "created"
    skip_secrets: bool = False
    by_request: bool = True
    lease: Lease | None = None
    host_is_lost: bool = False
    stop_requested: bool = False
    starts: int = 0
    gets_destroying: int = 0
    events: list[Event] = field(default_factory=list)
    changes: list[tuple[float, str]] = field(default_factory=list)
    exits: list[Exit] = field(default_factory=list)

    @property
    def guest(self) -> dict[str, Any]:
        """What it has, defaults filled in."""
        return DEFAULT_GUEST | dict(self.config.get("guest") or {})

    @property
    def metadata(self) -> dict[str, str]:
        """What its owner noted on it."""
        metadata: dict[str, str] = self.config.setdefault("metadata", {})
        return metadata

    @property
    def restart_policy(self) -> tuple[str, int]:
        """Policy and tries. None given is on-failure, 10 (D)."""
        restart = self.config.get("restart") or {}
        return restart.get("policy", "on-failure"), restart.get("max_retries", 10)


Listener = Callable[[Machine], None]


class World:
    """Every app and machine.

    Args:
        clock: seconds since the epoch.
        entropy: of names, numbers and addresses.
        switches: what is uncertain.

    Attributes:
        full: regions without room, each with what it answers to a create (None: 422, as is usual).
        listeners: called with a machine whenever something about it has changed.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.time,
        entropy: random.Random | None = None,
        switches: Switches | None = None,
    ) -> None:
        self.now = clock
        self.switches = switches or Switches()
        self.apps: dict[str, App] = {}
        self.full: dict[str, errors.ApiError | None] = {}
        self.listeners: list[Listener] = []
        self._machines: dict[str, Machine] = {}
        self._random = entropy or random.Random()

    # -- looking -------------------------------------------------------------------------------------------------------

    @property
    def machines(self) -> list[Machine]:
        """All there ever were, oldest first."""
        return list(self._machines.values())

    @property
    def booted(self) -> list[Machine]:
        """Those that a request made, oldest first."""
        return [machine for machine in self.machines if machine.by_request]

    @property
    def alive(self) -> list[Machine]:
        """Those that a request made and that have not been destroyed."""
        return [machine for machine in self.booted if machine.state not in ENDED]

    def app(self, name: str) -> App:
        """The app of that name."""
        try:
            return self.apps[name]
        except KeyError:
            raise errors.no_app() from None

    def machine(self, app: str, machine_id: str) -> Machine:
        """The machine of that app with this id: destroyed ones are still known (L)."""
        self.app(app)
        machine = self._machines.get(machine_id)
        if machine is None or machine.app != app:
            raise errors.no_machine()
        if machine.state in ENDED and self.now() > machine.changes[-1][0] + self.switches.destroyed_readable:
            raise errors.no_machine()
        return machine

    def listed(
        self,
        apps: Iterable[str],
        *,
        metadata: Iterable[tuple[str, str]] = (),
        states: frozenset[str] = frozenset(),
        region: str | None = None,
        include_deleted: bool = False,
    ) -> list[Machine]:
        """Machines that fit all of this."""
        names = set(apps)
        wanted = list(metadata)
        return [
            machine
            for machine in self.machines
            if machine.app in names
            and (include_deleted or machine.state not in ENDED)
            and (not states or machine.state in states)
            and (region is None or machine.region == region)
            and all(machine.metadata.get(key) == value for key, value in wanted)
        ]

    # -- changing ------------------------------------------------------------------------------------------------------

    def create(self, app: str, body: Mapping[str, Any], private_ip: str, *, default_region: str = "iad") -> Machine:
        """A machine in state `created`. The body has been checked."""
        self._check_room(self.app(app))
        number = self.number()
        name = body.get("name") or f"{self._random.choice(('quiet', 'bold', 'aged'))}-{number[-6:]}"
        self._check_name(app, name)
        region = place(body.get("region") or default_region, self.full)
        # What the request left out is filled in (D: the samples' replies have it).
        config = {"init": {}, "guest": dict(DEFAULT_GUEST)} | copy.deepcopy(dict(body["config"]))
        return self.add(
            app, name, region, config, private_ip, number=number,
            skip_secrets=bool(body.get("skip_secrets")),
        )  # fmt: skip

    def add(
        self,
        app: str,
        name: str,
        region: str,
        config: dict[str, Any],
        private_ip: str,
        *,
        number: str | None = None,
        by_request: bool = True,
        skip_secrets: bool = False,
    ) -> Machine:
        """A machine, whatever anybody would say to it."""
        now = self.now()
        machine = Machine(
            number or self.number(), app, name, region, config, private_ip, self.ulid(), now,
            by_request=by_request, skip_secrets=skip_secrets,
        )  # fmt: skip
        self._machines[machine.id] = machine
        self.move(machine, "created")
        self.record(machine, "launch", "user")
        return machine

    def move(self, machine: Machine, state: str) -> None:
        """It is in another state now."""
        machine.state = state
        machine.updated_at = self.now()
        machine.changes.append((machine.updated_at, state))
        self.changed(machine)

    def record(self, machine: Machine, kind: str, source: str, request: Mapping[str, Any] | None = None) -> None:
        """Something happened to it."""
        machine.events.append(Event(self.ulid(), kind, machine.state, source, self.now(), request))
        self.changed(machine)

    def started(self, machine: Machine) -> None:
        """Its process runs."""
        machine.starts += 1
        self.move(machine, "started")
        self.record(machine, "start", "flyd")

    def exited(self, machine: Machine, code: int, *, signal: int = -1, oom: bool = False) -> Exit:
        """Its process has ended. Whether it is started again is in what is returned."""
        policy, tries = machine.restart_policy
        again = policy == "always" or (policy == "on-failure" and code != 0 and machine.starts <= tries)
        restarting = again and machine.state == "started"
        ended = Exit(code, signal, oom, machine.stop_requested, restarting)
        machine.exits.append(ended)
        if machine.state != "destroying":
            self.move(machine, "starting" if restarting else "stopped")
        request = exit_request(ended, machine.starts, self.now(), self.switches)
        self.record(machine, "exit", "flyd", request)
        return ended

    def take_lease(self, machine: Machine, ttl: float, description: str, nonce: str | None, owner: str) -> Lease:
        """A lease, made or lengthened."""
        held = self.lease_of(machine)
        if held is not None and held.nonce != nonce:
            raise errors.lease_held(machine.id, held.owner, rfc3339(held.expires_at))
        if held is None:
            held = Lease(self.number()[:12], owner, description, 0.0)
        held.expires_at = self.now() + ttl
        machine.lease = held
        self.changed(machine)
        return held

    def release_lease(self, machine: Machine, nonce: str | None) -> None:
        """It is free for others."""
        held = self.lease_of(machine)
        if held is not None and held.nonce != nonce:
            raise errors.lease_held(machine.id, held.owner, rfc3339(held.expires_at))
        machine.lease = None
        self.changed(machine)

    def lease_of(self, machine: Machine) -> Lease | None:
        """Its lease, unless that has run out."""
        if machine.lease is not None and machine.lease.expires_at <= self.now():
            machine.lease = None
        return machine.lease

    def changed(self, machine: Machine) -> None:
        """Tell who listens."""
        for listener in tuple(self.listeners):
            listener(machine)

    # -- what is drawn -------------------------------------------------------------------------------------------------

    def number(self) -> str:
        """A machine's id: 14 hexadecimal digits."""
        return f"{self._random.getrandbits(56):014x}"

    def ulid(self) -> str:
        """26 characters that sort by time."""
        value = int(self.now() * 1000) << 80 | self._random.getrandbits(80)
        return "".join(CROCKFORD[value >> shift & 31] for shift in range(125, -1, -5))

    # -- what stands against it ----------------------------------------------------------------------------------------

    def _check_name(self, app: str, name: str) -> None:
        free = ENDED | ({"destroying"} if self.switches.name_free_while_destroying else set())
        for machine in self._machines.values():
            if machine.app == app and machine.name == name and machine.state not in free:
                raise errors.name_taken(machine.id, name)

    def _check_room(self, app: App) -> None:
        count = sum(machine.app == app.name and machine.state not in ENDED for machine in self._machines.values())
        if app.machine_limit is not None and count >= app.machine_limit:
            raise errors.payment_needed(self.switches.plan_limit_status)
