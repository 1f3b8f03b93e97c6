"""Where the machines are, and who may have them made: arguments, and what Fly says in a machine's environment."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from dragonfly_executor.backends.fly.token import Token
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
"""Where else a setting is looked for."""


class Spelling(NamedTuple):
    """How settings are given by whoever reads the errors about them: as arguments, or on a command line.

    Attributes:
        given: by setting, how it is given there. What is missing there can only be set in the environment.
    """

    given: Mapping[str, str]

    def name(self, setting: str, *, is_given: bool) -> str:
        """What to call it: by its variable where it was found there."""
        return self.given.get(setting, VARIABLES[setting]).rstrip("=") if is_given else VARIABLES[setting]

    def give(self, setting: str) -> str:
        """How to give it, as the beginning of a sentence."""
        variable = VARIABLES[setting]
        return f"Give {self.given[setting]}, or set {variable}" if setting in self.given else f"Set {variable}"


ARGUMENTS = Spelling({setting: f"{setting}=" for setting in VARIABLES})


def options(*settings: str) -> Spelling:
    """On a command line that has options for these."""
    return Spelling({setting: f"--{setting.replace('_', '-')}" for setting in settings})


class Access(NamedTuple):
    """What one needs to speak with the Machines API.

    Attributes:
        app: the app whose machines the runners are.
        token: of it, or of its organization.
        host: the API, as a URL without a path.
    """

    app: str
    token: Token
    host: str

    @classmethod
    def find(
        cls,
        environment: Mapping[str, str],
        *,
        app: str | None = None,
        token: str | None = None,
        host: str | None = None,
        spelling: Spelling = ARGUMENTS,
    ) -> Access:
        """From arguments, else from FLY_APP_NAME, FLY_API_TOKEN and FLY_FLAPS_BASE_URL.

        Raises:
            ValueError: one is missing, or cannot be right; it says where to get it.
        """
        wanted = app or environment.get("FLY_APP_NAME")
        if not wanted:
            how = spelling.give("app")
            raise ValueError(f"which Fly app are the runners to belong to? {how} (a machine on Fly has it)")
        if not is_app_name(wanted):
            raise ValueError(f"{spelling.name('app', is_given=bool(app))} is no name of a Fly app: {wanted!r}")
        secret = token or environment.get("FLY_API_TOKEN")
        if not secret:
            raise ValueError(
                f"there is no token for Fly. {spelling.give('token')}: `fly tokens create deploy -a {wanted}` prints "
                "one (on Fly: `fly secrets set FLY_API_TOKEN=...`)"
            )
        url = _url(
            host or environment.get("FLY_FLAPS_BASE_URL") or DEFAULT_HOST, spelling.name("host", is_given=bool(host))
        )
        return cls(wanted, Token(secret), url)


def is_app_name(text: str) -> bool:
    """Whether an app may be called that."""
    return bool(text) and all(letter.isalnum() or letter in "-_" for letter in text)


class Address(NamedTuple):
    """Where runners find their parent.

    Attributes:
        dialed: the host that they dial.
        bound: the host that the parent listens on.
        port: of both; 0 for any.
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
        spelling: Spelling = ARGUMENTS,
    ) -> Address:
        """From arguments, else from FLY_PRIVATE_IP.

        Raises:
            ValueError: it is missing, or is no address.
        """
        given = parent_address or environment.get("FLY_PRIVATE_IP")
        if not given:
            raise ValueError(
                "runners would not know where to dial: this is no machine on Fly, since FLY_PRIVATE_IP is not set. "
                f"{spelling.give('parent_address')} to an address of this machine that Fly's private network reaches: "
                "over WireGuard (`fly wireguard create`) that is the fdaa: address of its interface"
            )
        host, port = _host_and_port(given, spelling.name("parent_address", is_given=bool(parent_address)))
        return cls(host, bind or host, port)


class Place(NamedTuple):
    """Where machines are made, and of what.

    Attributes:
        image: what they run.
        own_image: whether it is the parent's own: then interpreter, packages and files are the parent's, too.
        regions: in order of preference; none lets Fly choose.
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
        spelling: Spelling = ARGUMENTS,
    ) -> Place:
        """From arguments, else from FLY_IMAGE_REF and FLY_REGION.

        Raises:
            ValueError: there is no image.
            TypeError: a region is no text.
        """
        own = environment.get("FLY_IMAGE_REF")
        wanted = image or own
        if not wanted:
            raise ValueError(
                f"which image are the runners to run? {spelling.give('image')} (a machine on Fly has it; "
                "`fly image show -a APP` prints an app's own)"
            )
        return cls(wanted, wanted == own, _regions(region or environment.get("FLY_REGION") or ()))


def _url(text: str, name: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
        # Without what it says: somebody may have written a password into it.
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
        port = -1
    if not 0 <= port <= 65535:
        raise ValueError(f"{name} must be HOST or HOST:PORT, an IPv6 address in brackets, not {text!r}")
    return host, port


def _regions(given: str | Iterable[str]) -> tuple[str, ...]:
    listed = given.split(",") if isinstance(given, str) else list(given)
    for region in listed:
        if not isinstance(region, str):
            raise TypeError(f"region must be a text or a list of texts, not {region!r}")
    return tuple(region.strip() for region in listed if region.strip())
