"""Runners on Fly.io machines: created when calls wait, and destroyed when nobody needs them any more."""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from math import ceil
from typing import TYPE_CHECKING, Any

from dragonfly_executor.backends.agent_command import portable_options
from dragonfly_executor.backends.base import Backend, BootRequest, GivenUp, Node
from dragonfly_executor.backends.fly.deadline import BootPatience, Patience
from dragonfly_executor.backends.fly.journal import Entry, open_journal
from dragonfly_executor.backends.fly.journal_writer import Records
from dragonfly_executor.backends.fly.machine_config import (
    STOP_SLACK,
    Blueprint,
    Guest,
    check_config,
    check_init,
    check_services,
    check_stop_grace,
    check_texts,
    has_token,
    merge,
    runner_command,
)
from dragonfly_executor.backends.fly.owner import HOLD_FOR, Label, Owner
from dragonfly_executor.backends.fly.prices import PRICES, Prices
from dragonfly_executor.backends.fly.settings import Access, Address, Place
from dragonfly_executor.sync.options import Sync
from dragonfly_executor.transport.tcp import join_address
from dragonfly_executor.util.validation import duration

if TYPE_CHECKING:
    from dragonfly_executor.backends.fly.background_sweep import SweepBeside
    from dragonfly_executor.backends.fly.client import MachinesAPI
    from dragonfly_executor.backends.fly.creation import Creation
    from dragonfly_executor.backends.fly.machines import Machine
    from dragonfly_executor.backends.fly.sweep import Swept
    from dragonfly_executor.util.validation import Seconds

logger = logging.getLogger("dragonfly_executor")

MARGIN = 300.0
"""Seconds that the clocks of parent, Fly and whoever sweeps may differ."""
LONGEST_LIFETIME = 10 * 365 * 24 * 3600.0
"""Seconds: what is written on a machine has an end, or nobody would ever find it."""
UNDO_PATIENCE = 20.0
"""Seconds for destroying what came of a boot that failed."""
GIVEN_UP_PATIENCE = 1.5
"""The same for a boot that was given up: it ends within 2 s, and what is not seen to by then stands in the journal."""
UNDO_SHARE = 0.2  # of a boot's time, at most
SWEEP_PATIENCE = 60.0
FIRST_SWEEP_PATIENCE = 10.0
"""Seconds for the sweep beside the first boot, which does not wait for it."""


class FlyBackend(Backend):
    """Boots runners on Fly.io machines of an app, one machine each.

    In a machine on Fly, ``FlyBackend()`` needs nothing but a token among the app's secrets: runners are machines of the
    same app, with the same image, in the same region. They dial back to this machine over Fly's private network.

    No machine is left behind: a runner without a parent ends itself, Fly destroys a machine whose runner has ended, a
    process on it that does not depend on the runner's health ends it after `max_lifetime`, and what is asked for is
    written down first, here and on the machine, so that a later `sweep` knows it. A backend sweeps by itself beside the
    boot of its first runner.

    Args:
        app: the app whose machines the runners are; default FLY_APP_NAME.
        image: what they run; default FLY_IMAGE_REF, the image of this machine. Python and dragonfly_executor must be in
            it, of the parent's versions.
        token: default FLY_API_TOKEN. A deploy token of the app is enough: ``fly tokens create deploy -a APP``.
        region: one, or several in order of preference, as a list or with commas between; default FLY_REGION.
        cpu_kind, cpus, memory_mb: the size of a machine. memory_mb is in MiB.
        gpu_kind, gpus: passed on to Fly, which is about to give up GPUs.
        env: variables for the runners. Fly shows them to whoever may see the machine: they are no place for secrets.
        init: what starts the machine's main process, as in its config; merged over what starts the runner.
        services: what Fly's proxy forwards to the machine, as in its config; none by default.
        metadata: for the machines, besides what says whose they are.
        host: the Machines API; default FLY_FLAPS_BASE_URL or https://api.machines.dev.
        boot_timeout: seconds (or a `timedelta`) of a boot where the pool does not say.
        max_lifetime: seconds after which a machine ends whatever it does: calls that run then are lost. Ten years at
            most.
        max_idle: seconds without a call after which a machine ends whatever its pool wants; 0 for any number. A pool's
            own ``idle_shutdown_after`` comes long before; `min` runners are replaced.
        stop_grace: seconds that calls have to finish when Fly stops a machine, as for maintenance of its host; then
            they are lost. Default 25; 295 at most. Fly waits 5 s longer (``stop_config``).
        skip_secrets: whether the app's secrets, the token with them, are kept from the runners.
        keep_token: whether a runner keeps FLY_API_TOKEN and FLY_ACCESS_TOKEN where its machine has them all the same;
            else no call sees them. What stands in `env` is kept in any case.
        machine_config: merged over the config that all this makes: the way to what has no argument of its own.
            ``auto_destroy`` and ``restart`` must not be in it.
        parent_address: where runners dial this process, as HOST or HOST:PORT (an IPv6 address with a port stands in
            brackets); default FLY_PRIVATE_IP. Needed outside of Fly: an address that Fly's private network reaches.
        bind: the address to listen on where that is another one.
        python: the interpreter in the image; default this one's path where the image is this machine's own, else
            ``python3``.
        sync: what of this program's own files travels; see `SSHBackend`. Default None, nothing, where the image is this
            machine's own, for it has them; else "auto".
        requirements: third-party packages to install on each machine; see `SSHBackend`. Best in the image.
        failsafe: seconds that a runner tries to reach its parent.
        journal: the folder where boots are written down; default ``$XDG_STATE_HOME/dragonfly_executor/fly``. False goes
            without, where there is no disk to write to: then machines of a parent that was killed are known by what is
            written on them alone.
        sweep: whether the first boot sweeps, and the next one after a machine could not be seen to be destroyed.
        prices: what `Budget` and ``stats()`` go by: an estimate, as of a date. See `Prices`.

    Raises:
        ValueError: something is missing or cannot be right.
        TypeError: an argument has the wrong type.
        OSError: the journal's folder cannot be made.
        ImportError: httpx is not installed.
    """

    name = "fly"
    dials_back = True
    default_max = None
    default_boot_timeout = 120.0
    phases = ("create", "start", "connect", "handshake", "sync", "requirements")

    def __init__(
        self,
        *,
        app: str | None = None,
        image: str | None = None,
        token: str | None = None,
        region: str | Iterable[str] | None = None,
        cpu_kind: str = "performance",
        cpus: int = 2,
        memory_mb: int = 4096,
        gpu_kind: str | None = None,
        gpus: int | None = None,
        env: Mapping[str, str] | None = None,
        init: Mapping[str, Any] | None = None,
        services: Iterable[Mapping[str, Any]] = (),
        metadata: Mapping[str, str] | None = None,
        host: str | None = None,
        boot_timeout: Seconds = 120.0,
        max_lifetime: Seconds = 24 * 3600.0,
        max_idle: Seconds = 3600.0,
        stop_grace: Seconds | None = None,
        skip_secrets: bool = True,
        keep_token: bool = False,
        machine_config: Mapping[str, Any] | None = None,
        parent_address: str | None = None,
        bind: str | None = None,
        python: str | None = None,
        sync: Sync | str | Iterable[str | os.PathLike[str]] | None = "default",
        requirements: Iterable[str] | str | os.PathLike[str] | None = None,
        failsafe: Seconds = 20.0,
        journal: str | os.PathLike[str] | bool | None = None,
        sweep: bool = True,
        prices: Prices = PRICES,
    ) -> None:
        access = Access.find(os.environ, app=app, token=token, host=host)
        place = Place.find(os.environ, image=image, region=region)
        self._address = Address.find(os.environ, parent_address=parent_address, bind=bind)
        self._regions = place.regions
        self.advertised_host = self._address.dialed
        self.default_boot_timeout = duration(boot_timeout, "boot_timeout", positive=True)
        self._max_lifetime = duration(max_lifetime, "max_lifetime", positive=True)
        if self._max_lifetime > LONGEST_LIFETIME:
            raise ValueError(f"max_lifetime must be {LONGEST_LIFETIME:.0f} seconds at most, not {max_lifetime!r}")
        self.shares_image = place.own_image
        files = (None if place.own_image else "auto") if sync == "default" else sync
        self.sync = Sync.of(files, requirements)
        more = check_config(machine_config)
        grace = check_stop_grace(None if stop_grace is None else duration(stop_grace, "stop_grace"), more)
        self.blueprint = Blueprint(
            image=place.image,
            guest=Guest(cpu_kind, cpus, memory_mb, gpu_kind, gpus).check(),
            command=runner_command(
                python or (sys.executable if place.own_image else "python3"),
                portable_options(),
                failsafe=duration(failsafe, "failsafe", positive=True),
                max_lifetime=self._max_lifetime,
                max_idle=duration(max_idle, "max_idle"),
                stop_grace=grace,
                keep_token=bool(keep_token) or has_token(check_texts(env, "env"), more),
            ),
            env=check_texts(env, "env"),
            metadata=check_texts(metadata, "metadata"),
            services=check_services(services),
            init=check_init(init),
            stop_seconds=ceil(grace + STOP_SLACK),
            skip_secrets=bool(skip_secrets),
            more=more,
        )
        self.api = _api(access)
        self.journal = open_journal(journal)
        self._records = Records(self.journal, lambda: self._sweeps().ask())
        self._may_sweep = bool(sweep)
        self._sweep_beside: SweepBeside | None = None
        self.prices = _checked(prices)
        self._lock = threading.Lock()
        """Of what is made when it is first needed: boots run at the same time."""

    def __repr__(self) -> str:
        regions = ",".join(self._regions)
        return f"FlyBackend(app={self.api.access.app!r}, image={self.blueprint.image!r}, region={regions!r})"

    def listen_address(self) -> tuple[str, int]:
        """The private address alone: the world has no business at this port."""
        return self._address.bound, self._address.port

    def price(self) -> float | None:
        """What a machine costs in the dearest of the regions, estimated."""
        guest = merge(self.blueprint.guest.encode(), self.blueprint.more.get("guest", {}))
        return self.prices.per_second(guest, self._regions)

    def prices_as_of(self) -> str:
        """As the price list says."""
        return self.prices.as_of

    def boot(self, request: BootRequest) -> Node:
        """Create a machine, which starts meanwhile.

        Raises:
            BootError: there is none. Its phase is "create"; it is `final` where Fly said no for good: the token, the
                app, the image or the machine's config is wrong.
            BootTimeoutError: there was none in time.
        """
        # Nothing is asked for before the create is sent. What this loads takes a while.
        request.queued()
        # Also what is needed once there is a machine: nobody would destroy that one if it could not be loaded then.
        from dragonfly_executor.backends.fly import background_sweep, node  # noqa: F401
        from dragonfly_executor.backends.fly.creation import Creation, wait_for_turn

        # Not all of it: what comes of a create that ends in doubt is destroyed within the boot's time as well.
        patience = BootPatience(request.timeout - min(UNDO_PATIENCE, UNDO_SHARE * request.timeout), request)
        with self.api:
            wait_for_turn(self.api, patience)
            # Only now: what is written down and on the machine counts from here.
            label = self._label(request)
            name = machine_name(request.parent.pool)
            entry = self._journaled(name, label)
            written = label.encode()

            def make_body(region: str | None) -> Mapping[str, Any]:
                """The request for this machine, in a region."""
                parent = request.parent._replace(until=int(time.time() + request.timeout))
                return self.blueprint.body(name, region, parent.encode(), written)

            size = str(self.blueprint.guest)
            creation = Creation(self.api, name, label.boot, make_body, self._regions, size)
            try:
                machine = creation.run(patience)
            except BaseException:
                self._undo(creation, entry, request.given_up)
                raise
            return self._node(machine, entry, request, creation)

    def sweep(self) -> Swept:
        """Destroy the machines of this app that pools have left behind; see the class for who does that besides.

        Blocks, for a minute at most.

        Returns:
            What was destroyed, and what could not be.

        Raises:
            DragonflyError: Fly did not say which machines there are.
        """
        from dragonfly_executor.backends.fly.sweep import Sweeper

        return Sweeper(self.api, self.journal).sweep(Patience(SWEEP_PATIENCE))

    # -- one boot -----------------------------------------------------------------------------------------------------

    def _label(self, request: BootRequest) -> Label:
        lifetime, hold = request.timeout + self._max_lifetime + MARGIN, int(request.timeout + HOLD_FOR)
        expires, me, boot = int(time.time() + lifetime), Owner.me(), os.urandom(16).hex()
        return Label(boot, request.parent.pool, me, expires, int(lifetime), me.app, hold)

    def _journaled(self, name: str, label: Label) -> Entry:
        """Written down before Fly hears of it."""
        access, now = self.api.access, time.time()
        region, guest = ",".join(self._regions), self.blueprint.guest.encode()
        entry = Entry(name, access.app, access.host, label, now, float(label.expires), None, region, guest)
        self._records.begin(entry)
        return entry

    def _node(self, machine: Machine, entry: Entry, request: BootRequest, creation: Creation) -> Node:
        from dragonfly_executor.backends.fly.node import FlyNode

        known = entry._replace(machine_id=machine.id or None, region=machine.region or entry.region)
        self._records.complete(known, machine)
        address = request.parent.address or join_address(self._address.dialed, self._address.port)
        forget, abandon = (lambda: self._records.forget(known)), (lambda: self._records.abandon(known))
        is_recorded, sweeps = self.journal is not None, self._sweeps()
        node = FlyNode(
            self.api, machine, address, forget, abandon, creation.find, sweeps.node_left, is_recorded=is_recorded
        )
        sweeps.node_came(FIRST_SWEEP_PATIENCE)
        sweeps.wait_a_moment(request.given_up, request.dialed_in)
        node.shares_image = self.shares_image
        node.price = self.prices.per_second(machine.guest, [machine.region]) if machine.guest else None
        return node

    def _undo(self, creation: Creation, entry: Entry, given_up: GivenUp | None) -> None:
        """A boot has failed: destroy what may have come of it, or write down that nobody wants it."""
        if not creation.in_doubt:
            self._records.forget(entry)
            return
        patience = Patience(UNDO_PATIENCE, given_up)
        # Fly may be at it still: a machine that comes within seconds need not be left to the next sweep.
        was_cut = patience.given_up
        why = creation.undo(patience)
        if why and patience.given_up:
            why = creation.undo(Patience(GIVEN_UP_PATIENCE), may_come_yet=was_cut)
        if not why:
            self._records.forget(entry)
            return
        then = self._records.abandon(entry)
        logger.warning("Fly may have created machine %s all the same: %s. %s", entry.name, why, then)

    def _sweeps(self) -> SweepBeside:
        from dragonfly_executor.backends.fly.background_sweep import SweepBeside

        with self._lock:
            if self._sweep_beside is None:
                self._sweep_beside = SweepBeside(self.api, self.journal, wanted=self._may_sweep)
            return self._sweep_beside


def machine_name(pool: str) -> str:
    """A name that no other machine has: of lower-case letters, digits and dashes, and 63 at most."""
    word = re.sub(r"[^a-z0-9]+", "-", pool.lower())[:24].strip("-")
    return f"dragonfly-{word}-{os.urandom(10).hex()}" if word else f"dragonfly-{os.urandom(10).hex()}"


def _api(access: Access) -> MachinesAPI:
    try:
        from dragonfly_executor.backends.fly.client import MachinesAPI
    except ImportError as error:
        raise ImportError("FlyBackend needs httpx: pip install 'dragonfly-executor[fly]'") from error
    return MachinesAPI(access)


def _checked(prices: Prices) -> Prices:
    if not isinstance(prices, Prices):
        raise TypeError(f"prices must be Prices, such as PRICES._replace(...), not {type(prices).__name__}")
    return prices.check()
