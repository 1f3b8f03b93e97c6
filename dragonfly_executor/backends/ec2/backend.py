"""`EC2Backend`: launches an EC2 instance for each runner, and terminates it when the pool stops the runner."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dragonfly_executor.backends.background_sweep import BackgroundSweeper
from dragonfly_executor.backends.base import Backend, BootRequest, CancelToken, Node
from dragonfly_executor.backends.deadline import Deadline
from dragonfly_executor.backends.ec2.arguments import checked_prices, command
from dragonfly_executor.backends.ec2.launch import (
    NOTHING_TO_LAUNCH,
    LaunchSettings,
    candidates,
    check_env,
    check_more,
    places,
    template_of,
)
from dragonfly_executor.backends.ec2.prices import EC2_PRICES, EC2Prices
from dragonfly_executor.backends.ec2.sizes import InstanceTypes
from dragonfly_executor.backends.from_text import arguments_from_text, truth, words
from dragonfly_executor.backends.journal import JournalEntry, open_journal
from dragonfly_executor.backends.journal_writer import JournalWriter
from dragonfly_executor.backends.label import OwnerLabel, node_name
from dragonfly_executor.backends.owner import Owner
from dragonfly_executor.errors import BootError
from dragonfly_executor.sync.options import Sync
from dragonfly_executor.util.validation import duration, whole
from dragonfly_executor.util.validation import labels as checked_labels

if TYPE_CHECKING:
    from typing import Unpack

    from dragonfly_executor.backends.backend_check import BackendCheck
    from dragonfly_executor.backends.ec2.client import EC2Client
    from dragonfly_executor.backends.ec2.creation import InstanceLaunch
    from dragonfly_executor.backends.ec2.leftovers import EC2Leftovers
    from dragonfly_executor.backends.found_node import FoundNode, SweepResult
    from dragonfly_executor.backends.tier_keywords import TierKeywords
    from dragonfly_executor.core.capacity import Capacity
    from dragonfly_executor.util.validation import Seconds

logger = logging.getLogger("dragonfly_executor")

MARGIN = 900.0
"""Seconds by which clocks may differ, and the instance's own timer is later than the runner's."""
UNDO_SHARE = 0.1
UNDO_TIMEOUT = 10.0
"""Seconds for terminating the instance of a failed boot, and the largest share of the boot timeout for that."""
GIVEN_UP_TIMEOUT = 1.2
"""Seconds for terminating the instance of a cancelled boot, which must end within 2 s. The journal keeps the rest."""
SWEEP_TIMEOUT = 60.0
FIRST_SWEEP_TIMEOUT = 10.0
SPOT_GRACE = 100.0
"""Seconds that calls have after EC2's notice. The notice comes two minutes before EC2 interrupts a spot instance."""


class EC2Backend(Backend):
    """Boots runners on EC2 instances, one instance per runner.

    The instances must reach this machine over the network: a runner dials back to it. The image needs Python and
    dragonfly_executor in the parent's versions, or `setup` installs them.

    No instance is orphaned: a runner exits when its parent is gone, and the instance then shuts down, which terminates
    it. Two timers on the instance end it after `max_lifetime`. Each launch is journaled and tagged, and a sweep
    terminates what is left.

    Args:
        image: the ID of the image (AMI). Either this or `launch_template` is required for boots.
        launch_template: name or ID of a launch template, with ``:VERSION`` if it is not the default version. Arguments
            override what it says.
        instance_types: types in order of preference, as a list or separated by commas. If EC2 has no capacity for a
            type, or a quota is reached, the boot goes on to the next place and then to the next type. If calls require
            something (``options(requires=...)``), the smallest of them that has it comes first, and types that lack it
            are left out. Default: the launch template's, or without a template for such calls a type of a table
            (docs/ec2.md).
        subnets: IDs of subnets in order of preference, as a list or separated by commas.
        zones: availability zones in order of preference, if there are no `subnets`.
        security_groups: IDs of security groups.
        instance_profile: name or ARN of the instances' profile, for calls that use AWS. None by default.
        key_name: the name of an SSH key pair, for people who want to log in.
        spot: whether to use spot instances. When EC2 takes one back, its runner takes no more calls, and its calls have
            100 s.
        region, profile: of AWS's configuration; default AWS_REGION, AWS_PROFILE and AWS's own files. Credentials are
            found as in every program that uses boto3.
        endpoint_url: the URL of the API, if it is not AWS's own.
        host: the address of this machine that the instances dial; default: its host name.
        port: the port to listen on; default: any free port.
        python: the interpreter on the instances.
        setup: lines of shell that run before the runner, as root. They count towards `boot_timeout`.
        env: environment variables for the runners. Do not put secrets here: user data is visible to all who may
            describe the instance.
        tags: more tags for the instances and their disks.
        options: more parameters of ``run_instances``, such as ``{"BlockDeviceMappings": [...]}``.
        boot_timeout: seconds (or a `timedelta`) for a boot if the pool sets no boot timeout.
        max_lifetime: seconds after which an instance ends, even while calls run; those calls are lost.
        max_idle: seconds without a call after which an instance ends, even if its pool wants to keep it; 0: no limit.
        failsafe: seconds for which a runner tries to reach its parent.
        sync: which files of this program are sent to the runners; see `SSHBackend`.
        requirements: third-party packages to install on each instance; see `SSHBackend`.
        journal: the folder of the journal; default ``$XDG_STATE_HOME/dragonfly_executor/ec2``. False turns it off. Then
            only tags identify the instances of a killed parent.
        sweep: whether to terminate the instances of pools that are gone, beside the first boot.
        prices: the price list for `Budget` and ``stats()``. It is an estimate as of a date; see `EC2Prices`.
        labels: free labels of the runners, such as ``{"eu"}``.
        sizes: what instances have, as a `Capacity` by type, for types that the table does not have.
        tier: `max`, `idle_shutdown_after` and `budget` of the runners of this backend; see `Backend.set_limits`.

    Raises:
        TypeError, ValueError: an argument is invalid, or no region is configured.
        OSError: the journal's folder cannot be made.
        ImportError: boto3 or httpx is not installed.
    """

    name = "ec2"
    dials_back = True
    expected_boot_time = 60.0
    phases = ("create", "start", "connect", "handshake", "sync", "requirements")

    def __init__(
        self,
        image: str | None = None,
        *,
        launch_template: str | None = None,
        instance_types: str | Iterable[str] = (),
        subnets: str | Iterable[str] = (),
        zones: str | Iterable[str] = (),
        security_groups: str | Iterable[str] = (),
        instance_profile: str | None = None,
        key_name: str | None = None,
        spot: bool = False,
        region: str | None = None,
        profile: str | None = None,
        endpoint_url: str | None = None,
        host: str | None = None,
        port: int = 0,
        python: str = "python3",
        setup: str = "",
        env: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        options: Mapping[str, Any] | None = None,
        boot_timeout: Seconds = 180.0,
        max_lifetime: Seconds = 24 * 3600.0,
        max_idle: Seconds = 3600.0,
        failsafe: Seconds = 20.0,
        sync: Sync | str | Iterable[str | os.PathLike[str]] | None = "auto",
        requirements: Iterable[str] | str | os.PathLike[str] | None = None,
        journal: str | os.PathLike[str] | bool | None = None,
        sweep: bool = True,
        prices: EC2Prices = EC2_PRICES,
        labels: Iterable[str] = (),
        sizes: Mapping[str, Capacity] | None = None,
        **tier: Unpack[TierKeywords],
    ) -> None:
        self.set_limits(**tier)
        self.default_boot_timeout = duration(boot_timeout, "boot_timeout", positive=True)
        self.sync = Sync.of(sync, requirements)
        self.prices = checked_prices(prices)
        self.labels = checked_labels(labels, "labels")
        may_choose = not launch_template and "InstanceRequirements" not in (options or {})
        self._types = InstanceTypes(words(instance_types), sizes or {}, self.labels, may_choose=may_choose)
        self._places = places(words(subnets), words(zones))
        lifetime = duration(max_lifetime, "max_lifetime", positive=True)
        times = {
            "--failsafe": duration(failsafe, "failsafe"),
            "--max-lifetime": lifetime,
            "--max-idle": duration(max_idle, "max_idle"),
            **({"--stop-grace": SPOT_GRACE} if spot else {}),
        }
        self.settings = LaunchSettings(
            image=image or "",
            template=template_of(launch_template or ""),
            security_groups=tuple(words(security_groups)),
            instance_profile=instance_profile or "",
            key_name=key_name or "",
            spot=bool(spot),
            env=check_env(env or {}),
            setup=setup,
            tags=dict(tags or {}),
            command=command(python, "dragonfly_executor.runner", times),
            notice_command=command(python, "dragonfly_executor.runner.spot_notice", {}),
            max_lifetime=lifetime,
            more=check_more(options or {}),
        )
        self._address = host or socket.gethostname(), whole(port, "port", 0)
        self.client = _client(region, profile, endpoint_url)
        self.journal = open_journal(journal, "ec2")
        self._leftovers = self._find_leftovers(profile, endpoint_url)
        self._sweeps = BackgroundSweeper(self._leftovers.sweep, backend="ec2", noun="instance", wanted=bool(sweep))
        destroy = "dragonfly destroy --backend ec2"
        self._records = JournalWriter(self.journal, self._sweeps.ask, noun="instance", command=destroy)

    @classmethod
    def from_text(cls, **settings: str) -> EC2Backend:
        """Make a backend from texts, as a command line gives them. `requirements` are names of packages.

        Raises:
            TypeError, ValueError: see the class.
        """
        return cls(**arguments_from_text(settings, spot=truth, requirements=words))

    def __repr__(self) -> str:
        what = self.settings.image or next(iter(self.settings.template.values()), "?")
        return f"EC2Backend({what!r}, region={self.client.region!r}, instance_types={','.join(self._types.names)!r})"

    def listen_address(self) -> tuple[str, int]:
        """See `Backend.listen_address`."""
        return self._address

    def default_placement(self) -> str:
        """See `Backend.default_placement`. Each instance costs money, even if its price is unknown here."""
        return "pack"

    def capacities(self) -> Sequence[Capacity]:
        """See `Backend.capacities`: one item for each type."""
        return self._types.capacities()

    def price(self) -> float | None:
        """Return the estimated US dollars per second of the most expensive type; None if a type is not in the list."""
        is_spot, region = self.settings.spot, self.client.region
        prices = [self.prices.per_second(name, region, is_spot=is_spot) for name in self._types.names]
        known = [price for price in prices if price is not None]
        return max(known) if known and len(known) == len(prices) else None

    def prices_as_of(self) -> str:
        """Return the date of the price list."""
        return self.prices.as_of

    def boot(self, request: BootRequest) -> Node:
        """Launch an instance. Returns while the instance starts.

        Raises:
            BootError: no instance was launched. The phase is "create". The error is `final` if every retry fails.
        """
        if not self.settings.image and not self.settings.template:
            raise BootError(NOTHING_TO_LAUNCH, final=True)
        from dragonfly_executor.backends.ec2.creation import InstanceLaunch

        tried = candidates(self._types.for_boot(request.requires), self._places)
        label = self._label(request)
        name = node_name(request.parent.pool)
        entry = self._leftovers.entry(name, label)
        parent = request.parent._replace(until=int(time.time() + request.timeout))
        try:
            script = self.settings.script(parent.encode())
        except ValueError as error:
            raise BootError(str(error), "create", final=True) from error
        self._records.begin(entry)
        launch = InstanceLaunch(self.client, self.settings, name, script, label.encode())
        # Reserve a part of the timeout for the instance of a request with unknown outcome.
        undo = min(UNDO_TIMEOUT, UNDO_SHARE * request.timeout)
        try:
            instance = launch.run(tried, Deadline(request.timeout - undo, request.given_up))
        except BaseException:
            self._undo(launch, entry, undo, request.given_up)
            raise
        known = entry._replace(node_id=instance.instance_id)
        self._records.complete(known, instance)
        forget, abandon = (lambda: self._records.forget(known)), (lambda: self._records.abandon(known, name))
        from dragonfly_executor.backends.ec2.node import EC2Node

        node = EC2Node(self.client, instance, forget, abandon, self._sweeps.node_left)
        node.capacity = self._types.capacity(instance.instance_type)
        node.price = self.prices.per_second(instance.instance_type, self.client.region, is_spot=self.settings.spot)
        self._sweeps.node_came(FIRST_SWEEP_TIMEOUT)
        return node

    def checks(self) -> Iterable[BackendCheck]:
        """See `Backend.checks`. Launches nothing."""
        from dragonfly_executor.backends.ec2.checks import check_ec2

        return check_ec2(self.client, self.settings, candidates(self._types.names, self._places))

    def list_nodes(self) -> Sequence[FoundNode]:
        """See `Backend.list_nodes`."""
        return self._leftovers.find(Deadline(SWEEP_TIMEOUT))

    def destroy_nodes(self, nodes: Iterable[FoundNode]) -> SweepResult[FoundNode]:
        """See `Backend.destroy_nodes`."""
        return self._leftovers.destroy(nodes, Deadline(SWEEP_TIMEOUT))

    def _find_leftovers(self, profile: str | None, endpoint_url: str | None) -> EC2Leftovers:
        from dragonfly_executor.backends.ec2.leftovers import EC2Leftovers

        credentials = profile or os.environ.get("AWS_PROFILE") or "default"
        place = f"{self.client.region} {credentials} {endpoint_url or ''}".rstrip()
        return EC2Leftovers(self.client, self.journal, place, self.prices)

    def _label(self, request: BootRequest) -> OwnerLabel:
        lifetime = request.timeout + self.settings.max_lifetime + MARGIN
        boot = os.urandom(16).hex()
        return OwnerLabel(boot, request.parent.pool, Owner.me(), int(time.time() + lifetime), int(lifetime))

    def _undo(self, launch: InstanceLaunch, entry: JournalEntry, timeout: float, given_up: CancelToken | None) -> None:
        """Clean up after a failed boot: terminate the instance that it may have launched, or abandon its entry."""
        if not launch.may_exist:
            self._records.forget(entry)
            return
        deadline = Deadline(timeout, given_up)
        why = launch.undo(deadline)
        if why and deadline.is_cancelled:
            why = launch.undo(Deadline(GIVEN_UP_TIMEOUT))
        if not why:
            self._records.forget(entry)
            return
        then = self._records.abandon(entry, entry.name)
        logger.warning("the boot failed, but EC2 may have launched %s: %s. %s", entry.name, why, then)


def _client(region: str | None, profile: str | None, endpoint_url: str | None) -> EC2Client:
    try:
        from dragonfly_executor.backends.ec2.client import EC2Client
    except ImportError as error:
        raise ImportError("EC2Backend needs boto3 and httpx: pip install 'dragonfly-executor[ec2]'") from error
    return EC2Client(region, profile, endpoint_url)
