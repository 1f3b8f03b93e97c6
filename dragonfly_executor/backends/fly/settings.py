"""The app, the region, the image and the API access, from arguments and from a Fly machine's environment variables."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from dragonfly_executor.backends.fly.token import APIToken
from dragonfly_executor.backends.owner import is_app_name
from dragonfly_executor.transport.tcp import split_address

DEFAULT_HOST = "https://api.machines.dev"
VARIABLES = {
    "app": "FLY_APP_NAME",
    "token": "FLY_API_TOKEN",
    "host": "FLY_FLAPS_BASE_URL",
    "parent_address": "FLY_PRIVATE_IP",
    "image": "FLY_IMAGE_REF",
    "region": "FLY_REGION",
    "journal": "XDG_STATE_HOME",
}
"""The environment variable of each setting, used if no argument is given."""


class SettingNames(NamedTuple):
    """The names of settings in errors: as arguments of a function, or as options of a command.

    Attributes:
        given: the argument or option of each setting. A setting that is missing here can only be set in the
            environment.
    """

    given: Mapping[str, str]

    def name(self, setting: str, *, is_given: bool) -> str:
        """Return the name of a setting: its argument if `is_given`, otherwise its environment variable."""
        return self.given.get(setting, VARIABLES[setting]).rstrip("=") if is_given else VARIABLES[setting]

    def give(self, setting: str) -> str:
        """Return how to set a setting, as the beginning of a sentence."""
        variable = VARIABLES[setting]
        return f"Give {self.given[setting]}, or set {variable}" if setting in self.given else f"Set {variable}"


ARGUMENTS = SettingNames({setting: f"{setting}=" for setting in VARIABLES})


def options(*settings: str) -> SettingNames:
    """Return the names for a command line that has options for these settings."""
    return SettingNames({setting: f"--{setting.replace('_', '-')}" for setting in settings})


class APIAccess(NamedTuple):
    """The app and the credentials for the Machines API.

    Attributes:
        app: the Fly app of the machines.
        token: a token of the app or of its organization.
        host: the URL of the API, without a path.
    """

    app: str
    token: APIToken
    host: str

    @classmethod
    def find(
        cls,
        environment: Mapping[str, str],
        *,
        app: str | None = None,
        token: str | None = None,
        host: str | None = None,
        names: SettingNames = ARGUMENTS,
    ) -> APIAccess:
        """Make an `APIAccess` from arguments, or from FLY_APP_NAME, FLY_API_TOKEN and FLY_FLAPS_BASE_URL.

        Raises:
            ValueError: a setting is missing or invalid. The text says where to get it.
        """
        wanted = app or environment.get("FLY_APP_NAME")
        if not wanted:
            how = names.give("app")
            raise ValueError(f"the Fly app for the runners is not set. {how} (a machine on Fly has it)")
        if not is_app_name(wanted):
            raise ValueError(f"{names.name('app', is_given=bool(app))} is no name of a Fly app: {wanted!r}")
        secret = token or environment.get("FLY_API_TOKEN")
        if not secret:
            raise ValueError(
                f"there is no token for Fly. {names.give('token')}: `fly tokens create deploy -a {wanted}` prints "
                "one (on Fly: `fly secrets set FLY_API_TOKEN=...`)"
            )
        url = _url(
            host or environment.get("FLY_FLAPS_BASE_URL") or DEFAULT_HOST,
            names.name("host", is_given=bool(host)),
        )
        return cls(wanted, APIToken(secret), url)


class ParentAddress(NamedTuple):
    """The address of the parent, for runners that dial back.

    Attributes:
        dialed: the host that runners dial.
        bound: the host that the parent listens on.
        port: the port of both; 0 for any free port.
    """

    dialed: str
    bound: str
    port: int

    @classmethod
    def find(
        cls,
        environment: Mapping[str, str],
        *,
        parent_address: str | None = None,
        bind: str | None = None,
        names: SettingNames = ARGUMENTS,
    ) -> ParentAddress:
        """Make an `ParentAddress` from arguments, or from FLY_PRIVATE_IP.

        Raises:
            ValueError: the address is missing or invalid.
        """
        given = parent_address or environment.get("FLY_PRIVATE_IP")
        if not given:
            raise ValueError(
                "runners have no address to dial: this is not a machine on Fly, since FLY_PRIVATE_IP is not set. "
                f"{names.give('parent_address')} to an address of this machine that Fly's private network reaches: "
                "over WireGuard (`fly wireguard create`) that is the fdaa: address of its interface"
            )
        host, port = _host_and_port(given, names.name("parent_address", is_given=bool(parent_address)))
        return cls(host, bind or host, port)


class Placement(NamedTuple):
    """The image and the regions of machines.

    Attributes:
        image: the image.
        own_image: whether it is the parent's own image. If so, interpreter, packages and files are the parent's as
            well.
        regions: regions in order of preference. If there are none, Fly chooses.
    """

    image: str
    own_image: bool
    regions: tuple[str, ...]

    @classmethod
    def find(
        cls,
        environment: Mapping[str, str],
        *,
        image: str | None = None,
        region: str | Iterable[str] | None = None,
        names: SettingNames = ARGUMENTS,
    ) -> Placement:
        """Make a `Placement` from arguments, or from FLY_IMAGE_REF and FLY_REGION.

        Raises:
            ValueError: there is no image.
            TypeError: a region is not a text.
        """
        own = environment.get("FLY_IMAGE_REF")
        wanted = image or own
        if not wanted:
            raise ValueError(
                f"the image for the runners is not set. {names.give('image')} (a machine on Fly has it; "
                "`fly image show -a APP` prints an app's own)"
            )
        return cls(wanted, wanted == own, _regions(region or environment.get("FLY_REGION") or ()))


def _url(text: str, name: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
        # Do not quote the URL: it may contain a password.
        raise ValueError(f"{name} must be the URL of the Machines API, such as https://api.machines.dev")
    return text.rstrip("/").removesuffix("/v1")


def _host_and_port(text: str, name: str) -> tuple[str, int]:
    text = text.strip()
    bare = text.removeprefix("[").removesuffix("]")
    try:
        return str(ipaddress.ip_address(bare)), 0
    except ValueError:
        pass
    if ":" not in text:
        return text, 0
    try:
        host, port = split_address(text)
    except ValueError:
        host, port = "", -1
    if not 0 <= port <= 65535:
        raise ValueError(f"{name} must be HOST or HOST:PORT, an IPv6 address in brackets, not {text!r}")
    return host, port


def _regions(given: str | Iterable[str]) -> tuple[str, ...]:
    listed = given.split(",") if isinstance(given, str) else list(given)
    for region in listed:
        if not isinstance(region, str):
            raise TypeError(f"region must be a text or a list of texts, not {region!r}")
    return tuple(region.strip() for region in listed if region.strip())
