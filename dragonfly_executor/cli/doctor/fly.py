"""Checks of the settings for Fly runners, one by one and without booting a machine."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from dragonfly_executor.cli.doctor import advice
from dragonfly_executor.cli.doctor.examine import Finding

if TYPE_CHECKING:
    from dragonfly_executor import errors
    from dragonfly_executor.backends.fly.backend import FlyBackend
    from dragonfly_executor.backends.fly.client import MachinesAPI
    from dragonfly_executor.backends.fly.errors import FlyAPIError
    from dragonfly_executor.backends.fly.settings import APIAccess, Placement, SettingNames

TIMEOUT = 20.0
"""Seconds for each request to Fly."""
PRIVATE = ipaddress.ip_network("fdaa::/16")
"""The address range of Fly's private networks."""
ALIASES = ("any", "apac", "eu", "na", "sa", "us", "usa")
"""Names that Fly accepts in place of a region."""

_BY_STATUS = {
    0: "the API cannot be reached from here: check FLY_FLAPS_BASE_URL, the name resolution and the network",
    401: "the token is wrong, has expired, or was revoked: fly tokens create deploy -a {app}",
    403: "the token is another app's, or may not do this: fly tokens create deploy -a {app}",
    404: "there is no such app, or it is another organization's: fly apps list",
}
_BY_PHASE = {
    "create": "see Fly's answer above; docs/fly.md says what to do if Fly has no room",
    "start": "the machine ended before its runner connected: fly logs shows its output",
    "connect": (
        "the machine runs, and its runner cannot reach this one: is the address above reachable from Fly's private "
        "network (6PN), and is this machine in the same organization and network?"
    ),
}


class CommandLineSettings(NamedTuple):
    """The settings from the command line; None if not given."""

    app: str | None = None
    image: str | None = None
    region: str | None = None
    parent_address: str | None = None


class FlyChecks:
    """The checks of one app. Results of a check are kept for later checks.

    Args:
        given: settings from the command line. Other settings come from the environment.
        environment: the environment variables.
    """

    def __init__(self, given: CommandLineSettings, environment: Mapping[str, str] = os.environ) -> None:
        self._given = given
        self._environment = environment
        self._access: APIAccess | None = None
        self._place: Placement | None = None

    def run(self) -> Iterator[Finding]:
        """Yield the findings of all checks that need no boot."""
        yield from self._settings()
        yield from self._api()
        yield self._reachable()

    @property
    def app(self) -> str:
        """Return the app's name; "" if it is not set."""
        return self._given.app or self._environment.get("FLY_APP_NAME", "")

    def backend(self, python: str | None = None) -> FlyBackend:
        """Return a backend with these settings and this interpreter. Raises the errors of `FlyBackend`."""
        from dragonfly_executor.backends.fly.backend import FlyBackend

        return FlyBackend(**self._given._asdict(), python=python, sweep=False)

    # -- settings -----------------------------------------------------------------------------------------------------

    def _settings(self) -> Iterator[Finding]:
        from dragonfly_executor.backends.fly.settings import Placement

        given = self._given
        yield from self._access_to(self.app)
        try:
            self._place = Placement.find(
                self._environment, image=given.image, region=given.region, names=_setting_names()
            )
        except ValueError as error:
            yield Finding("image", False, "not known", str(error))
            return
        yield self._image(self._place)
        yield self._price(self._place)

    def _access_to(self, app: str) -> Iterator[Finding]:
        from dragonfly_executor.backends.fly.settings import APIAccess

        given = self._given.app
        try:
            # With a placeholder token, to check the app alone.
            APIAccess.find(self._environment, app=given, token="any", names=_setting_names())  # noqa: S106
        except ValueError as error:
            yield Finding("app", False, app or "not known", str(error))
            yield Finding("token", None, "not reached")
            return
        try:
            self._access = APIAccess.find(self._environment, app=given, names=_setting_names())
        except ValueError as error:
            yield Finding("app", True, app)
            yield Finding("token", False, "there is no token, or it is not valid", str(error))
            return
        kind = self._access.token.header().partition(" ")[0]
        yield Finding("app", True, f"{app}, by the API at {self._access.host}")
        yield Finding("token", True, f"found, sent as {kind!r}; its permissions are checked below")

    def _image(self, place: Placement) -> Finding:
        if place.own_image:
            return Finding("image", True, f"{place.image}, which is this machine's own")
        if place.image.startswith("registry.fly.io/") and place.image.endswith(":latest"):
            return Finding("image", False, place.image, "`fly deploy` makes no :latest there: fly image show -a APP")
        text = f"{place.image}: it needs Python and dragonfly_executor, of this one's versions"
        return Finding("image", True, text)

    def _price(self, place: Placement) -> Finding:
        try:
            backend = self.backend()
        except OSError as error:
            return Finding("journal", False, "cannot be kept", str(error))
        except (ValueError, ImportError) as error:
            return Finding("machine", None, "not checked: a setting or a package is missing", str(error))
        price, guest = backend.price(), backend.template.guest
        if price is None:
            return Finding("machine", True, f"{guest}; its price is not on the price list")
        text = f"{guest}; about {price * 3600:.4f} USD an hour, an estimate by prices as of {backend.prices.as_of}"
        strange = [region for region in place.regions if region not in backend.prices.regions]
        if strange or not place.regions:
            text += (
                f"; {', '.join(strange) or 'the region'} is not on the list, and counts as the most expensive region"
            )
        return Finding("machine", True, text, figures={"usd_per_second": price})

    # -- requests to Fly ----------------------------------------------------------------------------------------------

    def _api(self) -> Iterator[Finding]:
        if self._access is None:
            yield Finding("permissions", None, "not reached")
            yield Finding("region", None, "not reached")
            return
        from dragonfly_executor.backends.fly.client import MachinesAPI
        from dragonfly_executor.backends.fly.errors import FlyAPIError

        api = MachinesAPI(self._access)
        with api:
            try:
                yield from self._machines(api)
            except FlyAPIError as error:
                yield Finding("permissions", False, str(error), self._for_status(error))
                yield Finding("region", None, "not reached")
                return
            yield self._region(api)

    def _machines(self, api: MachinesAPI) -> Iterator[Finding]:
        """Check that the token may list machines, and look for orphaned machines."""
        from dragonfly_executor.backends.deadline import Deadline
        from dragonfly_executor.backends.fly.sweep import Sweeper
        from dragonfly_executor.backends.owner import Liveness

        try:
            journal = self.backend().journal
        except (ValueError, OSError, ImportError):
            journal = None
        found = [one for one in Sweeper(api, journal).look(Deadline(TIMEOUT)) if one.machine is not None]
        text = "the token may list this app's machines; --boot shows whether it may create machines"
        yield Finding("permissions", True, text)
        left = sum(one.liveness is Liveness.GONE for one in found)
        text = f"{len(found)} that pools have booted, {left} of them left behind"
        yield Finding("machines", left == 0, text, "dragonfly sweep destroys them" if left else "")

    def _region(self, api: MachinesAPI) -> Finding:
        from dragonfly_executor.backends.deadline import Deadline
        from dragonfly_executor.backends.fly.errors import FlyAPIError

        wanted = self._place.regions if self._place is not None else ()
        if not wanted:
            return Finding("region", True, "no region is set: Fly chooses one, which may be far from here")
        try:
            known = api.regions(Deadline(TIMEOUT))
        except FlyAPIError as error:
            return Finding("region", None, f"{', '.join(wanted)}; Fly did not list its regions: {error}")
        strange = [region for region in wanted if region not in (*known, *ALIASES)]
        listed = f"there are {', '.join(sorted(known))}"
        if strange:
            return Finding("region", False, f"{', '.join(strange)}: unknown", f"{listed}; or {', '.join(ALIASES)}")
        here = self._environment.get("FLY_REGION")
        if here and wanted[0] != here:
            return Finding("region", True, f"{', '.join(wanted)}; this machine is in {here}: traffic between is billed")
        return Finding("region", True, ", ".join(wanted))

    def _for_status(self, error: FlyAPIError) -> str:
        app = self._access.app if self._access is not None else "APP"
        return _BY_STATUS.get(error.status, "see Fly's answer; https://status.flyio.net may say more").format(app=app)

    # -- the parent's address -----------------------------------------------------------------------------------------

    def _reachable(self) -> Finding:
        from dragonfly_executor.backends.fly.settings import ParentAddress
        from dragonfly_executor.transport.listener import bind

        try:
            given = self._given.parent_address
            address = ParentAddress.find(self._environment, parent_address=given, names=_setting_names())
        except ValueError as error:
            return Finding("address", False, "not known", str(error))
        try:
            bind(address.bound, address.port).close()
        except OSError as error:
            text = f"cannot listen on {address.bound}: {error}"
            return Finding("address", False, text, "it must be an address of this machine; otherwise give bind=")
        if not _is_private(address.dialed):
            text = f"{address.dialed}, which is not in {PRIVATE}: runners have to reach it some other way"
            return Finding("address", True, text)
        return Finding("address", True, f"{address.dialed}, in Fly's private network, where this machine can listen")


def for_boot(error: errors.BootError) -> str:
    """Return advice on a failed boot on Fly."""
    return _BY_PHASE.get(error.phase) or advice.for_boot(error)


def _setting_names() -> SettingNames:
    """Return the names of settings as options of this command."""
    from dragonfly_executor.backends.fly.settings import options

    return options(*CommandLineSettings._fields)


def _is_private(host: str) -> bool:
    try:
        return ipaddress.ip_address(host) in PRIVATE
    except ValueError:
        return host.endswith(".internal")
