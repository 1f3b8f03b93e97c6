"""What a machine is to be: the body of the request that creates it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from dragonfly_executor.parent import VARIABLE

CPUS = {"shared": (1, 2, 4, 6, 8), "performance": (1, 2, 4, 6, 8, 10, 12, 14, 16)}
MEMORY = {"shared": (256, 2048, 256), "performance": (2048, 8192, 1024)}
"""MiB for each CPU at least and at most, and what the whole must be a multiple of."""
STOP_SIGNAL = "SIGTERM"
GUARDED = ("auto_destroy", "restart")
"""What keeps machines from staying behind is not for changing."""


class Guest(NamedTuple):
    """How large a machine is.

    Raises:
        ValueError, TypeError: from `check`, where Fly has none of that size.
    """

    cpu_kind: str = "performance"
    cpus: int = 2
    memory_mb: int = 4096
    gpu_kind: str | None = None
    gpus: int | None = None

    def check(self) -> Guest:
        """This, if there are such machines."""
        for name in ("cpus", "memory_mb", "gpus"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise TypeError(f"{name} must be a whole number, not {value!r}")
        if self.cpu_kind not in CPUS:
            raise ValueError(f"cpu_kind must be 'shared' or 'performance', not {self.cpu_kind!r}")
        if self.cpus not in CPUS[self.cpu_kind]:
            listed = ", ".join(map(str, CPUS[self.cpu_kind]))
            raise ValueError(f"cpus must be one of {listed} for {self.cpu_kind} machines, not {self.cpus}")
        least, most, step = MEMORY[self.cpu_kind]
        least, most = least * self.cpus, most * self.cpus
        if not least <= self.memory_mb <= most or self.memory_mb % step:
            raise ValueError(
                f"memory_mb of {self.cpu_kind} machines with {self.cpus} CPUs must be a multiple of {step} "
                f"from {least} to {most}, not {self.memory_mb}"
            )
        if self.gpus is not None and (self.gpu_kind is None or self.gpus < 1):
            raise ValueError("gpus must be at least 1, and needs a gpu_kind")
        return self

    def encode(self) -> dict[str, Any]:
        """As Fly wants it."""
        said: dict[str, Any] = {"cpu_kind": self.cpu_kind, "cpus": self.cpus, "memory_mb": self.memory_mb}
        if self.gpu_kind is not None:
            said |= {"gpu_kind": self.gpu_kind, "gpus": self.gpus or 1}
        return said

    def __str__(self) -> str:
        gpus = f", {self.gpus or 1} x {self.gpu_kind}" if self.gpu_kind else ""
        return f"{self.cpu_kind}-{self.cpus}x with {self.memory_mb} MB{gpus}"


def runner_command(
    python: str, options: Iterable[str] = (), *, failsafe: float, max_lifetime: float, max_idle: float
) -> tuple[str, ...]:
    """Return what starts a runner, with options for its interpreter, and with its limits in seconds."""
    limits = {"--failsafe": failsafe, "--max-lifetime": max_lifetime, "--max-idle": max_idle}
    words = (word for name, seconds in limits.items() for word in (name, f"{seconds:.3f}"))
    # -P: the image's WORKDIR may have a module by a name of the standard library's, and is not to come first.
    beside = [option for option in options if option != "-P"]
    return (python, "-P", *beside, "-m", "dragonfly_executor.runner", *words)


class Blueprint(NamedTuple):
    """What all machines of a backend have in common, as `FlyBackend` documents it.

    Attributes:
        image, guest, env, metadata, services: see there.
        init: merged over what starts the runner.
        command: what starts the runner.
        stop_seconds: that a runner has to finish when Fly stops its machine.
        skip_secrets: whether the app's secrets are kept from the machine.
        more: merged over the whole config.
    """

    image: str
    guest: Guest
    command: tuple[str, ...]
    env: Mapping[str, str] = MappingProxyType({})
    metadata: Mapping[str, str] = MappingProxyType({})
    services: tuple[Mapping[str, Any], ...] = ()
    init: Mapping[str, Any] = MappingProxyType({})
    stop_seconds: int = 30
    skip_secrets: bool = True
    more: Mapping[str, Any] = MappingProxyType({})

    def __repr__(self) -> str:
        # What stands in env and in the rest may be secret.
        return f"Blueprint(image={self.image!r}, guest={str(self.guest)!r})"

    def body(self, name: str, region: str | None, parent: str, label: Mapping[str, str]) -> dict[str, Any]:
        """The body of the request.

        Args:
            name: of the machine.
            region: one, or an alias, or None.
            parent: the runner's ``DRAGONFLY_PARENT``.
            label: whose it is.
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
            # Runners are in no answer of the app's internal DNS: whoever asks there looks for the app itself.
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


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """One mapping over another: mappings in them are merged as well, all else is replaced."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def check_config(given: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """`machine_config`, as it was given; TypeError or ValueError for one that cannot be."""
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


def check_texts(given: Mapping[str, str] | None, name: str) -> Mapping[str, str]:
    """Texts by name, as variables and metadata are."""
    texts = _checked_mapping(given, name)
    for key, value in texts.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"{name} must hold texts; {key!r} is {type(value).__name__}")
        if not key or "=" in key or "\0" in key + value:
            raise ValueError(f"{name} has a name that none can have, or a null character: {key!r}")
        if key == VARIABLE:
            raise ValueError(f"{name} must not have {VARIABLE}: it is how the runner is told of its parent")
    return texts


def check_services(given: Iterable[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """`services`, as Fly wants them."""
    services = tuple(given)
    if not all(isinstance(service, Mapping) for service in services):
        raise TypeError("services must be a list of mappings, as in a machine's config")
    return services


def check_init(given: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """`init`, as Fly wants it."""
    return _checked_mapping(given, "init")


def _checked_mapping(given: Mapping[str, Any] | None, name: str) -> Mapping[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(f"{name} must be a mapping, not {type(given).__name__}")
    return dict(given)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
