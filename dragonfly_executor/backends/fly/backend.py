"""`FlyBackend`: creates a Fly.io machine for each runner, and destroys it when the pool stops the runner."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

from dragonfly_executor.backends.agent_command import portable_options
from dragonfly_executor.backends.background_sweep import BackgroundSweeper
from dragonfly_executor.backends.base import Backend, BootRequest, Node
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.fly.journal import open_fly_journal
from dragonfly_executor.backends.fly.machine_config import (
    STOP_SLACK,
    ConfigSections,
    MachineSettings,
    MachineTemplate,
    RunnerLimits,
    check_stop_grace,
    runner_command,
)
from dragonfly_executor.backends.fly.prices import PRICES, Prices
from dragonfly_executor.backends.fly.settings import APIAccess, ParentAddress, Placement
from dragonfly_executor.backends.fly.sizes import Guest, MachineSizes, capacity_of
from dragonfly_executor.backends.journal_writer import JournalWriter
from dragonfly_executor.core.capacity import Capacity
from dragonfly_executor.sync.options import Sync
from dragonfly_executor.util import validation
from dragonfly_executor.util.validation import duration

if TYPE_CHECKING:
    from typing import Unpack

    from dragonfly_executor.backends.fly.client import MachinesAPI
    from dragonfly_executor.backends.fly.sweep import FoundMachine, Sweeper
    from dragonfly_executor.backends.found_node import FoundNode, SweepResult
    from dragonfly_executor.backends.tier_keywords import TierKeywords
    from dragonfly_executor.util.validation import Seconds

SWEEP_TIMEOUT = 60.0


class FlyBackend(Backend):
    """Boots runners on Fly.io machines of an app, one machine per runner.

    On a Fly machine, ``FlyBackend()`` needs only a token among the app's secrets. The runners are then machines of the
    same app, with the same image, in the same region. They dial back to this machine over Fly's private network.

    No machine is orphaned:

    - A runner exits when its parent is gone, and Fly destroys a machine whose runner has exited.
    - A watchdog process on the machine ends the runner after `max_lifetime`, even if the runner hangs.
    - Each create request is recorded before it is sent, in the journal and on the machine. So a later `sweep` finds the
      machine. A backend sweeps on its own beside the boot of its first runner.

    Args:
        app: the Fly app that gets the machines; default FLY_APP_NAME.
        image: the image of the machines; default FLY_IMAGE_REF, the image of this machine. It must contain Python and
            dragonfly_executor in the parent's versions.
        token: the API token; default FLY_API_TOKEN. A deploy token of the app is enough: ``fly tokens create deploy -a
            APP``.
        region: one region, or several in order of preference, as a list or separated by commas; default FLY_REGION.
        cpu_kind, cpus, memory_mb: the size of a machine. memory_mb is in MiB.
        gpu_kind, gpus: passed on to Fly, which is phasing out GPUs.
        env: environment variables for the runners. Do not put secrets here: Fly shows them to every user who may see
            the machine.
        init: the ``init`` section of the machine's config, merged over the command that starts the runner.
        services: the ``services`` section of the machine's config, for Fly's proxy; default: no services.
        metadata: metadata for the machines, in addition to the owner label.
        host: the URL of the Machines API; default FLY_FLAPS_BASE_URL or https://api.machines.dev.
        boot_timeout: seconds (or a `timedelta`) for a boot if the pool sets no boot timeout.
        max_lifetime: seconds after which a machine ends, even while calls run; those calls are lost. Its runner drains
            before that. At most ten years.
        max_idle: seconds without a call after which a machine ends, even if its pool wants to keep it; 0 for no limit.
            The pool's ``idle_shutdown_after`` normally applies long before. The pool replaces `min` runners that end
            so.
        stop_grace: seconds that calls have to finish when Fly stops a machine, such as for maintenance of its host.
            After that they are lost. Default 25, at most 295. Fly waits 5 s longer (``stop_config``).
        skip_secrets: whether to withhold the app's secrets, and so the token, from the runners.
        keep_token: whether a runner keeps FLY_API_TOKEN and FLY_ACCESS_TOKEN if its machine has them. If False, the
            runner removes them before any call runs. A token in `env` is always kept.
        machine_config: merged over the machine config that the other arguments make, for settings without an argument.
            It must not contain ``auto_destroy`` or ``restart``.
        parent_address: the address of this process that runners dial, as HOST or HOST:PORT (write an IPv6 address with
            a port in brackets); default FLY_PRIVATE_IP. Outside of Fly it is required, and must be an address that
            Fly's private network reaches.
        bind: the address to listen on, if it differs from `parent_address`.
        python: the interpreter in the image. Default: the path of this interpreter if the image is this machine's own,
            otherwise ``python3``.
        sync: which files of this program are sent to the runners; see `SSHBackend`. Default: None (no files) if the
            image is this machine's own, as it contains the files; otherwise "auto".
        requirements: third-party packages to install on each machine; see `SSHBackend`. Preferably, put them in the
            image.
        failsafe: seconds for which a runner tries to reach its parent.
        journal: the folder of the journal; default ``$XDG_STATE_HOME/dragonfly_executor/fly``. False turns the journal
            off, for hosts without a writable disk. Then only the labels on the machines identify machines of a killed
            parent.
        sweep: whether to sweep beside the first boot, and beside the next boot after a machine whose destruction was
            not confirmed.
        prices: the price list for `Budget` and ``stats()``. It is an estimate as of a date; see `Prices`.
        labels: free labels of the runners, such as ``{"eu"}``.
        larger_sizes: whether calls that require more than this size has (``options(requires=...)``) get a machine of
            the cheapest of Fly's sizes that has it. If False, such calls fail when they are submitted, as they do if
            `machine_config` sets the size. A machine has GPUs only if there is a `gpu_kind`.
        tier: `max`, `idle_shutdown_after` and `budget` of the runners of this backend; see `Backend.set_limits`.

    Raises:
        ValueError: a setting is missing or invalid.
        TypeError: an argument has the wrong type.
        OSError: the journal's folder cannot be made.
        ImportError: httpx is not installed.
    """

    name = "fly"
    dials_back = True
    expected_boot_time = 10.0
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
        labels: Iterable[str] = (),
        larger_sizes: bool = True,
        **tier: Unpack[TierKeywords],
    ) -> None:
        self.set_limits(**tier)
        self.labels = validation.labels(labels, "labels")
        access = APIAccess.find(os.environ, app=app, token=token, host=host)
        place = Placement.find(os.environ, image=image, region=region)
        address = ParentAddress.find(os.environ, parent_address=parent_address, bind=bind)
        self.advertised_host = address.dialed
        self.default_boot_timeout = duration(boot_timeout, "boot_timeout", positive=True)
        self.shares_image, self.prices = place.own_image, _checked(prices)
        self.sync = Sync.of((None if place.own_image else "auto") if sync == "default" else sync, requirements)
        sections = ConfigSections.check(env, metadata, services, init, machine_config)
        limits = RunnerLimits.check(failsafe, max_lifetime, max_idle, check_stop_grace(stop_grace, sections.more))
        guest = Guest(cpu_kind, cpus, memory_mb, gpu_kind, gpus).check()
        self.template = _template(place, guest, limits, sections, python, bool(skip_secrets), bool(keep_token))
        sizes = MachineSizes(guest, is_fixed=not larger_sizes or sections.have_size)
        self._settings = MachineSettings(
            self.template, sizes, limits, place.regions, address, self.prices, self.labels, place.own_image
        )
        self.api = _api(access)
        self.journal = open_fly_journal(journal)
        self._sweeps = BackgroundSweeper(self._sweep_machines, backend="fly", noun="machine", wanted=bool(sweep))
        self._records = JournalWriter(self.journal, self._sweeps.ask, noun="machine", command="dragonfly destroy")

    def __repr__(self) -> str:
        regions = ",".join(self._settings.regions)
        return f"FlyBackend(app={self.api.access.app!r}, image={self.template.image!r}, region={regions!r})"

    def listen_address(self) -> tuple[str, int]:
        """Return the private address and port: the listener must not be reachable from the internet."""
        return self._settings.address.bound, self._settings.address.port

    def default_placement(self) -> str:
        """See `Backend.default_placement`. Each machine costs money, even if its price is unknown here."""
        return "pack"

    def price(self) -> float | None:
        """Return the estimated US dollars per second of a machine in the most expensive of the regions.

        A machine for calls that require more than the backend's own size has a price of its own.
        """
        return self.prices.per_second(self.template.size(), self._settings.regions)

    def capacities(self) -> Sequence[Capacity]:
        """See `Backend.capacities`. The largest of Fly's sizes has most of everything."""
        largest = self.template._replace(guest=self._settings.sizes.largest())
        return (capacity_of(largest.size(), self.labels),)

    def prices_as_of(self) -> str:
        """Return the date of the price list."""
        return self.prices.as_of

    def boot(self, request: BootRequest) -> Node:
        """Create a machine. Returns while the machine starts.

        Raises:
            BootError: no machine was created. The phase is "create". The error is `final` if every retry fails:
                the token, the app, the image or the machine's config is wrong.
            BootTimeoutError: no machine was created in time.
        """
        # The boot asks for its machine only when it sends the create request; these imports take a while before that.
        request.queued()
        from dragonfly_executor.backends.fly.boot import MachineBoot

        is_recorded = self.journal is not None
        return MachineBoot(
            request, self._settings, self.api, self._records, self._sweeps, is_recorded=is_recorded
        ).run()

    def list_nodes(self) -> Sequence[FoundNode]:
        """See `Backend.list_nodes`."""
        from dragonfly_executor.backends.fly.found_machine import found_nodes

        return found_nodes(self._sweeper(), Deadline(SWEEP_TIMEOUT), self.prices)

    def destroy_nodes(self, nodes: Iterable[FoundNode]) -> SweepResult[FoundNode]:
        """See `Backend.destroy_nodes`."""
        from dragonfly_executor.backends.fly.found_machine import destroy_nodes

        return destroy_nodes(self._sweeper(), nodes, Deadline(SWEEP_TIMEOUT), self.prices)

    def sweep(self) -> SweepResult[FoundNode]:
        """See `Backend.sweep`. Blocks for at most a minute.

        Sweeps are a second safeguard; see the class for the first.

        Raises:
            DragonflyError: Fly could not list the machines.
        """
        from dragonfly_executor.backends.fly.found_machine import found_nodes_of

        sweeper = self._sweeper()
        return found_nodes_of(sweeper.sweep(Deadline(SWEEP_TIMEOUT)), sweeper.now(), self.prices)

    def _sweeper(self) -> Sweeper:
        from dragonfly_executor.backends.fly.sweep import Sweeper

        return Sweeper(self.api, self.journal)

    def _sweep_machines(self, deadline: Deadline) -> SweepResult[FoundMachine]:
        return self._sweeper().sweep(deadline)


def _template(
    place: Placement,
    guest: Guest,
    limits: RunnerLimits,
    sections: ConfigSections,
    python: str | None,
    skip_secrets: bool,
    keep_token: bool,
) -> MachineTemplate:
    """Return the settings that all machines of a backend share."""
    interpreter = python or (sys.executable if place.own_image else "python3")
    keeps = keep_token or sections.have_token
    return MachineTemplate(
        image=place.image,
        guest=guest,
        command=runner_command(interpreter, portable_options(), limits, keep_token=keeps),
        env=sections.env,
        metadata=sections.metadata,
        services=sections.services,
        init=sections.init,
        stop_seconds=ceil(limits.stop_grace + STOP_SLACK),
        skip_secrets=skip_secrets,
        more=sections.more,
    )


def _api(access: APIAccess) -> MachinesAPI:
    try:
        from dragonfly_executor.backends.fly.client import MachinesAPI
    except ImportError as error:
        raise ImportError("FlyBackend needs httpx: pip install 'dragonfly-executor[fly]'") from error
    return MachinesAPI(access)


def _checked(prices: Prices) -> Prices:
    if not isinstance(prices, Prices):
        raise TypeError(f"prices must be Prices, such as PRICES._replace(...), not {type(prices).__name__}")
    return prices.check()
