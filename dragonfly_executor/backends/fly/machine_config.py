"""The body of a create request, and checks of the arguments that go into it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from dragonfly_executor.backends.fly.prices import Prices
from dragonfly_executor.backends.fly.settings import ParentAddress
from dragonfly_executor.backends.fly.sizes import Guest, MachineSizes
from dragonfly_executor.protocol.parent import VARIABLE
from dragonfly_executor.util.validation import duration

if TYPE_CHECKING:
    from dragonfly_executor.util.validation import Seconds

LONGEST_LIFETIME = 10 * 365 * 24 * 3600.0
"""Seconds. Every machine needs an expiry date, as sweeps find orphaned machines by it."""
STOP_SIGNAL = "SIGTERM"
STOP_SIGNALS = ("SIGTERM", "SIGINT")
"""Signals on which a runner lets its calls finish."""
STOP_GRACE = 25.0
"""Default seconds that calls have to finish when Fly stops the machine."""
STOP_SLACK = 5.0
"""Seconds that Fly waits beyond `stop_grace`, for kills and for the exit of the runner."""
MAX_STOP = 300.0
"""The maximum of seconds that Fly waits."""
USUAL_STOP = 5.0
"""Seconds that Fly waits if a ``stop_config`` has no timeout."""
TOKENS = ("FLY_API_TOKEN", "FLY_ACCESS_TOKEN")
"""Variables that may hold a token for Fly. A runner removes them, unless `keep_token` is set."""
DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m)")
GUARDED = ("auto_destroy", "restart")
"""Config keys that users must not set, as they keep machines from being orphaned."""


class RunnerLimits(NamedTuple):
    """The times after which a runner ends, in seconds; see `FlyBackend`."""

    failsafe: float
    max_lifetime: float
    max_idle: float
    stop_grace: float

    @classmethod
    def check(cls, failsafe: Seconds, max_lifetime: Seconds, max_idle: Seconds, stop_grace: float) -> RunnerLimits:
        """Return the limits. Raises TypeError or ValueError if one is invalid."""
        lifetime = duration(max_lifetime, "max_lifetime", positive=True)
        if lifetime > LONGEST_LIFETIME:
            raise ValueError(f"max_lifetime must be {LONGEST_LIFETIME:.0f} seconds at most, not {max_lifetime!r}")
        return cls(duration(failsafe, "failsafe", positive=True), lifetime, duration(max_idle, "max_idle"), stop_grace)


class ConfigSections(NamedTuple):
    """The parts of a machine's config that users give; see `FlyBackend`.

    Attributes:
        env, metadata, services, init: see `FlyBackend`.
        more: `machine_config`.
    """

    env: Mapping[str, str]
    metadata: Mapping[str, str]
    services: tuple[Mapping[str, Any], ...]
    init: Mapping[str, Any]
    more: Mapping[str, Any]

    @classmethod
    def check(
        cls,
        env: Mapping[str, str] | None,
        metadata: Mapping[str, str] | None,
        services: Iterable[Mapping[str, Any]],
        init: Mapping[str, Any] | None,
        machine_config: Mapping[str, Any] | None,
    ) -> ConfigSections:
        """Return the sections. Raises TypeError or ValueError if one is invalid."""
        more = check_config(machine_config)
        return cls(
            check_texts(env, "env"),
            check_texts(metadata, "metadata"),
            check_services(services),
            _checked_mapping(init, "init"),
            more,
        )

    @property
    def have_size(self) -> bool:
        """True if `machine_config` sets the size of machines, or a part of it."""
        return "size" in self.more or any(name in _mapping(self.more.get("guest")) for name in Guest._fields)

    @property
    def have_token(self) -> bool:
        """True if the runners' variables contain a token for Fly. The user then means the runners to have it."""
        return any(name in env for name in TOKENS for env in (self.env, _mapping(self.more.get("env"))))


def runner_command(
    python: str, options: Iterable[str], limits: RunnerLimits, *, keep_token: bool = False
) -> tuple[str, ...]:
    """Return the command that starts a runner.

    Args:
        python, options: the interpreter and its options.
        limits: the times after which the runner ends.
        keep_token: see `FlyBackend`.
    """
    times = {"--failsafe": limits.failsafe, "--max-lifetime": limits.max_lifetime, "--max-idle": limits.max_idle}
    # Leave out defaults, as a runner of a slightly older image does not know newer options.
    if limits.stop_grace != STOP_GRACE:
        times["--stop-grace"] = limits.stop_grace
    words = [word for name, seconds in times.items() for word in (name, f"{seconds:.3f}")]
    if keep_token:
        words += "--keep-token", "1"
    # -P: the image's WORKDIR may hold a module with the name of a standard module, and must not come first.
    beside = [option for option in options if option != "-P"]
    return (python, "-P", *beside, "-m", "dragonfly_executor.runner", *words)


class MachineTemplate(NamedTuple):
    """The settings that all machines of a backend share; see `FlyBackend`.

    Attributes:
        image, guest, env, metadata, services: see `FlyBackend`.
        init: merged over the command that starts the runner.
        command: the command that starts the runner.
        stop_seconds: seconds that Fly waits for a runner when it stops the machine.
        skip_secrets: whether to withhold the app's secrets from the machine.
        more: merged over the whole config.
    """

    image: str
    guest: Guest
    command: tuple[str, ...]
    env: Mapping[str, str] = MappingProxyType({})
    metadata: Mapping[str, str] = MappingProxyType({})
    services: tuple[Mapping[str, Any], ...] = ()
    init: Mapping[str, Any] = MappingProxyType({})
    stop_seconds: int = int(STOP_GRACE + STOP_SLACK)
    skip_secrets: bool = True
    more: Mapping[str, Any] = MappingProxyType({})

    def __repr__(self) -> str:
        # Values in env and in the other fields may be secret.
        return f"MachineTemplate(image={self.image!r}, guest={str(self.guest)!r})"

    def size(self) -> dict[str, Any]:
        """Return the size of the machine, as the API names it."""
        return merge(self.guest.encode(), self.more.get("guest", {}))

    def body(self, name: str, region: str | None, parent: str, label: Mapping[str, str]) -> dict[str, Any]:
        """Return the body of the create request.

        Args:
            name: the machine's name.
            region: a region, an alias, or None.
            parent: the runner's ``DRAGONFLY_PARENT``.
            label: the owner label, as metadata.
        """
        init = {"cmd": list(self.command), **self.init}
        config: dict[str, Any] = {
            "image": self.image,
            "guest": self.guest.encode(),
            "init": init,
            "env": dict(self.env),
            "metadata": dict(self.metadata),
            "auto_destroy": True,
            "restart": {"policy": "no"},
            "stop_config": {"signal": STOP_SIGNAL, "timeout": f"{self.stop_seconds}s"},
            # Keep runners out of the app's internal DNS: clients that look up the app must not get a runner's address.
            "dns": {"skip_registration": True},
        }
        if self.services:
            config["services"] = [dict(service) for service in self.services]
        config = merge(config, self.more)
        config["env"] = {**_mapping(config.get("env")), VARIABLE: parent}
        config["metadata"] = {**_mapping(config.get("metadata")), **label}
        body: dict[str, Any] = {"name": name, "config": config}
        if region is not None:
            body["region"] = region
        if self.skip_secrets:
            body["skip_secrets"] = True
        return body


class MachineSettings(NamedTuple):
    """The settings of a backend's boots.

    Attributes:
        template: what all machines share. Its size is the user's own.
        sizes: the sizes that machines may have.
        limits: the times after which a runner ends.
        regions: regions in order of preference. If there are none, Fly chooses.
        address: the parent's.
        prices: the price list.
        labels: free labels of the runners.
        shares_image: whether the image is the parent's own.
    """

    template: MachineTemplate
    sizes: MachineSizes
    limits: RunnerLimits
    regions: tuple[str, ...]
    address: ParentAddress
    prices: Prices
    labels: frozenset[str]
    shares_image: bool


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `under` updated with `over`. Mappings in them are merged recursively, other values are replaced."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def check_config(given: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return a checked `machine_config`. Raises TypeError or ValueError if it is invalid."""
    config = _checked_mapping(given, "machine_config")
    for name in GUARDED:
        if name in config:
            raise ValueError(f"machine_config must not have {name!r}: it keeps machines from being left behind")
    for name in ("env", "metadata", "guest", "init"):
        if name in config and not isinstance(config[name], Mapping):
            raise TypeError(f"machine_config[{name!r}] must be a mapping, not {type(config[name]).__name__}")
    check_texts(config.get("env"), "machine_config['env']")
    check_texts(config.get("metadata"), "machine_config['metadata']")
    return config


def check_stop_grace(stop_grace: Seconds | None, config: Mapping[str, Any]) -> float:
    """Return `stop_grace` in seconds: the argument, or the value that follows from ``machine_config["stop_config"]``.

    Raises:
        ValueError: both are given, or the value is invalid.
    """
    given = None if stop_grace is None else duration(stop_grace, "stop_grace")
    if "stop_config" in config:
        if given is not None:
            raise ValueError("stop_grace= and machine_config['stop_config'] set the same time: give one of them")
        return max(0.0, _stop_seconds(_mapping(config["stop_config"])) - STOP_SLACK)
    if given is not None and given > MAX_STOP - STOP_SLACK:
        raise ValueError(
            f"stop_grace must be {MAX_STOP - STOP_SLACK:g} seconds at most, which is Fly's limit, not {given:g}"
        )
    return STOP_GRACE if given is None else given


def _stop_seconds(stop: Mapping[str, Any]) -> float:
    """Return the timeout of a `stop_config` in seconds. It is a Go duration or a number of nanoseconds."""
    name, timeout = stop.get("signal"), stop.get("timeout")
    if name is not None and name not in STOP_SIGNALS:
        raise ValueError(f"machine_config['stop_config']: a runner knows {' and '.join(STOP_SIGNALS)}, not {name!r}")
    if timeout is None:
        return USUAL_STOP
    if isinstance(timeout, int) and not isinstance(timeout, bool):
        return timeout / 1e9
    parts = DURATION.findall(timeout) if isinstance(timeout, str) else []
    if not parts or "".join(map("".join, parts)) != timeout:
        raise ValueError(f"machine_config['stop_config']: the timeout is no duration, such as '30s': {timeout!r}")
    return sum(float(number) * {"ms": 0.001, "s": 1.0, "m": 60.0}[unit] for number, unit in parts)


def check_texts(given: Mapping[str, str] | None, name: str) -> Mapping[str, str]:
    """Return checked variables or metadata: texts by name."""
    texts = _checked_mapping(given, name)
    for key, value in texts.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"{name} must hold texts; {key!r} is {type(value).__name__}")
        if not key or "=" in key or "\0" in key + value:
            raise ValueError(f"{name} has an invalid name, or a null character: {key!r}")
        if key == VARIABLE:
            raise ValueError(
                f"{name} must not have {VARIABLE}: the backend sets it, and the runner finds its parent by it"
            )
    return texts


def check_services(given: Iterable[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """Return checked `services`."""
    services = tuple(given)
    if not all(isinstance(service, Mapping) for service in services):
        raise TypeError("services must be a list of mappings, as in a machine's config")
    return services


def _checked_mapping(given: Mapping[str, Any] | None, name: str) -> Mapping[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(f"{name} must be a mapping, not {type(given).__name__}")
    return dict(given)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
