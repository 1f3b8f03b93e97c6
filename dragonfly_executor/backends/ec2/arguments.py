"""The arguments of `EC2Backend`: from the texts of a command line, and checked. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dragonfly_executor.backends.agent_command import runner_options
from dragonfly_executor.backends.ec2.prices import EC2Prices


def from_texts(settings: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments that texts of a command line stand for.

    Raises:
        ValueError: a text is no number, or no truth value.
    """
    arguments: dict[str, Any] = dict(settings)
    for name in ("boot_timeout", "max_lifetime", "max_idle", "failsafe"):
        if name in arguments:
            arguments[name] = float(arguments[name])
    if "port" in arguments:
        arguments["port"] = int(arguments["port"])
    for name in ("spot", "sweep"):
        if name in arguments:
            arguments[name] = _truth(name, settings[name])
    for name in ("requirements", "labels"):
        if name in arguments:
            arguments[name] = words(settings[name])
    if arguments.get("sync") == "none":
        arguments["sync"] = None
    return arguments


def words(given: str | Iterable[str]) -> list[str]:
    """Return the words of a list, or of a text in which commas separate them."""
    found = given.split(",") if isinstance(given, str) else list(given)
    return [word.strip() for word in found if word.strip()]


def command(python: str, module: str, times: Mapping[str, float]) -> tuple[str, ...]:
    """Return the command that runs a module of this package on an instance, with options that are seconds."""
    options = runner_options()
    more = [word for name, seconds in times.items() for word in (name, f"{seconds:.3f}")]
    return (python, "-P", *options, "-m", module, *more)


def checked_prices(prices: EC2Prices) -> EC2Prices:
    """Return the prices.

    Raises:
        TypeError: they are no `EC2Prices`.
        ValueError: a price is no finite number of at least 0.
    """
    if not isinstance(prices, EC2Prices):
        raise TypeError(f"prices must be EC2Prices, such as EC2_PRICES._replace(...), not {type(prices).__name__}")
    return prices.check()


def _truth(name: str, text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
        raise ValueError(f"{name} is true or false, and not {text!r}")
    return text.lower() in ("true", "1", "yes")
